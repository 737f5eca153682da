"""Several objectives: what they are called, which way is better, and which architectures no other one beats.

In: a table of values, a row an architecture and a column an objective. Out: the Pareto front, in the order of rising
cost. Guarantees: a value that is missing or not finite puts its architecture off the front and beats none; equal rows
are all on it; the order does not depend on that of the rows but where all values are equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

ACCURACY = "accuracy"
OBJECTIVES = (ACCURACY, "params", "flops", "latency")
# What each is called where it is read; with its unit.
METRICS = {
    ACCURACY: "validation accuracy",
    "params": "parameters",
    "flops": "FLOPs of one image",
    "latency": "latency, ms",
}
# The same in a sentence.
WORDS = {name: metric.partition(",")[0] for name, metric in METRICS.items()}


def directions(objectives: Sequence[str]) -> list[Literal["minimize", "maximize"]]:
    """Return Optuna's direction of each objective: accuracy is maximised, a cost is minimised."""
    return ["maximize" if name == ACCURACY else "minimize" for name in objectives]


@dataclass(frozen=True)
class Costs:
    """What an architecture costs when it is used: parameters, FLOPs of one image, milliseconds; None where unknown."""

    params: float | None
    flops: float | None
    latency: float | None

    def values(self, objectives: Sequence[str]) -> list[float | None]:
        """Return the values of the objectives beside the accuracy, in their order."""
        return [getattr(self, name) for name in objectives if name != ACCURACY]

    def known(self, objectives: Sequence[str]) -> list[float]:
        """Return `values` without those that are unknown; a completed training has them all."""
        return [value for value in self.values(objectives) if value is not None]


def front(values: Mapping[str, Sequence[float | None]]) -> list[int]:
    """Return the rows of the Pareto front, cheapest first.

    values: a column for each objective, the accuracy first; equally many rows. Costs are compared in the order of the
    columns, then the accuracy, higher first.
    """
    columns = [np.array([np.nan if value is None else value for value in column], float) for column in values.values()]
    signs = [-1.0 if direction == "maximize" else 1.0 for direction in directions(list(values))]
    table = np.column_stack([sign * column for sign, column in zip(signs, columns, strict=True)])
    rows = np.flatnonzero(np.isfinite(table).all(axis=1))
    # In lexicographic order nothing is beaten by what comes later.
    distinct, number = np.unique(table[rows], axis=0, return_inverse=True)
    best: list[int] = []
    kept = np.empty_like(distinct)
    for index, row in enumerate(distinct):
        if not (kept[: len(best)] <= row).all(axis=1).any():
            kept[len(best)] = row
            best.append(index)
    found = [int(row) for row in rows[np.isin(number.ravel(), best)]]
    return sorted(found, key=lambda row: (*table[row, 1:], table[row, 0], row))


def improves(best: list[tuple[float, ...]], found: tuple[float, ...]) -> bool:
    """Return whether no member of `best` is at least as good as `found` in everything; then it joins `best`.

    All values are to be maximised. With one value this asks whether the best one rises.
    """
    if any(all(b >= f for b, f in zip(member, found, strict=True)) for member in best):
        return False
    best[:] = [m for m in best if not all(f >= b for b, f in zip(m, found, strict=True))]
    best.append(found)
    return True
