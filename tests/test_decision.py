"""What a ranking comes to: rankings made up of few numbers in, one decision out."""

import json
from dataclasses import replace
from typing import Any

import pytest

from documents import ROOT
from nas_proxy.names import PROXY, REPEATABILITY
from nas_proxy.ranking.decision import FEW, Action, Decision, Reason, lead_of, saves
from nas_proxy.ranking.intervals import Interval
from nas_proxy.ranking.ranking import Cost, Ranking, Row, Saving
from nas_proxy.report.verdict import verdict_of

OPEN = Interval(0.3, -0.4, 0.8)
"""What a better half of twelve mostly shows."""


def near(value: float, arm: float = 0.05, n: int = 24) -> Interval:
    return Interval(value, max(-1.0, value - arm), min(1.0, value + arm), "BCa", None, n)


def row(spearman: Interval, seconds: float | None = 10.0, making: float = 0.0, **more: Any) -> Row:
    cost = Cost(None if seconds is None else seconds + making, seconds, making, stored_images=100)
    return Row(spearman=spearman, **{"spearman_top_half": OPEN, "cost": cost, **more})


def ranking(n: int = 24, candidates: int = 24, **rows: Row) -> Ranking:
    """A proxy, random images, full training and what is given instead or besides; 100 s of full training."""
    found = {
        "proxy": row(near(0.9), making=10.0, minus_random=near(0.1), control="random", beats_random="yes"),
        "random": row(near(0.8)),
        **rows,
        "repeatability": rows.get("repeatability", row(near(0.95), 100.0)),
    }
    return Ranking(found, n=n, sample=n, settings={"candidates": candidates})


def proxy(spearman: Interval, gain: Interval, more: int | None = None, **others: Any) -> Row:
    told = {"minus_random": gain, "more_architectures": more, "control": "random", **others}
    return row(spearman, making=told.pop("making", 10.0), seconds=told.pop("seconds", 10.0), **told)


FULL_HALF = row(near(0.95), 100.0, spearman_top_half=near(0.7, 0.2))
CALIBRATED = row(near(0.93), 130.0, minus_random=near(0.13), control="random")

CASES: dict[str, tuple[Ranking, Action, Reason, str | None, int | None]] = {
    "it beats random images": (ranking(), Action.CONDENSED, Reason.BETTER, "proxy", None),
    "it is not told to": (
        ranking(proxy=proxy(near(0.9), near(-0.01))),
        *(Action.RANDOM, Reason.NOT_BETTER, "random", None),
    ),
    "it is ahead, and some more would tell": (
        ranking(proxy=proxy(near(0.9), near(0.04), 14)),
        *(Action.MEASURE, Reason.GAIN_OPEN, "proxy", 14),
    ),
    "it is ahead, and nobody measures so many": (
        ranking(proxy=proxy(near(0.9), near(0.01, 0.1), 2400)),
        *(Action.RANDOM, Reason.NOT_BETTER, "random", None),
    ),
    "the difference is about zero": (
        ranking(proxy=proxy(near(0.9), near(0.001, 0.1))),
        *(Action.RANDOM, Reason.NOT_BETTER, "random", None),
    ),
    "it is worse": (
        ranking(proxy=proxy(near(0.8), near(-0.1))),
        *(Action.RANDOM, Reason.WORSE, "random", None),
    ),
    "it ranks, and random images are not told to": (
        ranking(proxy=proxy(near(0.9), near(0.04, 0.1)), random=row(near(0.5, 0.2))),
        *(Action.CONDENSED, Reason.ALONE, "proxy", None),
    ),
    "the calibrated ranking alone beats random images": (
        ranking(proxy=proxy(near(0.9), near(0.04), 14), calibrated=CALIBRATED),
        *(Action.CALIBRATED, Reason.BETTER, "calibrated", None),
    ),
    "the calibrated ranking alone ranks": (
        ranking(proxy=proxy(near(0.3), near(-0.1)), random=row(near(0.4)), calibrated=row(near(0.8), 130.0)),
        *(Action.CALIBRATED, Reason.ALONE, "calibrated", None),
    ),
    "both beat random images, and the set is cheaper": (
        ranking(calibrated=CALIBRATED),
        *(Action.CONDENSED, Reason.BETTER, "proxy", None),
    ),
    "a training on it takes as long": (
        ranking(proxy=proxy(near(0.9), near(0.1), seconds=100.0), random=row(near(0.8), 100.0)),
        *(Action.DIRECT, Reason.NO_SAVING, None, None),
    ),
    "the calibrated ranking, which needs full training, saves nothing then": (
        ranking(proxy=proxy(near(0.9), near(0.1), seconds=100.0), random=row(near(0.8), 120.0), calibrated=CALIBRATED),
        *(Action.DIRECT, Reason.NO_SAVING, None, None),
    ),
    "making it does not pay": (
        ranking(proxy=proxy(near(0.9), near(0.1), making=200.0)),
        *(Action.RANDOM, Reason.DEAR, "random", None),
    ),
    "making it pays with so many candidates": (
        ranking(proxy=proxy(near(0.9), near(0.1), making=200.0), candidates=240),
        *(Action.CONDENSED, Reason.BETTER, "proxy", None),
    ),
    "the search is told to have lost time": (
        replace(ranking(), saving=Saving(ratio=0.6, interval=(0.4, 0.9))),
        *(Action.DIRECT, Reason.NO_SAVING, None, None),
    ),
    "whether the search saved time is open": (
        replace(ranking(), saving=Saving(ratio=0.9, interval=(0.4, 2.0))),
        *(Action.CONDENSED, Reason.BETTER, "proxy", None),
    ),
    "the search is told to have saved time, though a training on the set is slow": (
        replace(
            ranking(proxy=proxy(near(0.9), near(0.1), seconds=200.0), random=row(near(0.8), 200.0)),
            saving=Saving(ratio=3.0, interval=(1.5, 6.0)),
        ),
        *(Action.CONDENSED, Reason.BETTER, "proxy", None),
    ),
    "full training does not repeat itself": (
        ranking(repeatability=row(near(0.2), 100.0)),
        *(Action.DIRECT, Reason.UNREPEATABLE, None, None),
    ),
    "full training may repeat itself": (
        ranking(repeatability=row(near(0.4, 0.2), 100.0)),
        *(Action.MEASURE, Reason.WIDE, "repeatability", 72),
    ),
    "nothing ranks": (
        ranking(proxy=proxy(near(0.3), near(0.1)), random=row(near(0.2))),
        *(Action.DIRECT, Reason.RANKS_BADLY, None, None),
    ),
    "it may rank": (
        # 24 (0.3 / 0.2)² = 54 architectures bring the lower end to 0.5.
        ranking(proxy=proxy(near(0.7, 0.3), near(0.1, 0.3), 100), random=row(near(0.2))),
        *(Action.MEASURE, Reason.WIDE, "proxy", 30),
    ),
    "all are blind in the better half": (
        ranking(
            proxy=proxy(near(0.9), near(0.1), spearman_top_half=near(0.1, 0.3)),
            random=row(near(0.8), spearman_top_half=near(0.0, 0.2)),
            repeatability=FULL_HALF,
        ),
        *(Action.DIRECT, Reason.BLIND, None, None),
    ),
    "random images see in the better half, the set does not": (
        ranking(
            proxy=proxy(near(0.9), near(0.1), spearman_top_half=near(0.1, 0.3)),
            random=row(near(0.8), spearman_top_half=near(0.6, 0.2)),
            repeatability=FULL_HALF,
        ),
        *(Action.RANDOM, Reason.NOT_BETTER, "random", None),
    ),
    "the better half is open": (
        # 24 (0.6 / 0.4)² = 54.
        ranking(
            proxy=proxy(near(0.9), near(0.1), spearman_top_half=near(0.4, 0.6)),
            random=row(near(0.3)),
            repeatability=FULL_HALF,
        ),
        *(Action.MEASURE, Reason.WIDE, "proxy", 30),
    ),
    "few architectures": (
        ranking(8, proxy=proxy(near(0.9), near(0.04), 1)),
        *(Action.MEASURE, Reason.GAIN_OPEN, "proxy", FEW - 8),
    ),
    "no interval": (
        ranking(3, proxy=proxy(Interval(0.9), Interval(0.1)), random=row(Interval(0.8))),
        *(Action.MEASURE, Reason.WIDE, "proxy", FEW - 3),
    ),
    "a perfect order has no interval": (
        ranking(proxy=proxy(Interval(1.0), Interval(0.1)), random=row(Interval(1.0))),
        *(Action.MEASURE, Reason.WIDE, "proxy", 24),
    ),
    "the difference has no interval": (
        ranking(proxy=proxy(near(0.9), Interval(0.1))),
        *(Action.RANDOM, Reason.NOT_BETTER, "random", None),
    ),
    "the proxy is undefined": (
        ranking(proxy=proxy(Interval(reason="all scores are equal"), Interval())),
        *(Action.RANDOM, Reason.ALONE, "random", None),
    ),
    "all are undefined": (
        ranking(proxy=proxy(Interval(), Interval()), random=row(Interval())),
        *(Action.NONE, Reason.UNDEFINED, None, None),
    ),
    "repeatability is not known": (
        ranking(repeatability=row(Interval(), None)),
        *(Action.CONDENSED, Reason.BETTER, "proxy", None),
    ),
    "a comparison without sets": (
        Ranking({"early_stop": row(near(0.8)), "params": row(near(0.6))}, n=24),
        *(Action.OTHER, Reason.UNCOMPARED, "early_stop", None),
    ),
    "one set alone": (
        Ranking({"dm": row(near(0.8))}, n=24),
        *(Action.CONDENSED, Reason.UNCOMPARED, "dm", None),
    ),
    "random images alone": (
        Ranking({"random": row(near(0.8))}, n=24),
        *(Action.RANDOM, Reason.ALONE, "random", None),
    ),
    "a size alone": (
        Ranking({"params": Row(spearman=near(0.7), cost=Cost(0.0, 0.0, 0.0, stored_images=0))}, n=24),
        *(Action.OTHER, Reason.UNCOMPARED, "params", None),
    ),
    "the best set of a comparison, beside random images by the same score": (
        Ranking(
            {
                "dm": row(near(0.7), minus_random=near(0.0), control="random"),
                "dm+space:loss_sum": row(near(0.9), minus_random=near(0.2), control="random:loss_sum"),
                "random": row(near(0.7)),
                "random:loss_sum": row(near(0.7)),
            },
            n=24,
        ),
        *(Action.CONDENSED, Reason.BETTER, "dm+space:loss_sum", None),
    ),
    "a published truth and a set that pays too late": (
        Ranking(
            {
                "dm": row(near(0.9), minus_random=near(0.2), control="random", pays_from=100),
                "random": row(near(0.7)),
                "repeatability": row(near(0.9), None),
            },
            n=24,
            settings={"candidates": 50},
        ),
        *(Action.RANDOM, Reason.DEAR, "random", None),
    ),
    "nothing": (Ranking({}), Action.NONE, Reason.ABSENT, None, None),
    "full training alone": (Ranking({"repeatability": row(near(0.9))}), Action.NONE, Reason.ABSENT, None, None),
}


@pytest.mark.parametrize("case", CASES)
def test_a_decision(case: str) -> None:
    of, action, reason, signal, more = CASES[case]
    found = of.decision
    assert (found.action, found.reason, found.signal, found.more) == (action, reason, signal, more)
    assert json.loads(json.dumps(of.as_json()["decision"]))["action"] == action.value


def test_a_score_of_ones_own_is_no_set_of_images() -> None:
    """It sees images as well, and a good one leads where there is no set."""
    own, size = row(near(-0.4)), row(near(0.7))
    found = Ranking({"mine": own, "params": size, "repeatability": row(near(0.95), 100.0)}, n=24, sample=24)
    assert lead_of(found) == "params"
    assert lead_of(replace(found, signals={**found.signals, "kcenter": row(near(0.1))})) == "kcenter"
    nothing = {"kcenter": row(near(0.0)), "herding": row(near(-0.3))}
    assert lead_of(replace(found, signals={**found.signals, **nothing})) == "kcenter"


def test_every_action_and_reason_has_a_case() -> None:
    assert {action for _, action, *_ in CASES.values()} == set(Action)
    assert {reason for _, _, reason, *_ in CASES.values()} == set(Reason)


def of_method(method: str, **rows: Row) -> Ranking:
    of = ranking(**rows)
    return replace(of, settings={**of.settings, "method": method})


def test_a_proxy_of_random_images_is_no_condensed_set() -> None:
    of = of_method("random", proxy=proxy(near(0.9), near(0.1)))  # by luck: it has one draw of them, and the row three
    found = of.decision
    assert (found.action, found.reason, found.signal) == (Action.RANDOM, Reason.ALONE, PROXY)
    told = str(verdict_of(of))
    assert told.startswith("Use random images: they rank like full training, and nothing else that is cheaper does.")
    assert "against random images" not in told
    assert "condensed" not in told
    dear = of_method("random", proxy=proxy(near(0.9), near(0.1), seconds=200.0))
    assert verdict_of(dear).because == "ranking 24 candidates takes 3.5 min with random images, and 1.7 min in full"
    wide = of_method("random", proxy=proxy(near(0.6, 0.2), near(0.1)))
    assert (wide.decision.action, wide.decision.signal) == (Action.MEASURE, PROXY)
    assert verdict_of(wide).because == "the interval of random images is too wide to trust the ranking"


@pytest.mark.parametrize(
    ("method", "called"), [("dm", "the condensed set"), ("herding", "the set by herding"), ("patches", "the set of")]
)
def test_a_proxy_is_called_by_what_made_it(method: str, called: str) -> None:
    of = of_method(method)
    assert of.decision.action == Action.CONDENSED
    assert verdict_of(of).head.startswith(f"Use {called}")
    assert verdict_of(ranking()).head == "Use the condensed set"  # an earlier version does not say


def test_what_a_set_saves_counts_its_making_once() -> None:
    of = ranking(candidates=240)
    # 240 candidates: 10 s of making and 100 s of training, against 1,000 s of full training.
    assert saves(of, PROXY) == pytest.approx(1000 / 110)
    assert saves(ranking(candidates=3), PROXY) == pytest.approx(100 / 20)  # the sample is trained in any case
    assert saves(of, REPEATABILITY) == pytest.approx(1)
    assert saves(Ranking({"proxy": Row(spearman=near(0.9))}), PROXY) is None


def test_a_folder_of_an_earlier_version_is_decided() -> None:
    of = Ranking.read(ROOT / "tests" / "data" / "ranking-of-an-earlier-version.json")
    assert isinstance(of.decision, Decision)
    assert (of.decision.action, of.decision.reason) == (Action.DIRECT, Reason.NO_SAVING)
