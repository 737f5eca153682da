"""Figures of the best architectures: how good they are for their size, and how they learnt.

The frames are those of `nas_proxy.report.run_contents.read_run`; the rules those of `nas_proxy.report.figure_style`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nas_proxy.report.figure_style import (
    ON_POINT,
    OTHER,
    PICK,
    SEARCH,
    WIDE,
    add_markers,
    blank,
    evenly,
    hover_text,
    joint_names,
    log_axis,
    outside,
    view,
)
from nas_proxy.report.formats import count, known, number, percent
from nas_proxy.report.run_contents import usable
from nas_proxy.report.trial_figures import AXES

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from nas_proxy.ranking.ranking import Curves

TEN = 10
SHORT = 100
"""A logarithmic axis that spans less has marks between its powers of ten."""
FEW_EPOCHS = 10
MOST_EPOCHS = 200
"""Points of a curve that are drawn."""


@dataclass(frozen=True)
class Best:
    """The architectures of a run as a page shows them.

    known: a row each, `key`, `score`, `loss_sum`, `truth`, `params`, `flops` and `latency`, NaN where not known.
    ten: those of the ten best, in their order, with their `place` from 1 on. pick: the key of the one handed out.
    """

    known: pd.DataFrame
    ten: pd.DataFrame
    pick: str | None = None

    @property
    def by_truth(self) -> bool:
        """Whether most of the ten best were trained in full, so that they are compared by that."""
        return bool(2 * self.ten["truth"].notna().sum() > len(self.ten))


def best_of(trials: pd.DataFrame, truth: pd.DataFrame, order: Sequence[str] = (), pick: str | None = None) -> Best:
    """Return what is known of the architectures, and the ten best among them.

    order: keys as the run ranks them; where it does not say, their score decides, and the sum of losses where that
    ties. pick: the key of the one that the run hands out, which stands first then, whatever it was chosen by.
    """
    scored = _table(trials[usable(trials)], {"score": "score", "loss_sum": "loss_sum", "latency_ms": "latency"})
    full = _table(truth, {"accuracy": "truth"})
    known = scored.merge(full, on="key", how="outer", sort=False, suffixes=("", "_full"))
    for name in ("params", "flops"):
        known[name] = known[name].fillna(known.pop(f"{name}_full"))
    places = {key: place for place, key in enumerate(order)}
    if places:
        rows = known[known["key"].isin(places)].sort_values("key", key=lambda keys: keys.map(places))
    else:
        by, ascending = ["_other", "score", "loss_sum"], [True, False, True]
        rows = known[known["score"].notna()].assign(_other=lambda frame: frame["key"] != pick)
        rows = rows.sort_values(by, ascending=ascending, kind="stable").drop(columns="_other")
    ten = rows.head(TEN).reset_index(drop=True)
    return Best(known, ten.assign(place=range(1, len(ten) + 1)), pick)


def _table(frame: pd.DataFrame, columns: Mapping[str, str]) -> pd.DataFrame:
    """Return numbers of a table by architecture, a row each; what it has no column for is NaN."""
    rows = frame.drop_duplicates("key")
    found = {"key": rows["key"].astype(object)}
    for name, shown in {**columns, "params": "params", "flops": "flops"}.items():
        numbers = pd.to_numeric(rows[name], errors="coerce") if name in rows else pd.Series(np.nan, rows.index)
        found[shown] = numbers.astype("float64").where(numbers.abs() < np.inf)
    return pd.DataFrame(found)


def accuracy_by_size(best: Best, accuracy: str = "test accuracy", by: str = "accuracy") -> Figure:
    """Return how good architectures are (y) against their parameters (x); the ten best bear their place.

    That is their accuracy after full training where most of the ten had it, else their score on the proxy.
    """
    axis, factor = (f"{accuracy} after full training, %", 100) if best.by_truth else AXES[by]
    measure = "truth" if best.by_truth else "score"
    shown, ten = (rows[rows[measure].notna() & rows["params"].notna()] for rows in (best.known, best.ten))
    rest = shown[~shown["key"].isin(best.ten["key"])]
    figure = blank("parameters", axis, height=380)
    _add(figure, rest, measure, factor, name="other candidates", color=OTHER, size=7)
    values, sizes = factor * shown[measure], shown["params"]
    up = _about(factor * ten[measure]) if len(rest) and len(ten) else view(values)
    wide = len(sizes) > 0 and sizes.min() > 0 and sizes.max() / sizes.min() > WIDE
    names = _names(ten, sizes, factor * ten[measure], up, wide=wide)
    upwards = ten.iloc[::-1]  # the better ones are drawn last, on top
    for rows, name, color in (
        (upwards[upwards["key"] != best.pick], "the ten best", SEARCH),
        (upwards[upwards["key"] == best.pick], "pick", PICK),
    ):
        text = [names[place].partition(", ")[0] for place in rows["place"]]
        named = {"mode": "markers+text", "textfont": {"size": 11, "color": ON_POINT}, "size": 16, "text": text}
        _add(figure, rows, measure, factor, name=name, color=color, **named)
    _add_hidden(figure, ten, factor * ten[measure], names)
    figure.update_yaxes(range=up)
    figure.update_xaxes(**({"type": "log", "dtick": "D2"} if wide else {}))
    return outside(figure, y=values)


def _names(
    ten: pd.DataFrame, sizes: pd.Series[float], values: pd.Series[float], up: Sequence[float] | None, *, wide: bool
) -> dict[int, str]:
    """Return what is written at the ten best, by their place."""
    if not len(ten) or up is None:
        return {}
    x, span = (np.log10(numbers) if wide else numbers for numbers in (ten["params"], sizes))
    told = joint_names([str(place) for place in ten["place"]], x, values, (span.min(), span.max()), up)
    return dict(zip(ten["place"], told, strict=True))


def _add_hidden(figure: Figure, ten: pd.DataFrame, values: pd.Series[float], names: Mapping[int, str]) -> None:
    """Write beside a point the places of those that it hides."""
    import plotly.graph_objects as go

    hidden = {place: name.partition(", ")[2] for place, name in names.items()}
    at = ten["place"].map(hidden).fillna("").astype(bool)
    if at.any():
        beside = {"text": [f"\u2003{hidden[place]}" for place in ten["place"][at]], "textposition": "middle right"}
        place = {"x": ten["params"][at].tolist(), "y": values[at].tolist(), "mode": "text", "cliponaxis": False}
        figure.add_trace(
            go.Scatter(place | beside, name="hidden", textfont={"size": 11}, hoverinfo="skip", showlegend=False)
        )


def _add(figure: Figure, rows: pd.DataFrame, measure: str, factor: float, **more: Any) -> None:
    hover = []
    for row in rows.to_dict("records"):
        lines = [f"score on the proxy {number(row['score'])}"] if known(row["score"]) else []
        lines += [f"after full training {percent(row['truth'])}"] if known(row["truth"]) else []
        hover.append(hover_text(row["key"], *lines, f"{count(row['params'])} parameters"))
    add_markers(figure, rows["params"], factor * rows[measure], hover, symbol="circle", **more)


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
                opacity=1 if chosen else 0.6,
                hovertext=hover_text(one.key, f"place {place}"),
                hoverinfo="text+y",
                showlegend=False,
            )
        )
    longest = max((len(getattr(one, of)) for one in curves), default=0)
    figure.update_xaxes({"tick0": 1, "dtick": 1} if longest <= FEW_EPOCHS else {})
    losses = [value for one in curves for value in getattr(one, of)]
    if min(losses, default=0.0) <= 0:
        return figure
    short = max(losses) < SHORT * min(losses)
    return figure.update_yaxes(log_axis(min(losses), max(losses)) if short else {"type": "log", "dtick": 1})
