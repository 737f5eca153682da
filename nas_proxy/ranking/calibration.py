"""Calibrated ranking: the scores of many signals over a pool and a few full trainings in, one prediction of all out.

In: scores (n, s), larger for better, NaN where one is missing; the accuracies of a few architectures. Out: a
`Calibration`, and predictions of the trained architectures from fits that have not seen them (`cross_fitted`), which
alone may judge it.

Two members are mixed, each standardised over the pool:

1. Weights of the signals' normal scores that cannot be negative (NNLS), shrunk towards a centre by a ridge. There are
   two centres: equal weights, and the best signal alone. Equal means equal halves for signals that come from training
   and for those that do not, and equal within a half: a dozen scores of untrained networks are one opinion in many
   words. The strength is by cross-validation, the centres count by their likelihood there. So what is good alone is
   found, and few trainings spoil little.
2. A Gaussian process on the same scores and the architecture's encoding (`surrogate.py`), which learns what no signal
   sees, and what a signal that orders backwards is worth.

How much of each is by how well mixtures of their predictions of left-out trainings follow the accuracies (stacking:
Wolpert, "Stacked generalization", Neural Networks 1992), from a prior that leans on the process: where the signals
carry little and what was chosen carries much, nearly all of it is the process, and the other way round.

Below `LEAST` trainings nothing is fitted: the prediction is the mean with equal weights. Every random act derives from
the seed; the same arguments give the same numbers.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, stats

from nas_proxy.ranking.surrogate import Features, Floats, Indices, believe, fit, left_out
from nas_proxy.seeds import numpy_generator

LEAST = 4
FOLDS = 6
# Of the ridge, in mean squares of normal scores.
STRENGTHS = np.geomspace(0.01, 30, 8)
# Shares of the process that are tried, and the mean and standard deviation of what they are believed to be beforehand.
SHARES = np.linspace(0, 1, 11)
SHARE_MEAN, SHARE_STD = 0.7, 0.25


@dataclass(frozen=True, eq=False)
class Calibration:
    """What a few full trainings make of the signals.

    weights: of each signal's normal scores, of sum 1 (0 where no signal has one, and for one that is the same for all).
    centre: how far these lean on the best single signal rather than on equal weights, from 0 to 1. strength: of the
    ridge, the geometric mean of those chosen; infinite where nothing was fitted. surrogate: the share of the Gaussian
    process in the prediction.
    intercept, scale: the accuracy (a fraction) is about intercept + scale × prediction, by least squares.
    prediction: (n,) of the whole pool, standardised, larger for better. trained: full trainings that it rests on.
    """

    weights: Mapping[str, float]
    centre: float
    strength: float
    surrogate: float
    intercept: float
    scale: float
    prediction: Floats
    trained: int

    @property
    def accuracy(self) -> Floats:
        """The predicted accuracies of the pool: (n,), from 0 to 1."""
        return np.clip(self.intercept + self.scale * self.prediction, 0.0, 1.0)


@dataclass(frozen=True, eq=False)
class _Weighting:
    """Weights of the signals, how far they lean on the best single one, and the strength.

    left_out: (m,) what weights without its part of the trainings predict of each, in normal scores.
    """

    weights: Floats
    centre: float
    strength: float
    left_out: Floats


def normal_scores(values: Floats) -> Floats:
    """Return the normal scores of the ranks of values (n,); those that are not finite get 0, the middle.

    Average ranks for ties (Blom, "Statistical Estimates and Transformed Beta-Variables", 1958, with 1/2).
    """
    scores, known = np.zeros(len(values)), np.isfinite(values)
    count = int(known.sum())
    if count:
        scores[known] = stats.norm.ppf((stats.rankdata(values[known]) - 0.5) / count)
    return scores


def features_of(
    scores: Floats,
    names: Sequence[str],
    encoding: Floats | None = None,
    trained: Collection[str] = (),
    voters: Collection[str] = (),
) -> Features:
    """Return what the surrogate is given: normal scores, and as vote their mean with equal weights.

    scores: (n, s). encoding: (n, d), None for none. trained: names of the signals that come from training.
    voters: names of those that alone vote, where at least two of them are there; all of them where it is empty.
    """
    signals = np.stack([normal_scores(column) for column in scores.T], axis=1) if len(names) else scores[:, :0]
    voting = np.array([name in voters for name in names], dtype=np.float64)
    weights = voting / voting.sum() if voting.sum() >= 2 else _equal(names, trained)
    vote = normal_scores(signals @ weights) if len(names) else np.zeros(len(scores))
    return Features(signals, vote, np.zeros((len(scores), 0)) if encoding is None else encoding)


def calibrate(
    scores: Floats,
    names: Sequence[str],
    full: Mapping[int, float],
    *,
    seed: int,
    encoding: Floats | None = None,
    trained: Collection[str] = (),
) -> Calibration:
    """Return the calibration of a pool from the accuracies (fractions) of a few, by row.

    scores: (n, s), NaN where one is missing; s may be 0 where there is an encoding. encoding: (n, d) of the
    architectures. trained: names of the signals that come from training.
    """
    features = features_of(scores, names, encoding, trained)
    rows, accuracy = np.array([*full], dtype=np.intp), np.array([*full.values()], dtype=np.float64)
    equal, varies = _equal(names, trained), np.ptp(features.signals, axis=0) > 0
    if len(rows) < LEAST:
        nothing = _Weighting(equal, 0.0, math.inf, np.zeros(len(rows)))
        return _described(features.vote, rows, accuracy, names, nothing, 0.0, varies)
    found = _weighting(features.signals, rows, accuracy, equal, seed)
    process = fit(features, {}, full)
    posterior = believe(process, np.arange(len(scores))).mean
    linear = features.signals @ found.weights
    share = 1.0
    if np.ptp(linear) > 0:
        share = _share(normal_scores(accuracy), found.left_out, left_out(process, rows))
    prediction = (1 - share) * _standardised(linear) + share * _standardised(posterior)
    return _described(prediction, rows, accuracy, names, found, share, varies)


def cross_fitted(
    scores: Floats,
    names: Sequence[str],
    full: Mapping[int, float],
    *,
    seed: int,
    encoding: Floats | None = None,
    trained: Collection[str] = (),
    folds: int = 8,
) -> dict[int, float]:
    """Return a prediction for each row of `full`, in accuracy, from calibrations without its part of them.

    The arguments are those of `calibrate`. Strengths are chosen within each fit, so the cross-validation is nested.
    """
    rows = [*full]
    part = _folds(len(rows), folds, seed, "cross-fit")
    found: dict[int, float] = {}
    for fold in range(min(folds, len(rows))):
        kept = {row: full[row] for row, its in zip(rows, part, strict=True) if its != fold}
        made = calibrate(scores, names, kept, seed=seed, encoding=encoding, trained=trained)
        accuracy = made.intercept + made.scale * made.prediction
        found |= {row: float(accuracy[row]) for row, its in zip(rows, part, strict=True) if its == fold}
    return {row: found[row] for row in rows}


def _equal(names: Sequence[str], trained: Collection[str]) -> Floats:
    """Return equal weights for the two kinds of signals, and within each, of sum 1: (s,)."""
    kind = np.array([name in trained for name in names], dtype=np.bool_)
    sizes = np.where(kind, kind.sum(), (~kind).sum())
    weights = 1.0 / np.maximum(sizes, 1)
    return np.asarray(weights / max(weights.sum(), 1.0), dtype=np.float64)


def _weighting(signals: Floats, rows: Indices, accuracy: Floats, equal: Floats, seed: int) -> _Weighting:
    if not signals.shape[1]:
        return _Weighting(equal, 0.0, math.inf, np.zeros(len(rows)))
    target, seen = normal_scores(accuracy), signals[rows]
    centres = [equal, np.eye(len(equal))[int(np.argmax(_correlations(seen, target)))]]
    predicted = _left_out(seen, target, centres, _folds(len(rows), FOLDS, seed, "strength"))
    errors = ((predicted - target) ** 2).mean(axis=2)
    chosen, least = errors.argmin(axis=1), errors.min(axis=1)
    # The likelihood of each centre's predictions, were their errors normal with the variance that was found.
    likely = np.exp(-len(rows) / 2 * np.log(np.maximum(least, 1e-12) / max(least.min(), 1e-12)))
    likely = likely / likely.sum()
    parts = [_solve(seen, target, c, STRENGTHS[s]) for c, s in zip(centres, chosen, strict=True)]
    mixed = likely[0] * parts[0] + likely[1] * parts[1]
    strength = math.exp(float(likely @ np.log(STRENGTHS[chosen])))
    unseen = likely @ predicted[[0, 1], chosen]
    return _Weighting(mixed, float(likely[1]), strength, unseen)


def _share(target: Floats, linear: Floats, process: Floats) -> float:
    """Return the share of the process in a mixture with the linear member, from what both predicted unseen.

    All are (m,). The mean of the shares' posterior: a mixture is as likely as normal errors of the variance that its
    correlation with the target leaves; NaN of the process, where it does not rest on a training, counts for nothing.
    """
    known = np.isfinite(process)
    parts = _standardised(linear[known]), _standardised(process[known])
    mixtures = np.stack([(1 - share) * parts[0] + share * parts[1] for share in SHARES], axis=1)
    fits = np.maximum(_correlations(mixtures, target[known]), 0.0)
    unexplained = np.maximum(1 - fits**2, 1e-12)
    logs = -int(known.sum()) / 2 * np.log(unexplained) - 0.5 * ((SHARES - SHARE_MEAN) / SHARE_STD) ** 2
    weights = np.exp(logs - logs.max())
    return float(weights @ SHARES / weights.sum())


def _correlations(signals: Floats, target: Floats) -> Floats:
    """Return the correlation of each signal (m, s) with the target (m,); 0 for a constant one."""
    centred, goal = signals - signals.mean(axis=0), target - target.mean()
    spread = np.sqrt(np.maximum((centred**2).mean(axis=0) * (goal**2).mean(), 1e-12))
    return np.asarray(goal @ centred / len(goal) / spread, dtype=np.float64)


def _left_out(seen: Floats, target: Floats, centres: Sequence[Floats], part: NDArray[np.intp]) -> Floats:
    """Return what is predicted of each training without its part: (centres, strengths, m)."""
    found = np.zeros((len(centres), len(STRENGTHS), len(target)))
    for fold in range(int(part.max()) + 1):
        kept = part != fold
        for i, centre in enumerate(centres):
            for j, strength in enumerate(STRENGTHS):
                weights = _solve(seen[kept], target[kept], centre, strength)
                offset = (target[kept] - seen[kept] @ weights).mean()
                found[i, j, ~kept] = offset + seen[~kept] @ weights
    return found


def _solve(seen: Floats, target: Floats, centre: Floats, strength: float) -> Floats:
    """Return the weights (s,), none negative: least squares with a ridge around the centre, itself scaled to fit."""
    root = 1 / math.sqrt(len(target))
    a = (seen - seen.mean(axis=0)) * root
    b = (target - target.mean()) * root
    pulled = a @ centre
    size = max(float(pulled @ b) / (float(pulled @ pulled) + 1e-9), 0.0)
    ridge = math.sqrt(strength)
    stacked = np.vstack([a, ridge * np.eye(len(centre))])
    weights, _ = optimize.nnls(stacked, np.concatenate([b, ridge * size * centre]))
    return np.asarray(weights, dtype=np.float64)


def _folds(count: int, folds: int, seed: int, purpose: str) -> NDArray[np.intp]:
    """Return the part of each of `count`, parts of equal size but for one: (count,)."""
    drawn = numpy_generator(seed, "calibration", purpose, count).permutation(count)
    return np.asarray(drawn % max(min(folds, count), 1), dtype=np.intp)


def _standardised(values: Floats) -> Floats:
    spread = float(values.std())
    return np.asarray((values - values.mean()) / (spread if spread > 1e-12 else 1.0), dtype=np.float64)


def _described(
    prediction: Floats,
    rows: Indices,
    accuracy: Floats,
    names: Sequence[str],
    found: _Weighting,
    surrogate: float,
    varies: NDArray[np.bool_],
) -> Calibration:
    """Return the calibration, its prediction standardised and mapped to accuracies.

    varies: which signals differ within the pool; the others say nothing, whatever weight they were given.
    """
    prediction = _standardised(prediction)
    intercept, scale = _line(prediction[rows], accuracy)
    counted = np.where(varies, found.weights, 0.0)
    total = float(counted.sum())
    weights = {n: float(w) / total if total > 0 else 0.0 for n, w in zip(names, counted, strict=True)}
    return Calibration(
        weights, found.centre, found.strength, surrogate, intercept, scale, prediction, trained=len(rows)
    )


def _line(prediction: Floats, accuracy: Floats) -> tuple[float, float]:
    """Return intercept and slope of least squares; a slope is never negative, the mean without trainings 0."""
    if not len(accuracy):
        return 0.0, 0.0
    x, y = float(prediction.mean()), float(accuracy.mean())
    spread = float(((prediction - x) ** 2).mean())
    slope = max(float(((prediction - x) * (accuracy - y)).mean()) / spread, 0.0) if spread > 1e-12 else 0.0
    return y - slope * x, slope
