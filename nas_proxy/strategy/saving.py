"""What a search saved: how many full trainings random search would have needed to find as good an architecture.

In: the fitted surrogate, and what random search draws from. Out: a number of trainings, with a 95 % interval. Random
search without repeats meets the first of k architectures that are at least as good after (n + 1) / (k + 1) trainings of
n on average. Where what was seen of the pick is exact, k is known but for the architectures that were not trained;
where it is noisy, as on few validation images, neither the pick's accuracy nor theirs is known. What is not known is
drawn from the posterior, together. So the interval is of what is believed; the luck of a single random search is not in
it.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import linalg, stats

from nas_proxy.ranking.surrogate import Fit, Floats, Indices, believe, covariance, joint
from nas_proxy.seeds import numpy_generator

DRAWS = 2_000
# Only architectures that are better than the pick with at least this probability are drawn. The likeliest are drawn
# together, so many at most; the rest given those, each by itself, so many at once.
LEAST_PROBABILITY = 1e-4
MOST_DRAWN = 1_000
AT_ONCE = 2_000
JITTER = 1e-6


@dataclass(frozen=True)
class Saving:
    """Full trainings that random search would have needed on average: median, 2.5th and 97.5th percentile."""

    trainings: float
    low: float
    high: float


def saving(
    fitted: Fit,
    drawn_from: Indices,
    seed: int,
    pick: int,
    *,
    exact: bool = False,
    equal: Collection[int] = (),
    failed: Collection[int] = (),
    draws: int = DRAWS,
) -> Saving:
    """Return what finding the architecture `pick` saved.

    drawn_from: (n,) what random search would have drawn from: the pool, or the uniform part of one that was grown.
    exact: whether accuracies of full trainings are known, and the pick's is the best of them; else it is what is
    believed. equal: rows that were seen to be as good as the pick, where that is exact. failed: rows that no training
    makes a network of: random search tries them in vain. Raises ValueError where nothing was fully trained.
    """
    if fitted.best is None:
        raise ValueError("nothing was fully trained yet, so there is nothing to compare with")
    rivals = np.setdiff1d(drawn_from, [pick, *failed, *(fitted.trained if exact else ())])
    better = _better(fitted, rivals, None if exact else pick, draws, numpy_generator(seed, "saving"))
    as_good = len(np.intersect1d(drawn_from, [pick, *equal]))
    needed = (len(drawn_from) + 1) / (better + as_good + 1)
    low, middle, high = (float(np.quantile(needed, level)) for level in (0.025, 0.5, 0.975))
    return Saving(middle, low, high)


def _better(fitted: Fit, rivals: Indices, pick: int | None, draws: int, rng: np.random.Generator) -> Floats:
    """Return how many rivals are better than the pick, or than the best where that is exact, in each draw: (draws,)."""
    if not len(rivals):
        return np.zeros(draws)
    own = np.array([] if pick is None else [pick], dtype=np.intp)
    likely = _likely(fitted, rivals, own)
    together, rest = np.concatenate([own, likely[:MOST_DRAWN]]), likely[MOST_DRAWN:]
    if not len(together):
        return np.zeros(draws)
    drawn = _drawn(fitted, together, draws, rng)
    of_pick = np.full(draws, fitted.best) if pick is None else drawn[:, 0]
    better = (drawn[:, len(own) :] > of_pick[:, None]).sum(axis=1)
    return np.asarray(better + _better_of_rest(fitted, rest, of_pick, together, drawn, rng), dtype=np.float64)


def _likely(fitted: Fit, rivals: Indices, pick: Indices) -> Indices:
    """Return the rivals that may well be better than the pick, (1,), or (0,) for the best; the likeliest first."""
    belief = believe(fitted, rivals)
    if len(pick):
        own = believe(fitted, pick)
        found = stats.norm.sf((own.mean[0] - belief.mean) / np.sqrt(belief.std**2 + own.std[0] ** 2))
    else:
        assert fitted.best is not None
        found = stats.norm.sf(fitted.best, belief.mean, belief.std)
    chance = np.asarray(found, dtype=np.float64)
    order = np.argsort(-chance, kind="stable")
    return np.asarray(rivals[order[chance[order] >= LEAST_PROBABILITY]], dtype=np.intp)


def _better_of_rest(
    fitted: Fit, rest: Indices, of_pick: Floats, together: Indices, drawn: Floats, rng: np.random.Generator
) -> Floats:
    """Return how many of the rest (r,) are better than the pick (draws,), each drawn given what was drawn before.

    drawn: (draws, t) of the architectures `together` (t,). What is left beside these counts as independent, so that the
    expected number is exact and its spread nearly so, as in the sparse approximations of Quiñonero-Candela & Rasmussen,
    JMLR 2005 (FITC).
    """
    better = np.zeros(len(drawn))
    if not len(rest):
        return better
    mean, between = joint(fitted, together)
    between[np.diag_indices_from(between)] += JITTER
    factor = linalg.cho_factor(between, lower=True)
    for first in range(0, len(rest), AT_ONCE):
        some = rest[first : first + AT_ONCE]
        shared, belief = covariance(fitted, together, some), believe(fitted, some)
        weights = linalg.cho_solve(factor, shared)
        left = np.sqrt(np.maximum(belief.std**2 - (shared * weights).sum(axis=0), 0.0))
        values = belief.mean + (drawn - mean) @ weights + left * rng.standard_normal((len(drawn), len(some)))
        better += (values > of_pick[:, None]).sum(axis=1)
    return better


def _drawn(fitted: Fit, pool: Indices, draws: int, rng: np.random.Generator) -> Floats:
    """Return warped accuracies drawn together from the posterior: (draws, p)."""
    mean, together = joint(fitted, pool)
    values, vectors = np.linalg.eigh(together)
    noise = rng.standard_normal((draws, len(pool))) * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(mean + noise @ vectors.T, dtype=np.float64)
