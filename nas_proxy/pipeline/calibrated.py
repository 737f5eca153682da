"""The row `calibrated`: every signal of a table and few full trainings make one prediction, judged like the others.

In: the scored signals and the ground truth of the sample. Out: one more scored signal, what it rests on, and the
architectures that may judge it. Guarantee: no prediction has seen the accuracy that it is judged by: it comes from
calibrations without its part of the sample (cross-fitting), or all of them from architectures that are then left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nas_proxy.names import CALIBRATED, RANDOM
from nas_proxy.ranking.agreement import ScoredSignal
from nas_proxy.ranking.calibration import Calibration, calibrate, cross_fitted
from nas_proxy.ranking.encoding import encode
from nas_proxy.spaces.space import Architecture

# A weight below this share is not worth a word.
SMALL = 0.005


@dataclass(frozen=True)
class Calibrated:
    """signal: the row. judged: keys that judge the whole table. calibration: of all that it was fitted to, `fitted`."""

    signal: ScoredSignal
    judged: Sequence[str]
    fitted: Sequence[str]
    calibration: Calibration

    def as_json(self) -> dict[str, object]:
        """Return what the row rests on."""
        made = self.calibration
        return {
            "weights": dict(made.weights),
            "surrogate": made.surrogate,
            "strength": None if np.isinf(made.strength) else made.strength,
            "trained": made.trained,
        }


def calibrated(
    signals: Sequence[ScoredSignal],
    trained: frozenset[str],
    truth: pd.DataFrame,
    architectures: Mapping[str, Architecture],
    used: Sequence[str],
    seed: int,
    fitted_on: int | None = None,
) -> Calibrated:
    """Return the calibrated ranking of the architectures `used`, which have a finite score everywhere.

    trained: rows that come from training. truth: a column a seed, whose mean is predicted. fitted_on: fit on the first
    so many of `used` and judge on the rest; None for cross-fitting over all.
    """
    names = [signal.name for signal in signals]
    scores = np.column_stack([signal.scores.loc[list(used)].mean(axis=1).to_numpy(float) for signal in signals])
    accuracy = truth.loc[list(used)].mean(axis=1).to_numpy(float)
    encoding = encode([architectures[key] for key in used])
    rows = range(len(used)) if fitted_on is None else range(min(fitted_on, len(used)))
    full = {row: float(accuracy[row]) for row in rows}
    options = {"seed": seed, "encoding": encoding, "trained": trained}
    made = calibrate(scores, names, full, **options)  # type: ignore[arg-type]
    if fitted_on is None:
        predicted = cross_fitted(scores, names, full, **options)  # type: ignore[arg-type]
    else:
        # One calibration needs no common unit, and few trainings give the map to accuracies no slope.
        predicted = {row: float(made.prediction[row]) for row in range(len(rows), len(used))}
    judged = [used[row] for row in predicted]
    frame = pd.DataFrame({0: list(predicted.values())}, index=judged)
    signal = ScoredSignal(CALIBRATED, frame, 0.0, 0, 0, note=_note(made), baseline=RANDOM)
    return Calibrated(signal, judged, [used[row] for row in rows], made)


def _note(made: Calibration) -> str:
    """Return what the prediction is made of, in words."""
    if np.isinf(made.strength):
        return f"with {made.trained} full trainings nothing can be fitted: the mean rank of all signals"
    weights = sorted(made.weights.items(), key=lambda item: -item[1])
    shown = ", ".join(f"{name} {weight:.2f}" for name, weight in weights if weight >= SMALL)
    return (
        f"fitted to {made.trained} full trainings: {made.surrogate:.2f} a Gaussian process on signals and choices, "
        f"the rest weighted signals ({shown or 'none'}); predictions have not seen their truth"
    )
