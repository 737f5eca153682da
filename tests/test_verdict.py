"""The words about a ranking, in a sentence and as a table for the terminal."""

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from made_up_runs import HOSTILE, interval, ranking_of, trials_of
from nas_proxy.ranking.intervals import Interval
from nas_proxy.ranking.ranking import Ranking, Row
from nas_proxy.report import formats
from nas_proxy.report.table import notes
from nas_proxy.report.terminal import ranking_table
from nas_proxy.report.verdict import answer, verdict, verdict_parts

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
    assert said(ranking(spearman=GOOD, minus_random=estimate(0.06, -0.01, 0.14))) == (
        "Ranks like full training: Spearman 0.91 [0.84, 0.95] over 24 architectures; full training repeats "
        "itself at 0.97; against random images +0.06 [−0.01, 0.14]: cannot tell."
    )


@pytest.mark.parametrize(
    ("spearman", "gain", "head"),
    [
        (GOOD, estimate(0.1, 0.02, 0.2), "Ranks like full training"),
        (estimate(0.9, 0.8, 0.95), estimate(0, -0.1, 0.1), "Ranks like full training"),
        (estimate(0.9, 0.79, 0.95), estimate(0, -0.1, 0.1), "Ranks much like full training"),
        (estimate(0.7, 0.5, 0.8), UNKNOWN, "Ranks much like full training"),
        (estimate(0.7, 0.49, 0.8), UNKNOWN, "Ranks only loosely like full training"),
        (estimate(0.2, 0.0, 0.4), UNKNOWN, "Cannot tell whether it ranks like full training"),
        (
            estimate(0.2, -0.3, 0.6),
            estimate(-0.3, -0.5, 0),
            "Cannot tell whether it ranks like full training",
        ),
        (estimate(-0.5, -0.8, -0.1), UNKNOWN, "Ranks against full training"),
        (GOOD, estimate(-0.04, -0.07, -0.01), "Ranks like full training, but worse than random images"),
        (
            estimate(-0.5, -0.8, -0.1),
            estimate(-1.2, -1.5, -0.9),
            "Ranks against full training, and worse than random images",
        ),
        ({**UNKNOWN, "value": 0.9}, UNKNOWN, "Too little to judge"),
        (UNKNOWN, UNKNOWN, "Cannot be judged"),
    ],
)
def test_the_judgement_follows_the_lower_end(spearman: Any, gain: Any, head: str) -> None:
    assert verdict_parts(Ranking.of(ranking(spearman=spearman, minus_random=gain)))[0] == head


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
    assert said(ranking(minus_random=gain)).endswith(f"; {words_of_it}.")


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
    expected = "Not judged yet: no ranking has been compared with full training."
    assert verdict(None) == said({"signals": {"proxy": None}}) == expected
    assert said({"n": 1, "signals": {"proxy": {"spearman": UNKNOWN}}}) == (
        "Cannot be judged: Spearman is undefined over 1 architecture (all scores are equal)."
    )
    assert said(ranking(spearman={**UNKNOWN, "value": 0.9})).startswith(
        "Too little to judge: Spearman 0.90 over 24 architectures, without an interval (all scores are equal)"
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
        (formats.speedup, 12.44, "12.4×"),
        (formats.speedup, 0.62, "0.62× (slower than full training)"),
        (formats.speedup, None, "–"),
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
    undefined = {"all scores are equal": ["Proxy: Kendall, Regret", "own: Kendall"]}
    assert notes(Ranking.of({"signals": signals}), undefined_only=True) == undefined
    assert notes(Ranking.of({"signals": signals})) == undefined | {"one seed": ["Random images: Regret"]}


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


def test_a_comparison_is_judged_by_the_signal_that_ranks_best() -> None:
    signals = {
        "dm:loss_sum": {"spearman": estimate(0.8, 0.5, 0.9), "beats_random": "yes"},
        "params": {"spearman": estimate(0.3, 0.0, 0.6), "beats_random": "no"},
        "repeatability": {"spearman": GOOD, "beats_random": "yes"},
    }
    assert said({"n": 24, "signals": signals}) == (
        "Condensed, by loss sum ranks best here: Spearman 0.80 [0.50, 0.90] over 24 architectures; "
        "better than random images: Condensed, by loss sum; full training repeats itself at 0.91."
    )
    nothing = {name: {"spearman": UNKNOWN} for name in signals}
    assert said({"n": 24, "signals": nothing}).startswith("Nothing can be ranked: ")


def test_the_terminal_shows_the_numbers_of_the_verdict() -> None:
    of = ranking(spearman=GOOD, spearman_top_half=estimate(-0.1, -0.6, 0.5))
    lines = printed(of).splitlines()
    assert " ".join(lines[0].split()) == "Signal Spearman Better half (12) Minus random Regret Time Passes"
    assert lines[1].startswith("Proxy         0.91 [0.84, 0.95] −0.10 [−0.60, 0.50]")
    assert lines[1].endswith("0.40 pp 12.3 s   240k")
    assert lines[6].startswith("Full training")
    text = " ".join(" ".join(lines).split())
    assert "n = 24: uniform sample of the space (24 of 540 architectures)" in text
    assert "test accuracy 97.90 %; speed-up 12.4×" in text
    assert "Failed: proxy 1" in text
    assert text.endswith(said(of))


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
    assert "Proxy: Kendall – [red]why[/red]" in text
    assert " ".join(HOSTILE.split()) in text
