"""Signals as data: one spelling of each name, what a name changes in a recipe, and which baselines come with it."""

import pytest

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.pipeline.settings import Comparison, RunConfig
from nas_proxy.ranking.names import label
from nas_proxy.signals.signal import AllImages, EqualCost, SmallSet, ZeroCost, canonical, completed, plan_of, rows_of


def comparison(*names, condense=None, **more):
    settings = Comparison(signals=names, **more)
    return plan_of(RunConfig(truth=5, trials=5, condense=condense or Condensation(), compare=settings))


def test_names_have_one_spelling():
    assert canonical("dm+all+space") == ("dm+space+all", None)
    assert canonical("random_total@dm+all+space") == ("random_total@dm+space+all", None)


@pytest.mark.parametrize(
    ("name", "told"),
    {
        "dn": "did you mean 'dm'?",
        "dm+spce": "dm takes +space and +formation and +all",
        "random+space": "random takes +formation",
        "early_stop+all": "early_stop takes no variant",
        "random_total@random": "only random_total is matched with another signal",
        "dm@dm": "only random_total is matched with another signal",
    }.items(),
)
def test_what_is_wrong_with_a_name(name, told):
    assert told in str(canonical(name)[1])


def test_baselines_come_with_what_needs_them():
    assert completed(["params", "flops"]) == ("params", "flops")
    assert completed(["early_stop"]) == ("early_stop", "random")
    assert completed(["random", "dm+formation"]) == ("random", "dm+formation", "random+formation", "random_total")
    assert completed(["params"], ["dm:loss_sum", "params"]) == ("params", "dm", "random", "random_total")
    assert rows_of("dm", "both") == ["dm", "dm:loss_sum"]
    assert rows_of("params", "loss_sum") == ["params"]


def test_a_name_says_what_changes():
    base = Condensation(steps=7, width=9, method="herding", formation=3)
    plan = comparison("dm+formation+all", "kcenter", condense=base)
    changed = plan["dm+formation+all"].source
    assert isinstance(changed, SmallSet)
    assert changed.recipe == Condensation(steps=7, width=9, method="dm", formation=2, match="all")
    assert plan["kcenter"].source.recipe.method == "kcenter"
    assert [plan[name].baseline for name in ("dm+formation+all", "random+formation", "kcenter")] == [
        "random+formation",
        "random",
        "random",
    ]


def test_equal_cost_is_that_of_the_first_condensed_set_or_the_named_one():
    plan = comparison("herding", "dm+space", "random_total", "random_total@herding")
    assert plan["random_total"].source == EqualCost("dm+space")
    assert plan["random_total@herding"].source == EqualCost("herding")


def test_a_comparison_leads_with_a_cheap_signal_and_a_run_with_its_proxy():
    assert comparison("dm", "random", "params").lead == "random"
    assert comparison("early_stop").lead == "early_stop"
    assert comparison("params", "naswot").lead is None
    run = plan_of(RunConfig(seeds=2, signals=("naswot",), combine=("proxy", "flops")))
    assert run.lead == "proxy"
    assert [(s.name, s.draws, s.seeds) for s in run.signals] == [
        ("proxy", 1, 2),
        ("random", 3, 2),
        ("early_stop", 1, 2),
        ("naswot", 1, 1),
        ("flops", 1, 1),
    ]
    assert isinstance(run["early_stop"].source, AllImages)
    assert run["naswot"].source == ZeroCost(relative=False)


def test_rows_are_named_after_the_score_that_counts():
    run = plan_of(RunConfig(score="loss_sum", signals=("params",)))
    assert run.rows(run["proxy"]) == {"proxy": "loss_sum", "proxy:accuracy": "accuracy"}
    assert run.rows(run["params"]) == {"params": "loss_sum"}
    both = comparison("dm")
    assert both.rows(both["dm"]) == {"dm": "accuracy", "dm:loss_sum": "loss_sum"}
    one = comparison("dm", score="loss_sum")
    assert one.rows(one["dm"]) == {"dm:loss_sum": "loss_sum"}


def test_random_images_of_a_run_are_packed_as_its_proxy_is():
    run = plan_of(RunConfig(condense=Condensation(formation=2, embed="space", images_per_class=3)))
    assert run["random"].source.recipe == Condensation(method="random", formation=2, images_per_class=3)


def test_labels():
    assert label("proxy:loss_sum") == "Proxy, by loss sum"
    assert label("dm+space") == "Condensed, dm+space"
    assert label("random_total") == "Random, equal cost"
    assert label("[bold]") == "[bold]"
