"""A time in place of numbers: the plan and the clock."""

import time
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.splits import Counts
from nas_proxy.errors import ConfigError, RunFolderError
from nas_proxy.pipeline import budget, full_trainings
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


def test_a_disk_that_is_full_for_a_while_does_not_end_the_keeping(tmp_path, monkeypatch):
    clock, tries, write = Clock(tmp_path, 60.0), [], budget.write_json

    def full_twice(path, value):
        tries.append(path)
        if len(tries) < 3:
            raise RunFolderError("the disk is full")
        write(path, value)

    monkeypatch.setattr(budget, "write_json", full_twice)
    with clock.running(every=0.01):
        deadline = time.monotonic() + 20
        while len(tries) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len(tries) >= 4
    assert spent_in(tmp_path) > 0


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


def test_a_budget_that_is_too_short_gives_the_advice_that_it_gets():
    with pytest.raises(ConfigError, match=r"or less to do, such as --limit 7$"):
        plan_for(RunConfig(budget="5m"), takes, None, advice=lambda least: f"--limit {3 + least.truth}")
    assert plan_for(RunConfig(budget="12m"), takes, None).truth >= 4
