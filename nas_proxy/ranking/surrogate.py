"""A Gaussian process over a pool of architectures, of two fidelities: accuracies of few trainings in, beliefs out.

In: features of every architecture of the pool (`Features`), and the accuracies of some after a cheap or a full
training. Out: the posterior of the full accuracy of all, and how much a further cheap training would tell of it.

Cheap and full training are related as in Kennedy & O'Hagan, "Predicting the output from a complex computer code when
fast approximations are available", Biometrika 2000: full = rho × cheap + difference, both Gaussian processes. The
covariance is a sum of what may carry a space: the signals' mean rank, each signal linearly, all signals smoothly, and
the architecture's own encoding smoothly. Hyperparameters are those of largest posterior density, found from one start
with analytic gradients, so a fit is a pure function of its arguments. Neither rho nor a slope has a sign: a signal
that orders the pool backwards is learned from like any other.

What so few images tell of an accuracy is known beforehand, by the binomial distribution, and is part of the noise; the
rest, of initial weights and the order of images, is fitted.

Of many trainings some stand for all (`thinning.py`): hyperparameters are found from at most `LEARNT` of them, and the
posterior rests on at most `CONDITIONED`. So a fit takes about a second at most, and the time and memory of beliefs grow
with the pool alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, optimize

from nas_proxy.ranking.thinning import best_and_others, representative
from nas_proxy.ranking.warp import Warp, of_images, warps

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

JITTER = 1e-6
STEPS = 60
# The most trainings that hyperparameters are found from, and that the posterior rests on.
LEARNT, CONDITIONED = 300, 1_000
# Numbers of a matrix: the posterior is computed of so many architectures at once.
AT_ONCE = 8_000_000
# Variance of the constant of each fidelity, in the units of the warped accuracies.
CONSTANT = 1.0

# Hyperparameters, each with the mean and the standard deviation of its normal prior. All but rho are logarithms.
PRIORS = {
    "vote": (np.log(0.5), 1.0),  # variances of the parts
    "linear": (np.log(0.3), 1.0),
    "smooth": (np.log(0.3), 1.0),
    "encoding": (np.log(0.5), 1.0),
    "reach": (0.0, 0.5),  # lengthscales of the smooth parts, of signals and of the encoding
    "encoding_reach": (0.0, 0.5),
    "cheap_noise": (np.log(0.05), 1.0),  # variances
    "noise": (np.log(0.01), 1.0),
    "difference": (np.log(0.15), 1.0),
    "rho": (0.8, 0.4),
}
MEAN, STD = (np.array(column) for column in zip(*PRIORS.values(), strict=True))
REACH, OWN, CHEAP_NOISE, NOISE, DIFFERENCE, RHO = range(4, 10)
# Where nothing was trained cheaply, the fidelities do not differ.
ABSENT = -12.0


@dataclass(frozen=True, eq=False)
class Features:
    """What is known of each of n architectures before any is trained.

    signals: (n, s) normal scores of each signal over the pool, 0 where there is none; s may be 0.
    vote: (n,) normal scores of their mean. encoding: (n, d), see `encoding.py`; d may be 0.
    """

    signals: Floats
    vote: Floats
    encoding: Floats


@dataclass(frozen=True, eq=False)
class Fit:
    """A fitted process that rests on m trainings.

    rows: (m,) indices of the pool. full: (m,) 1 for full trainings, 0 for cheap ones. theta: hyperparameters.
    factor: Cholesky factor of the covariance (m, m). weights: (m,) its inverse times the warped accuracies.
    best: the best warped full accuracy; None where there is none. warp: that of full accuracies.
    trained: (f,) indices of all that were fully trained, those it does not rest on too.
    """

    features: Features
    rows: Indices
    full: Floats
    theta: Floats
    factor: Floats
    weights: Floats
    best: float | None
    warp: Warp
    trained: Indices


@dataclass(frozen=True, eq=False)
class Belief:
    """The posterior of the warped full accuracies of p architectures.

    mean, std: (p,). informs: (p,) squared correlation of a further cheap training with the full accuracy.
    """

    mean: Floats
    std: Floats
    informs: Floats


@dataclass(frozen=True, eq=False)
class _Parts:
    """Products and squared distances between rows and columns of a pool, (r, c) each; free of hyperparameters."""

    vote: Floats
    linear: Floats
    smooth: Floats
    encoding: Floats

    def of_signals(self, theta: Floats) -> Floats:
        covariance: Floats = np.exp(-self.smooth * np.exp(-2 * theta[REACH]))
        return covariance

    def of_encoding(self, theta: Floats) -> Floats:
        covariance: Floats = np.exp(-self.encoding * np.exp(-2 * theta[OWN]))
        return covariance

    def weighted(self, theta: Floats) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the four summands of the covariance of cheap accuracies."""
        vote, linear, smooth, encoding = np.exp(theta[:4])
        return (
            vote * self.vote,
            linear * self.linear,
            smooth * self.of_signals(theta),
            encoding * self.of_encoding(theta),
        )

    def base(self, theta: Floats) -> Floats:
        """Return their sum."""
        a, b, c, d = self.weighted(theta)
        return a + b + c + d

    def shape(self, theta: Floats) -> Floats:
        """Return the covariance of what full training adds, of variance 1."""
        return 0.5 * (self.of_signals(theta) + self.of_encoding(theta))


def fit(features: Features, cheap: Mapping[int, float], full: Mapping[int, float], images: int | None = None) -> Fit:
    """Fit to accuracies (fractions) by index of the pool, after cheap and after full training; at least one in all.

    images: on which the full ones were measured; None where they are exact, as in a published table.
    """
    rows = np.array([*cheap, *full], dtype=np.intp)
    is_full = np.repeat([0.0, 1.0], [len(cheap), len(full)])
    of_cheap, of_full = (np.array(list(found.values()), dtype=np.float64) for found in (cheap, full))
    below, warp = warps(of_cheap, of_full)
    y = np.concatenate([below(of_cheap), warp(of_full)])
    known = np.concatenate([np.zeros(len(cheap)), of_images(of_full, images) / warp.scale**2])
    some = representative(is_full, LEARNT)
    theta = _most_probable(_parts(features, rows[some], rows[some]), is_full[some], y[some], known[some])
    kept = best_and_others(is_full, y, CONDITIONED)
    parts = _parts(features, rows[kept], rows[kept])
    factor = linalg.cholesky(_covariance(theta, parts, is_full[kept], known[kept]), lower=True)
    weights = linalg.cho_solve((factor, True), y[kept])
    best, trained = float(warp(of_full).max()) if len(of_full) else None, rows[is_full > 0]
    found = Fit(features, rows[kept], is_full[kept], theta, factor, weights, best, warp, trained)
    if images is None or best is None:
        return found
    # The largest of several noisy accuracies is mostly luck: what is to be exceeded is what is believed of the best.
    return replace(found, best=float(believe(found, trained).mean.max()))


def believe(fitted: Fit, pool: Indices) -> Belief:
    """Return the posterior over the architectures with the indices `pool` (p,)."""
    size = max(AT_ONCE // len(fitted.rows), 1)
    blocks = [_believed(fitted, pool[first : first + size]) for first in range(0, max(len(pool), 1), size)]
    of = [(block.mean, block.std, block.informs) for block in blocks]
    return Belief(*(np.concatenate(columns) for columns in zip(*of, strict=True)))


def left_out(fitted: Fit, rows: Indices) -> Floats:
    """Return what is believed of the warped accuracy of each of `rows` without its own training: (r,).

    The hyperparameters stay those of all trainings. NaN where the process does not rest on a full training of the row.
    In closed form, from the inverse of the covariance (Rasmussen & Williams, "Gaussian Processes for Machine Learning",
    2006, equation 5.12).
    """
    inverse = linalg.cho_solve((fitted.factor, True), np.eye(len(fitted.rows)), check_finite=False)
    measured = fitted.factor @ (fitted.factor.T @ fitted.weights)
    means = measured - fitted.weights / np.diag(inverse)
    found = {int(row): float(mean) for row, mean, full in zip(fitted.rows, means, fitted.full, strict=True) if full > 0}
    return np.array([found.get(int(row), np.nan) for row in rows], dtype=np.float64)


def _believed(fitted: Fit, pool: Indices) -> Belief:
    theta, prior = fitted.theta, _prior_variance(fitted, pool)
    of_full, of_cheap = _cross(fitted, pool)
    seen_full, seen_cheap = (_whitened(fitted, cross) for cross in (of_full, of_cheap))
    rho = theta[RHO]
    variance = rho**2 * prior + np.exp(theta[DIFFERENCE]) + CONSTANT - (seen_full**2).sum(axis=0)
    variance = np.maximum(variance, 1e-9)
    of_training = np.maximum(prior + CONSTANT - (seen_cheap**2).sum(axis=0), 1e-9) + np.exp(theta[CHEAP_NOISE])
    between = rho * prior - (seen_full * seen_cheap).sum(axis=0)
    informs = np.clip(between**2 / (variance * of_training), 0, 1)
    return Belief(of_full.T @ fitted.weights, np.sqrt(variance), informs)


def joint(fitted: Fit, pool: Indices) -> tuple[Floats, Floats]:
    """Return mean (p,) and covariance (p, p) of the warped full accuracies of `pool` (p,)."""
    of_full, _ = _cross(fitted, pool)
    return of_full.T @ fitted.weights, covariance(fitted, pool, pool)


def covariance(fitted: Fit, these: Indices, those: Indices) -> Floats:
    """Return the covariance of the warped full accuracies of `these` (t,) with those of `those` (u,): (t, u)."""
    parts, theta = _parts(fitted.features, these, those), fitted.theta
    prior = theta[RHO] ** 2 * parts.base(theta) + np.exp(theta[DIFFERENCE]) * parts.shape(theta) + CONSTANT
    seen = _whitened(fitted, _cross(fitted, these)[0])
    other = seen if those is these else _whitened(fitted, _cross(fitted, those)[0])
    return np.asarray(prior - seen.T @ other, dtype=np.float64)


def _most_probable(parts: _Parts, full: Floats, y: Floats, known: Floats) -> Floats:
    """Return the hyperparameters of largest posterior density; known: (m,) variances of y that are not fitted."""
    start, free = MEAN.copy(), np.ones(len(MEAN), dtype=np.bool_)
    if not (full == 0).any():
        free[[CHEAP_NOISE, DIFFERENCE, RHO]] = False
        start[[DIFFERENCE, RHO]] = ABSENT, 1.0
    if not (full == 1).any():
        free[[NOISE, DIFFERENCE, RHO]] = False

    def loss(values: Floats) -> tuple[float, Floats]:
        theta = start.copy()
        theta[free] = values
        value, gradient = _loss(theta, parts, full, y, known)
        return value, gradient[free]

    bounds = list(zip(MEAN[free] - 4 * STD[free], MEAN[free] + 4 * STD[free], strict=True))
    found = optimize.minimize(loss, start[free], method="L-BFGS-B", jac=True, bounds=bounds, options={"maxiter": STEPS})
    theta = start.copy()
    theta[free] = found.x
    return theta


def _covariance(theta: Floats, parts: _Parts, full: Floats, known: Floats) -> Floats:
    """Return the covariance of warped accuracies as they were measured: (m, m)."""
    scale = np.where(full > 0, theta[RHO], 1.0)
    same = np.outer(full, full)
    covariance = np.outer(scale, scale) * parts.base(theta) + np.exp(theta[DIFFERENCE]) * same * parts.shape(theta)
    covariance += CONSTANT * (same + np.outer(1 - full, 1 - full))
    noise = np.where(full > 0, theta[NOISE], theta[CHEAP_NOISE])
    covariance[np.diag_indices_from(covariance)] += np.exp(noise) + known + JITTER
    return np.asarray(covariance, dtype=np.float64)


def _loss(theta: Floats, parts: _Parts, full: Floats, y: Floats, known: Floats) -> tuple[float, Floats]:
    """Return minus the logarithm of the posterior density, but for a constant, and its gradient."""
    factor = linalg.cholesky(_covariance(theta, parts, full, known), lower=True, check_finite=False)
    inverse = linalg.cho_solve((factor, True), np.eye(len(y)), check_finite=False)
    solution = inverse @ y
    off = (theta - MEAN) / STD
    value = 0.5 * float(y @ solution) + float(np.log(np.diag(factor)).sum()) + 0.5 * float(off @ off)
    return value, _gradient(theta, parts, full, 0.5 * (inverse - np.outer(solution, solution))) + off / STD


def _gradient(theta: Floats, parts: _Parts, full: Floats, q: Floats) -> Floats:
    """Return the sums of q times the derivative of the covariance, for each hyperparameter."""
    scale = np.where(full > 0, theta[RHO], 1.0)
    scaled, added = q * np.outer(scale, scale), q * np.exp(theta[DIFFERENCE]) * np.outer(full, full)
    weighted = parts.weighted(theta)
    far, own_far = 2 * parts.smooth * np.exp(-2 * theta[REACH]), 2 * parts.encoding * np.exp(-2 * theta[OWN])
    diagonal = np.diag(q)
    crossed = np.outer(full, scale) + np.outer(scale, full)
    return np.array(
        [
            *((scaled * part).sum() for part in weighted),
            ((scaled * weighted[2] + 0.5 * added * parts.of_signals(theta)) * far).sum(),
            ((scaled * weighted[3] + 0.5 * added * parts.of_encoding(theta)) * own_far).sum(),
            (diagonal * (1 - full)).sum() * np.exp(theta[CHEAP_NOISE]),
            (diagonal * full).sum() * np.exp(theta[NOISE]),
            (added * parts.shape(theta)).sum(),
            (q * crossed * parts.base(theta)).sum(),
        ]
    )


def _parts(features: Features, rows: Indices, columns: Indices) -> _Parts:
    signals, encoding = features.signals, features.encoding
    wide, long = max(signals.shape[1], 1), max(encoding.shape[1], 1)
    return _Parts(
        np.outer(features.vote[rows], features.vote[columns]),
        signals[rows] @ signals[columns].T / wide,
        _squared_distances(signals[rows], signals[columns]) / (2 * wide),
        _squared_distances(encoding[rows], encoding[columns]) / (2 * long),
    )


def _squared_distances(a: Floats, b: Floats) -> Floats:
    squared = (a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1) - 2 * a @ b.T
    return np.asarray(np.maximum(squared, 0.0), dtype=np.float64)


def _cross(fitted: Fit, pool: Indices) -> tuple[Floats, Floats]:
    """Return the covariance of what was measured with the full, and with the cheap accuracies of `pool`: (m, p)."""
    parts, theta, full = _parts(fitted.features, fitted.rows, pool), fitted.theta, fitted.full[:, None]
    scaled = np.where(full > 0, theta[RHO], 1.0) * parts.base(theta)
    of_full = theta[RHO] * scaled + full * (np.exp(theta[DIFFERENCE]) * parts.shape(theta) + CONSTANT)
    return of_full, scaled + CONSTANT * (1 - full)


def _prior_variance(fitted: Fit, pool: Indices) -> Floats:
    """Return the variance of cheap accuracies before any training, their constant left out: (p,)."""
    features = fitted.features
    vote, linear, smooth, encoding = np.exp(fitted.theta[:4])
    squares = (features.signals[pool] ** 2).sum(axis=1) / max(features.signals.shape[1], 1)
    variance: Floats = vote * features.vote[pool] ** 2 + linear * squares + smooth + encoding
    return variance


def _whitened(fitted: Fit, cross: Floats) -> Floats:
    return np.asarray(linalg.solve_triangular(fitted.factor, cross, lower=True, check_finite=False), dtype=np.float64)
