"""Rank correlations with 95 % intervals.

In: two columns over n architectures, and how often each architecture occurs in a resample (`counts`).
Out: one correlation a resample, and from these an `Interval`.
Guarantees: average ranks for ties, a constant column gives NaN inside and null with a reason outside, and the
same seed gives the same interval. All sums are of integers or halves, hence exact in any order.

A resample is described by counts rather than by copies of the data: the ranks in a resample follow from
cumulative counts, and Kendall's pairs from one matrix product, so no resample is ever sorted.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Correlation = Callable[[Floats, Floats, Floats], Floats]
"""Takes two columns (n,) and counts (resamples, n); returns (resamples,)."""
Statistic = Callable[[Floats], Floats]
"""Takes counts (resamples, n); returns (resamples,), NaN where a resample leaves it undefined."""

LEVEL = 0.95
RESAMPLES = 9_999
LEAST = 4  # with three architectures a resample has too few orders to tell anything
EPSILON = 1e-12
BATCH_ELEMENTS = 1 << 20  # 8 MiB an array, whatever n


@dataclass(frozen=True)
class Interval:
    """An estimate with a 95 % interval; `value`, `low` and `high` are None where they are undefined.

    method: how the bounds were found; None without bounds.
    reason: why the value, the bounds or the usual method are missing, or what the bounds leave out.
    n: the number of architectures; 0 where an early version did not tell.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    method: str | None = None
    reason: str | None = None
    n: int = 0

    @property
    def bounded(self) -> bool:
        """Whether it has a value and both bounds."""
        return None not in (self.value, self.low, self.high)

    def as_json(self) -> dict[str, object]:
        """Return the fields; `method` and `reason` only where there is one."""
        fields: dict[str, object] = {"value": self.value, "low": self.low, "high": self.high}
        fields |= {} if self.method is None else {"method": self.method}
        fields |= {} if self.reason is None else {"reason": self.reason}
        return {**fields, "n": self.n}


def undefined(reason: str, n: int, value: float | None = None) -> Interval:
    """Return an interval without bounds, and without a value unless one is given."""
    return Interval(value, None, None, None, reason, n)


def _in_groups(column: Floats, counts: Floats) -> tuple[NDArray[np.intp], Floats]:
    """Return the group (value) of each architecture, ascending, and the counts of each group: (b, groups)."""
    values, group = np.unique(column, return_inverse=True)
    order = np.argsort(group, kind="stable")
    if len(values) == len(column):  # no ties: every group is one architecture
        return group, counts[:, order]
    starts = np.searchsorted(group[order], np.arange(len(values)))
    return group, np.add.reduceat(counts[:, order], starts, axis=1)


def _centred_ranks(column: Floats, counts: Floats) -> Floats:
    """Return the average rank of each architecture in each resample less the mean rank: (b, n)."""
    group, sizes = _in_groups(column, counts)
    ranks: Floats = np.cumsum(sizes, axis=1) - sizes / 2 - counts.sum(axis=1, keepdims=True) / 2
    return ranks[:, group]


def _ratio(numerator: Floats, squared_denominator: Floats) -> Floats:
    """Return numerator / sqrt(squared_denominator), NaN where that is 0 (a constant column)."""
    defined = squared_denominator > 0
    root = np.sqrt(np.where(defined, squared_denominator, 1.0))
    return np.where(defined, np.clip(numerator / root, -1.0, 1.0), np.nan)


def spearman(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Return Spearman's rho of x and y (n,) in each resample (b, n): (b,), average ranks for ties."""
    a, b = _centred_ranks(x, counts), _centred_ranks(y, counts)
    weighted = counts * a
    squares = (weighted * a).sum(axis=1) * (counts * b * b).sum(axis=1)
    return _ratio((weighted * b).sum(axis=1), squares)


def partial_spearman(x: Floats, y: Floats, fixed: Floats, counts: Floats) -> Floats:
    """Return Spearman's rho of x and y (n,) with the rank of `fixed` (n,) held fixed, in each resample (b, n): (b,).

    It is the correlation of what is left of the ranks of x and y after a linear regression on those of `fixed`
    (Kendall & Stuart, "The Advanced Theory of Statistics", vol. 2); NaN where `fixed` leaves nothing of one.
    """
    a, b = spearman(x, fixed, counts), spearman(y, fixed, counts)
    left = (1 - a * a) * (1 - b * b)
    # Rounding leaves a little where the orders are the same.
    return _ratio(spearman(x, y, counts) - a * b, np.where(left > EPSILON, left, 0.0))


def kendall(x: Floats, y: Floats, counts: Floats) -> Floats:
    """Return Kendall's tau-b of x and y (n,) in each resample (b, n): (b,).

    Copies of one architecture are ties in both columns and count as such. Time is b * n**2, memory n**2.
    """
    concordance = np.sign(x[:, None] - x) * np.sign(y[:, None] - y)
    total = counts.sum(axis=1) ** 2
    untied = [total - (_in_groups(column, counts)[1] ** 2).sum(axis=1) for column in (x, y)]
    return _ratio((counts @ concordance * counts).sum(axis=1), untied[0] * untied[1])


def best_part(truth: Floats, counts: Floats, fraction: float = 0.5) -> Floats:
    """Return `counts` (b, n) with every architecture outside the best part of its resample set to 0.

    The best part is every architecture at least as good as the ceil(fraction * size)-th best by `truth`; all
    that tie with that one stay, so the part does not depend on an arbitrary order.
    """
    group, sizes = _in_groups(truth, counts)
    total = sizes.sum(axis=1, keepdims=True)
    better = total - np.cumsum(sizes, axis=1)
    kept: Floats = counts * (better < np.ceil(fraction * total))[:, group]
    return kept


def counts_of(index: NDArray[np.int64], n: int) -> Floats:
    """Return how often each of n architectures occurs in each row of `index` (b, size): (b, n)."""
    rows = len(index)
    cells = index + n * np.arange(rows)[:, None]
    return np.bincount(cells.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def batch_size(n: int) -> int:
    """Return how many resamples of n architectures are held in memory at once."""
    return max(1, BATCH_ELEMENTS // n)


def resampled_counts(n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Iterator[Floats]:
    """Yield the counts of `resamples` resamples of n architectures in batches of (b, n)."""
    step = batch_size(n)
    for start in range(0, resamples, step):
        yield counts_of(rng.integers(0, n, (min(step, resamples - start), n)), n)


def value_of(statistic: Statistic, n: int) -> float:
    """Return the statistic of the n architectures themselves; NaN where it is undefined."""
    return float(statistic(np.ones((1, n)))[0])


def bootstrap_interval(statistic: Statistic, n: int, rng: np.random.Generator, resamples: int = RESAMPLES) -> Interval:
    """Return the BCa bootstrap interval (Efron 1987, by `scipy.stats.bootstrap`) over n architectures.

    Where a resample is undefined or BCa itself is, the bounds are the percentiles of the defined resamples
    and `reason` says so. There are no bounds for n < 4, where over half of the resamples are undefined, and
    where all resamples agree (a perfect order): the bootstrap sees no spread there, which is not certainty.
    """
    from scipy import stats

    value = value_of(statistic, n)
    if math.isnan(value):
        return undefined("the statistic is undefined for these architectures", n)
    if n < LEAST:
        return undefined(f"an interval needs at least {LEAST} architectures", n, value)

    def of_index(index: NDArray[np.int64], axis: int = -1) -> Floats:
        counts = counts_of(index.reshape(-1, index.shape[axis]).astype(np.int64), n)
        return statistic(counts).reshape(index.shape[:-1])

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # degenerate cases are read off the result below
        found = stats.bootstrap(
            (np.arange(n),),
            of_index,
            vectorized=True,
            n_resamples=resamples,
            batch=batch_size(n),
            confidence_level=LEVEL,
            method="BCa",
            rng=rng,
        )
    low, high = (float(bound) for bound in found.confidence_interval)
    drawn = np.asarray(found.bootstrap_distribution)
    if np.isfinite([low, high]).all() and np.ptp(drawn) > 0:
        return Interval(value, low, high, "BCa", None, n)
    return percentile_interval(value, drawn, n, reason="BCa is undefined for these values")


def percentile_interval(value: float, drawn: Floats, n: int, reason: str | None = None) -> Interval:
    """Return the 2.5th to the 97.5th percentile of the defined resamples in `drawn` (resamples,).

    No bounds where over half of the resamples are undefined or all of them agree.
    """
    finite = drawn[np.isfinite(drawn)]
    if 2 * len(finite) < len(drawn):
        return undefined(f"only {len(finite)} of {len(drawn)} resamples are free of constant columns", n, value)
    if np.ptp(finite) == 0:
        return undefined(f"all resamples give {finite[0]:.4g}, so they do not show the spread", n, value)
    if len(finite) < len(drawn):
        reason = f"{len(drawn) - len(finite)} of {len(drawn)} resamples have a constant column and are left out"
    low, high = np.quantile(finite, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), "percentile", reason, n)


def jackknife_interval(statistic: Statistic, n: int) -> Interval:
    """Return a correlation's normal interval on Fisher's z scale, with the jackknife's standard error.

    For statistics that are too slow to bootstrap: it costs n evaluations instead of thousands. Infinite z
    (a correlation of ±1, also with one architecture left out) has no bounds.
    """
    from scipy import stats

    value = value_of(statistic, n)
    if math.isnan(value):
        return undefined("the statistic is undefined for these architectures", n)
    step = batch_size(n)
    rows = np.arange(n)
    left_out = [rows[start : start + step, None] != rows for start in range(0, n, step)]
    with np.errstate(divide="ignore"):
        z = np.arctanh(np.concatenate([statistic(counts.astype(np.float64)) for counts in left_out]))
        centre = np.arctanh(value)
    if not (np.isfinite(z).all() and np.isfinite(centre)):
        return undefined("the jackknife is undefined for these values", n, value)
    margin = stats.norm.ppf((1 + LEVEL) / 2) * math.sqrt((n - 1) * float(np.var(z)))
    low, high = np.tanh([centre - margin, centre + margin])
    return Interval(value, float(low), float(high), "jackknife, Fisher z", None, n)
