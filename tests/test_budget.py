"""A time in place of numbers: the plan, the clock, and runs that keep to both."""

import json
import time
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import optuna
import pytest

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.splits import Counts
from nas_proxy.errors import ConfigError, RunFolderError
from nas_proxy.pipeline import dry_run, full_trainings, stages
from nas_proxy.pipeline.budget import (
    Clock,
    Takes,
    asked_of,
    keep_plan,
    kept_plan,
    makes_other_images,
    plan_for,
    smaller,
    spent_in,
)
from nas_proxy.pipeline.forecast import Speeds, within
from nas_proxy.pipeline.speeds import affordable
from nas_proxy.progress import SILENT
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import RunConfig
from nas_proxy.runs.settings_checks import seconds_of
from nas_proxy.training.executor import InlineExecutor


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


def takes(config: RunConfig) -> Takes:
    """A machine on which a step of the paper's recipe takes 1 s, a training on the proxy 10, a full one 60."""
    recipe = config.condense
    step = recipe.real_batch / 256 * (recipe.width / 128) ** 2
    condensing = step * recipe.steps if recipe.method == "dm" else 0.0
    judging = 60 * (config.seeds_of_truth - 1) * config.sample + 4 * 10 * config.sample
    seconds = condensing + 10 * config.trials + 60 * config.truth + judging + 30
    return Takes(condensing, seconds, condensing < 50 * config.trials)


def planned(budget: str, **more):
    config = replace(RunConfig(budget=budget), condense=replace(RunConfig().condense, steps=1000))
    return plan_for(config, takes, more.pop("size", None), **more), config


@pytest.mark.parametrize("budget", ["1h", "2h", "5h", "1d"])
def test_a_plan_fills_its_budget_and_does_not_exceed_it(budget):
    plan, config = planned(budget)
    took = takes(plan.settings(config))
    assert took.everything == pytest.approx(plan.seconds)
    assert 0.85 * seconds_of(budget) < took.everything <= seconds_of(budget)
    assert took.condensing <= 0.05 * seconds_of(budget)
    assert 4 <= plan.judge <= 24
    assert plan.judge < plan.truth < plan.trials
    assert f"The budget of {budget} allows {plan.steps:,} steps of condensing" in plan.sentence()


def test_a_small_space_is_not_planned_beyond_its_size():
    plan, _ = planned("1d", size=40)
    assert (plan.trials, plan.truth) == (40, 40)


def test_a_plan_makes_room_for_what_is_enqueued():
    config = RunConfig(budget="1h", enqueue=("width=1",) * 100)
    plan = plan_for(config, takes, 40)
    assert plan.trials == plan.judge + 100
    assert takes(plan.settings(config)).everything <= 3600


def test_a_budget_has_no_steps_for_images_that_are_chosen():
    config = RunConfig(budget="2h", condense=Condensation(method="patches", steps=1000))
    plan = plan_for(config, takes, None)
    assert plan.settings(config).condense == config.condense
    assert "The budget of 2h allows " in plan.sentence()
    assert "steps" not in plan.sentence()


def test_a_budget_that_is_too_short_says_what_the_least_takes():
    with pytest.raises(ConfigError, match=r"--budget 5m is too short: the least that a run is takes about 8.4 min"):
        planned("5m")


@pytest.mark.parametrize(
    ("budget", "recipe"),
    [("1d", (1000, 256, 128)), ("3h", (1000, 128, 128)), ("2h", (1000, 64, 128)), ("1h", (1000, 64, 64))],
)
def test_condensing_gets_smaller_networks_before_fewer_steps(budget, recipe):
    plan, _ = planned(budget)
    assert (plan.steps, plan.real_batch, plan.width) == recipe
    assert f"{plan.steps:,} steps of condensing (width {plan.width}, {plan.real_batch} real" in plan.sentence()


def test_where_the_least_condensing_is_too_much_random_images_take_its_place():
    def slow(config: RunConfig) -> Takes:
        found = takes(config)
        return Takes(1000 * found.condensing, found.everything + 999 * found.condensing, pays=True)

    config = RunConfig(budget="30m")
    plan = plan_for(config, slow, None)
    assert plan.settings(config).condense.method == "random"
    assert "images by --method random (making others takes more than 5% of the time)" in plan.sentence()
    never = plan_for(RunConfig(budget="1d"), lambda c: replace(takes(c), pays=c.condense.method != "dm"), None)
    assert never.method == "random"
    assert "(condensing takes longer than the full trainings that it saves)" in never.sentence()
    asked = plan_for(RunConfig(budget="30m", condense=Condensation(method="random")), takes, None)
    assert "images by --method random, " in asked.sentence()
    assert never.truth > planned("1d")[0].truth


def test_a_recipe_shrinks_only_where_it_learns():
    recipes = list(smaller(replace(RunConfig().condense, steps=1000)))
    assert len(recipes) == len(set(recipes)) == 1 + 2 + 2 + 4
    assert recipes[-1].steps >= 50
    assert len(list(smaller(replace(RunConfig().condense, method="herding")))) == 1
    assert {r.width for r in smaller(replace(RunConfig().condense, embed="space"))} == {128}


def test_few_judges_are_not_trained_again_unless_that_is_asked_for():
    short, config = planned("30m")
    assert (short.judge < 8, short.truth_seeds) == (True, 1)
    assert short.settings(config).seeds_of_truth == 1
    assert "with one seed each" in short.sentence()
    long, _ = planned("5h")
    assert (long.judge >= 8, long.truth_seeds) == (True, 2)
    asked = plan_for(replace(config, truth_seeds=2), takes, None)
    assert asked.truth_seeds == 2
    # More time goes on to further seeds, from settings that the smaller plan has been put into.
    more = plan_for(replace(short.settings(config), budget="5h"), takes, None, 1800.0, short)
    assert (more.judge >= 8, more.truth_seeds) == (True, 2)


def test_a_larger_budget_shrinks_nothing_and_plans_the_time_that_is_left():
    first, _ = planned("1h")
    more, config = planned("3h", spent=3600.0, least=first)
    assert more.steps == first.steps
    assert more.truth > first.truth
    assert more.judge >= first.judge
    assert takes(more.settings(config)).everything <= 0.95 * 3 * 3600 - 3600
    kept, _ = planned("1h", spent=3600.0, least=first)
    assert (kept.trials, kept.truth, kept.judge) == (first.trials, first.truth, first.judge)


def test_what_is_asked_for_otherwise_than_before_is_not_replaced_by_the_plan(tmp_path):
    plan, config = planned("1h")
    keep_plan(tmp_path, replace(plan, asked=asked_of(config, None)))
    kept = kept_plan(tmp_path)
    assert plan.real_batch < config.condense.real_batch
    assert kept.settings(config) == kept.settings(kept.settings(config)) == plan.settings(config)
    other = replace(config, max_flops=5, condense=replace(config.condense, steps=3000))
    found = kept.settings(other)
    assert (found.condense.steps, found.max_flops, found.condense.real_batch) == (3000, 5, plan.real_batch)
    assert makes_other_images(found, kept)
    assert not makes_other_images(plan.settings(config), kept)
    # A plan that is made after this one knows what was asked for, not what the one before made of it.
    assert asked_of(found, kept) == {**asked_of(config, None), "steps": 3000, "max_flops": 5}
    # Plans of earlier versions do not say what was asked for.
    assert plan.settings(other).condense == plan.settings(config).condense
    assert asked_of(plan.settings(config), plan) is None


def test_the_clock_counts_what_earlier_commands_spent(tmp_path):
    now = [100.0]
    clock = Clock(tmp_path, 60.0, now=lambda: now[0])
    keep_plan(tmp_path, planned("1h")[0])
    now[0] += 20
    assert clock.allows(40.0)
    assert not clock.allows(40.0, reserved=1.0)
    assert clock.allows(40.0, 9.0, 1.15)
    assert not clock.allows(40.0, 9.1, 1.15)
    clock.keep()
    assert spent_in(tmp_path) == 20.0
    assert kept_plan(tmp_path) == planned("1h")[0]
    later = Clock(tmp_path, 60.0, start=90.0, now=lambda: now[0])
    assert later.spent == pytest.approx(20 + 30)


def test_what_is_broken_off_or_killed_counts(tmp_path):
    now = [0.0]
    clock = Clock(tmp_path, 3600.0, now=lambda: now[0])
    with pytest.raises(KeyboardInterrupt), clock.running(every=0.01):
        now[0] = 600.0
        while spent_in(tmp_path) < 600:  # a kill would lose no more than what came after it
            time.sleep(0.01)
        now[0] = 1700.0
        raise KeyboardInterrupt
    assert spent_in(tmp_path) == 1700


def test_a_number_that_is_made_once_is_kept_for_its_budget(tmp_path):
    clock = Clock(tmp_path, 60.0)
    assert clock.known("a") is None
    assert clock.once("a", lambda: 0.0) == clock.once("a", lambda: 5.0) == clock.known("a") == 0.0
    assert Clock(tmp_path, 60.0).known("a") == 0.0
    assert Clock(tmp_path, 90.0).known("a") is None


@pytest.mark.parametrize(("table", "until"), [(None, 550.0), ("published", 1000.0)])
def test_where_a_table_has_the_accuracies_the_proxy_gets_what_is_left(table, until, tmp_path, monkeypatch):
    """Full trainings, which are half of what is left, and second seeds of them, are for a run without one."""
    monkeypatch.setattr(full_trainings, "_full_seconds", lambda _: 60.0)
    now = [100.0]
    clock = Clock(tmp_path, 1000.0, start=0.0, now=lambda: now[0])
    store, plan = Mock(), SimpleNamespace(trained=())
    store.records.return_value = []
    problem = SimpleNamespace(table=table, device="cpu")
    work = SimpleNamespace(
        **{"clock": clock, "store": store, "plan": plan, "problem": problem, "executor": InlineExecutor()},
        config=RunConfig(budget="1000s", truth_seeds=1),
    )
    ends = full_trainings.proxy_ends(work)
    reserved = full_trainings.judging_seconds(work, [])
    assert ends() is None
    now[0] = until - (reserved if table else reserved / 2) - 1
    assert ends() is None
    now[0] += 2
    assert ("full trainings follow" in ends()) is (table is None)
    seeds = SimpleNamespace(**vars(work) | {"config": RunConfig(budget="1000s")})
    judged = full_trainings.judging_seconds(seeds, [None] * 24)
    assert (judged > 1500) is (table is None)


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


def test_a_training_takes_a_share_of_the_budget_at_most():
    one = within(1.0, 2.0)
    speeds = Speeds(within(1e-3, 2.0), *[one] * 7, workers=1)
    sample = [({"width": width}, 100 * width) for width in range(1, 11)]  # on average 550 FLOPs, 1 ms an image
    counts, config = Counts(train=1000, validation=100, test=100, smallest=10), RunConfig()
    config = replace(config, full_training=replace(config.full_training, epochs=10))
    # 10,000 images of 1,000 FLOPs take 18 s.
    assert affordable(config, counts, speeds, sample, 19.0, 500) is None
    assert affordable(config, counts, speeds, sample, 12.8, 500) == 700
    assert affordable(config, counts, speeds, sample, 1.0, 500) == 500  # no fewer
    assert affordable(config, counts, speeds, sample, 1.0, 544) == 544  # and not by rounding either
    # What was measured leaves out only what takes longer at the best rate that an architecture has.
    assert affordable(config, counts, replace(speeds, fastest=1e-6), sample, 9.0, 500) == 900
    assert affordable(config, counts, speeds, [], 1.0, 0) is None
    assert affordable(replace(config, truth_table="t.csv"), counts, speeds, sample, 1.0, 0) is None


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
    plan = plan_for(RunConfig(budget="12m"), takes, None)
    with pytest.raises(ConfigError, match=r"or less to do, such as --limit 7$"):
        plan_for(RunConfig(budget="5m"), takes, None, advice=lambda least: f"--limit {3 + least.truth}")
    assert plan.truth >= 4
