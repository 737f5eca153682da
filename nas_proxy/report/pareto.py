"""The Pareto front of a run for several objectives: the trials in, a table and a figure out.

In: a run's folder as `nas_proxy.report.run_contents.read_run` gives it, and its objectives. Out: the front, cheapest
first, as `nas_proxy.spaces.objectives` finds it, and a Plotly figure by the rules of `nas_proxy.report.figure_style`.
Accuracies are those of full training that the search believes in, and before there are any those on the proxy.
Architectures without a finite value of each objective are left out.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from nas_proxy.report.figure_style import (
    GRID,
    OTHER,
    SEARCH,
    WIDE,
    add_markers,
    axis_title,
    blank,
    evenly,
    hover_text,
    joint_names,
    outside,
    view,
)
from nas_proxy.report.formats import UNDEFINED, count, known, percent
from nas_proxy.report.run_contents import Run, usable
from nas_proxy.spaces.objectives import ACCURACY, METRICS, OBJECTIVES, WORDS, front

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COLUMNS = {ACCURACY: "proxy_accuracy", "params": "params", "flops": "flops", "latency": "latency_ms"}
MOST_NAMED = 30
"""A front of more points bears no places; a finger or a mouse on a point tells its own."""
MOST = 250
"""Points that are drawn of the front, and of what is beaten: each stands in several plots."""


def objectives_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the objectives that a run.toml names, the accuracy first; accuracy alone where it names none."""
    named = config.get("objective")
    costs = [name for name in OBJECTIVES[1:] if name in named] if isinstance(named, list) else []
    return (ACCURACY, *sorted(costs, key=named.index if isinstance(named, list) else None))


def comparable(
    trials: pd.DataFrame,
    objectives: Sequence[str],
    truth: pd.DataFrame | None = None,
    believed: Mapping[str, float] | None = None,
) -> pd.DataFrame:
    """Return what has a value of every objective: `key`, a column an objective, `place` on the front.

    trials, truth: rows of trials.csv and truth.csv; those of the truth count where something is `believed`.
    believed: the accuracy after full training, by key. place: 1 for the cheapest; NaN for those that are beaten. The
    rows of the front come first, in its order.
    """
    rows = trials[usable(trials)]
    if believed is not None:
        rows = pd.concat([rows, truth]) if truth is not None and len(truth) else rows
        rows = rows.assign(**{COLUMNS[ACCURACY]: rows["key"].map(believed)})
    rows = rows.drop_duplicates("key")
    found = pd.DataFrame({"key": rows["key"], **{name: _numbers(rows, COLUMNS[name]) for name in objectives}})
    found = found.dropna().reset_index(drop=True)
    on = front({name: found[name].tolist() for name in objectives})
    found["place"] = np.nan
    found.loc[on, "place"] = range(1, len(on) + 1)
    return pd.concat([found.loc[on], found.drop(index=on)], ignore_index=True)


def _numbers(rows: pd.DataFrame, name: str) -> "pd.Series[float]":
    if name not in rows:
        return pd.Series(np.nan, index=rows.index, dtype=float)
    numbers = pd.to_numeric(rows[name], errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def of_run(run: Run) -> pd.DataFrame:
    """Return what is compared of a run, see `comparable`; no rows where accuracy is the only objective."""
    objectives = objectives_of(run.config)
    if len(objectives) == 1:
        return pd.DataFrame(columns=["key", "place"])
    return comparable(run.trials, objectives, run.truth, run.believed)


def accuracy_in_words(run: Run) -> str:
    """Return which accuracy is compared."""
    return WORDS[ACCURACY] if run.believed is None else "believed accuracy after full training"


def pareto_figure(
    rows: pd.DataFrame, objectives: Sequence[str], accuracy: str = WORDS[ACCURACY], *, across: bool = False
) -> "Figure":
    """Return the accuracy against each cost, one plot above the other; the front in colour, what is beaten grey.

    rows: what `comparable` returns. accuracy: which it is, in words. With one cost a line joins the front. across: the
        plots stand side by side.
    """
    costs = [name for name in objectives if name != ACCURACY]
    figure = blank("", "", height=400 if across else 110 + 290 * len(costs))
    on = rows["place"].notna()
    several = len(costs) > 1
    for number, cost in enumerate(costs):
        axes = _axes(figure, number, len(costs), cost, rows[cost], accuracy, across)
        for found, name, color, symbol, size in (
            (rows[~on], "beaten by another", OTHER, "circle", 6),
            (rows[on], "on the Pareto front", SEARCH, "diamond", 10),
        ):
            part = found.iloc[evenly(len(found), MOST)]
            front = color == SEARCH
            joined: dict[str, Any] = (
                {"line": {"shape": "hv", "color": SEARCH, "width": 1.5}} if front and not several else {}
            )
            if front:
                modes = ["lines"] * (not several) + ["markers"] + ["text"] * (len(part) <= MOST_NAMED)
                joined |= {"mode": "+".join(modes), "textposition": "top left", "textfont": {"size": 11}}
                joined |= {"text": _names(part, cost, rows), "cliponaxis": False}
            hover = [_told(row, objectives, accuracy) for row in part.to_dict("records")]
            add_markers(
                figure,
                part[cost],
                100 * part[ACCURACY],
                hover,
                name=name,
                color=color,
                symbol=symbol,
                size=size,
                **{**axes, **joined, "legendgroup": name, "showlegend": number == 0},
            )
        known = 100 * rows[ACCURACY]
        figure.update_layout({f"yaxis{'' if number == 0 else number + 1}_range": view(known)})
    return outside(figure, y=100 * rows[ACCURACY])


def _axes(
    figure: "Figure", number: int, of: int, cost: str, values: "pd.Series[float]", accuracy: str, across: bool
) -> dict[str, str]:
    """Give the figure a pair of axes, from the top down or from the left, and return what a trace calls them."""
    gap = 0.16 / of
    share = (1 - gap * (of - 1)) / of
    first = (number if across else of - 1 - number) * (share + gap)
    domain = [first, min(1.0, first + share)]
    suffix = "" if number == 0 else str(number + 1)
    axis = {"gridcolor": GRID, "zeroline": False, "automargin": True, "ticks": ""}
    x = {"title": axis_title(METRICS[cost]), "type": "log" if _wide(values) else "linear", "anchor": f"y{suffix}"}
    y = {"title": axis_title("" if across and number else f"{accuracy}, %"), "anchor": f"x{suffix}"}
    figure.update_layout({f"xaxis{suffix}": axis | x, f"yaxis{suffix}": axis | y})
    figure.update_layout({f"{'x' if across else 'y'}axis{suffix}_domain": domain})
    return {"xaxis": f"x{suffix}", "yaxis": f"y{suffix}"}


def _wide(values: "pd.Series[float]") -> bool:
    return len(values) > 0 and values.min() > 0 and bool(values.max() / values.min() > WIDE)


def _names(part: pd.DataFrame, cost: str, rows: pd.DataFrame) -> list[str]:
    """Return what is written at a part of the front: places, together where they would cover each other."""
    x, span = (np.log10(known) if _wide(rows[cost]) else known for known in (part[cost], rows[cost]))
    up = view(rows[ACCURACY]) or (0.0, 1.0)
    return joint_names([f"{place:.0f}" for place in part["place"]], x, part[ACCURACY], (span.min(), span.max()), up)


def _told(row: Mapping[Any, Any], objectives: Sequence[str], accuracy: str) -> str:
    lines = [f"place {row['place']:.0f} on the front"] if known(row["place"]) else []
    names = METRICS | {ACCURACY: accuracy}
    return hover_text(row["key"], *lines, *(f"{names[name]}: {value_text(name, row[name])}" for name in objectives))


def value_text(objective: str, value: float | None) -> str:
    """Return the value of an objective as a reader sees it; its unit is told beside it."""
    if objective == ACCURACY:
        return percent(value)
    if objective == "latency":
        return f"{value:.3g}" if known(value) else UNDEFINED
    return count(value)


def section(run: Run, most: int) -> dict[str, Any]:
    """Return what the section of the report shows, {} for a run with one objective; most: rows of the table."""
    objectives = objectives_of(run.config)
    if len(objectives) == 1:
        return {}
    rows, words = of_run(run), WORDS | {ACCURACY: accuracy_in_words(run)}
    on = rows[rows["place"].notna()]
    accuracy = run.truth.drop_duplicates("key").set_index("key")["accuracy"]
    table = [
        {
            "place": int(row["place"]),
            "key": row["key"],
            "values": [value_text(name, row[name]) for name in objectives],
            "truth": accuracy.get(row["key"]),
        }
        for row in on.head(most).to_dict("records")
    ]
    drawn = min(len(on), MOST) + min(len(rows) - len(on), MOST)
    names = [words[ACCURACY], *(METRICS[name] for name in objectives[1:])]
    counted = {"front": len(on), "of": len(rows), "drawn": drawn}
    found = {"rows": table, "names": names, "words": [words[name] for name in objectives], "objectives": objectives}
    return {**found, "believed": run.believed is not None, **counted}
