"""Figures of trials: data frames in, Plotly figures out, by the rules of `nas_proxy.report.figure_style`.

The frames are those of `nas_proxy.report.run_contents.read_run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_proxy.report.figure_style import (
    FAILED,
    OTHER,
    PICK,
    SAMPLE,
    SEARCH,
    add_markers,
    blank,
    hover_text,
    outside,
    view,
)
from nas_proxy.report.formats import count, known, percent, score
from nas_proxy.report.run_contents import seed_columns, usable

if TYPE_CHECKING:
    import pandas as pd
    from plotly.graph_objects import Figure

# What a score is called on an axis, and the factor that turns it into what the axis shows.
AXES = {
    "accuracy": ("proxy score: validation accuracy, %", 100),
    "loss_sum": ("proxy score: sum of the training losses, negated", 1),
}


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
    figure = blank(AXES[by][0], f"truth: {accuracy}, %", height=460)
    _add_points(figure, rows[~searched & ~diverged], by, "sampled", color=SAMPLE, symbol="circle", size=9)
    _add_points(figure, rows[searched & ~diverged], by, "found by the search", color=SEARCH, symbol="diamond", size=10)
    _add_points(figure, rows[diverged], by, "diverged on the proxy", color=FAILED, symbol="x", size=9)
    _add_points(figure, rows[rows["key"] == pick], by, "pick", color=PICK, symbol="star", size=17)
    x, y = AXES[by][1] * rows["score"], 100 * rows["accuracy"]
    seeds = [100 * rows[name] for name in seed_columns(rows)]
    figure.update_xaxes(range=view(x)).update_yaxes(range=view([value for column in (y, *seeds) for value in column]))
    return outside(figure, x=x, y=y)


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
    figure = blank("trial", axis, height=380)
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
        hover = [hover_text(key, f"score {score(value, by)}") for key, value in both]
        add_markers(figure, rows["number"], factor * rows["score"], hover, name=name, color=color, symbol=symbol)
    lowest, highest = view(scored["score"]) or (0.0, 1.0)
    floor = lowest - 0.04 * ((highest - lowest) or 0.1)
    for state, color in (("failed", FAILED), ("pruned", OTHER)):
        rows = failed[(failed["state"] == "pruned") == (state == "pruned")]
        hover = [hover_text(key, why or "no score") for key, why in zip(rows["key"], rows["reason"], strict=True)]
        bottom = [factor * floor] * len(rows)
        add_markers(figure, rows["number"], bottom, hover, name=state, color=color, symbol="triangle-up-open")
    if len(scored):
        figure.update_yaxes(range=[factor * (floor - 0.04 * (highest - lowest)), factor * highest])
        return outside(figure, y=(factor * scored["score"]).tolist())
    return figure.update_yaxes(showticklabels=False, showgrid=False, title="", range=[factor * floor - 5, 100])


def _add_points(figure: Figure, rows: pd.DataFrame, by: str, name: str, *, color: str, symbol: str, size: int) -> None:
    hover = []
    columns = seed_columns(rows)
    for row in rows.to_dict("records"):
        seeds = " and ".join(percent(row[name]) for name in columns if known(row[name]))
        lines = [f"proxy score {score(row['score'], by)}", f"truth {percent(row['accuracy'])}"]
        lines[1] += f" (seeds: {seeds})" if seeds else ""
        lines += [f"{count(row['params'])} parameters"] if known(row["params"]) else []
        hover.append(hover_text(row["key"], *lines))
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
    add_markers(figure, x, y, hover, name=name, color=color, symbol=symbol, size=size, error_y=spread)
