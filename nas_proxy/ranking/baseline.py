"""What a signal is worth beside its control: the difference of their correlations, and whether that is told from zero.

In: the scores of a signal and of its control beside the truth, a pair of columns for each draw and seed.
Out: the difference with a 95 % interval, and the answer "yes", "no" or "cannot tell".
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nas_proxy.ranking.intervals import (
    RESAMPLES,
    Floats,
    Interval,
    percentile_interval,
    resampled_counts,
    spearman,
    undefined,
)
from nas_proxy.seeds import numpy_generator

CONTROL = "random"
ITSELF = "this is the control itself"
ONE_SEED = "the truth has one seed, so no second full training is there to compare it with"
CANNOT_TELL = "cannot tell"
ABOUT_ZERO = 10.0
"""A difference this many times smaller than what the interval leaves open is about zero: no sample would tell it."""


class Pair(NamedTuple):
    """One draw of a signal beside one seed of the truth, each (n,), with names for a reader."""

    score_name: str
    score: Floats
    truth_name: str
    truth: Floats


class Plan(NamedTuple):
    """How n architectures are resampled: the same for every signal and statistic."""

    n: int
    seed: int
    resamples: int = RESAMPLES


Draws = Sequence[Sequence[Pair]]
"""For each draw of a signal, its pairs with the seeds of the truth; every draw has equally many."""


def minus_control(
    name: str, draws: Mapping[str, Draws], control: Floats | None, plan: Plan, against: str = CONTROL
) -> Interval:
    """Return the signal's Spearman correlation less that of the control `against`, with a percentile interval.

    control: Spearman's rho of the control in each resample, a column a draw: (resamples, draws). The signal
    is taken in the same resamples of architectures; crossed with them, the draws of both are resampled (Owen
    2007, "The pigeonhole bootstrap"), k - 1 of k with replacement: the mean of so many has the unbiased
    variance s**2 / k, where k of k would give only (k - 1) / k of it (Rao and Wu 1988). One draw shows no
    spread, and the seeds of the truth are held fixed. Crossing counts the noise of single scores twice and
    more, so with draws that are alike the bounds are too wide; three draws whose correlations differ by far
    more than that noise say little about their spread, and the bounds are then too narrow.
    """
    n = plan.n
    if control is None:
        return undefined(f"there is no signal named {against!r}", n)
    if name == against:
        return undefined(ITSELF, n)
    if not draws[name]:
        return undefined(ONE_SEED, n)
    own, other = (float(_per_draw(draws[of], np.ones((1, n))).mean()) for of in (name, against))
    if math.isnan(own) or math.isnan(other):
        return undefined(f"the correlation of {name if math.isnan(own) else against} is undefined", n)
    drawn = _redrawn(resampled(draws[name], plan), plan, name) - _redrawn(control, plan, against)
    single = f"{against} has one draw, so the bounds leave out how much draws differ"
    return percentile_interval(own - other, drawn, n, single if control.shape[1] == 1 else None)


def beats(gain: Interval) -> dict[str, object]:
    """Return whether a difference to the control is above zero, and how many more architectures may tell.

    "yes" and "no" (worse) where the interval excludes zero. Else "cannot tell", with an estimate: an interval
    shrinks with the root of the number of architectures, so it may exclude zero once that root has grown by the ratio
    of the arm that reaches beyond zero to the difference, if the difference stays what it is. What the draws add to
    the interval does not shrink, so more may be needed. None where the difference is about zero.
    """
    if gain.value is None:
        return {"beats_random": None, "beats_random_reason": gain.reason, "more_architectures": None}
    if gain.low is None or gain.high is None:
        return {"beats_random": CANNOT_TELL, "more_architectures": None, "more_architectures_reason": gain.reason}
    if gain.low > 0 or gain.high < 0:
        return {"beats_random": "yes" if gain.low > 0 else "no", "more_architectures": None}
    arm = gain.value - gain.low if gain.value > 0 else gain.high - gain.value
    if abs(gain.value) * ABOUT_ZERO <= arm:
        about = {"more_architectures_reason": "the difference is about zero"}
        return {"beats_random": CANNOT_TELL, "more_architectures": None, **about}
    wanted = gain.n * (arm / gain.value) ** 2
    return {"beats_random": CANNOT_TELL, "more_architectures": max(1, math.ceil(wanted) - gain.n)}


def mean_of(columns: Sequence[Floats]) -> Floats:
    """Return the mean of arrays of one shape, entry by entry."""
    mean: Floats = np.mean(columns, axis=0)
    return mean


def _per_draw(draws: Draws, counts: Floats) -> Floats:
    """Spearman's rho of each draw, averaged over its pairs: (resamples, draws)."""
    return np.stack([mean_of([spearman(p.score, p.truth, counts) for p in draw]) for draw in draws], axis=1)


def generator(plan: Plan) -> np.random.Generator:
    """Return what draws the resamples of a plan."""
    return numpy_generator(plan.seed, "rank", "architectures")


def resampled(draws: Draws, plan: Plan) -> Floats:
    """Return Spearman's rho of each draw, averaged over its pairs, in each resample: (resamples, draws)."""
    batches = resampled_counts(plan.n, generator(plan), plan.resamples)
    return np.concatenate([_per_draw(draws, counts) for counts in batches])


def _redrawn(rho: Floats, plan: Plan, name: str) -> Floats:
    """The mean of draws - 1 draws with replacement in each resample; of the only one where there is one."""
    resamples, draws = rho.shape
    rng = numpy_generator(plan.seed, "rank", "draws", name)
    chosen = rng.integers(draws, size=(resamples, max(1, draws - 1)))
    return mean_of(list(np.take_along_axis(rho, chosen, axis=1).T))
