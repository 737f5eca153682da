"""Bad weather: whatever a candidate does is recorded with its reason, and the search goes on, after signals too."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from conftest import blobs, write_space
from nas_proxy.dashboard.status import Watcher
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import open_run, prepare_run
from nas_proxy.runs.resolving import resolve

pytestmark = [pytest.mark.processes, pytest.mark.slow]

SPACE = """
import os
import signal
import time

import torch
from torch import nn

from nas_proxy import Choice, Space


class Candidate(nn.Module):
    def __init__(self, pixels, classes, weather, width):
        super().__init__()
        self.weather = weather
        self.body = nn.Sequential(nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, x):
        if self.weather == "always hangs":
            time.sleep(600)
        logits = self.body(x.flatten(1))
        if not self.training:
            return logits
        if self.weather == "raises":
            raise RuntimeError("out of luck")
        if self.weather == "diverges":
            return logits * float("inf")
        if self.weather == "hangs":
            time.sleep(600)
        if self.weather == "wrong shape":
            return logits[:, :-1]
        if self.weather == "too much memory":
            taken = torch.ones(600, 250_000)
            time.sleep(5)
        if self.weather == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return logits


def build(architecture, shape):
    if architecture["weather"] == "cannot be built":
        raise KeyError("no such layer")
    pixels = shape.channels * shape.height * shape.width
    return Candidate(pixels, shape.classes, architecture["weather"], architecture["width"])


WEATHER = ("fine", "raises", "diverges", "hangs", "wrong shape", "too much memory", "dies", "cannot be built",
           "always hangs")
choices = Choice("weather", WEATHER) & Choice("width", tuple(range(1, 21)))
space = Space("weather", choices, build, valid=lambda a: a["weather"] == "fine" or a["width"] == 4)
"""
REASONS = {
    "raises": "RuntimeError: out of luck",
    "hangs": "took longer than 0.1 minutes",
    "always hangs": "its FLOPs could not be counted: it took longer than 6 s",
    "wrong shape": "ValueError: the network returned shape (6, 2), expected (6, 3)",
    "too much memory": "needed more than 300 MB of memory",
    "dies": "the worker process was killed 4 times, from outside or by the network itself",
    "cannot be built": "KeyError: 'no such layer'",
}
SETTINGS = {
    "workers": 2,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 2, "batch_size": 6},
    "full_training": {"epochs": 1, "batch_size": 6},
}


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    return f"npz:{tmp_path / 'blobs.npz'}"


def test_whatever_a_candidate_does_the_search_goes_on(dataset, tmp_path):
    (tmp_path / "weather.py").write_text(SPACE)
    known = [f"weather={weather},width=4" for weather in (*REASONS, "diverges")]
    settings = {
        **{"dataset": dataset, "space": str(tmp_path / "weather.py"), "trials": 13, "truth": 4},
        **{"candidate_minutes": 0.1, "candidate_memory": 300, "enqueue": known, **SETTINGS},
    }
    run = prepare_run(tmp_path / "run", resolve(settings))
    run_stages(run)
    trials = pd.read_csv(run / "trials.csv").set_index("key")
    for weather, reason in REASONS.items():
        row = trials.loc[f"weather={weather},width=4"]
        assert (row["state"], row["reason"]) == ("failed", reason)
    diverged = trials.loc["weather=diverges,width=4"]
    assert (diverged["state"], diverged["diverged"], diverged["score"]) == ("complete", True, pytest.approx(1 / 3))
    failed = trials[trials["state"] == "failed"]
    assert len(failed) == len(REASONS)
    assert (trials["phase"] == "search").sum() == 9
    assert (trials[trials["state"] == "complete"]["phase"] == "sample").sum() == 4
    ranking = json.loads((run / "ranking.json").read_text())
    assert ranking["failures"]["proxy"] == len(failed)
    assert ranking["n"] == 4
    assert sum(Watcher(run.path).look().failures["proxy"].values()) == len(failed)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"{len(failed)} of {len(trials)} proxy trials failed" in page
    assert all(reason.replace("'", "&#39;") in page for reason in REASONS.values())


def test_sigterm_ends_a_search_as_sigint_does(dataset, tmp_path):
    space = write_space(tmp_path / "tiny.py", (1, 2, 4, 6, 8, 12, 16))
    settings = {**{"dataset": dataset, "space": str(space), "trials": 14, "truth": 6, "judge": 6}, **SETTINGS}
    settings |= {"proxy_training": {"epochs": 1600, "batch_size": 2}}
    run = prepare_run(tmp_path / "run", resolve(settings))
    run_stages(run, ("condense",))
    told = []
    for number in (signal.SIGINT, signal.SIGTERM):
        command = [sys.executable, "-m", "nas_proxy", "search", run.path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            already, deadline = states(run.path).count("COMPLETE"), time.monotonic() + 90
            while states(run.path).count("COMPLETE") < already + 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            assert process.poll() is None
            process.send_signal(number)
            out, err = process.communicate(timeout=180)
        told.append((process.returncode, out, err.strip().splitlines()[-1]))
        assert "RUNNING" not in states(run.path)
        assert not (run.path / ".work").exists()
    assert told[0] == told[1] == (130, "", "nas-proxy: interrupted; the same command goes on from here")
    open_run(run.path)


def states(folder: Path) -> list[str]:
    """Return the states of the proxy's trials, as far as a process at work has written them."""
    try:
        study = optuna.load_study(study_name="proxy", storage=f"sqlite:///{folder / 'study.db'}")
    except KeyError:
        return []
    return [trial.state.name for trial in study.get_trials(deepcopy=False)]
