"""Repeatability without a second seed: from architectures that a table of accuracies holds under several names.

In: the accuracies y of the ranked architectures, one training each, and groups of accuracies, each of one function
that was trained several times since it has several names. Out: the correlation to be expected between y and a second
training of the same architectures, with a 95 % interval, or the reason why it cannot be told.

That second training is simulated. Two members of each group, drawn at random and taken in both orders, are a first
and a second training (a, b). The second accuracy of an architecture is y + (b - a), where (a, b) is one of the
`NEIGHBOURS` pairs whose first accuracies are nearest to y, drawn at random. So the noise may depend on the accuracy,
and a return to the mean is in it, while the spread of the accuracies is that of the sample and not of the groups,
which are simpler architectures than most. The estimate is the mean correlation over the simulations. The interval is
over architectures and groups, by the percentiles of resamples of both.

What it assumes: that architectures with several names repeat themselves as others of the same accuracy do. What it
cannot see: trainings that were no repetition, since they began with the same weights in the same order of images;
where most groups agree to the last digit, one result was written down several times, and nothing is estimated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas_proxy.ranking.intervals import (
    LEAST,
    Floats,
    Interval,
    best_part,
    counts_of,
    percentile_interval,
    spearman,
    undefined,
)
from nas_proxy.seeds import numpy_generator
from nas_proxy.spaces.space import Space

LEAST_GROUPS = 20
"""With fewer the noise is a guess: of 20, its standard deviation is known to within a third."""

NEIGHBOURS = 10
SIMULATIONS = 400
# For the bounds: resamples of the groups, simulations with each and resamples of the architectures with each.
OF_GROUPS, WITH_EACH, RESAMPLES = 100, 10, 50

Groups = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Repeated:
    """Spearman's correlation of two trainings, over the whole sample and among its better half; `note`: from what."""

    spearman: Interval
    better_half: Interval
    note: str

    def row(self) -> dict[str, object]:
        """Return what changes in the row "repeatability" of ranking.json."""
        found: dict[str, object] = {}
        for name, interval in (("spearman", self.spearman), ("spearman_top_half", self.better_half)):
            found[name] = interval.as_json()
            found |= {} if interval.value is None else {f"{name}_note": self.note}
        return found


def isomorphic_of(space: Space, published: Mapping[str, float]) -> tuple[tuple[float, ...], ...]:
    """Return the accuracies of each function of the space that several keys of `published` compute."""
    found: dict[str, list[float]] = {}
    if space.function_of is not None:
        for architecture in space.choices.outcomes():
            if (key := space.key(architecture)) in published:
                found.setdefault(space.function_of(architecture), []).append(published[key])
    return tuple(tuple(group) for group in found.values() if len(group) > 1)


class _Pairs:
    """Groups of accuracies as arrays, from which first and second trainings are drawn."""

    def __init__(self, groups: Groups) -> None:
        self.sizes = np.array([len(group) for group in groups])
        self.starts = np.cumsum(self.sizes) - self.sizes
        self.values = np.concatenate([np.asarray(group, np.float64) for group in groups])

    def second(self, first: Floats, chosen: NDArray[np.intp], rng: np.random.Generator) -> Floats:
        """Return a second accuracy of each architecture whose first are given, from pairs of the chosen groups."""
        sizes, starts = self.sizes[chosen], self.starts[chosen]
        one = rng.integers(0, sizes)
        other = (one + rng.integers(1, sizes)) % sizes
        a, b = self.values[starts + one], self.values[starts + other]
        a, b = np.concatenate([a, b]), np.concatenate([b, a])
        order = np.argsort(a, kind="stable")
        # Among pairs that tie, as at chance level, any place is as near.
        low, high = (np.searchsorted(a[order], first, side) for side in ("left", "right"))
        nearest = np.clip(rng.integers(low, high + 1) - NEIGHBOURS // 2, 0, len(a) - NEIGHBOURS)
        drawn = order[nearest + rng.integers(0, NEIGHBOURS, len(first))]
        again: Floats = first + b[drawn] - a[drawn]
        return again


def repeated(accuracies: Floats, groups: Groups, seed: int) -> Repeated:
    """Return how well a second training would rank architectures with these accuracies (n,); see the module.

    groups: accuracies in the same units, two or more of each function.
    """
    n = len(accuracies)
    if reason := _unusable(accuracies, groups):
        return Repeated(undefined(reason, n), undefined(reason, n), "")
    rng, pairs = numpy_generator(seed, "rank", "twins"), _Pairs(groups)
    whole, every = np.ones((1, n)), np.arange(len(groups))
    plain = [(whole, [pairs.second(accuracies, every, rng) for _ in range(SIMULATIONS)])]
    resampled = []
    for _ in range(OF_GROUPS):
        chosen = rng.integers(0, len(groups), len(groups))
        counts = counts_of(rng.integers(0, n, (RESAMPLES, n)), n)
        resampled.append((counts, [pairs.second(accuracies, chosen, rng) for _ in range(WITH_EACH)]))

    def interval(fraction: float) -> Interval:
        def means(drawn: list[tuple[Floats, list[Floats]]]) -> Floats:
            parts = [(best_part(accuracies, counts, fraction), simulated) for counts, simulated in drawn]
            each = [[spearman(again, accuracies, part) for again in simulated] for part, simulated in parts]
            return np.concatenate([np.mean(correlations, axis=0) for correlations in each])

        size = int(best_part(accuracies, whole, fraction).sum())
        value = float(means(plain)[0])
        if not np.isfinite(value) or size < LEAST:
            return undefined(f"the best {fraction:.0%} are too few or too alike to repeat a ranking of them", size)
        return percentile_interval(value, means(resampled), size)

    return Repeated(interval(1.0), interval(0.5), _note(groups))


def _unusable(accuracies: Floats, groups: Groups) -> str | None:
    """Return why nothing can be estimated; None where it can."""
    agreeing = _agreeing(groups)
    if len(groups) < LEAST_GROUPS:
        return (
            f"the truth has one seed, and only {len(groups)} of its architectures were published more than once; "
            f"{LEAST_GROUPS} would tell how far full training repeats itself"
        )
    if 2 * agreeing > len(groups):
        return (
            f"the truth has one seed, and {agreeing} of the {len(groups)} architectures that were published more than "
            "once have the same accuracy each time, so they were not trained again"
        )
    return "the truth is constant" if np.ptp(accuracies) == 0 else None


def _agreeing(groups: Groups) -> int:
    return sum(len(set(group)) == 1 for group in groups)


def _note(groups: Groups) -> str:
    agreeing = _agreeing(groups)
    same = f", {agreeing} of them with the same accuracy each time" if agreeing else ""
    return f"from {len(groups)} architectures published twice or more{same}"
