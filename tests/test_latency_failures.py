"""Networks that cannot be timed: one that hangs, crashes, raises or fills the memory costs no more than itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

from conftest import blobs
from nas_proxy.dashboard.status import Watcher
from nas_proxy.pipeline import work
from nas_proxy.pipeline.problem import open_problem
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.folder import RunFolder
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.measured import Latency
from nas_proxy.training.jobs import Failure, Timing
from nas_proxy.training.worker_pool import ProcessExecutor

pytestmark = pytest.mark.processes

SPACE = """
import os
import signal
import time

import torch
from torch import nn

from nas_proxy import Choice, Space


class Candidate(nn.Module):
    def __init__(self, pixels, classes, does, width):
        super().__init__()
        self.does = does
        self.body = nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        if self.does == "sleeps":
            time.sleep(600)
        if self.does == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "raises":
            raise RuntimeError("out of luck")
        if self.does == "takes":
            taken = torch.ones(600, 250_000)
            time.sleep(5)
        return self.body(x.flatten(1))


def build(architecture, shape):
    pixels = shape.channels * shape.height * shape.width
    return Candidate(pixels, shape.classes, architecture["does"], architecture["width"])


choices = Choice("does", DOES) & Choice("width", tuple(range(1, 11)))
space = Space("untimed", choices, build, valid=lambda a: a["does"] == "fine" or a["width"] == 10)
"""
REASONS = {
    "sleeps": "took longer than 0.25 minutes",
    "dies": "the worker process was killed 4 times, from outside or by the network itself",
    "raises": "RuntimeError: out of luck",
}


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, object]:
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    return {
        **{"dataset": f"npz:{tmp_path / 'blobs.npz'}", "space": str(tmp_path / "untimed.py"), "device": "cpu"},
        **{"trials": 6, "truth": 2, "sampler": "random"},
        "condense": {"images_per_class": 2, "steps": 2, "width": 8},
        "proxy_training": {"epochs": 1, "batch_size": 6},
        "workers": 1,
    }


def write_space(path: Path, *does: str) -> None:
    """Write a space of ten networks that do well, and one for each of what others do."""
    path.write_text(SPACE.replace("DOES", repr(("fine", *does))))


def told(run: RunFolder) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the candidates by key, and why latencies could not be measured, which are asked for once each."""
    trials = pd.read_csv(run / "trials.csv").set_index("key")
    study = optuna.load_study(study_name="latency", storage=f"sqlite:///{run / 'study.db'}")
    keys = [trial.user_attrs["key"] for trial in study.trials]
    assert len(keys) == len(set(keys))
    failed = study.get_trials(states=(TrialState.FAIL,))
    return trials, {trial.params["does"]: trial.user_attrs["reason"] for trial in failed}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("does", "wanted"),
    [
        (("sleeps", "dies", "raises"), {"objective": ("accuracy", "latency")}),
        (("dies", "raises"), {"max_latency_ms": 10_000.0, "workers": 2}),
    ],
)
def test_what_cannot_be_timed_costs_no_more_than_itself(settings, tmp_path, monkeypatch, does, wanted):
    monkeypatch.setattr(work, "MINUTES", 0.25)
    write_space(tmp_path / "untimed.py", *does)
    reasons = {name: REASONS[name] for name in does}
    wanted = {**wanted, "enqueue": [f"does={name},width=10" for name in does]}
    run = run_all(resolve({**settings, **wanted}), tmp_path / "run", names=("condense", "search"))
    trials, failed = told(run)
    assert failed == reasons
    for name, reason in reasons.items():
        row = trials.loc[f"does={name},width=10"]
        assert (row["state"], row["reason"]) == ("failed", f"its latency could not be measured: {reason}")
    assert (trials["state"] == "complete").sum() == len(trials) - len(does)
    assert sum(Watcher(run.path).look().failures["proxy"].values()) == len(does)
    asked = []
    timed = work.timed
    monkeypatch.setattr(work, "timed", lambda p, e, a: asked.append(p.space.key(a)) or timed(p, e, a))
    run_all(resolve({**settings, **wanted, "trials": 7}), run.path, names=("search",))
    assert len(told(run)[0]) == len(trials) + 1
    assert not set(asked) & set(trials.index)  # what is known, a failure too, is not measured again


@pytest.mark.parametrize(
    ("limits", "wanted"),
    [({}, (1.0, None)), ({"candidate_minutes": 2.5, "candidate_memory": 300.0}, (2.5, 300.0))],
)
def test_a_latency_has_the_limits_of_a_candidate(settings, tmp_path, monkeypatch, limits, wanted):
    write_space(tmp_path / "untimed.py")
    jobs = []
    monkeypatch.setattr(ProcessExecutor, "run_apart", lambda self, job: jobs.append(job) or Failure("not now"))
    config = resolve({**settings, **limits, "objective": ("accuracy", "latency"), "latency_batch": 3})
    work.timed(open_problem(config), ProcessExecutor(1), {"does": "fine", "width": 1})
    assert [(job.minutes, job.megabytes, job.batch, job.device) for job in jobs] == [(*wanted, 3, "cpu")]


@pytest.mark.parametrize(("minutes", "told"), [(1.0, "1 minute"), (0.5, "0.5 minutes")])
def test_how_long_is_told_in_words(minutes, told):
    from nas_proxy.training.worker_pool import _too_long

    assert _too_long(Timing("s.py", {}, blobs().shape, "cpu", 1, minutes)) == f"took longer than {told}"


@pytest.mark.slow
def test_a_pool_times_on_its_first_device_while_nothing_else_is_at_work(settings, tmp_path):
    write_space(tmp_path / "untimed.py", "sleeps", "takes")
    fine = Timing(settings["space"], {"does": "fine", "width": 10}, blobs().shape, "cuda:9", 1, 0.25)
    late = replace(fine, architecture={"does": "sleeps", "width": 10})
    with ProcessExecutor(2, ("cpu", "cuda:7")) as pool:
        pool.submit("first", fine)
        pool.submit("second", fine)
        assert isinstance(pool.run_apart(fine), Latency)
        assert pool.run_apart(late) == Failure("took longer than 0.25 minutes")
        assert pool.free == 2
        greedy = replace(fine, architecture={"does": "takes", "width": 10}, megabytes=300)
        assert pool.run_apart(greedy) == Failure("needed more than 300 MB of memory")
        assert isinstance(pool.run_apart(fine), Latency)
