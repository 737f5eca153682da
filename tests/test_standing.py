"""How a search stands: what is believed of every architecture of its pool, and what the run counts of its own time."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from conftest import blobs, write_space
from nas_proxy.pipeline import full_trainings, work
from nas_proxy.pipeline.full_trainings import how_it_stands
from nas_proxy.pipeline.problem import open_problem
from nas_proxy.pipeline.stages import run_all, run_stages
from nas_proxy.pipeline.work import Work, work_in
from nas_proxy.progress import SILENT
from nas_proxy.runs.folder import RunFolder, open_run, with_changes
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.measured import Latency
from nas_proxy.training.jobs import Failure

SETTINGS = {
    "trials": 9,
    "truth": 8,
    "judge": 5,
    "round": 2,
    "workers": 1,
    "device": "cpu",
    "signals": ["params"],
    "condense": {"method": "random", "images_per_class": 2},
    "proxy_training": {"epochs": 1, "batch_size": 6},
    "full_training": {"epochs": 1, "batch_size": 12},
}


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("standing")
    images = blobs(per_class=20)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    space = write_space(folder / "tiny.py", (1, 2, 4, 5, 6, 7, 8, 10))
    return {"dataset": f"npz:{folder / 'blobs.npz'}", "space": str(space)}


def searched(places, folder: Path, *names: str, **changes) -> RunFolder:
    return run_all(resolve({**places, **SETTINGS, **changes}), folder, names=("condense", "search", *names))


@contextlib.contextmanager
def at_work(run: RunFolder) -> Iterator[Work]:
    with run.lock(), work_in(run, open_problem(run.config), SILENT) as found:
        yield found


def order(run: RunFolder) -> list[str]:
    return [one["key"] for one in json.loads((run / "search.json").read_text())["order"]]


def test_what_is_yet_to_be_trained_fully_is_believed_in_too(places, tmp_path):
    run = searched(places, tmp_path / "run")
    with at_work(run) as found:
        standing = how_it_stands(found)
    assert {one.key for one in standing.order} == set(standing.pool.keys)
    assert standing.pick is None


@pytest.mark.slow
def test_what_failed_is_not_believed_in(places, tmp_path, monkeypatch):
    run = searched(places, tmp_path / "run", "truth")
    storage = optuna.load_study(study_name="truth", storage=f"sqlite:///{run / 'study.db'}")
    first = storage.trials[0].user_attrs["key"]
    seen = full_trainings._seen
    monkeypatch.setattr(full_trainings, "_seen", lambda work: seen(work) | {first: None})
    with at_work(run) as found:
        assert first not in {one.key for one in how_it_stands(found).order}


@pytest.mark.slow
def test_a_smaller_pool_keeps_what_was_trained_fully(places, tmp_path):
    run = searched(places, tmp_path / "run", "truth", pool=8)
    trained = set(pd.read_csv(run / "truth.csv")["key"])
    (run / "pool.json").unlink()  # what only a larger pool made is gone
    run_all(with_changes(run.path, {"pool": 4}), run.path, names=("truth",))
    assert trained <= set(order(run))


@pytest.mark.slow
def test_a_pool_that_has_grown_is_not_asked_again_how(places, tmp_path, monkeypatch):
    run = searched(places, tmp_path / "run", "truth", pool=8)
    before = order(run)
    monkeypatch.setattr(full_trainings, "grow", None)
    run_stages(open_run(run.path), ("truth",))
    assert order(run) == before


@pytest.mark.slow
def test_choices_and_timings_are_a_part_of_what_the_run_took(places, tmp_path, monkeypatch):
    def slowly(problem, executor, architecture):
        time.sleep(0.01)
        return Failure("no") if architecture["width"] == 7 else Latency(1.0, 1.0, 1.0, 9)

    monkeypatch.setattr(work, "timed", slowly)
    run = searched(places, tmp_path / "run", "truth", "rank", objective=("accuracy", "latency"))
    spent = json.loads((run / "ranking.json").read_text())["saving"]["spent"]
    assert 3600 * spent["latencies"] >= 16 * 0.01  # all of the pool, those that failed too
    assert spent["choosing"] > 0
    assert json.loads((run / "ranking.json").read_text())["saving"]["spent_hours"] == pytest.approx(sum(spent.values()))
