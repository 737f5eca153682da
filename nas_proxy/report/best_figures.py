"""Figures of the best architectures: how good they are for their size, and how they learnt.

The frames are those of `nas_proxy.report.run_contents.read_run`; the rules those of `nas_proxy.report.figure_style`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from nas_proxy.report.figure_style import (
    OTHER,
    PICK,
    SEARCH,
    WIDE,
    add_markers,
    blank,
    evenly,
    hover_text,
    outside,
    view,
)
from nas_proxy.report.formats import count, score
from nas_proxy.report.run_contents import usable
from nas_proxy.report.trial_figures import AXES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from nas_proxy.ranking.ranking import Curves

TEN = 10
SHORT = 100
"""A logarithmic axis that spans less has marks between its powers of ten."""
MOST_EPOCHS = 200
"""Points of a curve that are drawn."""


def best_of(trials: pd.DataFrame, pick: str | None = None) -> pd.DataFrame:
    """Return the ten best architectures by their score, the best first; `place` counts from 1.

    pick: the key of the one that the run hands out, which stands first, whatever it was chosen by.
    """
    rows = trials[usable(trials)].drop_duplicates("key")
    order = rows.assign(_other=rows["key"] != pick).sort_values(
        ["_other", "score"], ascending=[True, False], kind="stable"
    )
    found = order.head(TEN).drop(columns="_other").reset_index(drop=True)
    return found.assign(place=range(1, len(found) + 1))


def accuracy_by_size(trials: pd.DataFrame, pick: str | None = None, by: str = "accuracy") -> Figure:
    """Return the score (y) against the parameters (x) of all architectures; the ten best bear their place."""
    known = trials[usable(trials) & trials["params"].notna()].drop_duplicates("key")
    best = best_of(known, pick)
    rest = known[~known["key"].isin(best["key"])]
    axis, factor = AXES[by]
    figure = blank("parameters", axis, height=380)
    parts: tuple[tuple[pd.DataFrame, str, str, str, float], ...] = (
        (rest, "other candidates", OTHER, "circle", 7),
        (best[best["key"] != pick], "the ten best", SEARCH, "circle", 16),
        (best[best["key"] == pick], "pick", PICK, "circle", 16),
    )
    for rows, name, color, symbol, size in parts:
        both = zip(rows["key"], rows["score"], rows["params"], strict=True)
        hover = [
            hover_text(key, f"score {score(value, by)}", f"{count(params)} parameters") for key, value, params in both
        ]
        named = {} if "place" not in rows else {"text": [str(place) for place in rows["place"]], "mode": "markers+text"}
        named |= {"textfont": {"size": 11}} if named else {}
        add_markers(
            figure,
            rows["params"],
            factor * rows["score"],
            hover,
            name=name,
            color=color,
            symbol=symbol,
            size=size,
            **named,
        )
    values, sizes = factor * known["score"], known["params"]
    figure.update_yaxes(range=_about(factor * best["score"]) if len(rest) else view(values))
    wide = len(sizes) > 0 and sizes.min() > 0 and sizes.max() / sizes.min() > WIDE
    figure.update_xaxes(**({"type": "log", "dtick": "D2"} if wide else {}))
    return outside(figure, y=values)


def _about(best: pd.Series[float]) -> list[float] | None:
    """Return the range of an axis for the ten best, and as much again of what is below them."""
    high, low = best.max(), best.min()
    span = max(high - low, 0.01 * abs(high), 1e-3)
    return [float(low - 1.2 * span), float(high + 0.25 * span)]


def learning_curves(curves: Sequence[Curves], of: str, pick: str | None = None) -> Figure:
    """Return the mean training loss of each epoch of the best architectures; `of`: "proxy" or "truth"."""
    import plotly.graph_objects as go

    figure = blank("epoch", "training loss", height=300)
    for place, one in reversed(list(enumerate(curves, start=1))):
        curve: tuple[float, ...] = getattr(one, of)
        chosen = one.key == pick
        drawn = evenly(len(curve), MOST_EPOCHS)
        if not drawn:
            continue
        figure.add_trace(
            go.Scatter(
                x=[epoch + 1 for epoch in drawn],
                y=[curve[epoch] for epoch in drawn],
                mode="lines",
                name="pick" if chosen else f"{place}",
                line={"color": PICK if chosen else SEARCH, "width": 2.5 if chosen else 1.2},
                opacity=1 if chosen else 0.45,
                hovertext=hover_text(one.key, f"place {place}"),
                hoverinfo="text+y",
                showlegend=False,
            )
        )
    losses = [value for one in curves for value in getattr(one, of)]
    if min(losses, default=0.0) <= 0:
        return figure
    return figure.update_yaxes(type="log", dtick="D2" if max(losses) < SHORT * min(losses) else 1)
