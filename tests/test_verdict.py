"""The words about a ranking, in a sentence and as a table for the terminal."""

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from made_up_runs import HOSTILE, interval, ranking_of, trials_of
from nas_proxy.ranking.decision import Action, Decision, Reason
from nas_proxy.ranking.intervals import Interval
from nas_proxy.ranking.ranking import Ranking, Row
from nas_proxy.report import formats
from nas_proxy.report.table import notes
from nas_proxy.report.terminal import ranking_table
from nas_proxy.report.verdict import Verdict, answer, verdict, verdict_of

UNKNOWN = {"value": None, "low": None, "high": None, "reason": "all scores are equal"}


def said(of: dict[str, Any]) -> str:
    return verdict(Ranking.of(of))


def ranking(**proxy: Any) -> dict[str, Any]:
    found = ranking_of(trials_of())
    found["signals"]["proxy"] |= proxy
    return found


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "method": "BCa"}


def printed(of: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(ranking_table(Ranking.of(of)))
    return console.file.getvalue()  # type: ignore[attr-defined]


GOOD = estimate(0.91, 0.84, 0.95)


def test_the_verdict_of_the_design() -> None:
    of = ranking(spearman=GOOD, minus_random=estimate(0.06, 0.01, 0.14))
    assert verdict_of(Ranking.of(of)) == Verdict(
        "Use the condensed set",
        "it ranks like full training, and better than random images",
        (
            ("Spearman", "Spearman 0.91 [0.84, 0.95] over 24 architectures"),
            ("Better half", "in the better half 0.71 [0.41, 0.86], full training itself 0.77 [0.47, 0.92]"),
            ("Full training", "full training repeats itself at 0.97"),
            ("Random images", "against random images +0.06 [0.01, 0.14]: better"),
            ("Saving", "24 candidates take 12.3 s, 156.9 times faster than full training"),
        ),
    )
    assert said(of).startswith(
        "Use the condensed set: it ranks like full training, and better than random images. Spearman 0.91 [0.84, 0.95] "
        "over 24 architectures; in the better half "
    )


@pytest.mark.parametrize(
    ("found", "head", "because"),
    [
        (
            Decision(Action.MEASURE, Reason.GAIN_OPEN, "proxy", 14, "proxy"),
            "Measure about 14 more architectures",
            "the condensed set is ahead of random images, but not for certain",
        ),
        (
            Decision(Action.MEASURE, Reason.WIDE, "repeatability", 1, "proxy"),
            "Measure about 1 more architecture",
            "the interval of full training is too wide to trust the ranking",
        ),
        (
            Decision(Action.RANDOM, Reason.NOT_BETTER, "random:loss_sum", None, "dm+space:loss_sum"),
            "Use random images (by loss sum)",
            "they rank like full training, and the condensed set (dm+space) (by loss sum) is not told to rank better",
        ),
        (
            Decision(Action.RANDOM, Reason.WORSE, "random", None, "herding"),
            "Use random images",
            "they rank like full training, and better than the set by herding",
        ),
        (
            Decision(Action.RANDOM, Reason.DEAR, "random", None, "dm"),
            "Use random images",
            "they rank like full training, and making the condensed set costs more time than it saves",
        ),
        (
            Decision(Action.CALIBRATED, Reason.ALONE, "calibrated", None, "proxy"),
            "Use the calibrated ranking",
            "it ranks like full training, and nothing else that is cheaper does",
        ),
        (
            Decision(Action.OTHER, Reason.UNCOMPARED, "early_stop", None, "early_stop"),
            "Use early stopping",
            "it ranks like full training; there are no random images to compare it with",
        ),
        (
            Decision(Action.DIRECT, Reason.NO_SAVING, None, None, "proxy"),
            "Train directly",
            "ranking 24 candidates takes 12.3 s with the condensed set, 11.9 s with random images, and 32 min in full",
        ),
        (
            Decision(Action.DIRECT, Reason.UNREPEATABLE, None, None, "proxy"),
            "Train directly",
            "the architectures differ less than full training differs from itself, so any will do",
        ),
        (
            Decision(Action.DIRECT, Reason.RANKS_BADLY, None, None, "proxy"),
            "Train directly",
            "nothing that is cheaper is told to rank like full training",
        ),
        (
            Decision(Action.DIRECT, Reason.BLIND, None, None, "proxy"),
            "Train directly",
            "what is cheaper tells bad architectures from good ones, but not the good ones from each other",
        ),
        (Decision(Action.NONE, Reason.UNDEFINED), "Cannot be judged", "Spearman is undefined over 24 architectures"),
    ],
)
def test_a_decision_in_words(found: Decision, head: str, because: str) -> None:
    of = Ranking.of(ranking())
    vars(of)["decision"] = found
    assert (verdict_of(of).head, verdict_of(of).because) == (head, because)


def test_what_a_search_saved_is_told_before_what_ranking_did() -> None:
    of = ranking(minus_random=estimate(0.06, 0.01, 0.14)) | {"saving": {"ratio": 2.04, "interval": [1.2, 3.3]}}
    assert said(of).endswith("; 2.04 [1.20, 3.30] times as fast as random search with full training.")
    of["saving"] = {"ratio": 0.5, "interval": [0.3, 0.9]}
    assert said(of).startswith(
        "Train directly: random search with full training would have found as good a network in less time. "
    )


@pytest.mark.parametrize(
    ("gain", "words_of_it"),
    [
        (estimate(0.06, 0.001, 0.14), "against random images +0.06 [0.00, 0.14]: better"),
        (estimate(-0.06, -0.1, -0.01), "against random images −0.06 [−0.10, −0.01]: worse"),
        (
            {**UNKNOWN, "value": 0.06},
            "against random images +0.06, without an interval (all scores are equal)",
        ),
        (UNKNOWN, "no comparison with random images (all scores are equal)"),
        (None, "no comparison with random images"),
    ],
)
def test_the_comparison_with_random_images(gain: Any, words_of_it: str) -> None:
    assert words_of_it in [text for _, text in verdict_of(Ranking.of(ranking(minus_random=gain))).evidence]


def test_a_signal_that_costs_nothing_and_does_as_well_is_named() -> None:
    of = ranking(spearman=estimate(0.5, 0.1, 0.8))
    assert "counting" not in said(ranking())
    of["signals"]["flops"]["spearman"]["value"] = 0.5
    assert said(of).endswith("; counting FLOPs alone reaches 0.50.")
    of["signals"]["params"]["spearman"]["value"] = 0.6
    assert said(of).endswith("; counting parameters alone reaches 0.60.")
    of["signals"]["synflow"] = {"spearman": estimate(0.7, 0.4, 0.9)}
    assert said(of).endswith("; SynFlow, without any training, reaches 0.70.")


def test_the_repeatability_limits_what_can_be_said() -> None:
    of = ranking()
    of["signals"]["repeatability"]["spearman"] = interval(0.31)
    assert "full training repeats itself at only 0.31, so no signal can be judged well" in said(of)
    of["signals"]["repeatability"]["spearman"] = UNKNOWN
    assert "how well full training repeats itself is not known (all scores are equal)" in said(of)


def test_what_is_not_there_is_said_to_be_missing() -> None:
    assert verdict(None) == said({"signals": {}}) == "Not judged yet: no ranking has been compared with full training."
    assert said({"n": 1, "signals": {"proxy": {"spearman": UNKNOWN}}}) == (
        "Cannot be judged: Spearman is undefined over 1 architecture (all scores are equal)."
    )
    alone = {"n": 24, "signals": {"proxy": {"spearman": {**UNKNOWN, "value": 0.9}}}}
    assert said(alone).startswith(
        "Measure about 24 more architectures: the interval of the condensed set is too wide to trust the ranking. "
        "Spearman 0.90, without an interval, over 24 architectures (all scores are equal); "
    )


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (formats.decimal, -0.001, "0.00"),
        (formats.decimal, -0.914, "−0.91"),
        (formats.decimal, None, "–"),
        (formats.percent, 0.9791, "97.91 %"),
        (formats.points, 0.004, "0.40 pp"),
        (formats.points, -0.0012, "−0.12 pp"),
        (formats.points, 0.234, "23.4 pp"),
        (formats.interval, Interval(0.91, 0.84, 0.95), "0.91 [0.84, 0.95]"),
        (formats.interval, Interval(0.9), "0.90 [–, –]"),
        (formats.interval, Interval(), "–"),
        (formats.count, 0, "0"),
        (formats.count, 999, "999"),
        (formats.count, 1234, "1.2k"),
        (formats.count, 240_000, "240k"),
        (formats.count, 2e6, "2M"),
        (formats.count, 31_400_000_000, "31G"),
        (formats.count, float("nan"), "–"),
        (formats.size, 6400, "6.4 kB"),
        (formats.size, 12, "12 B"),
        (formats.duration, 0, "0 s"),
        (formats.duration, 0.0002, "< 1 ms"),
        (formats.duration, 0.0031, "3.1 ms"),
        (formats.duration, 0.537, "0.54 s"),
        (formats.duration, 12.34, "12.3 s"),
        (formats.duration, 250, "4.2 min"),
        (formats.duration, 3500, "58 min"),
        (formats.duration, 9000, "2.5 h"),
        (formats.duration, 86400 * 12, "12 d"),
        (formats.duration, float("inf"), "–"),
        (formats.faster, 3.6, "3.6 times faster"),
        (formats.faster, 0.5, "2.0 times slower"),
        (formats.faster, 0.0, "slower beyond measure"),
        (formats.number, "0.25", "0.25"),
        (formats.number, "1e400", "–"),
        (formats.number, "text", "–"),
        (formats.architectures, 1, "1 architecture"),
        (formats.architectures, 24, "24 architectures"),
    ],
)
def test_formats(function: Any, value: Any, text: str) -> None:
    assert function(value) == text


def test_notes_gather_every_reason_once() -> None:
    signals = {
        "proxy": {"kendall": UNKNOWN, "regret": None, "regret_reason": "all scores are equal"},
        "random": {"minus_random": {"reason": "this is the control itself"}, "regret": 0.1, "regret_note": "one seed"},
        "own": {"kendall": UNKNOWN},
    }
    undefined = {"all scores are equal": ["Kendall, Regret of Proxy", "Kendall of own"]}
    assert notes(Ranking.of({"signals": signals}), undefined_only=True) == undefined
    assert notes(Ranking.of({"signals": signals})) == undefined | {"one seed": ["Regret of Random images"]}


def test_the_wording_of_an_answer() -> None:
    assert answer(Row(beats_random="yes")) == "yes"
    told = Row(beats_random="cannot tell", more_architectures=60)
    assert answer(told) == "cannot tell (about 60 more architectures would)"
    assert answer(told, brief=True) == "cannot tell (about 60 more would)"
    one = answer(Row(beats_random_total="cannot tell", total_more_architectures=1), total=True)
    assert one == "cannot tell (about 1 more architecture would)"
    zero = Row(beats_random="cannot tell", reasons={"more_architectures": "the difference is about zero"})
    assert answer(zero) == "cannot tell (the difference is about zero)"
    assert answer(zero, brief=True) == "cannot tell (about zero)"
    assert answer(Row()) == "–"


def test_a_comparison_is_judged_by_the_set_that_ranks_best() -> None:
    signals = {
        "dm": {"spearman": estimate(0.7, 0.5, 0.8), "minus_random": estimate(0.0, -0.1, 0.1)},
        "dm:loss_sum": {"spearman": estimate(0.8, 0.5, 0.9), "minus_random": estimate(0.2, 0.1, 0.3)},
        "params": {"spearman": estimate(0.3, 0.0, 0.6)},
        "repeatability": {"spearman": GOOD},
    }
    assert said({"n": 24, "signals": signals}) == (
        "Use the condensed set (by loss sum): it ranks like full training, and better than random images. "
        "Spearman 0.80 [0.50, 0.90] of the condensed set (by loss sum) over 24 architectures; full training repeats "
        "itself at 0.91; against random images +0.20 [0.10, 0.30]: better."
    )
    nothing = {name: {"spearman": UNKNOWN} for name in signals}
    assert said({"n": 24, "signals": nothing}).startswith("Cannot be judged: Spearman is undefined over 24 ")


def test_the_terminal_shows_the_numbers_of_the_verdict() -> None:
    of = ranking(spearman=GOOD, spearman_top_half=estimate(-0.1, -0.6, 0.5))
    lines = printed(of).splitlines()
    assert " ".join(lines[0].split()) == "Signal Spearman Better half (12) Minus random Regret Time Passes"
    assert lines[1].startswith("Proxy         0.91 [0.84, 0.95] −0.10 [−0.60, 0.50]")
    assert lines[1].endswith("0.40 pp 12.3 s   240k")
    assert lines[6].startswith("Full training")
    text = " ".join(" ".join(lines).split())
    assert "n = 24: uniform sample of the space (24 of 540 architectures)" in text
    assert "Failed: proxy 1" in text


def test_the_last_ten_lines_on_the_terminal_are_the_first_screen_of_the_page() -> None:
    of = ranking(spearman=GOOD, minus_random=estimate(0.06, 0.01, 0.14))
    of["pick"] |= {"key": "depth=3", "test_images": 1000, "params": 12_000, "flops": 5_000_000, "latency_ms": 0.25}
    lines = [line.rstrip() for line in printed(of).splitlines()]
    assert lines[-8:] == [
        "",
        "Network   depth=3; 12k parameters, 5M FLOPs, 0.25 ms for an image",
        "Accuracy  97.90 % [96.8, 98.6], test accuracy, mean of 2 full trainings",
        "Saved     32 min saved: 24 candidates take 12.3 s, their full training 32 min",
        "Decision  Use the condensed set: it ranks like full training, and better than random images",
        "          Spearman 0.91 [0.84, 0.95] over 24 architectures; in the better half 0.71 [0.41, 0.86],",
        "          full training itself 0.77 [0.47, 0.92]; full training repeats itself at 0.97; against",
        "          random images +0.06 [0.01, 0.14]: better",
    ]


def test_what_is_undefined_is_one_line_and_what_needs_no_word_has_none() -> None:
    of = ranking(pays_from=None, pays_from_reason="a training on the set takes as long as full training here")
    of["signals"]["flops"]["partial_spearman"] = {**UNKNOWN, "reason": "it gives the same order"}
    of["signals"]["random"]["spearman_top_20"] = {**UNKNOWN, "reason": "too few"}
    of["signals"]["early_stop"]["spearman_top_20"] = {**UNKNOWN, "reason": "too few"}
    lines = printed(of, width=300).splitlines()
    told = "Minus random of Random images (compared with itself); Top 20 % of Random images and 1 other (too few)"
    assert [line for line in lines if "Undefined" in line] == [f"Undefined: {told}"]
    text = "\n".join(lines)
    assert text.count("a training on the set takes as long as full training here") == 1
    assert "it gives the same order" not in text


@given(
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
    st.floats(-1, 1),
    st.floats(0, 1e9),
    st.integers(0, 10**14),
)
@settings(max_examples=25)
def test_the_table_fits_and_breaks_where_it_must(ends: list[float], regret: float, seconds: float, passes: int) -> None:
    of = ranking(spearman=estimate(*ends[:3]), spearman_top_half=estimate(*ends[3:6]))
    of["signals"]["proxy"] |= {"minus_random": estimate(*[2 * end for end in ends[6:]]), "regret": regret}
    of["signals"]["repeatability"] |= {"seconds": seconds, "image_passes": passes}
    row = Ranking.of(of).row("proxy")
    for width in (80, 100):
        lines = printed(of, width).splitlines()
        assert max(map(len, lines)) <= width
        shown = " ".join(line for line in lines if line.startswith("Proxy "))
        for text in (formats.interval(row.spearman), formats.interval(row.minus_random, sign=True)):
            assert text in shown
        assert formats.points(regret) in shown
        assert formats.duration(seconds) in " ".join(line for line in lines if line.startswith("Full training"))


def test_markup_in_names_is_printed_and_not_obeyed() -> None:
    of = ranking(kendall={**UNKNOWN, "reason": "[red]why[/red]"})
    of["pick"]["key"] = "[bold]key[/bold] [/]"
    of["subset"] = HOSTILE
    text = " ".join(printed(of, width=400).split())
    assert "[bold]key[/bold] [/]" in text
    assert "Undefined: Kendall of Proxy ([red]why[/red])" in text
    assert " ".join(HOSTILE.split()) in text
