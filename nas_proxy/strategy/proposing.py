"""The proposals of a search, each as soon as what it is made from is known.

In: the trainings that there are, and those that end. Out: candidates to be trained, in the order of their numbers.
Optuna's samplers make one proposal at a time, from the results of all but the `round - 1` numbered before it: so many
are under way at a time, and a long training holds up only what is `round` numbers behind it. Who chooses in a pool
(`Propose`) makes a round together, from the rounds before it; so do samplers where latencies are measured, which takes
a moment in which nothing trains. Guarantee: what is proposed depends on results and numbers alone, and not on the
order in which trainings end, so neither workers nor a kill change it.
"""

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nas_proxy.ranking.scores import score_of
from nas_proxy.spaces.objectives import ACCURACY, directions, improves
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.strategy.candidates import Search
from nas_proxy.strategy.samplers import LONG, Proposer
from nas_proxy.strategy.trainer import Trainer
from nas_proxy.training.pruning import Curve, Pruning

# How many times as many as workers are under way where these are to be busy: long trainings hold up what is far behind.
AHEAD = 8
# Curves that a pruner looks at: so many to twice as many of the latest, so that a job stays small.
CURVES = 500


@dataclass(frozen=True)
class Batch:
    """Proposals that are made together, from the results of all that are numbered below `after`."""

    turn: int
    numbers: range
    after: int


def batches(wanted: Search, *, together: bool = False) -> Iterator[Batch]:
    """Yield the proposals of a search in their order; together: those of a round at a time, whatever makes them."""
    if wanted.propose is None and not together:
        for number in range(wanted.proposals):
            yield Batch(number, range(number, number + 1), max(0, number + 1 - wanted.round))
        return
    for turn, numbers in enumerate(_rounds(wanted)):
        yield Batch(turn, numbers, numbers.start)


def _rounds(wanted: Search) -> list[range]:
    """Return the numbers of the proposals of each round: those that the user names, an opening, then rounds alike."""
    total, known = wanted.proposals, len(wanted.enqueued) if wanted.propose is not None else 0
    ends = [known, known + wanted.opening] if wanted.propose is not None else [0]
    ends = [min(end, total) for end in ends]
    ends += [*range(ends[-1] + wanted.round, total, wanted.round), total]
    return [range(start, end) for start, end in itertools.pairwise([0, *ends]) if end > start]


def workers_left_idle(trainer: Trainer, wanted: Search) -> str | None:
    """Return in a sentence that a search keeps only some workers busy, and what keeps more; None where it does not."""
    workers, size = trainer.executor.count, wanted.round
    if size >= min(workers, wanted.proposals):
        return None
    told = f"{workers} trainings could run at a time, but only {size} proposals are under way (--round {size})"
    if wanted.propose is None and trainer.latencies is None:
        more = min(AHEAD * workers, wanted.proposals)
        return f"{told}; --round {more} keeps most busy, each proposed without the results of the {more - 1} before."
    return f"{told}; --round {workers} gives all of them work, and lets them wait for the last of a round."


@dataclass
class Fruitless:
    """How many proposals have been trained since the best score last rose: `since`.

    With several objectives: since one was found that no other is at least as good as in all of them.
    """

    by: str = "accuracy"
    objectives: Sequence[str] = (ACCURACY,)
    since: int = 0
    _best: list[tuple[float, ...]] = field(default_factory=list)

    def learn(self, record: Record) -> None:
        """Take the next training into account."""
        signs = [1.0 if direction == "maximize" else -1.0 for direction in directions(self.objectives)]
        values = (score_of(record, self.by), *record.costs.known(self.objectives))
        if record.complete and improves(self._best, tuple(s * v for s, v in zip(signs, values, strict=True))):
            self.since = 0
        elif record.phase == "search":
            self.since += 1


class Curves:
    """The latest curves of the trainings that a pruner looked at."""

    def __init__(self, by: str) -> None:
        self.latest: tuple[Curve, ...] = ()
        self._by = by

    def learn(self, record: Record) -> None:
        """Take the next training into account."""
        if record.curve:
            # Trainings are cut off in blocks: Hyperband deals its brackets by number, which is to go on changing.
            kept = self.latest if len(self.latest) < 2 * CURVES else self.latest[CURVES:]
            self.latest = (*kept, Curve(record.curve, score_of(record, self._by) if record.complete else None))


class Proposals:
    """The proposals of `wanted` that are not trained yet: iterate for tasks of `Trainer.train`; tell what is `done`.

    records: of the first draw of all that is trained. start: when the proposals began, by `time.monotonic`.
    """

    def __init__(self, trainer: Trainer, wanted: Search, records: Sequence[Record], start: float) -> None:
        self._trainer, self._wanted, self._start = trainer, wanted, start
        self._made = {r.index: r for r in records if r.phase == "search"}
        self._proposer = None
        if wanted.propose is None:
            how = wanted.sampler, wanted.enqueued, wanted.score, wanted.objectives
            self._proposer = Proposer(trainer.space, trainer.seed, *how)
        self._history: list[Record] = []
        self._fruitless = Fruitless(wanted.score, wanted.objectives)
        self._curves = Curves(wanted.score)
        self._learned = 0  # proposals numbered below are in the history
        self._under_way: set[int] = set()
        self._told = False
        for record in records:
            if record.phase == "sample":
                self._learn(record)

    def __iter__(self) -> Iterator[tuple[Candidate, int] | None]:
        """Yield candidates with their draw, and None where a training has to end before there is another one."""
        wanted, say = self._wanted, self._trainer.progress.say
        for batch in batches(wanted, together=self._trainer.latencies is not None):
            if all(number in self._made for number in batch.numbers):
                if self._proposer is not None:
                    self._proposer.seen.update(self._made[number].key for number in batch.numbers)
                continue
            while not self._learn_up_to(batch.after):
                yield None
            if (reason := self._enough()) is not None:
                say(reason)
                return
            candidates, ended = self._from_pool(batch) if self._proposer is None else self._from_sampler(batch)
            if ended:
                among = "of the space" if self._proposer is not None else "of the pool (--pool)"
                say(f"Every architecture {among} has been trained; the search ends here.")
            self._under_way.update(candidate.index for candidate in candidates)
            yield from ((candidate, 0) for candidate in candidates)
            if ended:
                return

    def done(self, record: Record) -> None:
        """Take note of a training that has ended."""
        self._made[record.index] = record
        self._under_way.discard(record.index)

    def pruning(self, candidate: Candidate) -> Pruning | None:
        """Return what may end the training of a candidate that was just yielded; None for nothing."""
        pruner, by = self._wanted.pruner, self._wanted.score
        if pruner == "none":
            return None
        return Pruning(pruner, by, self._curves.latest, ahead=candidate.index - self._learned)

    def _learn_up_to(self, after: int) -> bool:
        """Take the results of proposals numbered below `after` into account; return whether all of them are known."""
        while self._learned < after and self._learned not in self._under_way:
            if (record := self._made.get(self._learned)) is not None:  # one that the pool left out is never trained
                self._learn(record)
            self._learned += 1
        return self._learned >= after

    def _learn(self, record: Record) -> None:
        self._history.append(record)
        self._fruitless.learn(record)
        if self._wanted.pruner != "none":
            self._curves.learn(record)
        if self._proposer is not None:
            self._proposer.learn(record)

    def _enough(self) -> str | None:
        """Return why no further architectures are proposed, None where they are."""
        if (reason := self._wanted.until()) is not None:
            return reason
        patience, hours, since = self._wanted.patience, self._wanted.hours, self._fruitless.since
        if patience is not None and since >= patience:
            return f"No improvement in {since} proposals; the search ends here (--patience {patience})."
        if hours is not None and time.monotonic() - self._start >= 3600 * hours:
            return f"The search ends here after --hours {hours:g}; the same command goes on with it."
        return None

    def _from_pool(self, batch: Batch) -> tuple[list[Candidate], bool]:
        """Return the proposals of a batch that are not trained yet, and whether there are no more."""
        wanted, trainer, numbers = self._wanted, self._trainer, batch.numbers
        assert wanted.propose is not None
        if numbers.stop <= len(wanted.enqueued):
            chosen = [(a, "enqueued") for a in wanted.enqueued[numbers.start : numbers.stop]]
        else:
            chosen = list(wanted.propose(self._history, batch.turn - bool(wanted.enqueued), len(numbers)))
        # In a search that was extended, some of a round may be trained already, under these numbers or later ones.
        seen = {r.key for r in (*self._history, *self._made.values())}
        fresh = [(a, why) for a, why in chosen if trainer.space.key(a) not in seen]
        missing = (number for number in numbers if number not in self._made)
        candidates = [
            trainer.candidate(architecture, "search", number, why)
            for number, (architecture, why) in zip(missing, fresh, strict=False)
        ]
        return candidates, not chosen

    def _from_sampler(self, batch: Batch) -> tuple[list[Candidate], bool]:
        """Return the proposals of a batch that are not trained yet, and whether the space has no more."""
        assert self._proposer is not None
        candidates: list[Candidate] = []
        for number in batch.numbers:
            if number in self._made:
                self._proposer.seen.add(self._made[number].key)
                continue
            proposal = self._proposer.propose(number)
            if proposal is None:
                return candidates, True
            self._tell_successor(self._proposer.sampler)
            candidates.append(self._trainer.candidate(proposal.architecture, "search", number, proposal.why))
        return candidates, False

    def _tell_successor(self, sampler: str) -> None:
        if sampler != self._wanted.sampler and not self._told:
            self._told = True
            self._trainer.progress.say(
                f"From {LONG} architectures on {sampler} proposes in place of {self._wanted.sampler}, whose proposals "
                "take longer with every result."
            )
