"""What a search saved: how many full trainings random search would have needed to find as good an architecture.

In: the fitted surrogate and the pool. Out: a number of trainings, with a 95 % interval. Random search without repeats
meets the first of k architectures that are at least as good after (n + 1) / (k + 1) trainings of n on average. Where
what was seen of the pick is exact, k is known but for the architectures that were not trained; where it is noisy, as on
few validation images, neither the pick's accuracy nor theirs is known. What is not known is drawn from the posterior,
together. So the interval is of what is believed of the pool; the luck of a single random search is not in it.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from nas_proxy.ranking.surrogate import Fit, Floats, Indices, believe, joint
from nas_proxy.seeds import numpy_generator

DRAWS = 2_000
# Only architectures that are better than the pick with at least this probability are drawn, and so many at most.
LEAST_PROBABILITY = 1e-4
MOST_DRAWN = 1_000


@dataclass(frozen=True)
class Saving:
    """Full trainings that random search would have needed on average: median, 2.5th and 97.5th percentile."""

    trainings: float
    low: float
    high: float

    def against(self, spent: float) -> tuple[float, float, float]:
        """Return the same as a multiple of what was spent, in full-training equivalents; below 1 nothing was saved."""
        return self.trainings / spent, self.low / spent, self.high / spent


def saving(fitted: Fit, pool: int, seed: int, draws: int = DRAWS, pick: int | None = None) -> Saving:
    """Return what finding an architecture in a pool of so many saved.

    pick: its index; its accuracy is what is believed of it. None: the best full training, whose accuracy is exact.
    Raises ValueError where nothing was fully trained.
    """
    if fitted.best is None:
        raise ValueError("nothing was fully trained yet, so there is nothing to compare with")
    rng = numpy_generator(seed, "saving")
    if pick is None:
        rivals = np.setdiff1d(np.arange(pool), fitted.rows[fitted.full > 0])
        better = 1 + _better(fitted, rivals, draws, rng)
    else:
        better = 1 + _better_than(fitted, pick, np.setdiff1d(np.arange(pool), [pick]), draws, rng)
    needed = (pool + 1) / (better + 1)
    low, middle, high = (float(np.quantile(needed, level)) for level in (0.025, 0.5, 0.975))
    return Saving(middle, low, high)


def _better(fitted: Fit, rivals: Indices, draws: int, rng: np.random.Generator) -> Floats:
    """Return how many rivals are better than the best, in each draw: (draws,)."""
    assert fitted.best is not None
    if not len(rivals):
        return np.zeros(draws)
    belief = believe(fitted, rivals)
    chance = np.asarray(stats.norm.sf(fitted.best, belief.mean, belief.std), dtype=np.float64)
    order = np.argsort(-chance, kind="stable")[:MOST_DRAWN]
    likely = rivals[order[chance[order] >= LEAST_PROBABILITY]]
    if not len(likely):
        return np.zeros(draws)
    return np.asarray((_drawn(fitted, likely, draws, rng) > fitted.best).sum(axis=1), dtype=np.float64)


def _better_than(fitted: Fit, pick: int, rivals: Indices, draws: int, rng: np.random.Generator) -> Floats:
    """Return how many rivals are better than the pick, in each draw of all of them: (draws,)."""
    if not len(rivals):
        return np.zeros(draws)
    belief, own = believe(fitted, rivals), believe(fitted, np.array([pick], dtype=np.intp))
    spread = np.sqrt(belief.std**2 + own.std[0] ** 2)
    chance = np.asarray(stats.norm.sf((own.mean[0] - belief.mean) / spread), dtype=np.float64)
    order = np.argsort(-chance, kind="stable")[:MOST_DRAWN]
    likely = rivals[order[chance[order] >= LEAST_PROBABILITY]]
    drawn = _drawn(fitted, np.concatenate([[pick], likely]).astype(np.intp), draws, rng)
    return np.asarray((drawn[:, 1:] > drawn[:, :1]).sum(axis=1), dtype=np.float64)


def _drawn(fitted: Fit, pool: Indices, draws: int, rng: np.random.Generator) -> Floats:
    """Return warped accuracies drawn together from the posterior: (draws, p)."""
    mean, covariance = joint(fitted, pool)
    values, vectors = np.linalg.eigh(covariance)
    noise = rng.standard_normal((draws, len(pool))) * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(mean + noise @ vectors.T, dtype=np.float64)
