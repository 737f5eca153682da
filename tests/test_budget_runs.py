"""Runs that have a time in place of numbers: they keep to it, and go on with more."""

import json
from collections import Counter
from unittest.mock import Mock

import numpy as np
import optuna
import pytest

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.errors import ConfigError, RunFolderError
from nas_proxy.pipeline import dry_run, stages
from nas_proxy.pipeline.budget import (
    Clock,
)
from nas_proxy.progress import SILENT
from nas_proxy.runs.resolving import resolve


@pytest.fixture
def go(tmp_path):
    images = blobs(per_class=20)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    space = write_space(tmp_path / "tiny.py", tuple(width for width in range(1, 32) if width != 3))

    def run(**changes):
        settings = {
            "workers": 1,
            "device": "cpu",
            "signals": ["params"],
            "round": 2,
            "condense": {"method": "random", "images_per_class": 2},
            "proxy_training": {"epochs": 1, "batch_size": 6},
            "full_training": {"epochs": 1, "batch_size": 12},
            **changes,
        }
        return nas_proxy.run(f"npz:{tmp_path / 'blobs.npz'}", str(space), out=tmp_path / "run", **settings)

    return run


@pytest.fixture
def few(monkeypatch):
    """Plan ten full trainings and twelve on the proxy, whatever the machine."""

    def plan(config, takes, size, spent=0.0, least=None, advice=None):
        numbers = {"steps": config.condense.steps, "trials": 12, "truth": 10, "judge": 4, "seconds": 1.0}
        numbers["max_flops"] = config.max_flops
        return dry_run.Plan(config.budget, **numbers)

    monkeypatch.setattr(dry_run, "plan_for", plan)


def draws_in(folder) -> Counter[int]:
    storage = f"sqlite:///{folder / 'study.db'}"
    return Counter(t.user_attrs["draw"] for t in optuna.load_study(study_name="truth", storage=storage).trials)


def trained_in(folder) -> int:
    return draws_in(folder)[0]


def test_a_run_with_a_budget_trains_what_was_planned_and_more_while_there_is_time(go, few, monkeypatch, tmp_path):
    monkeypatch.setattr(Clock, "allows", lambda self, *_: trained_in(tmp_path / "run") < 14)
    run = go(budget="1h")
    monkeypatch.setattr(Clock, "allows", lambda self, *_: True)  # as little is reserved for what judges once it is done
    assert go(budget="1h").pick == run.pick
    plan = json.loads((run.folder / "budget.json").read_text())
    assert plan["plan"]["truth"] == 10
    assert 0 < plan["spent"] < 600
    assert run.config.truth == 10
    seen = [one for one in json.loads((run.folder / "search.json").read_text())["order"] if one["validation"]]
    assert len(seen) == 14


@pytest.fixture
def planning(few, monkeypatch):
    """What each plan that is made has to be at least."""
    plan, least = dry_run.plan_for, []
    monkeypatch.setattr(dry_run, "plan_for", lambda *settings: least.append(settings[4]) or plan(*settings))
    return least


def test_a_plan_for_other_settings_is_made_anew_as_long_as_nothing_is_trained(go, planning, monkeypatch):
    monkeypatch.setitem(stages.STAGES, "search", Mock(side_effect=KeyboardInterrupt))
    for epochs in (1, 1, 3):  # the same command goes on by its plan
        with pytest.raises(KeyboardInterrupt):
            go(budget="1h", full_training={"epochs": epochs, "batch_size": 12})
    first, second = planning
    assert first is None
    assert (second.trials, second.truth, second.judge) == (0, 4, 0)  # the images stay, and nothing else is there
    with pytest.raises(RunFolderError, match=r"condense.images_per_class: 2 → 3"):
        go(budget="1h", condense={"method": "random", "images_per_class": 3})


def test_a_budget_for_a_run_that_had_none_goes_on_with_what_is_there(go, planning, monkeypatch):
    monkeypatch.setitem(stages.STAGES, "truth", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        go(trials=6, truth=5, judge=4)
    with pytest.raises(KeyboardInterrupt):
        go(budget="1h")
    (least,) = planning
    assert (least.trials, least.truth, least.judge, least.method) == (6, 5, 4, "random")


@pytest.mark.slow
def test_what_a_budget_leaves_out_stays_out(go, few, monkeypatch, tmp_path):
    limits = iter([3000, 2000])
    monkeypatch.setattr(dry_run, "affordable", lambda *_: next(limits))
    monkeypatch.setattr(Clock, "allows", lambda self, *_: trained_in(tmp_path / "run") < 8)
    said: list[str] = []

    class Telling(type(SILENT)):
        def say(self, text):
            said.append(text)

    first = go(budget="1h", progress=Telling())
    assert first.config.max_flops == 2000
    assert any("more than 2k FLOPs are left out" in text for text in said)
    assert {trial.user_attrs["flops"] <= 2000 for trial in first.study.trials} == {True}
    monkeypatch.setattr(dry_run, "affordable", lambda *_: None)
    assert go(budget="1h").config.max_flops == 2000  # the same command goes on
    with pytest.raises(RunFolderError, match="max_flops: 2000 → 500"):
        go(budget="1h", max_flops=500)
    with pytest.raises(RunFolderError, match=r"condense.steps: \d+ → 7"):
        go(budget="2h", condense={"method": "random", "images_per_class": 2, "steps": 7})


@pytest.mark.slow
def test_a_run_ends_where_its_budget_does_and_a_larger_one_goes_on(go, few, monkeypatch, tmp_path):
    said: list[str] = []

    class Telling(type(SILENT)):
        def say(self, text):
            said.append(text)

    monkeypatch.setattr(Clock, "allows", lambda self, *_: False)
    run = go(budget="1h", progress=Telling())
    assert any(text.startswith("The budget of 1h ends the search after") for text in said)
    trained = json.loads((run.folder / "search.json").read_text())["order"]
    before = sum(one["validation"] is not None for one in trained)
    assert before == 4  # those that judge, without which there is no ranking
    assert draws_in(run.folder)[0] == 4
    assert go(budget="1h").pick == run.pick
    assert trained_in(run.folder) == 4
    monkeypatch.setattr(Clock, "allows", lambda self, *_: trained_in(tmp_path / "run") < 10)
    again = go(budget="2h")
    trained = json.loads((again.folder / "search.json").read_text())["order"]
    assert sum(one["validation"] is not None for one in trained) == 10


@pytest.mark.slow
def test_one_seed_of_truth_ranks_and_a_second_is_trained_when_it_is_asked_for(go, tmp_path):
    numbers = {"trials": 6, "truth": 5, "judge": 4}
    one = go(**numbers, truth_seeds=1)
    assert draws_in(one.folder) == {0: 5}
    assert one.ranking.truth.seeds == 1
    assert any("one seed" in remark for remark in one.ranking.remarks)
    two = go(**numbers)
    assert draws_in(two.folder)[0] == 5
    assert draws_in(two.folder)[1] in {4, 5}  # and the pick, where it does not judge
    assert two.ranking.truth.seeds == 2


@pytest.mark.slow
def test_the_plan_is_printed_by_a_dry_run(tmp_path, few, go):
    settings = resolve({"budget": "30m", "space": "convnet", "device": "cpu", "workers": 1})
    found = dry_run.estimate_run(settings, tmp_path / "none", ("condense", "search", "truth", "rank"))
    assert found.text().startswith("The budget of 30m allows ")
    assert found.as_json()["plan"]["truth"] == 10
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_budget_that_is_too_short_names_flags_that_fit(go):
    with pytest.raises(ConfigError, match=r"--budget 2s is too short: .* give more, or ") as told:
        go(budget="2s", full_training={"epochs": 4000, "batch_size": 12})
    assert "such as --truth-epochs" in str(told.value) or "fewer --truth-epochs" in str(told.value)
