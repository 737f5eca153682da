"""What all figures of a page have in common: colours, an empty figure, points, whiskers, and text that is escaped.

The rules: every function is pure; every figure stands for empty input too; keys and reasons are escaped, so that what
a user's space is called can never become markup. Colours are readable on white and on near-black; backgrounds are
transparent, and the page sets the colour of text and grid. Plotly is imported inside the functions because it is slow
to import.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from nas_proxy.ranking.intervals import Interval

COLOURS = {
    "proxy": "#2f81d6",
    "dm": "#2f81d6",
    "dm+space": "#12a08f",
    "random": "#d07a14",
    "random_total": "#a8590a",
    "herding": "#4b8b3b",
    "kcenter": "#7a6ad8",
    "patches": "#b8576b",
    "early_stop": "#8f67cf",
    "flops": "#a3893a",
    "synflow": "#3f9e58",
    "jacob_cov": "#b56fb0",
    "naswot": "#5f7fd9",
    "az_nas": "#7a9a2e",
    "combined": "#12a08f",
    "repeatability": "#c2566e",
}
REST = ("#b0468c", "#5b7c99", "#99793d", "#3d8f8a", "#8a5a44")
OTHER, PICK, FAILED = "#7f8a96", "#e0a100", "#c2566e"
SAMPLE, SEARCH = "#2f81d6", "#12a08f"
# Text has 4.3 times the luminance of near-black and white that of it (WCAG's contrast); lines of the grid are faint on
# both. A page that knows its own ground has better ones by CSS.
INK, GRID = "#727a85", "rgba(128, 136, 148, 0.28)"
ON_POINT = "#14171b"
"""Text on the points of SEARCH and PICK."""
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# Points of one kind that a figure draws: a page stays small with thousands of trials.
MOST = 700
SPARSE = 8
"""So few points are all shown."""
WIDE = 20
"""What spans more than this factor has a logarithmic axis."""
NEAR = (0.035, 0.06)
"""Shares of a figure's width and height within which numbers at two points cover each other."""

CONFIG: dict[str, Any] = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["zoom2d", "autoScale2d", "resetScale2d", "toImage"]],
    "toImageButtonOptions": {"format": "svg"},
}


def signal_colour(row: str) -> str:
    """Return the colour of a signal, the same for both of its scores."""
    name = row.partition(":")[0]
    return COLOURS[name] if name in COLOURS else REST[sum(map(ord, name)) % len(REST)]


def plotly_script() -> str:
    """Return the whole of plotly.js, about 5 MB, to be put into a page once."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def blank(x: str, y: str | None, *, height: int) -> Figure:
    """Return a figure without points: the titles of its axes, y None for names instead of numbers; pixels high."""
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "ticks": ""}
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            # The tool bar stands upright in the margin, where it covers nothing.
            "margin": {"l": 8, "r": 40, "t": 12, "b": 8},
            "modebar": {"orientation": "v"},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
            "hoverlabel": {"align": "left", "namelength": -1},
            "hovermode": "closest",
            # A finger that scrolls past the figure must not zoom it; the tool bar has a button for zooming.
            "dragmode": False,
            "xaxis": axis | {"title": axis_title(x)},
            "yaxis": axis | ({"title": axis_title(y)} if y else {}),
        }
    )


def axis_title(text: str) -> dict[str, Any]:
    """Return the title of an axis, as Plotly takes it."""
    return {"text": text, "standoff": 12, "font": {"size": 13}}


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread, the first and the last among them."""
    return list(range(count)) if count <= most else [round(n * (count - 1) / (most - 1)) for n in range(most)]


def view(values: Iterable[float]) -> list[float] | None:
    """Return the range of an axis that shows where the points are; None without any.

    What lies beyond Tukey's fences, 1.5 interquartile ranges outside the quartiles, is left out of it: one architecture
    at chance would else press all others into a corner. `outside` tells of it.
    """
    import numpy as np

    known = np.asarray([value for value in values if value is not None and np.isfinite(value)], dtype=np.float64)
    if not len(known):
        return None
    first, third = np.quantile(known, [0.25, 0.75])
    reach = 1.5 * (third - first)
    inside = known[(known >= first - reach) & (known <= third + reach)]
    low, high = (inside.min(), inside.max()) if len(known) > SPARSE else (known.min(), known.max())
    edge = 0.06 * (high - low) or max(0.05 * abs(high), 1e-3)
    return [float(low - edge), float(high + edge)]


def outside(figure: Figure, *, x: Iterable[float] = (), y: Iterable[float] = ()) -> Figure:
    """Say in a figure how many points its axes leave out, of those at x or y."""
    left_out = 0
    for values, axis in ((x, figure.layout.xaxis), (y, figure.layout.yaxis)):
        if axis.range is not None:
            left_out = max(left_out, sum(not axis.range[0] <= value <= axis.range[1] for value in values))
    if left_out:
        text = f"{left_out} more outside; autoscale shows {'it' if left_out == 1 else 'them'}"
        # Above the plot, where no point is, and under the legend.
        place = {"x": 1, "y": 1, "xref": "paper", "yref": "paper", "xanchor": "right", "yanchor": "bottom"}
        figure.add_annotation(text=text, showarrow=False, font={"size": 11}, **place)
        figure.update_layout(legend_y=1 + 22 / figure.layout.height)
    return figure


def add_markers(
    figure: Figure,
    x: Any,
    y: Any,
    hover: Sequence[str],
    *,
    name: str,
    color: str,
    symbol: str,
    size: int = 7,
    **more: Any,
) -> None:
    """Add points, of very many some at even distances; none at all leave no entry in the legend."""
    import plotly.graph_objects as go

    if len(hover):
        crowded = len(hover) > 1000
        marker = {"color": color, "symbol": symbol, "size": 4 if crowded else size, "opacity": 0.5 if crowded else 0.9}
        drawn = evenly(len(hover), MOST)
        name += f" ({len(drawn):,} of {len(hover):,} drawn)" if len(drawn) < len(hover) else ""
        columns = {"x": list(x), "y": list(y), "hovertext": list(hover)}
        chosen = {column: [values[index] for index in drawn] for column, values in columns.items()}
        points: dict[str, Any] = {**chosen, "hoverinfo": "text", "mode": "markers"}
        if "error_y" in more:
            spread = more["error_y"]
            more["error_y"] = spread | {end: [spread[end][n] for n in drawn] for end in ("array", "arrayminus")}
        figure.add_trace(go.Scatter(points | {"name": name, "marker": marker, "showlegend": True} | more))


def joint_names(
    names: Sequence[str],
    x: Iterable[float],
    y: Iterable[float],
    across: Sequence[float],
    up: Sequence[float],
    near: tuple[float, float] = NEAR,
) -> list[str]:
    """Return what is written at points: where names would cover each other the first point bears them all, "1, 3".

    across, up: from where to where the axes show; x and across are logarithms on a logarithmic axis. near: shares of
    the figure's width and height within which they would.
    """
    firsts: list[tuple[float, float, int]] = []
    told = list(names)
    for index, (left, low) in enumerate(zip(x, y, strict=True)):
        place = left / (across[1] - across[0] or 1.0), low / (up[1] - up[0] or 1.0)
        found = [at for a, b, at in firsts if abs(a - place[0]) < near[0] and abs(b - place[1]) < near[1]]
        if found:
            told[found[0]], told[index] = f"{told[found[0]]}, {told[index]}", ""
        else:
            firsts.append((*place, index))
    return told


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis from `low` to `high` with at least three numbers at it, if it spans few decades.

    Those are the powers of ten, else 1, 2 and 5 of each decade, else 1 to 9; on less than half a decade even steps.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    marks: list[float] = []
    for digits in ((1,), (1, 2, 5), range(1, 10)):
        marks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        marks = [mark for mark in marks if low <= mark <= high]
        if len(marks) >= 3:
            break
    if high < 3.2 * low:
        power = 10.0 ** math.floor(math.log10((high - low) / 3 or high))
        step = max((size * power for size in (1, 2, 5) if 3 * size * power <= high - low), default=power)
        marks = [count * step for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return {"type": "log", "tickvals": marks, "ticktext": [f"{mark:.6g}" for mark in marks]}


def whiskers(estimate: Interval, color: str) -> dict[str, Any]:
    """Return the error bar of one point; an undefined interval has none."""
    value, low, high = estimate.value, estimate.low, estimate.high
    above, below = (0.0, 0.0) if value is None or low is None or high is None else (high - value, value - low)
    return {
        "type": "data",
        "symmetric": False,
        "array": [max(above, 0.0)],
        "arrayminus": [max(below, 0.0)],
        "color": color,
        "thickness": 1.5,
        "width": 5,
    }


def escaped(text: object) -> str:
    """Escape: Plotly reads a small HTML in its labels."""
    return escape(str(text), quote=False)


def hover_text(head: object, *lines: str) -> str:
    """Return what is shown over a point: a bold head and lines, escaped, wrapped and cut where very long."""
    bold = "<br>".join(f"<b>{escaped(line)}</b>" for line in wrap(_cut(str(head), 200), 44))
    return "<br>".join([bold, *(escaped(piece) for line in lines for piece in wrap(_cut(line, 240), 52))])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
