"""A time in place of numbers: the plan, the clock, and runs that keep to both."""

import json
from dataclasses import replace

import numpy as np
import optuna
import pytest

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.errors import ConfigError
from nas_proxy.pipeline import dry_run
from nas_proxy.pipeline.budget import Clock, keep_plan, kept_plan, plan_for, spent_in
from nas_proxy.runs.settings import RunConfig, resolve
from nas_proxy.runs.settings_checks import seconds_of


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("1d", 86400), ("2H", 7200)],
)
def test_times_are_read(text, seconds):
    assert seconds_of(text) == seconds
    assert resolve({"budget": text}).budget == text


@pytest.mark.parametrize("text", ["2", "h", "0m", "2 hours", "1.2.3h", "30m1h", "-1h"])
def test_what_is_no_time_gets_a_sentence(text):
    with pytest.raises(ConfigError, match=r"budget is .*; give a time such as 30m, 2h or 1h30m"):
        resolve({"budget": text})


def seconds(config: RunConfig) -> tuple[float, float]:
    """A machine on which a step takes 1 s, a training on the proxy 10, a full one 60."""
    condensing = float(config.condense.steps)
    judging = 60 * config.sample + 4 * 10 * config.sample
    return condensing, condensing + 10 * config.trials + 60 * config.truth + judging + 30


def planned(budget: str, **more):
    config = replace(RunConfig(budget=budget), condense=replace(RunConfig().condense, steps=1000))
    return plan_for(config, seconds, more.pop("size", None), **more), config


@pytest.mark.parametrize("budget", ["1h", "2h", "5h", "1d"])
def test_a_plan_fills_its_budget_and_does_not_exceed_it(budget):
    plan, config = planned(budget)
    took = seconds(plan.settings(config))
    assert took[1] == pytest.approx(plan.seconds)
    assert 0.85 * seconds_of(budget) < took[1] <= seconds_of(budget)
    assert took[0] <= 0.15 * seconds_of(budget)
    assert 4 <= plan.judge <= 24
    assert plan.judge < plan.truth < plan.trials
    assert f"The budget of {budget} allows {plan.steps:,} steps of condensing" in plan.sentence()


def test_a_small_space_is_not_planned_beyond_its_size():
    plan, _ = planned("1d", size=40)
    assert (plan.trials, plan.truth) == (40, 40)


def test_a_budget_has_no_steps_for_images_that_are_chosen():
    config = RunConfig(budget="2h", condense=Condensation(method="patches", steps=1000))
    plan = plan_for(config, seconds, None)
    assert plan.settings(config).condense == config.condense
    assert "The budget of 2h allows " in plan.sentence()
    assert "steps" not in plan.sentence()


def test_a_budget_that_is_too_short_says_what_the_least_takes():
    with pytest.raises(ConfigError, match=r"--budget 5m is too short: the least that a run is takes about 1\d min"):
        planned("5m")


def test_a_larger_budget_shrinks_nothing_and_plans_the_time_that_is_left():
    first, _ = planned("1h")
    more, config = planned("3h", spent=3600.0, least=first)
    assert more.steps == first.steps
    assert more.truth > first.truth
    assert more.judge >= first.judge
    assert seconds(more.settings(config))[1] <= 0.95 * 3 * 3600 - 3600
    kept, _ = planned("1h", spent=3600.0, least=first)
    assert (kept.trials, kept.truth, kept.judge) == (first.trials, first.truth, first.judge)


def test_the_clock_counts_what_earlier_commands_spent(tmp_path):
    now = [100.0]
    clock = Clock(tmp_path, 60.0, now=lambda: now[0])
    keep_plan(tmp_path, planned("1h")[0])
    now[0] += 20
    assert clock.allows(40.0)
    assert not clock.allows(40.0, reserved=1.0)
    clock.keep()
    assert spent_in(tmp_path) == 20.0
    assert kept_plan(tmp_path) == planned("1h")[0]
    later = Clock(tmp_path, 60.0, start=90.0, now=lambda: now[0])
    assert later.spent == pytest.approx(20 + 30)


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

    def plan(config, seconds, size, spent=0.0, least=None):
        numbers = {"steps": config.condense.steps, "trials": 12, "truth": 10, "judge": 4, "seconds": 1.0}
        return dry_run.Plan(config.budget, **numbers)

    monkeypatch.setattr(dry_run, "plan_for", plan)


def trained_in(folder) -> int:
    storage = f"sqlite:///{folder / 'study.db'}"
    return sum(trial.user_attrs["draw"] == 0 for trial in optuna.load_study(study_name="truth", storage=storage).trials)


def test_a_run_with_a_budget_trains_what_was_planned_and_more_while_there_is_time(go, few, monkeypatch, tmp_path):
    monkeypatch.setattr(Clock, "allows", lambda self, *_: trained_in(tmp_path / "run") < 14)
    run = go(budget="1h")
    plan = json.loads((run.folder / "budget.json").read_text())
    assert plan["plan"]["truth"] == 10
    assert 0 < plan["spent"] < 600
    assert run.config.truth == 10
    seen = [one for one in json.loads((run.folder / "search.json").read_text())["order"] if one["validation"]]
    assert len(seen) == 14


def test_a_run_ends_where_its_budget_does_and_a_larger_one_goes_on(go, few, monkeypatch, tmp_path):
    said: list[str] = []

    class Telling(type(nas_proxy.pipeline.stages.SILENT)):
        def say(self, text):
            said.append(text)

    monkeypatch.setattr(Clock, "allows", lambda self, *_: False)
    run = go(budget="1h", progress=Telling())
    assert any(text.startswith("The budget of 1h ends the search after") for text in said)
    trained = json.loads((run.folder / "search.json").read_text())["order"]
    before = sum(one["validation"] is not None for one in trained)
    assert 4 <= before < 10
    monkeypatch.setattr(Clock, "allows", lambda self, *_: trained_in(tmp_path / "run") < 10)
    again = go(budget="2h")
    trained = json.loads((again.folder / "search.json").read_text())["order"]
    assert sum(one["validation"] is not None for one in trained) == 10


def test_the_plan_is_printed_by_a_dry_run(tmp_path, few, go):
    settings = resolve({"budget": "30m", "space": "convnet", "device": "cpu", "workers": 1})
    found = dry_run.estimate_run(settings, tmp_path / "none", ("condense", "search", "truth", "rank"))
    assert found.text().startswith("The budget of 30m allows ")
    assert found.as_json()["plan"]["truth"] == 10
    assert not (tmp_path / "none").exists()
