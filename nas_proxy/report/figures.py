"""Figures of a run: data frames and the object of `ranking.json` in, Plotly figures out.

The frames are those of `nas_proxy.report.contents.read_run`. Every function is pure, returns a figure for empty input
too, and escapes keys and reasons, so that what a user's space is called can never become markup. Colours are
readable on white and on near-black; backgrounds are transparent, and the page sets the colour of text and
grid. Plotly is imported inside the functions because it is slow to import.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from nas_proxy.report.verdict import count, decimal, duration, finite, interval, label, part, percent, score

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

COLOURS = {
    "proxy": "#2f81d6",
    "random": "#d98118",
    "early_stop": "#8f67cf",
    "flops": "#a3893a",
    "synflow": "#3f9e58",
    "jacob_cov": "#b56fb0",
    "naswot": "#5f7fd9",
    "az_nas": "#7a9a2e",
    "combined": "#12a08f",
    "repeatability": "#c2566e",
}
OTHER, PICK, FAILED = "#7f8a96", "#e0a100", "#c2566e"
SAMPLE, SEARCH = "#2f81d6", "#12a08f"
# What a score is called on an axis, and the factor that turns it into what the axis shows.
AXES = {
    "accuracy": ("proxy score: validation accuracy, %", 100),
    "loss_sum": ("proxy score: sum of the training losses, negated", 1),
}
INK, GRID = "#454b54", "#e3e6ea"

SEED = re.compile(r"accuracy_\d+")

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif"
# Points of one kind that a figure draws: a page stays small with thousands of trials.
MOST = 700
# Pixels of a line of a legend, and of an axis with its title.
LEGEND_LINE, AXIS_ROOM = 20, 56

CONFIG: dict[str, Any] = {
    "responsive": True,
    "displaylogo": False,
    "modeBarButtons": [["zoom2d", "resetScale2d", "toImage"]],
    "toImageButtonOptions": {"format": "svg"},
}


def plotly_script() -> str:
    """Return the whole of plotly.js, about 5 MB, to be put into a page once."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def score_against_truth(
    trials: pd.DataFrame,
    truth: pd.DataFrame,
    pick: str | None = None,
    accuracy: str = "test accuracy",
    by: str = "accuracy",
) -> Figure:
    """Return proxy score (x) against the mean test accuracy of full training (y), a point per architecture.

    The vertical bar joins the seeds of full training. `pick` is the key of the chosen architecture,
    `accuracy` what the truth measures, `by` the score of the trials.
    """
    scored = trials[usable(trials)].drop_duplicates("key")[["key", "score", "diverged"]]
    rows = truth[truth["accuracy"].notna()].drop_duplicates("key").merge(scored, on="key", how="inner")
    searched, diverged = rows["phase"] == "search", rows["diverged"].astype(bool)
    figure = _figure(AXES[by][0], f"truth: {accuracy}, %", height=460)
    _add_points(figure, rows[~searched & ~diverged], by, "sampled", color=SAMPLE, symbol="circle", size=9)
    _add_points(figure, rows[searched & ~diverged], by, "found by the search", color=SEARCH, symbol="diamond", size=10)
    _add_points(figure, rows[diverged], by, "diverged on the proxy", color=FAILED, symbol="x", size=9)
    _add_points(figure, rows[rows["key"] == pick], by, "pick", color=PICK, symbol="star", size=17)
    return figure


def spearman_bars(ranking: Mapping[str, Any], measure: str = "spearman") -> Figure:
    """Return a bar with its interval for each signal, and the repeatability of full training as a line.

    measure: "spearman" over all architectures ranked, or "spearman_top_half" over the better half of them.
    """
    import plotly.graph_objects as go

    names = [name for name in part(ranking, "signals") if name != "repeatability"]
    estimates = {name: part(ranking, "signals", name, measure) for name in names}
    figure = _figure("Spearman", None, height=max(290, 36 * len(names)))
    for name, estimate in estimates.items():
        value = finite(estimate.get("value"))
        if value is None:
            figure.add_annotation(
                x=0, y=_text(label(name)), text="undefined", showarrow=False, xanchor="left", xshift=6
            )
        bar = go.Bar(
            x=[value],
            y=[_text(label(name))],
            orientation="h",
            marker={"color": _colour(name), "opacity": 0.45 if ":" in name else 0.85},
            error_x=_whiskers(estimate, INK),
            hovertext=[_hover(label(name), f"Spearman {interval(estimate)}", str(estimate.get("reason") or ""))],
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
        categoryarray=[_text(label(name)) for name in reversed(names)],
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
    figure = _figure(titles[cost], "Spearman", height=330)
    for name, (spent, estimate, values) in shown.items():
        color = _colour(name)
        point = go.Scatter(
            x=[spent if spent > 0 else 10.0**left],
            y=[estimate["value"]],
            mode="markers",
            name=_text(label(name)),
            marker={"color": color, "size": 11, "symbol": _symbol(name)},
            error_y=_whiskers(estimate, color),
            hovertext=[
                _hover(
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


def _colour(signal: str) -> str:
    return COLOURS.get(signal.partition(":")[0], OTHER)


def _symbol(signal: str) -> str:
    return "diamond" if signal == "repeatability" else "circle-open" if ":" in signal else "circle"


def history(trials: pd.DataFrame, by: str = "accuracy") -> Figure:
    """Return the score of each trial, the best so far, and failed and pruned trials as marks at the bottom.

    The rows of `trials` are in the order of the trials: the sample first, then the search.
    """
    import plotly.graph_objects as go

    order = trials.assign(number=range(1, len(trials) + 1))
    good = usable(order)
    scored, failed = order[good], order[~good]
    searched, diverged = scored["phase"] == "search", scored["diverged"].astype(bool)
    axis, factor = AXES[by]
    figure = _figure("trial", axis, height=380)
    if len(scored) > 1:
        best = go.Scatter(
            x=scored["number"].tolist(),
            y=(factor * scored["score"].cummax()).tolist(),
            mode="lines",
            name="best so far",
            line={"shape": "hv", "color": OTHER, "width": 1.5},
            hoverinfo="skip",
        )
        figure.add_trace(best)
    for mask, name, color, symbol in (
        (~searched & ~diverged, "sampled", SAMPLE, "circle"),
        (searched & ~diverged, "search", SEARCH, "diamond"),
        (diverged, "diverged", FAILED, "x"),
    ):
        rows = scored[mask]
        both = zip(rows["key"], rows["score"], strict=True)
        hover = [_hover(key, f"score {score(value, by)}") for key, value in both]
        _add_markers(figure, rows["number"], factor * rows["score"], hover, name=name, color=color, symbol=symbol)
    lowest, highest = (scored["score"].min(), scored["score"].max()) if len(scored) else (0.0, 1.0)
    floor = lowest - 0.08 * ((highest - lowest) or 0.1)
    for state, color in (("failed", FAILED), ("pruned", OTHER)):
        rows = failed[(failed["state"] == "pruned") == (state == "pruned")]
        hover = [_hover(key, why or "no score") for key, why in zip(rows["key"], rows["reason"], strict=True)]
        bottom = [factor * floor] * len(rows)
        _add_markers(figure, rows["number"], bottom, hover, name=state, color=color, symbol="triangle-up-open")
    if not len(scored):
        figure.update_yaxes(showticklabels=False, showgrid=False, title="", range=[factor * floor - 5, 100])
    return figure


def seed_columns(truth: pd.DataFrame) -> list[str]:
    """Return the columns of `truth.csv` that hold a seed each, in their order."""
    return [str(name) for name in truth.columns if SEED.fullmatch(str(name))]


def usable(trials: pd.DataFrame) -> pd.Series[bool]:
    """Return which trials have a score that counts."""
    return ~trials["state"].isin(("failed", "pruned")) & trials["score"].notna()


def _figure(x: str, y: str | None, *, height: int) -> Figure:
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "ticks": ""}
    return go.Figure(
        layout={
            "template": go.layout.Template(),
            "height": height,
            "font": {"family": FONT, "size": 13, "color": INK},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 16, "t": 12, "b": 8},
            "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "font": {"size": 12}},
            "hoverlabel": {"align": "left", "namelength": -1},
            "hovermode": "closest",
            # A finger that scrolls past the figure must not zoom it; the tool bar has a button for zooming.
            "dragmode": False,
            "xaxis": axis | {"title": _title(x)},
            "yaxis": axis | ({"title": _title(y)} if y else {}),
        }
    )


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "standoff": 12, "font": {"size": 13}}


def evenly(count: int, most: int) -> list[int]:
    """Return at most `most` of the numbers below `count`, evenly spread, the first and the last among them."""
    return list(range(count)) if count <= most else [round(n * (count - 1) / (most - 1)) for n in range(most)]


def _add_markers(
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


def _add_points(figure: Figure, rows: pd.DataFrame, by: str, name: str, *, color: str, symbol: str, size: int) -> None:
    hover = []
    columns = seed_columns(rows)
    for row in rows.to_dict("records"):
        seeds = " and ".join(percent(row[name]) for name in columns if finite(row[name]) is not None)
        lines = [f"proxy score {score(row['score'], by)}", f"truth {percent(row['accuracy'])}"]
        lines[1] += f" (seeds: {seeds})" if seeds else ""
        lines += [f"{count(row['params'])} parameters"] if finite(row["params"]) is not None else []
        hover.append(_hover(row["key"], *lines))
    highest, lowest = rows[columns].max(axis=1), rows[columns].min(axis=1)
    spread = {
        "type": "data",
        "symmetric": False,
        "array": (100 * (highest - rows["accuracy"])).clip(lower=0).fillna(0).tolist(),
        "arrayminus": (100 * (rows["accuracy"] - lowest)).clip(lower=0).fillna(0).tolist(),
        "color": color,
        "thickness": 1.2,
        "width": 0,
    }
    x, y = AXES[by][1] * rows["score"], 100 * rows["accuracy"]
    _add_markers(figure, x, y, hover, name=name, color=color, symbol=symbol, size=size, error_y=spread)


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


def _whiskers(estimate: Mapping[str, Any], color: str) -> dict[str, Any]:
    """Return the error bar of one point; an undefined interval has none."""
    value, low, high = (finite(estimate.get(name)) for name in ("value", "low", "high"))
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


def _text(text: object) -> str:
    """Escape: Plotly reads a small HTML in its labels."""
    return escape(str(text), quote=False)


def _hover(head: object, *lines: str) -> str:
    bold = "<br>".join(f"<b>{_text(line)}</b>" for line in wrap(_cut(str(head), 200), 44))
    return "<br>".join([bold, *(_text(piece) for line in lines for piece in wrap(_cut(line, 240), 52))])


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
