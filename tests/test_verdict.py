"""The words about a ranking, in a sentence and as a table for the terminal."""

import io
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from made_up_runs import HOSTILE, interval, ranking_of, trials_of
from nas_proxy.report import verdict as words
from nas_proxy.report.terminal import ranking_table
from nas_proxy.report.verdict import verdict

UNKNOWN = {"value": None, "low": None, "high": None, "reason": "all scores are equal"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["signals", "proxy", "random", "spearman", "value", "low", "minus_random", "reason"]),
            inner,
        )
    ),
    max_leaves=20,
)


def ranking(**proxy: Any) -> dict[str, Any]:
    found = ranking_of(trials_of())
    found["signals"]["proxy"] |= proxy
    return found


def estimate(value: float, low: float, high: float) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high, "method": "BCa"}


def printed(of: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(ranking_table(of))
    return console.file.getvalue()  # type: ignore[attr-defined]


GOOD = estimate(0.91, 0.84, 0.95)


def test_the_verdict_of_the_design() -> None:
    assert verdict(ranking(spearman=GOOD, minus_random=estimate(0.06, -0.01, 0.14))) == (
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
    assert words.verdict_parts(ranking(spearman=spearman, minus_random=gain))[0] == head


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
    assert verdict(ranking(minus_random=gain)).endswith(f"; {words_of_it}.")


def test_a_signal_that_costs_nothing_and_does_as_well_is_named() -> None:
    of = ranking(spearman=estimate(0.5, 0.1, 0.8))
    assert "counting" not in verdict(ranking())
    of["signals"]["flops"]["spearman"]["value"] = 0.5
    assert verdict(of).endswith("; counting FLOPs alone reaches 0.50.")
    of["signals"]["params"]["spearman"]["value"] = 0.6
    assert verdict(of).endswith("; counting parameters alone reaches 0.60.")
    of["signals"]["synflow"] = {"spearman": estimate(0.7, 0.4, 0.9)}
    assert verdict(of).endswith("; SynFlow, without any training, reaches 0.70.")


def test_the_repeatability_limits_what_can_be_said() -> None:
    of = ranking()
    of["signals"]["repeatability"]["spearman"] = interval(0.31)
    assert "full training repeats itself at only 0.31, so no signal can be judged well" in verdict(of)
    of["signals"]["repeatability"]["spearman"] = UNKNOWN
    assert "how well full training repeats itself is not known (all scores are equal)" in verdict(of)


def test_what_is_not_there_is_said_to_be_missing() -> None:
    expected = "Not judged yet: the proxy's ranking has not been compared with full training."
    assert verdict({}) == verdict({"signals": {"proxy": None}}) == expected
    assert verdict({"n": 1, "signals": {"proxy": {"spearman": UNKNOWN}}}) == (
        "Cannot be judged: Spearman is undefined over 1 architecture (all scores are equal)."
    )
    assert verdict(ranking(spearman={**UNKNOWN, "value": 0.9})).startswith(
        "Too little to judge: Spearman 0.90 over 24 architectures, without an interval (all scores are equal)"
    )


@given(JSON)
@settings(max_examples=200)
def test_no_json_breaks_the_words(anything: Any) -> None:
    of = anything if isinstance(anything, dict) else {"signals": {"proxy": anything}}
    for text in (verdict(of), printed(of)):
        assert text
    assert "nan" not in words.interval(anything)


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (words.decimal, -0.001, "0.00"),
        (words.decimal, -0.914, "−0.91"),
        (words.decimal, True, "–"),
        (words.decimal, 10**400, "–"),
        (words.percent, 0.9791, "97.91 %"),
        (words.points, 0.004, "0.40 pp"),
        (words.points, -0.0012, "−0.12 pp"),
        (words.points, 0.234, "23.4 pp"),
        (words.interval, GOOD, "0.91 [0.84, 0.95]"),
        (words.interval, {"value": 0.9, "low": None, "high": None}, "0.90 [–, –]"),
        (words.interval, UNKNOWN, "–"),
        (words.count, 0, "0"),
        (words.count, 999, "999"),
        (words.count, 1234, "1.2k"),
        (words.count, 240_000, "240k"),
        (words.count, 2e6, "2M"),
        (words.count, 31_400_000_000, "31G"),
        (words.count, float("nan"), "–"),
        (words.size, 6400, "6.4 kB"),
        (words.size, 12, "12 B"),
        (words.size, "many", "–"),
        (words.duration, 0, "0 s"),
        (words.duration, 0.0002, "< 1 ms"),
        (words.duration, 0.0031, "3.1 ms"),
        (words.duration, 0.537, "0.54 s"),
        (words.duration, 12.34, "12.3 s"),
        (words.duration, 250, "4.2 min"),
        (words.duration, 3500, "58 min"),
        (words.duration, 9000, "2.5 h"),
        (words.duration, 86400 * 12, "12 d"),
        (words.duration, float("inf"), "–"),
        (words.speedup, 12.44, "12.4×"),
        (words.speedup, 0.62, "0.62× (slower than full training)"),
        (words.speedup, None, "–"),
        (words.architectures, 1, "1 architecture"),
        (words.architectures, 24, "24 architectures"),
    ],
)
def test_formats(function: Any, value: Any, text: str) -> None:
    assert function(value) == text


def test_notes_gather_every_reason_once() -> None:
    of = {
        "signals": {
            "proxy": {"kendall": UNKNOWN, "regret": None, "regret_reason": "all scores are equal"},
            "random": {"minus_random": {"reason": "this is the control itself"}, "regret_note": "one seed"},
            "own": {"kendall": UNKNOWN},
        }
    }
    of["signals"]["random"]["regret"] = 0.1
    undefined = {
        "all scores are equal": ["Proxy: Kendall, regret", "own: Kendall"],
        "this is the control itself": ["Random images: minus random"],
    }
    assert words.notes(of, undefined_only=True) == undefined
    assert words.notes(of) == undefined | {"one seed": ["Random images: regret"]}


def test_the_terminal_shows_the_numbers_of_the_verdict() -> None:
    of = ranking(spearman=GOOD, spearman_top_half=estimate(-0.1, -0.6, 0.5))
    lines = printed(of).splitlines()
    assert " ".join(lines[0].split()) == "Signal Spearman Better half Minus random Regret Time Images"
    assert lines[1].startswith("Proxy         0.91 [0.84, 0.95] −0.10 [−0.60, 0.50]")
    assert lines[1].endswith("0.40 pp 12.3 s   240k")
    assert lines[6].startswith("Full training")
    text = " ".join(" ".join(lines).split())
    assert "n = 24: uniform sample of the space (24 of 540 architectures)" in text
    assert "compared with itself" in text
    assert "test accuracy 97.90 %; speed-up 12.4×" in text
    assert "Failed: proxy 1" in text
    assert text.endswith(verdict(of))


@given(
    st.lists(st.floats(-1, 1), min_size=9, max_size=9),
    st.floats(-1, 1),
    st.floats(0, 1e9),
    st.integers(0, 10**14),
)
@settings(max_examples=100)
def test_the_table_fits_a_hundred_columns(ends: list[float], regret: float, seconds: float, passes: int) -> None:
    of = ranking(spearman=estimate(*ends[:3]), spearman_top_half=estimate(*ends[3:6]))
    of["signals"]["proxy"] |= {"minus_random": estimate(*[2 * end for end in ends[6:]]), "regret": regret}
    of["signals"]["repeatability"] |= {"seconds": seconds, "image_passes": passes}
    lines = printed(of).splitlines()
    assert max(map(len, lines)) <= 100
    row = lines[1]
    assert row.startswith("Proxy ")
    for shown in (
        words.interval(of["signals"]["proxy"]["spearman"]),
        words.interval(of["signals"]["proxy"]["minus_random"], sign=True),
        words.points(regret),
    ):
        assert shown in row
    assert words.duration(seconds) in lines[6]


def test_markup_in_names_is_printed_and_not_obeyed() -> None:
    of = ranking(kendall={**UNKNOWN, "reason": "[red]why[/red]"})
    of["pick"]["key"] = "[bold]key[/bold] [/]"
    of["subset"] = HOSTILE
    text = " ".join(printed(of, width=400).split())
    assert "[bold]key[/bold] [/]" in text
    assert "Proxy: Kendall – [red]why[/red]" in text
    assert " ".join(HOSTILE.split()) in text
