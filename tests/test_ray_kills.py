"""Machines and commands that are killed on a simulated Ray cluster: no score changes."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.dashboard.status import Watcher
from nas_proxy.errors import UserError
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import RunFolder, prepare_run
from nas_proxy.runs.settings import RunConfig
from nas_proxy.storage.read_only import open_studies
from nas_proxy.training.train import Recipe

pytest.importorskip("ray", reason="Ray is not installed")
from test_ray import MARK, add, cluster, wait_for

__all__ = ["cluster"]
# Ray leaves sockets and log files open when it is stopped.
pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore::ResourceWarning")]


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_machine_and_a_killed_command_change_no_score(cluster, tmp_path, cheap, monkeypatch):
    """The command is killed, goes on, and loses a machine; what it finds is what one local process finds."""
    alone, away = condensed(tmp_path / "alone", cheap), condensed(tmp_path / "away", cheap)
    with monkeypatch.context() as patch:
        patch.delenv("NAP")
        run_stages(alone, ("search", "truth", "rank"))
    third, log = add(cluster), tmp_path / "log"
    arguments = ["search", away.path, "--ray", cluster.address, "--workers", "0"]
    searching = command(*arguments, log=log)
    try:
        wait_for(lambda: len(trials(away)) > 6, searching, log)
        status = Watcher(away.path).look()
        assert [node.workers for node in status.command.nodes] == ["1 CPU"] * 3
        searching.kill()
        searching.wait()
        wait_for(lambda: not performing())  # nothing is left running
        begun = len(trials(away))
        assert begun < TRIALS
        searching = command(*arguments, log=log)
        wait_for(lambda: len(trials(away)) > begun + 6, searching, log)
        cluster.remove_node(third, allow_graceful=False)
        assert searching.wait(timeout=200) == 0, log.read_text()
        for stage in ("truth", "rank"):
            ended = command(stage, away.path, log=log)  # --ray is kept
            assert ended.wait(timeout=200) == 0, log.read_text()
    finally:
        searching.kill()
        searching.wait()
    found = [t for t in trials(away) if t.user_attrs.get("reason") != "interrupted"]
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert len({(trial.user_attrs["key"], trial.user_attrs["draw"]) for trial in found}) == len(found) == TRIALS
    pd.testing.assert_frame_equal(scores(away), scores(alone))
    pd.testing.assert_frame_equal(
        *(pd.read_csv(run / "scores.csv").drop(columns="seconds", errors="ignore") for run in (away, alone))
    )
    picks = [json.loads((run / "ranking.json").read_text())["pick"] for run in (away, alone)]
    for pick in picks:
        pick.pop("latency_ms", None)  # a matter of time
    assert picks[0] == picks[1]


TRIALS, SAMPLE = 30, 24
SPACE = """
import os
import time

from torch import nn

from nas_proxy import Choice, Space

choices = Choice("width", WIDTHS) & Choice("act", ("relu", "tanh", "sigmoid"))


class Nap(nn.Module):
    def forward(self, x):
        if self.training:
            time.sleep(float(os.environ.get("NAP", 0)))
        return x.flatten(1)


def build(architecture, shape):
    act = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}[architecture["act"]]
    width, pixels = architecture["width"], shape.channels * shape.height * shape.width
    return nn.Sequential(Nap(), nn.Linear(pixels, width), act(), nn.Linear(width, shape.classes))


space = Space("cheap", choices, build)
"""


@pytest.fixture
def cheap(tmp_path) -> Path:
    path = tmp_path / "cheap.py"
    path.write_text(SPACE.replace("WIDTHS", repr(tuple(range(1, 21)))))
    return path


def condensed(folder: Path, space: Path) -> RunFolder:
    recipe = Recipe(epochs=1, augmentation=(), precision="float32")
    config = RunConfig(
        space=str(space),
        trials=TRIALS,
        truth=SAMPLE,
        sampler="random",  # "ei" weighs what trainings took, which is another time each time
        limit=20,
        device="cpu",
        workers=1,
        condense=Condensation(method="random", images_per_class=1),
        proxy_training=recipe,
        full_training=recipe,
    )
    run = prepare_run(folder, config)
    run_stages(run, ("condense",))
    return run


def command(*arguments: object, log: Path) -> "subprocess.Popen[bytes]":
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "nas_proxy", *map(str, arguments)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=file,
            stderr=file,
        )


def trials(run: RunFolder) -> list[optuna.trial.FrozenTrial]:
    if not (run / "study.db").exists():
        return []
    with contextlib.suppress(KeyError, UserError):  # no study, or not even tables yet
        return optuna.load_study(study_name="proxy", storage=open_studies(run.path)).trials
    return []


def scores(run: RunFolder) -> pd.DataFrame:
    return pd.read_csv(run / "trials.csv")[["key", "phase", "state", "score", "loss_sum"]]


def performing() -> list[int]:
    """Return the processes of jobs on the machines of this test's cluster."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ours = f"{MARK}={os.getpid()}".encode() in (process / "environ").read_bytes()
            if ours and b"nas_proxy.training.worker_process" in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found
