"""Which architectures to train next, cheaply or fully: a pool and what was observed in, actions out. (draft)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy import stats

from nas_proxy.ranking.calibration import normal_scores
from nas_proxy.search.surrogate import Belief, Features, Fit, Floats, believe, fit, joint
from nas_proxy.seeds import numpy_generator

Fidelity = Literal["cheap", "full"]


@dataclass(frozen=True)
class Action:
    index: int
    fidelity: Fidelity
    why: str


@dataclass(frozen=True)
class Observed:
    cheap: Mapping[int, float] = field(default_factory=dict)
    full: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    cheap: bool = True
    first: tuple[int, int, int] = (10, 10, 8)  # vote's best, upper third, uniform
    first_full: tuple[int, int] = (2, 1)
    cold_full: tuple[int, int, int] = (3, 2, 3)
    cheap_round: int = 10
    full_round: int = 2
    informs: float = 0.25
    uniform: float = 0.125
    shortlist: int = 300
    explore: int = 2


def features_of(scores: Floats, encoding: Floats, names: Sequence[str] = (), vote: Sequence[str] = ()) -> Features:
    signals = np.stack([normal_scores(c) for c in scores.T], 1) if scores.shape[1] else np.zeros((len(scores), 0))
    chosen = [i for i, name in enumerate(names) if name in vote]
    chosen = chosen if len(chosen) > 1 else list(range(scores.shape[1]))
    mean = signals[:, chosen].mean(1) if chosen else np.zeros(len(scores))
    return Features(signals, normal_scores(mean) if chosen else mean, encoding)


def next_actions(pool: Features, observed: Observed, plan: Plan, seed: int, number: int) -> tuple[Action, ...]:
    if number == 0:
        return _first(pool, plan, seed)
    return _round(pool, observed, plan, seed, number)


def _first(pool, plan, seed):
    n = len(pool.vote)
    rng = numpy_generator(seed, "first")
    order = np.lexsort((rng.random(n), -pool.vote))
    best, upper, uniform = plan.first if plan.cheap else plan.cold_full
    taken = list(order[:best])
    third = order[best: max(n // 3, best)]
    taken += list(rng.permutation(third)[:upper])
    rest = np.setdiff1d(np.arange(n), taken)
    fidelity = "cheap" if plan.cheap else "full"
    whys = ["vote"] * best + ["upper third"] * min(upper, len(third))
    drawn = rng.permutation(rest)[: uniform]
    actions = [Action(int(i), fidelity, w) for i, w in zip(taken, whys)]
    return tuple(actions + [Action(int(i), fidelity, "uniform") for i in drawn])


def _round(pool, observed, plan, seed, number):
    n = len(pool.vote)
    rng = numpy_generator(seed, "round", number)
    fitted = fit(pool, dict(observed.cheap), dict(observed.full))
    belief = believe(fitted, np.arange(n))
    actions = []
    untrained = np.array([i not in observed.full for i in range(n)])
    if plan.cheap:
        seen = np.array([i in observed.cheap for i in range(n)])
        informative = len(observed.full) < 3 or float(np.median(belief.informs[untrained & ~seen])) >= plan.informs if (untrained & ~seen).any() else False
        if informative and len(observed.full) >= 3:
            k = plan.cheap_round
            some = _batch(fitted, belief, untrained & ~seen, k, plan)
            actions += [Action(i, "cheap", "expected improvement") for i in some]
        candidates = untrained & seen if informative else untrained
        if not candidates.any(): candidates = untrained
    else:
        candidates = untrained
    if not len(observed.full):
        good, uniform = plan.first_full
    else:
        k = plan.full_round
        before, after = len(observed.full), len(observed.full) + k
        uniform = int(after * plan.uniform) - int(before * plan.uniform)
        good = k - uniform
    chosen = _batch(fitted, belief, candidates, good, plan)
    actions += [Action(i, "full", "expected improvement") for i in chosen]
    rest = np.setdiff1d(np.flatnonzero(untrained), chosen)
    actions += [Action(int(i), "full", "uniform") for i in rng.permutation(rest)[:uniform]]
    return tuple(actions)


def expected_improvement(mean, std, best):
    z = (mean - best) / std
    return std * (z * stats.norm.cdf(z) + stats.norm.pdf(z))


def _batch(fitted: Fit, belief: Belief, allowed, k: int, plan: Plan) -> list[int]:
    """k distinct, kriging believer on a shortlist."""
    if k <= 0 or not allowed.any():
        return []
    best = belief.best if np.isfinite(belief.best) else float(belief.mean.max())
    ei = np.where(allowed, expected_improvement(belief.mean, belief.std, best), -1)
    short = np.argsort(-ei, kind="stable")[: plan.shortlist]
    short = short[allowed[short]]
    if k >= len(short):
        return [int(i) for i in short]
    mean, covariance = joint(fitted, short)
    picked = []
    for _ in range(k):
        std = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        value = expected_improvement(mean, std, best)
        value[picked] = -1
        j = int(value.argmax())
        picked.append(j)
        best = max(best, float(mean[j]))
        column = covariance[:, j] / np.sqrt(covariance[j, j] + 1e-6)
        covariance = covariance - np.outer(column, column)
    return [int(short[j]) for j in picked]
