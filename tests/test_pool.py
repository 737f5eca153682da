"""Which scores a pool does without: decided once of each, by what it takes and tells, whenever it is asked for."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from nas_proxy import Choice, Space
from nas_proxy.pipeline import pool, untrained
from nas_proxy.progress import SILENT
from nas_proxy.runs.settings import RunConfig
from nas_proxy.signals.computed import Column
from nas_proxy.signals.score_file import KeptScore, ScoreFile
from nas_proxy.signals.signal import Signal, plan_of
from nas_proxy.signals.zero_cost import Score
from nas_proxy.spaces.space import Architecture
from nas_proxy.storage.records import Record
from nas_proxy.training.recipe import Recipe

SPACE = Space(
    "grid", Choice("a", tuple(range(40))) & Choice("b", tuple(range(40))), lambda architecture, shape: nn.Identity()
)


class Folder:
    """A run whose sample is trained on the proxy, and in which no score tells anything."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path, self.told, self.table, self.computed = path, list[str](), False, list[str]()
        self.seconds = {"params": 0.0, "flops": 0.0, "synflow": 0.3, "naswot": 0.3}  # of a score; 10 a training
        architectures = [a for a, _ in zip(SPACE.sample(0), range(24), strict=False)]
        self.sample = [
            Record(SPACE.key(a), a, "sample", n, 0, 1, 1, score=n % 2 / 2, seconds=10.0, image_passes=1000)
            for n, a in enumerate(architectures)
        ]
        monkeypatch.setattr(pool, "sample_of", lambda work: self.sample)
        monkeypatch.setattr(untrained, "columns_of", self._columns)
        monkeypatch.setattr(untrained, "typical_seconds", lambda signal, kept: self.seconds[signal.name])
        monkeypatch.setattr(untrained, "opened", lambda work: ScoreFile(path))

    def _columns(self, work: Any, signals: Sequence[Signal], chosen: Mapping[str, Architecture]) -> dict[str, Column]:
        if len(chosen) > len(self.sample):
            self.computed = [signal.name for signal in signals]
        scores = tuple(Score(float(place // 2 % 2), 0.0) for place in range(len(chosen)))
        return {signal.name: Column(scores) for signal in signals}

    def scores_of_pool(self, *signals: str, full_training: float = 50.0) -> list[str]:
        """Open the pool of a run by these scores; return those that are computed for it."""
        config = RunConfig(signals=signals, full_training=Recipe(epochs=full_training))  # a second an epoch
        progress = SimpleNamespace(stage=SILENT.stage, say=self.told.append)
        data = SimpleNamespace(train=range(100))
        problem = SimpleNamespace(enqueued=(), table=self.table or None, data=data)
        work: Any = SimpleNamespace(config=config, run=self.path, plan=plan_of(config), drawn={}, progress=progress)
        # There is no stream of the sample, which leaves out what made the set: the pool has that too.
        work.trainer, work.problem = SimpleNamespace(space=SPACE), problem
        work.store = SimpleNamespace(records=lambda study: self.sample)
        assert len(pool.open_pool(work).architectures) == 1000
        return self.computed


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folder:
    return Folder(tmp_path, monkeypatch)


def test_a_score_that_is_asked_for_later_is_decided_on_too(folder: Folder) -> None:
    assert folder.scores_of_pool("params", "flops") == ["params", "flops"]
    assert folder.scores_of_pool("params", "synflow", full_training=1.0) == ["params"]
    assert len(folder.told) == 1
    assert folder.told[0].startswith("synflow is not computed for the pool: 1,000 scores would take")
    # What was decided stays so, whatever trainings and scores take by now.
    assert folder.scores_of_pool("params", "synflow", full_training=1000.0) == ["params"]
    assert folder.scores_of_pool("flops") == ["flops"]
    assert folder.scores_of_pool("naswot", full_training=1000.0) == ["naswot"]
    assert folder.scores_of_pool("naswot", full_training=1.0) == ["naswot"]
    assert len(folder.told) == 1


def test_what_an_earlier_version_decided_stays(folder: Folder) -> None:
    (folder.path / "pool.json").write_text(json.dumps({"generations": {}, "left_out": {"naswot": "it is dear"}}))
    ScoreFile(folder.path, {}).add(KeptScore("params", "a", 1.0))
    folder.seconds["params"] = 0.3
    assert folder.scores_of_pool("params", "naswot", "synflow", full_training=1.0) == ["params"]
    assert [told.partition(" ")[0] for told in folder.told] == ["synflow"]


def test_full_trainings_that_a_table_stands_for_take_no_time(folder: Folder) -> None:
    assert folder.scores_of_pool("synflow", full_training=100.0) == ["synflow"]
    (folder.path / "pool.json").unlink()
    folder.table = True
    assert folder.scores_of_pool("params", "synflow", full_training=100.0) == ["params"]
    assert "would take 62% of what all trainings take" in folder.told[0]
