"""Figures of signals: the object of `ranking.json` in, Plotly figures out; see `figure_style.py`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_proxy.report.figure_style import COLOURS, INK, OTHER, blank, escaped, hover_text, whiskers
from nas_proxy.report.verdict import count, decimal, duration, finite, interval, label, part

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Pixels of a line of a legend, and of an axis with its title.
LEGEND_LINE, AXIS_ROOM = 20, 56


def spearman_bars(ranking: Mapping[str, Any], measure: str = "spearman") -> Figure:
    """Return a bar with its interval for each signal, and the repeatability of full training as a line.

    measure: "spearman" over all architectures ranked, or "spearman_top_half" over the better half of them.
    """
    import plotly.graph_objects as go

    names = [name for name in part(ranking, "signals") if name != "repeatability"]
    estimates = {name: part(ranking, "signals", name, measure) for name in names}
    figure = blank("Spearman", None, height=max(290, 36 * len(names)))
    for name, estimate in estimates.items():
        value = finite(estimate.get("value"))
        if value is None:
            figure.add_annotation(
                x=0, y=escaped(label(name)), text="undefined", showarrow=False, xanchor="left", xshift=6
            )
        bar = go.Bar(
            x=[value],
            y=[escaped(label(name))],
            orientation="h",
            marker={"color": _colour(name), "opacity": 0.45 if ":" in name else 0.85},
            error_x=whiskers(estimate, INK),
            hovertext=[hover_text(label(name), f"Spearman {interval(estimate)}", str(estimate.get("reason") or ""))],
            hoverinfo="text",
            showlegend=False,
        )
        figure.add_trace(bar)
    repeated = part(ranking, "signals", "repeatability", measure)
    _add_repeatability(figure, repeated)
    ends = [finite(estimate.get(end)) for estimate in (*estimates.values(), repeated) for end in ("value", "low")]
    lowest = min([0.0, *(end for end in ends if end is not None)])
    zero = {"zeroline": True, "zerolinecolor": OTHER, "zerolinewidth": 1}
    figure.update_xaxes(range=[lowest - (0.06 if lowest < 0 else 0), 1.02], **zero)
    figure.update_yaxes(
        categoryorder="array",
        categoryarray=[escaped(label(name)) for name in reversed(names)],
        range=[-0.5, max(len(names), 1) - 0.5],
        showgrid=False,
        ticklabelstandoff=6,
    )
    return figure.update_layout(bargap=0.42, margin={"t": 34})


def spearman_by_cost(ranking: Mapping[str, Any], cost: str = "seconds") -> Figure:
    """Return Spearman (y) against what a signal costs (x, logarithmic; a cost of nothing stands at the left).

    cost: "seconds" or "image_passes".
    """
    import plotly.graph_objects as go

    titles = {"seconds": "seconds", "image_passes": "images passed through a network"}
    shown = {}
    for name in part(ranking, "signals"):
        values = part(ranking, "signals", name)
        spent = finite(values.get(cost))
        if spent is not None and spent >= 0 and finite(part(values, "spearman").get("value")) is not None:
            shown[name] = (spent, part(values, "spearman"), values)
    positive = [spent for spent, _, _ in shown.values() if spent > 0] or [1.0]
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    left = first - 1
    figure = blank(titles[cost], "Spearman", height=330)
    for name, (spent, estimate, values) in shown.items():
        color = _colour(name)
        point = go.Scatter(
            x=[spent if spent > 0 else 10.0**left],
            y=[estimate["value"]],
            mode="markers",
            name=escaped(label(name)),
            marker={"color": color, "size": 11, "symbol": _symbol(name)},
            error_y=whiskers(estimate, color),
            hovertext=[
                hover_text(
                    label(name),
                    f"Spearman {interval(estimate)}",
                    f"{duration(values.get('seconds'))}, {count(values.get('image_passes'))} image passes",
                )
            ],
            hoverinfo="text",
        )
        figure.add_trace(point)
    if not shown:
        figure.add_annotation(x=0.5, y=0.5, xref="paper", yref="paper", text="undefined", showarrow=False)
        figure.update_yaxes(range=[0, 1])
    free = any(spent == 0 for spent, _, _ in shown.values())
    powers = range(first, last + 1, 1 + (last - first) // 8)
    figure.update_xaxes(
        type="log",
        range=[(left if free else first) - 0.3, last + 0.3],
        tickvals=[10.0**left] * free + [10.0**power for power in powers],
        ticktext=["none"] * free + [count(10.0**power) for power in powers],
    )
    return _with_legend_below(figure)


def _with_legend_below(figure: Figure) -> Figure:
    """Give a legend of many long names room of its own under the figure, so that the points keep theirs."""
    room = LEGEND_LINE * len(figure.data)
    below = {"orientation": "v", "yref": "container", "y": 0, "yanchor": "bottom"}
    figure.update_layout(showlegend=True, legend=below, height=figure.layout.height + room)
    return figure.update_layout(margin={"b": AXIS_ROOM + room}).update_xaxes(automargin=False)


def _add_repeatability(figure: Figure, repeated: Mapping[str, Any]) -> None:
    value, low, high = (finite(repeated.get(name)) for name in ("value", "low", "high"))
    if low is not None and high is not None:
        figure.add_vrect(x0=low, x1=high, fillcolor=COLOURS["repeatability"], opacity=0.12, line_width=0, layer="below")
    if value is not None:
        figure.add_vline(x=value, line={"color": COLOURS["repeatability"], "width": 2, "dash": "dot"})
        figure.add_annotation(
            **{"x": 1, "y": 1, "xref": "paper", "yref": "paper", "yanchor": "bottom", "xanchor": "right"},
            text=f"full training repeats itself: {decimal(value)}",
            showarrow=False,
        )


def _colour(signal: str) -> str:
    return COLOURS.get(signal.partition(":")[0], OTHER)


def _symbol(signal: str) -> str:
    return "diamond" if signal == "repeatability" else "circle-open" if ":" in signal else "circle"
