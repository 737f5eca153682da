"""Two of four workers killed in the middle of 200 trials: every architecture is scored once, and none is lost.

With SQLite, and with PostgreSQL, which is restarted on the way as well.
What comes out is what one process gets when nothing happens.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.errors import UserError
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import RunFolder, prepare_run
from nas_proxy.runs.settings import RunConfig
from nas_proxy.storage.location import existing, study_name
from nas_proxy.storage.read_only import open_studies
from nas_proxy.training.train import Recipe

pytestmark = [pytest.mark.processes, pytest.mark.slow]

TRIALS, SAMPLE, MIDDLE = 200, 190, 50
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


@pytest.fixture(scope="module")
def cheap(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("space") / "cheap.py"
    path.write_text(SPACE.replace("WIDTHS", repr(tuple(range(1, 91)))))
    return path


def condensed(folder: Path, space: Path, workers: int, storage: str | None = None) -> RunFolder:
    config = RunConfig(
        dataset="digits",
        space=str(space),
        trials=TRIALS,
        truth=SAMPLE,
        judge=SAMPLE,
        sampler="random",
        limit=20,
        device="cpu",
        workers=workers,
        storage=storage,
        condense=Condensation(method="random", images_per_class=1),
        proxy_training=Recipe(epochs=1, augmentation=(), precision="float32"),
    )
    run = prepare_run(folder, config)
    run_stages(run, ("condense",))
    return run


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, cheap) -> pd.DataFrame:
    run = condensed(tmp_path_factory.mktemp("undisturbed") / "run", cheap, 1)
    run_stages(run, ("search",))
    return scores(run)


def scores(run: RunFolder) -> pd.DataFrame:
    table = pd.read_csv(run / "trials.csv")
    return table[["key", "phase", "state", "score", "loss_sum"]]


def trials(run: RunFolder) -> list[optuna.trial.FrozenTrial]:
    place = existing(run.path)
    if place is None:
        return []
    with contextlib.suppress(KeyError, UserError):  # no study, or not even tables yet
        return optuna.load_study(study_name=study_name(place, "proxy"), storage=open_studies(run.path)).trials
    return []


def command(*arguments: object, log: Path) -> "subprocess.Popen[bytes]":
    single = {"OMP_NUM_THREADS": "1", "NAP": "0.2"}
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "nas_proxy", *map(str, arguments)],
            env={**os.environ, **single},
            stdout=file,
            stderr=file,
        )


def wait_for(
    happened: Callable[[], object], process: "subprocess.Popen[bytes]", log: Path, seconds: float = 200
) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def is_scored_once(run: RunFolder, undisturbed: pd.DataFrame) -> None:
    found = trials(run)
    assert {trial.state for trial in found} == {TrialState.COMPLETE}
    assert len({(trial.user_attrs["key"], trial.user_attrs["draw"]) for trial in found}) == len(found) == TRIALS
    pd.testing.assert_frame_equal(scores(run), undisturbed)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_with_sqlite(tmp_path, cheap, undisturbed):
    run, log = condensed(tmp_path / "run", cheap, 4), tmp_path / "log"
    searching = command("search", run.path, log=log)
    try:
        wait_for(lambda: (run / "study.db").exists() and len(trials(run)) > MIDDLE, searching, log)
        victims = children(searching.pid)
        assert len(victims) == 5  # what measures sizes, and four workers
        for victim in victims[:3]:
            os.kill(victim, signal.SIGKILL)
        assert searching.wait(timeout=200) == 0, log.read_text()
    finally:
        searching.kill()
        searching.wait()
    is_scored_once(run, undisturbed)


@pytest.mark.database
def test_with_postgresql(tmp_path, cheap, undisturbed, postgres):
    run, log = condensed(tmp_path / "run", cheap, 4, postgres.url()), tmp_path / "log"
    searching = command("search", run.path, log=log)
    try:
        wait_for(lambda: len(trials(run)) > MIDDLE, searching, log)
        for victim in children(searching.pid)[:3]:
            os.kill(victim, signal.SIGKILL)
        postgres.restart(pause=3)
        assert searching.wait(timeout=250) == 0, log.read_text()
    finally:
        searching.kill()
        searching.wait()
    is_scored_once(run, undisturbed)
