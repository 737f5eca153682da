"""A ranking as a table for the terminal: the object of `ranking.json` in, something that rich prints out.

Every text is passed to rich as `Text`, so that a key such as `[bold]` is printed and not obeyed. The widest
possible table fits 100 columns. Kendall, precision at 5 and remarks on values
that are defined are left to the report.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nas_proxy.ranking.baseline import ITSELF
from nas_proxy.report.verdict import (
    BY,
    architectures,
    count,
    duration,
    finite,
    interval,
    label,
    notes,
    part,
    percent,
    points,
    speedup,
    truth_source,
    verdict,
)


def ranking_table(ranking: Mapping[str, Any]) -> Group:
    """Return the table of signals, what is undefined and why, the pick, failures, and the verdict."""
    lines: list[RenderableType] = []
    if part(ranking, "signals"):
        lines.append(_table(ranking))
    if ranking.get("subset"):
        lines.append(Text(f"n = {ranking.get('n', '?')}: {ranking['subset']}", style="dim"))
    if truth_source(ranking):
        lines.append(Text(f"Truth: {truth_source(ranking)}", style="dim"))
    undefined = notes(ranking, undefined_only=True).items()
    # That the control has no difference to itself needs no line.
    lines += [Text(f"{'; '.join(where)} – {note}", style="dim") for note, where in undefined if note != ITSELF]
    told = (_pick(ranking), _front(ranking), _failures(ranking), _pruned(ranking))
    lines += [Text(line) for line in told if line]
    lines.append(Text(verdict(ranking), style="bold"))
    return Group(*lines)


def _table(ranking: Mapping[str, Any]) -> Table:
    signals = {name: part(ranking, "signals", name) for name in _order(list(part(ranking, "signals")))}
    rows = list(signals.values())
    columns: dict[str, list[str]] = {
        "Signal": [_named(name, signals) for name in signals],
        "Spearman": _aligned([interval(values.get("spearman")) for values in rows]),
        "Better half": _aligned([interval(values.get("spearman_top_half")) for values in rows]),
        "Minus random": _aligned([interval(values.get("minus_random"), sign=True) for values in rows]),
        "Regret": [points(values.get("regret")) for values in rows],
        "Time": [duration(values.get("seconds")) for values in rows],
        "Images": [count(values.get("image_passes")) for values in rows],
    }
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    for heading in columns:
        table.add_column(heading, justify="right" if heading in ("Regret", "Time", "Images") else "left")
    for name, cells in zip(signals, zip(*columns.values(), strict=True), strict=True):
        # The line that every signal is measured against is set apart from the signals.
        table.add_row(*map(Text, cells), style={"proxy": "bold", "repeatability": "dim"}.get(name))
    return table


def _order(names: list[str]) -> list[str]:
    """Put a signal by its other score, "proxy:loss_sum", under the signal."""
    others = [name for name in names if name.partition(":")[0] in names and ":" in name]
    firsts = [name for name in names if name not in others]
    return [name for first in firsts for name in (first, *(o for o in others if o.partition(":")[0] == first))]


def _named(name: str, among: Mapping[str, Any]) -> str:
    """Return the name of a row; under its signal, a name in full would not fit."""
    first, _, score = name.partition(":")
    return f"  {BY[score]}" if first in among and score in BY else label(name)


def _aligned(intervals: list[str]) -> list[str]:
    """Pad the values before the brackets to one width, so that the points stand under each other."""
    width = max(len(text.partition(" ")[0]) for text in intervals)
    return [f"{value:>{width}}{space}{rest}" for value, space, rest in (text.partition(" ") for text in intervals)]


def _pick(ranking: Mapping[str, Any]) -> str:
    pick = part(ranking, "pick")
    if not pick:
        return ""
    found = [f"Pick: {pick.get('key', '–')}"]
    if finite(pick.get("truth_mean")) is not None:
        accuracy = "published accuracy" if truth_source(ranking) else "test accuracy"
        found.append(f"{accuracy} {percent(pick['truth_mean'])}")
    factor = part(ranking, "cost").get("speedup")
    if finite(factor) is not None:
        found.append(f"speed-up {speedup(factor)}")
    return "; ".join(found)


def _pruned(ranking: Mapping[str, Any]) -> str:
    pruned = part(ranking, "pruning")
    return f"Pruned: {pruned.get('pruned', '–')}; saved about {duration(pruned.get('seconds_saved'))}" if pruned else ""


def _front(ranking: Mapping[str, Any]) -> str:
    front = ranking.get("pareto")
    if not isinstance(front, list) or not front:
        return ""
    names = [name for name in part(front[0]) if name not in ("key", "truth_mean")]
    counted = f"Pareto front ({', '.join(names)}): {architectures(len(front))}"
    return f"{counted}; nas-proxy final RUN --front N trains the N-th"


def _failures(ranking: Mapping[str, Any]) -> str:
    failed = {name: number for name, number in part(ranking, "failures").items() if number}
    names = {"truth": "full training"}
    return (
        "Failed: " + ", ".join(f"{names.get(name, label(name).lower())} {number}" for name, number in failed.items())
        if failed
        else ""
    )
