"""What is trained next and what is believed, of a run's pool: records of trainings in, architectures out.

In: the pool and what was trained. Out: proposals for the proxy, rounds of full trainings, and a `Standing`: the pool by
posterior mean, the pick first. Guarantees: what is chosen depends on the seed and on what earlier rounds showed alone;
a search sees validation images, the test images judge.
"""

import contextlib
import functools
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas_proxy.names import PROXY
from nas_proxy.pipeline.pool import BY_VOTE, Pool, grow, open_pool
from nas_proxy.pipeline.work import Work
from nas_proxy.ranking.believed import Believed
from nas_proxy.ranking.surrogate import Fit, believe, fit
from nas_proxy.ranking.warp import FLOOR
from nas_proxy.spaces.space import Architecture
from nas_proxy.storage.records import Record
from nas_proxy.strategy.acquisition import Observed, Plan, next_actions
from nas_proxy.strategy.candidates import Search

# Of the proxy's opening: trainings of the vote's best, and of its upper third; the sample is the uniform part.
OPENING = (6, 5)
NORMAL = 1.959963984540054  # standard deviations of a 95 % interval
SPENT = "seconds of choosing"


def opening_of(proposals: int) -> tuple[int, int]:
    """Return how many of so many proposals for the proxy follow the vote: its best, and its upper third."""
    best, upper = (min(size, math.ceil(proposals * size / (2 * sum(OPENING)))) for size in OPENING)
    return min(best, proposals), min(upper, max(0, proposals - best))


@contextlib.contextmanager
def counted(work: Work) -> Iterator[None]:
    """Keep what a choice takes, with the run's studies, as a part of what the run took."""
    start = time.monotonic()
    yield
    spent = choosing_seconds(work) + time.monotonic() - start
    work.store.study(PROXY).set_user_attr(SPENT, round(spent, 3))


def choosing_seconds(work: Work) -> float:
    """Return the seconds by the clock that all choices took, of what to train next."""
    return float(work.store.study(PROXY).user_attrs.get(SPENT, 0.0))


def choosing_of_pool(work: Work, wanted: Search) -> Search:
    """Return the search with proposals that are chosen among the pool, which grows by what its scores favour."""
    grow(work, before := open_pool(work), BY_VOTE, before.features.vote)
    pool = open_pool(work, BY_VOTE)
    sampled = {r.key for r in work.store.records(PROXY) if r.phase == "sample"}
    named = {key: a for a in wanted.enqueued if (key := work.trainer.space.key(a)) not in sampled}
    proposals = max(0, wanted.proposals - len(named))
    epochs = math.ceil(work.config.proxy_training.epochs)
    proposing = functools.partial(propose, pool, work.config.seed, work.plan.primary, epochs, proposals)

    def chosen(history: Sequence[Record], number: int, size: int) -> list[tuple[Architecture, str]]:
        with counted(work):
            return proposing(history, number, size)

    return replace(wanted, propose=chosen, opening=sum(opening_of(proposals)), enqueued=tuple(named.values()))


def propose(
    pool: Pool, seed: int, by: str, epochs: int, proposals: int, history: Sequence[Record], number: int, size: int
) -> list[tuple[Architecture, str]]:
    """Return the proposals of round `number` for the proxy, see `nas_proxy.strategy.candidates.Propose`."""
    seen = on_proxy(pool, history, by, epochs)
    plan = Plan(opening=(*opening_of(proposals), 0), agree=None, before_full=len(seen.cheap) + size, cheap_a_round=size)
    actions = next_actions(pool.features, seen, plan, seed, number, pool.costs)
    members = list(pool.architectures.values())
    return [(members[action.index], action.why) for action in actions if action.fidelity == "cheap"][:size]


def on_proxy(pool: Pool, records: Sequence[Record], by: str, epochs: int) -> Observed:
    """Return what trainings on the proxy showed; those that failed or were pruned are not proposed again."""
    rows = pool.rows()
    first = [r for r in records if r.draw == 0 and r.key in rows]
    cheap = {rows[r.key]: _share(r, by, epochs) for r in first if r.complete}
    closed = frozenset(rows[r.key] for r in first if not r.complete)
    return Observed(cheap=cheap, closed=closed, failed=frozenset(rows[r.key] for r in first if r.failed))


def _share(record: Record, by: str, epochs: int) -> float:
    """Return a score as a share: the accuracy, or the geometric mean of what the right class is given in training."""
    if by == "accuracy":
        assert record.score is not None
        return record.score
    return 0.0 if record.loss_sum is None else math.exp(-record.loss_sum / epochs)


@dataclass(frozen=True)
class Rounds:
    """How `total` full trainings are dealt into rounds: `sample` of them uniform, spread evenly among the chosen.

    A round has positions of the sample, in its order, and numbers of chosen ones.
    """

    total: int
    sample: int
    size: int

    def __iter__(self) -> Iterator[tuple[range, range]]:
        """Yield positions of the sample and numbers of chosen ones, a round at a time."""
        for first in range(0, self.total, self.size):
            last = min(first + self.size, self.total)
            before, after = self._chosen(first), self._chosen(last)
            yield range(first - before, last - after), range(before, after)

    def _chosen(self, trained: int) -> int:
        return (self.total - self.sample) * trained // max(self.total, 1)


def choose(pool: Pool, seen: Observed, seed: int, number: int, size: int) -> list[tuple[Architecture, str]]:
    """Return up to `size` architectures to be trained fully in round `number`, each with why."""
    if size < 1:
        return []
    # Nothing more is trained on the proxy, so what never was may be trained fully too.
    plan = Plan(before_full=0, cheap_a_round=0, full_a_round=size, uniform=0.0)
    actions = next_actions(pool.features, seen, plan, seed, number + 1, pool.costs)
    members = list(pool.architectures.values())
    return [(members[action.index], action.why) for action in actions if action.fidelity == "full"]


@dataclass(frozen=True, eq=False)
class Standing:
    """How a search stands: the pool and the surrogate, and what is believed: fully trained ones first, best first.

    failed: rows of the pool that failed, of which nothing is believed.
    """

    pool: Pool
    fit: Fit
    order: tuple[Believed, ...]
    failed: frozenset[int] = frozenset()

    @property
    def pick(self) -> Believed | None:
        """The fully trained architecture of largest posterior mean; None before there is one."""
        return self.order[0] if self.order and self.order[0].validation is not None else None


def standing(pool: Pool, seen: Observed, images: int | None) -> Standing:
    """Return what is believed of the pool, from whatever was observed.

    images: on which accuracies were seen; None where they are the truth, as in a published table, and order what was
    fully trained. What so few images tell is part of what is believed, and not of what is proposed: on the ConvNets of
    benchmarks/README.md the pick got better by it from 16 trainings on, and proposals worse.
    """
    fitted, exact = fit(pool.features, seen.cheap, seen.full, images), images is None
    failed = seen.failed - seen.full.keys()
    rows = [row for row in range(len(pool.architectures)) if row not in failed]
    known = believed_of(fitted, pool.keys, rows, seen.full, exact=exact)
    order = sorted(known, key=lambda b: (b.validation is None, -(b.validation or 0) if exact else 0, -b.mean))
    return Standing(pool, fitted, tuple(order), failed)


def believed_of(
    fitted: Fit, keys: Sequence[str], rows: Sequence[int], seen: Mapping[int, float], *, exact: bool
) -> list[Believed]:
    """Return what is believed of rows of a pool, of which some were `seen`; exact: whether that is the truth.

    The surrogate cuts bad accuracies off, and knows of those below only that they are bad: what was seen there stands,
    and where its interval reaches down there it has no lower end.
    """
    belief = believe(fitted, np.array(rows, dtype=np.intp))
    ends = [belief.mean + arm * belief.std for arm in (-NORMAL, 0.0, NORMAL)]
    low, middle, high = (np.clip(fitted.warp.inverse(end), 0.0, 1.0) for end in ends)
    low = np.where(ends[0] <= FLOOR, 0.0, low)
    cut = float(fitted.warp.inverse(np.array(FLOOR)))

    def told(row: int, middle: float, low: float, high: float) -> Believed:
        value = seen.get(row)
        if value is not None and exact:
            return Believed(keys[row], value, value, value, value)
        if value is not None and value < cut:
            return Believed(keys[row], value, 0.0, max(value, high), value)
        return Believed(keys[row], middle, low, high, value)

    return [told(row, *map(float, of)) for row, *of in zip(rows, middle, low, high, strict=True)]
