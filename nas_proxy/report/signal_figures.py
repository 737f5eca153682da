"""Figures of signals: a `Ranking` in, Plotly figures out; the rules are those of `nas_proxy.report.figure_style`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from nas_proxy.names import BY, LOSS_SUM, REPEATABILITY, label
from nas_proxy.report.figure_style import OTHER, blank, escaped, hover_text, joint_names, signal_colour, whiskers
from nas_proxy.report.formats import count, decimal, duration, interval
from nas_proxy.report.signal_table import signals_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from nas_proxy.ranking.intervals import Interval
    from nas_proxy.ranking.ranking import Ranking

# Pixels of a line of a legend, and of an axis with its title.
LEGEND_LINE, AXIS_ROOM = 20, 56
NAME = (0.45, 0.09)
"""Shares of a figure's width and height that the name of a signal takes."""
TITLES = {"seconds": "seconds, of one core or the GPU", "passes": "images passed through a network"}


class Point(NamedTuple):
    """A signal in the figure: what it cost, and its Spearman correlation."""

    name: str
    cost: float
    value: float


def spearman_dots(ranking: Ranking, measure: str = "spearman") -> Figure:
    """Return a point with its interval for each score of each signal, and the repeatability of full training as a line.

    measure: "spearman" over all architectures ranked, or "spearman_top_half" over the better half of them. A disc
    scores by accuracy or is computed, a square scores by the sum of losses; both of a signal stand in one line.
    """
    import plotly.graph_objects as go

    found = [signal for signal in signals_of(ranking) if signal.name != REPEATABILITY]
    lines = {signal.name: number for number, signal in enumerate(reversed(found))}
    figure = blank("Spearman", None, height=max(290, 30 * len(found) + 90))
    ends: list[float | None] = []
    for signal in found:
        for score, row in signal.rows.items():
            estimate: Interval = getattr(row, measure)
            off = 0.0 if len(signal.rows) == 1 else -0.16 if score == "loss_sum" else 0.16
            if estimate.value is None:
                place = {"xref": "paper", "x": 0, "y": lines[signal.name] + off, "xanchor": "left"}
                figure.add_annotation(text="undefined", showarrow=False, font={"size": 11}, **place)
            ends += [estimate.value, estimate.low, estimate.high]
            name = label(signal.name) + (f", {BY[score]}" if score in BY else "")
            colour = signal_colour(signal.name)
            figure.add_trace(
                go.Scatter(
                    x=[estimate.value],
                    y=[lines[signal.name] + off],
                    mode="markers",
                    marker={"color": colour, "size": 10, "symbol": "square" if score == "loss_sum" else "circle"},
                    error_x=whiskers(estimate, colour),
                    name=escaped(name),
                    hovertext=[hover_text(name, f"Spearman {interval(estimate)}", estimate.reason or "")],
                    hoverinfo="text",
                    showlegend=False,
                )
            )
    repeated: Interval = getattr(ranking.row(REPEATABILITY), measure)
    if REPEATABILITY in ranking.signals:
        _add_repeatability(figure, repeated)
        ends += [repeated.value, repeated.low]
    known = [end for end in ends if end is not None]
    lowest, highest = min(known, default=0.0), max(known, default=1.0)
    edge = 0.04 * (highest - lowest or 1.0)
    figure.update_xaxes(range=[lowest - edge, highest + edge], zeroline=True, zerolinecolor=OTHER, zerolinewidth=1)
    figure.update_yaxes(
        tickvals=list(lines.values()),
        ticktext=[escaped(label(name)) for name in lines],
        range=[-0.6, max(len(found), 1) - 0.4],
        ticklabelstandoff=6,
    )
    return figure.update_layout(margin={"t": 34})


def _add_repeatability(figure: Figure, repeated: Interval) -> None:
    colour = signal_colour(REPEATABILITY)
    if repeated.low is not None and repeated.high is not None:
        figure.add_vrect(x0=repeated.low, x1=repeated.high, fillcolor=colour, opacity=0.12, line_width=0, layer="below")
    if repeated.value is not None:
        figure.add_vline(x=repeated.value, line={"color": colour, "width": 2, "dash": "dot"})
        figure.add_annotation(
            **{"x": 1, "y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom", "xanchor": "right"},
            text=f"full training repeats itself: {decimal(repeated.value)}",
            showarrow=False,
        )


def points_of(ranking: Ranking, cost: str) -> list[Point]:
    """Return the signals whose cost and correlation are known."""
    found = []
    for name, row in ranking.rows():
        spent, value = getattr(row.cost, cost), row.spearman.value
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


def correlation_by_cost(ranking: Ranking, cost: str = "seconds") -> Figure:
    """Return Spearman (y) against the cost (x, logarithmic; nothing stands at the left), "seconds" or "passes".

    A disc scores by accuracy or is computed, a square scores by the sum of losses. The line joins the signals than
    which none ranks better at no higher cost; full training itself is left out of it.
    """
    import plotly.graph_objects as go

    shown = points_of(ranking, cost)
    positive = [point.cost for point in shown if point.cost > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    left = 10.0 ** (first - 1)
    figure = blank(TITLES[cost], "Spearman", height=330)
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
    free = any(point.cost == 0 for point in shown)
    start, end = first - 1.3 if free else first - 0.3, last + 0.3
    along = {point.name: (math.log10(point.cost or left) - start) / (end - start) for point in shown}
    named = _named(ranking, shown, line, along)
    for point in shown:
        row, colour = ranking.row(point.name), signal_colour(point.name)
        spent = f"{duration(row.cost.seconds)}, {count(row.cost.passes)} image passes"
        figure.add_trace(
            go.Scatter(
                x=[point.cost or left],
                y=[point.value],
                mode="markers+text" if point in named else "markers",
                text=[escaped(label(point.name))] if point in named else None,
                textposition=_beside(along[point.name], above=point in line[1::2]),
                cliponaxis=False,
                textfont={"size": 11},
                name=escaped(label(point.name)),
                marker={"color": colour, "size": 11, "symbol": _symbol(point.name)},
                error_y=whiskers(row.spearman, colour),
                hovertext=[hover_text(label(point.name), f"Spearman {interval(row.spearman)}", spent)],
                hoverinfo="text",
            )
        )
    if not shown:
        figure.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text="undefined", showarrow=False)
        figure.update_yaxes(range=[0, 1])
    powers = range(first, last + 1, 1 + (last - first) // 8)
    figure.update_xaxes(
        type="log",
        range=[start, end],
        tickvals=[left] * free + [10.0**power for power in powers],
        ticktext=["none"] * free + [count(10.0**power) for power in powers],
    )
    return _with_legend_below(figure)


def _named(ranking: Ranking, shown: Sequence[Point], line: Sequence[Point], along: Mapping[str, float]) -> list[Point]:
    """Return the points of the line that bear their name: the better ones, where two would cover each other."""
    intervals = [ranking.row(point.name).spearman for point in shown]
    heights = [height for one in intervals for height in (one.value, one.low, one.high) if height is not None]
    up = min(heights, default=0.0), max(heights, default=1.0)
    best = list(reversed(line))
    x, y = [along[point.name] for point in best], [point.value for point in best]
    told = joint_names([point.name for point in best], x, y, (0.0, 1.0), up, near=NAME)
    return [point for point, name in zip(best, told, strict=True) if name]


def _beside(along: float, *, above: bool) -> str:
    """Return where a name stands: to and fro, so that neighbours leave each other room, and not over an end."""
    if above:
        return "top right" if along < 0.3 else "top left"
    return "bottom left" if along > 0.8 else "bottom right"


def _with_legend_below(figure: Figure) -> Figure:
    """Give a legend of many long names room of its own under the figure, so that the points keep theirs."""
    room = LEGEND_LINE * len(figure.data)
    below = {"orientation": "v", "yref": "container", "y": 0, "yanchor": "bottom"}
    figure.update_layout(showlegend=True, legend=below, height=figure.layout.height + room)
    return figure.update_layout(margin={"b": AXIS_ROOM + room}).update_xaxes(automargin=False)


def _symbol(row: str) -> str:
    if row == REPEATABILITY:
        return "diamond"
    return "square" if row.endswith(LOSS_SUM) else "circle"
