"""Which architectures to train next, cheaply or fully: a pool and what was observed in, actions out.

In: the features of a pool (`nas_proxy.ranking.calibration.features_of`), what earlier rounds observed, a plan, the
run's seed and the round's number. Out: the round's actions, by index of the pool. Guarantee: a pure function of these
arguments, free of input and output. Whoever trains gives what *earlier rounds* observed, so that a round that was cut
off half-way is proposed again as it was.

Round 0 trains cheaply some of the best by the signals' vote, some of its upper third, and some drawn uniformly; where
there is no cheap training, it trains two of the vote's best fully, since expected improvement is then worth more than
anything drawn. Where cheap trainings agree with the vote, so that neither is likely to be noise, more of them follow
alone, by expected improvement as far as they tell. Each later round fits the surrogate and takes, by expected
improvement (Jones, Schonlau & Welch, 1998; a batch by "kriging believer", Ginsbourger, Le Riche & Carraro, 2010):
further cheap trainings, as long as they tell enough of the full accuracy, and full
trainings, of what was trained cheaply as long as that tells, else of all. A fixed share of the full trainings is
uniform instead, from the first rounds on: they can judge a correlation, and nothing that misleads reaches them.

With several objectives the others are costs, which are known of every architecture before it is trained. Each is then
to improve on the best that costs no more in any of them, so that all of the Pareto front is sought, and not its top.

Where accuracies are exact, as in a published table, the pick is the best full training that was observed (`pick`);
`nas_proxy.pipeline.choosing.standing` has the one for accuracies that few validation images make noisy.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from nas_proxy.ranking.surrogate import Features, Fit, Floats, Indices, believe, fit, joint
from nas_proxy.ranking.warp import FLOOR
from nas_proxy.seeds import numpy_generator

Fidelity = Literal["cheap", "full"]
# Batches are chosen among so many of the best by expected improvement, or as many as a batch has where that is more;
# their joint covariance is computed.
SHORTLIST = 300


@dataclass(frozen=True)
class Action:
    """Train architecture `index`; why: "vote", "upper third", "uniform" or "expected improvement"."""

    index: int
    fidelity: Fidelity
    why: str


@dataclass(frozen=True)
class Observed:
    """Accuracies (fractions) by index, in the order in which they came, and which full ones were drawn uniformly.

    closed: what is never proposed: it failed, was pruned, or is trained without being proposed. failed: those of them
    that failed, which are never picked, and rivals of nothing.
    """

    cheap: Mapping[int, float] = field(default_factory=dict)
    full: Mapping[int, float] = field(default_factory=dict)
    uniform: frozenset[int] = frozenset()
    closed: frozenset[int] = frozenset()
    failed: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Plan:
    """How many trainings of which kind.

    The defaults were chosen on half of the public cells of NAS-Bench-201 and NAS-Bench-Macro; `agree` was added after
    all of them had been looked at, since noise cost too much among the cheapest 30 %, and `cold` was chosen on random
    halves of them (it was two, one of the upper third and three uniform).

    cheap: whether there is a cheap training. opening: cheap trainings of round 0: of the vote's best, of its upper
    third, uniform. cold: full trainings of the vote's best where there is none. before_full: cheap trainings before the
    first full one where the opening's have at least the rank correlation `agree` with the vote; None: in any case.
    cheap_a_round, full_a_round: in later rounds; with cheap_a_round 0 a full training need not follow a cheap one.
    informs: below this squared correlation with the full accuracy (the median of what was not trained at all) nothing
    more is trained cheaply. uniform: share of full trainings. blind: full trainings before that correlation counts.
    """

    cheap: bool = True
    opening: tuple[int, int, int] = (6, 5, 5)
    cold: int = 2
    before_full: int = 32
    agree: float | None = 0.3
    cheap_a_round: int = 8
    full_a_round: int = 2
    informs: float = 0.4
    uniform: float = 0.125
    blind: int = 3


def next_actions(
    pool: Features, observed: Observed, plan: Plan, seed: int, number: int, costs: Floats | None = None
) -> tuple[Action, ...]:
    """Return the actions of round `number`, distinct and new; () when every architecture is fully trained.

    observed: what was observed before it; before round 0 nothing, or a uniform sample. seed: the run's.
    costs: (n, c) what each architecture costs when it is used, where that is to be low as well; NaN where unknown.
    """
    if costs is not None:  # what cannot be measured fails when it is trained
        unmeasured = np.flatnonzero(~np.isfinite(costs).all(axis=1))
        observed = replace(observed, closed=observed.closed | set(unmeasured.tolist()))
    if number == 0 or not (observed.cheap or observed.full):
        return _opening(pool, observed, plan, seed)
    if len(observed.full) >= len(pool.vote):
        return ()
    return _round(pool, observed, plan, seed, number, costs)


def after(observed: Observed, results: Iterable[tuple[Action, float]]) -> Observed:
    """Return what was observed with the accuracies (fractions) of further actions."""
    found = list(results)
    cheap = {action.index: accuracy for action, accuracy in found if action.fidelity == "cheap"}
    full = {action.index: accuracy for action, accuracy in found if action.fidelity == "full"}
    drawn = {action.index for action, _ in found if action.fidelity == "full" and action.why == "uniform"}
    known = replace(observed, cheap={**observed.cheap, **cheap}, full={**observed.full, **full})
    return replace(known, uniform=observed.uniform | drawn)


def pick(observed: Observed) -> int | None:
    """Return the best full training that was observed, of equal ones the first; None before there is one."""
    return max(observed.full, key=lambda index: observed.full[index], default=None)


def expected_improvement(mean: Floats, std: Floats, best: float | Floats) -> Floats:
    """Return by how much a normal variable exceeds `best` on average; all of one unit."""
    z = (mean - best) / std
    value: Floats = std * (z * stats.norm.cdf(z) + stats.norm.pdf(z))
    return value


def _opening(pool: Features, observed: Observed, plan: Plan, seed: int) -> tuple[Action, ...]:
    n, rng = len(pool.vote), numpy_generator(seed, "acquisition", "opening")
    best, upper, uniform = plan.opening if plan.cheap else (plan.cold, 0, 0)
    order = np.lexsort((rng.random(n), -pool.vote))
    order = order[~_among({*observed.cheap, *observed.full, *observed.closed}, n)[order]]
    first = order[:best]
    second = rng.permutation(order[best : max(n // 3, best + upper)])[:upper]
    rest = rng.permutation(np.setdiff1d(order, np.concatenate([first, second])))[:uniform]
    fidelity: Fidelity = "cheap" if plan.cheap else "full"
    parts = (("vote", first), ("upper third", second), ("uniform", rest))
    return tuple(Action(int(index), fidelity, why) for why, indices in parts for index in indices)


def _round(
    pool: Features, observed: Observed, plan: Plan, seed: int, number: int, costs: Floats | None
) -> tuple[Action, ...]:
    n = len(pool.vote)
    fitted = fit(pool, observed.cheap, observed.full)
    open_, seen = ~_among({*observed.full, *observed.closed}, n), _among(observed.cheap, n)
    goal = _Goal(fitted, observed, costs)
    if _more_before_full(pool, observed, plan):
        size = min(plan.cheap_a_round, plan.before_full - len(observed.cheap))
        further = _batch(goal, np.flatnonzero(open_ & ~seen), size)
        return tuple(Action(index, "cheap", "expected improvement") for index in further)
    tells = plan.cheap and _tells(fitted, np.flatnonzero(open_ & ~seen), observed, plan)
    cheap: list[int] = []
    if tells and len(observed.full) >= plan.blind:
        cheap = _batch(goal, np.flatnonzero(open_ & ~seen), plan.cheap_a_round)
    uniform = _uniform_now(len(observed.full), plan)
    candidates = np.flatnonzero(open_ & seen) if tells and plan.cheap_a_round else np.flatnonzero(open_)
    candidates = candidates if len(candidates) else np.flatnonzero(open_)
    full = _batch(goal, candidates, plan.full_a_round - uniform if observed.full else plan.full_a_round)
    rest = np.setdiff1d(np.flatnonzero(open_), full)
    drawn = numpy_generator(seed, "acquisition", "uniform", number).permutation(rest)[:uniform]
    return (
        *(Action(index, "cheap", "expected improvement") for index in cheap),
        *(Action(index, "full", "expected improvement") for index in full),
        *(Action(int(index), "full", "uniform") for index in drawn),
    )


def _more_before_full(pool: Features, observed: Observed, plan: Plan) -> bool:
    """Whether the next round trains cheaply alone: the opening agrees with the vote, and there are too few yet."""
    if not plan.cheap or observed.full or not len(observed.cheap) < min(plan.before_full, len(pool.vote)):
        return False
    opening = list(observed.cheap)[: sum(plan.opening)]
    votes, found = pool.vote[opening], np.array([observed.cheap[index] for index in opening])
    if plan.agree is None:
        return True
    if np.ptp(votes) == 0 or np.ptp(found) == 0:
        return False
    return float(stats.spearmanr(votes, found).statistic) >= plan.agree


def _uniform_now(trained: int, plan: Plan) -> int:
    """Return how many of a round's full trainings are uniform: one in the first round, then the plan's share."""
    if not trained:
        return 1 if plan.uniform > 0 else 0
    return int((trained + plan.full_a_round) * plan.uniform) - int(trained * plan.uniform)


def _tells(fitted: Fit, untouched: Indices, observed: Observed, plan: Plan) -> bool:
    """Whether a cheap training tells enough of the full accuracy; taken for granted before there are full ones."""
    if len(observed.full) < plan.blind:
        return True
    return len(untouched) > 0 and float(np.median(believe(fitted, untouched).informs)) >= plan.informs


@dataclass(frozen=True, eq=False)
class _Goal:
    """What an architecture is to improve on: the best accuracy so far, of those that cost no more where costs count."""

    fitted: Fit
    observed: Observed
    costs: Floats | None

    def best(self, candidates: Indices, mean: Floats) -> Floats:
        """Return the warped accuracy to be exceeded by each of the candidates, whose posterior mean is given: (p,)."""
        fitted, observed = self.fitted, self.observed
        if self.costs is None:
            return np.full(len(candidates), float(mean.max()) if fitted.best is None else fitted.best)
        if observed.full:
            rows, values = [*observed.full], fitted.warp(np.array([*observed.full.values()], dtype=np.float64))
        else:
            rows = [*observed.cheap]
            values = believe(fitted, np.array(rows, dtype=np.intp)).mean
        cheaper = self.no_dearer(np.array(rows, dtype=np.intp), candidates)
        return np.asarray(np.where(cheaper, values[:, None], FLOOR).max(axis=0, initial=FLOOR), dtype=np.float64)

    def no_dearer(self, these: Indices, than: Indices) -> NDArray[np.bool_]:
        """Return whether each of `these` costs no more than each of `than`, in everything: (these, than)."""
        if self.costs is None:
            return np.ones((len(these), len(than)), dtype=np.bool_)
        found = (self.costs[these][:, None, :] <= self.costs[than][None, :, :]).all(axis=2)
        return np.asarray(found, dtype=np.bool_)


def _batch(goal: _Goal, candidates: Indices, size: int) -> list[int]:
    """Return up to `size` candidates, each of largest expected improvement if those before it were as expected."""
    if size <= 0 or not len(candidates):
        return []
    belief = believe(goal.fitted, candidates)
    best = goal.best(candidates, belief.mean)
    order = np.argsort(-expected_improvement(belief.mean, belief.std, best), kind="stable")[: max(SHORTLIST, size)]
    short, best = candidates[order], best[order]
    if size > SHORTLIST:  # all of them, so there is nothing to choose
        return [int(index) for index in short]
    mean, covariance = joint(goal.fitted, short)
    picked: list[int] = []
    while len(picked) < min(size, len(short)):
        std = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        value = expected_improvement(mean, std, best)
        value[picked] = -np.inf
        chosen = int(value.argmax())
        picked.append(chosen)
        dearer = goal.no_dearer(short[chosen : chosen + 1], short)[0]
        best = np.where(dearer, np.maximum(best, mean[chosen]), best)
        column = covariance[:, chosen] / np.sqrt(max(covariance[chosen, chosen], 1e-12) + 1e-6)
        covariance = covariance - np.outer(column, column)
    return [int(short[index]) for index in picked]


def _among(indices: Iterable[int], n: int) -> NDArray[np.bool_]:
    found = np.zeros(n, dtype=np.bool_)
    found[list(indices)] = True
    return found
