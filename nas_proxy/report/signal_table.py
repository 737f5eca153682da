"""The signals in a page, one row each: a `Ranking` in; what each of its scores is worth and what the signal cost out.

A training gives two scores, and both stand in one row, so that what the training cost is told once.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from nas_proxy.names import BY, REPEATABILITY, label
from nas_proxy.ranking.baseline import ITSELF
from nas_proxy.ranking.intervals import Interval
from nas_proxy.ranking.ranking import Ranking, Row
from nas_proxy.report.formats import UNDEFINED, count, duration, interval, points
from nas_proxy.report.verdict import answer

MEASURES = (
    ("Spearman", lambda row: row.spearman, False),
    ("Better half", lambda row: row.spearman_top_half, False),
    ("Minus random", lambda row: row.minus_random, True),
)
COSTS: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("Time", lambda row: duration(row.cost.seconds)),
    ("Passes", lambda row: count(row.cost.passes)),
)


@dataclass(frozen=True)
class Signal:
    """A signal: its name and its rows by score, that of the table first."""

    name: str
    rows: Mapping[str, Row]

    @property
    def first(self) -> Row:
        """The row by the score that the table ranks by, or the only one."""
        return next(iter(self.rows.values()))


def signals_of(ranking: Ranking) -> Iterator[Signal]:
    """Yield the signals, each with the scores that it has: "accuracy" and "loss_sum", or "" where it has one alone."""
    own = "loss_sum" if ranking.score == "loss_sum" else "accuracy"
    found: dict[str, dict[str, Row]] = {}
    for name, row in ranking.rows():
        base, _, score = name.partition(":")
        if score and score not in BY:
            base, score = name, ""
        found.setdefault(base, {})[score or own] = row
    for name, rows in found.items():
        yield Signal(name, rows if len(rows) > 1 else {"": next(iter(rows.values()))})


def breakable(name: str) -> Markup:
    """Return a name that may be broken where it has a mark."""
    return Markup(re.sub(r"([:+@_])", r"\1<wbr>", str(escape(name))))


def signal_table(ranking: Ranking) -> dict[str, Any]:
    """Return the scores of the table, its measures with how many columns each has, and a row a signal."""
    signals = list(signals_of(ranking))
    scores = list(dict.fromkeys(score for signal in signals for score in signal.rows if score)) or [""]
    measures = [(title, of, sign) for title, of, sign in MEASURES if any(_known(of, signal) for signal in signals)]
    costs = [(title, text) for title, text in COSTS if any(text(s.first) != UNDEFINED for s in signals)]
    return {
        "scores": [BY.get(score, "") for score in scores],
        "measures": [_titled(title, of, ranking) for title, of, _ in measures],
        "costs": [title for title, _ in costs],
        "rows": [_shown(signal, scores, measures, costs) for signal in signals],
    }


def _known(of: Callable[[Row], Interval], signal: Signal) -> bool:
    return any(of(row).value is not None for row in signal.rows.values())


def _titled(title: str, of: Callable[[Row], Interval], ranking: Ranking) -> str:
    numbers = {of(row).n for row in ranking.signals.values()} - {0}
    number = numbers.pop() if len(numbers) == 1 else ranking.n
    return title if number == ranking.n else f"{title} ({number})"


def _shown(signal: Signal, scores: list[str], measures: Any, costs: Any) -> dict[str, Any]:
    rows = [signal.rows.get(score) or (signal.rows.get("") if score == scores[0] else None) for score in scores]
    cells = [_cell(signal, of, row, sign=sign) for _, of, sign in measures for row in rows]
    return {
        "name": signal.name,
        "label": breakable(label(signal.name)),
        "cells": cells,
        "regret": points(signal.first.regret),
        "costs": [text(signal.first) for _, text in costs],
    }


def _cell(signal: Signal, of: Callable[[Row], Interval], row: Row | None, *, sign: bool) -> tuple[str, list[str]]:
    """Return a value and what stands smaller under it."""
    estimate = Interval() if row is None else of(row)
    if estimate.reason == ITSELF:
        return UNDEFINED, ["the baseline"]
    if row is None or estimate.value is None:
        return UNDEFINED, []
    value, _, bounds = interval(estimate, sign=sign).partition(" ")
    return value, [bounds, *([_told(row)] if sign and signal.name != REPEATABILITY else [])]


def _told(row: Row) -> str:
    """Return whether a signal beats random images, in a word or two."""
    head, _, rest = answer(row, brief=True).partition(" (")
    words = {"yes": "better", "no": "worse", "cannot tell": rest.rstrip(")").removesuffix(" would") or "cannot tell"}
    return words.get(head, "")
