"""`--workers` on the commands that train: the number may change between them, and changes nothing that they find."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from conftest import blobs
from nas_proxy.cli.app import app
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import RunFolder, open_run, prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.training.worker_pool import ProcessExecutor

pytestmark = pytest.mark.processes


@pytest.fixture
def condensed(tiny_space, tmp_path):
    """Make a run with a condensed set in the folder of a name."""
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())

    def make(name: str, workers: int) -> RunFolder:
        settings = {
            **{"dataset": f"npz:{tmp_path / 'blobs.npz'}", "space": str(tiny_space), "trials": 8, "truth": 4},
            **{"workers": workers, "device": "cpu"},
            "condense": {"images_per_class": 2, "steps": 2, "width": 8},
            "proxy_training": {"epochs": 2, "batch_size": 6},
            "full_training": {"epochs": 1, "batch_size": 12},
        }
        run = prepare_run(tmp_path / name, resolve(settings))
        run_stages(run, ("condense",))
        return run

    return make


def found(folder: Path) -> tuple[object, ...]:
    """Return what a run has found, without what time and hardware change."""
    trials, truth, scores = (pd.read_csv(folder / f"{name}.csv") for name in ("trials", "truth", "scores"))
    ranking = json.loads((folder / "ranking.json").read_text())
    tables = [table.drop(columns="seconds", errors="ignore").to_csv() for table in (trials, truth, scores)]
    pick = {name: value for name, value in ranking["pick"].items() if name != "latency_ms"}
    return *tables, pick, ranking["n"]


@pytest.mark.slow
def test_every_command_that_trains_takes_a_number_of_workers(condensed, monkeypatch):
    counts = []
    run = ProcessExecutor.run
    monkeypatch.setattr(ProcessExecutor, "run", lambda self, jobs: counts.append(self.count) or run(self, jobs))
    one, several = condensed("one", 1), condensed("several", 1)
    run_stages(one, ("search", "truth", "rank"))
    assert set(counts) == {1}
    for command, workers in (("search", 2), ("truth", 3), ("rank", 2)):
        counts.clear()
        called = CliRunner().invoke(app, [command, str(several.path), "--workers", str(workers)])
        assert called.exit_code == 0, called.stderr
        assert set(counts) == {workers}
        assert open_run(several.path).config.workers == workers  # it stays chosen
    assert found(several.path) == found(one.path)


@pytest.mark.parametrize("command", ["search", "truth", "rank"])
def test_a_number_of_workers_that_is_none(condensed, command):
    run = condensed("run", 1)
    called = CliRunner().invoke(app, [command, str(run.path), "--workers", "-1"])
    assert "--workers is -1; it must be between 0 and 1024" in str(called.exception)
    assert open_run(run.path).config.workers == 1
