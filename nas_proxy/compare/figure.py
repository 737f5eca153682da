"""Correlation against cost: the object of a comparison's `ranking.json` in, a Plotly figure with its Pareto line out.

The rules are those of `nas_proxy.report.figure_style`.
"""

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from nas_proxy.compare.text import REPEATABILITY, named
from nas_proxy.ranking.names import LOSS_SUM
from nas_proxy.report.figure_style import COLOURS, OTHER, blank, escaped, hover_text, whiskers
from nas_proxy.report.verdict import count, duration, finite, interval, part

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

OWN = {
    "dm": COLOURS["proxy"],
    "dm+space": "#12a08f",
    "random_total": "#a8590a",
    "herding": "#4b8b3b",
    "kcenter": "#7a6ad8",
}
REST = ("#b0468c", "#5b7c99", "#99793d", "#3d8f8a", "#8a5a44")


class Point(NamedTuple):
    """A signal in the figure: what it cost, and its Spearman correlation."""

    name: str
    cost: float
    value: float


def points_of(ranking: Mapping[str, Any], cost: str) -> list[Point]:
    """Return the signals whose cost and correlation are known."""
    found = []
    for name, values in part(ranking, "signals").items():
        spent = finite(part(values, "cost").get(cost))
        value = finite(part(values, "spearman").get("value"))
        if spent is not None and spent >= 0 and value is not None:
            found.append(Point(name, spent, value))
    return found


def pareto(points: Iterable[Point]) -> list[Point]:
    """Return the points that none beats: each has a higher value than all that cost as much or less."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (point.cost, -point.value)):
        if not best or point.value > best[-1].value:
            best.append(point)
    return best


def correlation_by_cost(ranking: Mapping[str, Any], cost: str = "seconds") -> "Figure":
    """Return Spearman (y) against the cost (x, logarithmic; nothing stands at the left), "seconds" or "passes".

    A disc scores by accuracy or is computed, a square scores by the sum of losses. The line joins the signals than
    which none ranks better at no higher cost; full training itself is left out of it.
    """
    import plotly.graph_objects as go

    titles = {"seconds": "seconds, of one core or the GPU", "passes": "images passed through a network"}
    shown = points_of(ranking, cost)
    positive = [point.cost for point in shown if point.cost > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    left = 10.0 ** (first - 1)
    figure = blank(titles[cost], "Spearman", height=420)
    line = pareto(point for point in shown if point.name != REPEATABILITY)
    if line:
        steps = [*line, Point("", 10.0 ** (last + 0.3), line[-1].value)]
        figure.add_trace(
            go.Scatter(
                x=[point.cost or left for point in steps],
                y=[point.value for point in steps],
                mode="lines",
                line={"shape": "hv", "color": OTHER, "width": 1.5, "dash": "dot"},
                name="Pareto line",
                hoverinfo="skip",
            )
        )
    for point in shown:
        values = part(ranking, "signals", point.name)
        colour = _colour(point.name)
        spent = part(values, "cost")
        figure.add_trace(
            go.Scatter(
                x=[point.cost or left],
                y=[point.value],
                mode="markers",
                name=escaped(named(point.name)),
                marker={"color": colour, "size": 11, "symbol": _symbol(point.name)},
                error_y=whiskers(part(values, "spearman"), colour),
                hovertext=[
                    hover_text(
                        named(point.name),
                        f"Spearman {interval(values.get('spearman'))}",
                        f"{duration(spent.get('seconds'))}, {count(spent.get('passes'))} image passes",
                    )
                ],
                hoverinfo="text",
            )
        )
    if not shown:
        figure.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text="undefined", showarrow=False)
        figure.update_yaxes(range=[0, 1])
    free = any(point.cost == 0 for point in shown)
    powers = range(first, last + 1, 1 + (last - first) // 8)
    figure.update_xaxes(
        type="log",
        range=[first - 1.3 if free else first - 0.3, last + 0.3],
        tickvals=[left] * free + [10.0**power for power in powers],
        ticktext=["none"] * free + [count(10.0**power) for power in powers],
    )
    return figure.update_layout(showlegend=True)


def _colour(row: str) -> str:
    name = row.removesuffix(LOSS_SUM)
    known = {**COLOURS, **OWN}
    return known[name] if name in known else REST[sum(map(ord, name)) % len(REST)]


def _symbol(row: str) -> str:
    if row == REPEATABILITY:
        return "diamond"
    return "square" if row.endswith(LOSS_SUM) else "circle"
