"""The search on one signal's images: a uniform sample of the space, then proposals, trained.

The sample is for judging signals, and the proposals are for finding a good architecture. An architecture of the sample
whose training fails is replaced by the next of the stream. Proposals are made in rounds from the scores of earlier
rounds: by Optuna's samplers each from (seed, number of the proposal), or a round at a time by whoever has a pool to
choose from (`Propose`). The size of a round is part of the plan, so neither workers nor a kill change what is proposed.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from nas_proxy.errors import ConfigError, RunFailedError, SpaceError
from nas_proxy.names import PROXY
from nas_proxy.ranking.scores import column, shown, value_of
from nas_proxy.seeds import derive
from nas_proxy.spaces.limits import limits_text
from nas_proxy.spaces.objectives import ACCURACY, directions, improves
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.strategy.samplers import propose
from nas_proxy.strategy.trainer import Images, Trainer
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.pruning import Curve, Pruning
from nas_proxy.training.train import Outcome, Recipe

# A space in which most architectures fail is given up when failures outnumber the wanted sample this many times.
FAILURES = 5

_Done = Callable[[Outcome | Failure], None]
# What was trained before a round, its number and its size in; at most so many architectures, and why each, out. A pure
# function: a round that was cut off half-way is proposed again as it was.
Propose = Callable[[Sequence[Record], int, int], Sequence[tuple[Architecture, str]]]


@dataclass(frozen=True)
class Stream:
    """The architectures of the uniform sample in their order: those of `space`, but for the keys in `left_out`.

    What served as an embedding network of a condensation is left out: the set was made with it.
    """

    space: SearchSpace
    seed: int
    left_out: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Architecture]:
        return (a for a in self.space.sample(self.seed) if self.space.key(a) not in self.left_out)


@dataclass(frozen=True)
class Search:
    """What a search does.

    signal: the study of its trainings. sample: how many architectures of the stream. proposals: how many more.
    images, recipe, seeds: of a training. score: what ranks candidates. sampler, pruner, enqueued, objectives: how
    proposals are made. propose: makes them in place of `sampler`; its round 0 has `opening` of them, if not 0.
    round: how many are made at a time. patience, hours, until (says why, or None): when they end. minutes, megabytes:
    what ends a training.
    """

    signal: str
    stream: Stream
    sample: int
    images: Images
    recipe: Recipe
    proposals: int = 0
    seeds: int = 1
    score: str = "accuracy"
    sampler: str = "tpe"
    pruner: str = "none"
    enqueued: Sequence[Architecture] = ()
    objectives: tuple[str, ...] = (ACCURACY,)
    patience: int | None = None
    hours: float | None = None
    minutes: float | None = None
    megabytes: float | None = None
    propose: Propose | None = None
    until: Callable[[], str | None] = lambda: None
    opening: int = 0
    round: int = 4


def sampled(stream: Stream, records: Sequence[Record], count: int) -> list[Record]:
    """Return the records of the uniform sample: the first `count` of the stream whose training did not fail.

    Ends early where the stream comes to an architecture that is not trained yet.
    """
    known = _unpruned(records)
    found: list[Record] = []
    for architecture in stream:
        record = known.get(stream.space.key(architecture))
        if record is None or len(found) == count:
            break
        if record.complete:
            found.append(record)
    return found


def _unpruned(records: Iterable[Record]) -> dict[str, Record]:
    """Return records of the first draw by key; what was pruned is trained whole when the sample comes to it."""
    return {r.key: r for r in records if r.pruned_at is None and r.draw == 0}


def search(trainer: Trainer, wanted: Search) -> None:
    """Train the sample and the proposals that are not trained yet.

    Raises RunFailedError when everything fails, ConfigError and SpaceError for a limit on latency that leaves out an
    enqueued architecture or all.
    """
    by, progress = wanted.score, trainer.progress
    total, size = wanted.sample + wanted.proposals, wanted.stream.space.size
    total = total if size is None else min(total, size)
    with progress.stage("Search" if wanted.proposals else f"Train: {wanted.signal}", total) as bar:
        if trainer.latencies is not None:  # hundreds may be measured before the first training
            trainer.latencies.tell = lambda count: bar.to(min(trained, total), f"{count} latencies measured")
        trained = 0
        _check_latencies(trainer, wanted)
        records = _first_draws(trainer, wanted)
        trained, best = len(records), max((v for v in column(records, by) if not math.isnan(v)), default=None)

        def done(result: Outcome | Failure) -> None:
            nonlocal trained, best
            trained += 1
            if isinstance(result, Outcome) and (value := value_of(result, by)) is not None:
                best = value if best is None else max(best, value)
            bar.to(min(trained, total), f"best {shown(best, by)}")

        bar.to(min(trained, total))
        start = time.monotonic()
        _train_sample(trainer, wanted, done)
        _train_proposals(trainer, wanted, done, start)
        bar.to(total, f"best {shown(best, by)}")
    pruned = [r.seconds_saved for r in trainer.store.records(wanted.signal) if r.pruned_at is not None]
    if pruned:
        progress.say(f"{len(pruned)} proposals were pruned, which saved about {sum(pruned):.0f} s of training.")


def _first_draws(trainer: Trainer, wanted: Search) -> list[Record]:
    return [r for r in trainer.store.records(wanted.signal) if r.draw == 0]


def _check_latencies(trainer: Trainer, wanted: Search) -> None:
    """Find the mistakes that only measuring shows."""
    most, latencies = trainer.limits.latency_ms, trainer.latencies
    if most is None or latencies is None:
        return
    for architecture in wanted.enqueued:
        latency = latencies.of(architecture)
        if latency is not None and latency.ms > most:
            raise ConfigError(
                [
                    f"--enqueue names {trainer.space.key(architecture)}, which takes {latency.ms:.3g} ms, more than "
                    f"--max-latency-ms {most:g}; leave it out"
                ]
            )
    if next(iter(wanted.stream), None) is None:
        raise SpaceError(
            f"no architecture of the space {trainer.space.name!r} was found {limits_text(None, None, most)}; raise it"
        )


def _train(
    trainer: Trainer, wanted: Search, candidates: Sequence[Candidate], done: _Done, history: Sequence[Record] = ()
) -> None:
    """Train candidates; proposals are pruned by what the trainings in `history` have shown, the sample never."""
    curves = _curves(wanted, history)

    def job(candidate: Candidate, draw: int) -> Job:
        plain = trainer.job(wanted.signal, candidate, draw, wanted.images, wanted.recipe)
        pruning = _pruning(wanted, candidate, curves)
        return replace(plain, minutes=wanted.minutes, megabytes=wanted.megabytes, seeds=wanted.seeds, pruning=pruning)

    trainer.train(wanted.signal, [(candidate, 0) for candidate in candidates], job, done)


def _curves(wanted: Search, history: Sequence[Record]) -> tuple[Curve, ...]:
    if wanted.pruner == "none":
        return ()
    scores = column(history, wanted.score)
    looked_at = [(r, value) for r, value in zip(history, scores, strict=True) if r.curve]
    return tuple(Curve(r.curve, value if r.complete else None) for r, value in looked_at)


def _pruning(wanted: Search, candidate: Candidate, curves: tuple[Curve, ...]) -> Pruning | None:
    if wanted.pruner == "none":
        return None
    if candidate.phase == "sample":
        return Pruning(wanted.pruner, wanted.score, may_end=False)
    return Pruning(wanted.pruner, wanted.score, curves, ahead=candidate.index % wanted.round)


def _train_sample(trainer: Trainer, wanted: Search, done: _Done) -> None:
    while True:
        records = _first_draws(trainer, wanted)
        known = _unpruned(records)
        complete = 0
        missing: list[Candidate] = []
        # Failed architectures are passed over, so each wave takes as many further ones as the last one lost.
        for index, architecture in enumerate(wanted.stream):
            if complete + len(missing) == wanted.sample:
                break
            record = known.get(trainer.space.key(architecture))
            if record is None:
                missing.append(trainer.candidate(architecture, "sample", index))
            elif record.complete:
                complete += 1
        if not missing:
            break
        failures = [r for r in records if r.failed and r.phase == "sample"]
        if len(failures) > FAILURES * wanted.sample:
            raise _all_failed(wanted.signal, failures, complete)
        _train(trainer, wanted, missing, done)
        if complete == 0 and not any(r.complete for r in _first_draws(trainer, wanted)):
            raise _all_failed(wanted.signal, [r for r in _first_draws(trainer, wanted) if not r.complete], 0)
    if complete < wanted.sample:
        trainer.progress.say(f"The space has only {complete} architectures that can be trained; all are in the sample.")


def _all_failed(signal: str, failures: Sequence[Record], complete: int) -> RunFailedError:
    last, by = failures[-1], "" if signal == PROXY else f" in the trainings of {signal}"
    return RunFailedError(
        f"{'all' if complete == 0 else 'nearly all'} {len(failures)} candidates failed{by}; "
        f"the last one, {last.key}, with: {last.reason}"
    )


def fruitless(history: Sequence[Record], by: str = "accuracy", objectives: Sequence[str] = (ACCURACY,)) -> int:
    """Return how many proposals have been trained since the best score last rose.

    With several objectives: since one was found that no other is at least as good as in all of them.
    """
    best: list[tuple[float, ...]] = []
    signs = [1.0 if direction == "maximize" else -1.0 for direction in directions(objectives)]
    since = 0
    for record, value in zip(history, column(history, by), strict=True):
        values = (value, *record.costs.known(objectives))
        if record.complete and improves(best, tuple(s * v for s, v in zip(signs, values, strict=True))):
            since = 0
        elif record.phase == "search":
            since += 1
    return since


def _enough(wanted: Search, history: Sequence[Record], start: float) -> str | None:
    """Return why no further architectures are proposed, None where they are."""
    if (reason := wanted.until()) is not None:
        return reason
    patience, hours = wanted.patience, wanted.hours
    since = fruitless(history, wanted.score, wanted.objectives)
    if patience is not None and since >= patience:
        return f"No improvement in {since} proposals; the search ends here (--patience {patience})."
    if hours is not None and time.monotonic() - start >= 3600 * hours:
        return f"The search ends here after --hours {hours:g}; the same command goes on with it."
    return None


def _train_proposals(trainer: Trainer, wanted: Search, done: _Done, start: float) -> None:
    say = trainer.progress.say
    records = _first_draws(trainer, wanted)
    made = {r.index: r for r in records if r.phase == "search"}
    history = [r for r in records if r.phase == "sample"]
    for turn, numbers in enumerate(_rounds(wanted)):
        if not all(number in made for number in numbers):
            if (reason := _enough(wanted, history, start)) is not None:
                say(reason)
                return
            candidates, ended = _proposed(trainer, wanted, turn, numbers, made, history)
            if ended:
                say("Every architecture of the space has been trained; the search ends here.")
            _train(trainer, wanted, candidates, done, history)
            made = {r.index: r for r in _first_draws(trainer, wanted) if r.phase == "search"}
            if ended:
                return
        history += [made[number] for number in numbers if number in made]


def _rounds(wanted: Search) -> list[range]:
    """Return the numbers of the proposals of each round: those that the user names, an opening, then rounds alike."""
    total, known = wanted.proposals, len(wanted.enqueued) if wanted.propose is not None else 0
    ends = [known, known + wanted.opening] if wanted.propose is not None else [0]
    ends = [min(end, total) for end in ends]
    ends += [*range(ends[-1] + wanted.round, total, wanted.round), total]
    return [range(start, end) for start, end in itertools.pairwise([0, *ends]) if end > start]


def _from_pool(
    trainer: Trainer, wanted: Search, turn: int, numbers: range, made: dict[int, Record], history: Sequence[Record]
) -> tuple[list[Candidate], bool]:
    """Return what `_proposed` does, of those that the user names or that are chosen among a pool."""
    assert wanted.propose is not None
    if numbers.stop <= len(wanted.enqueued):
        chosen = [(a, "enqueued") for a in wanted.enqueued[numbers.start : numbers.stop]]
    else:
        chosen = list(wanted.propose(history, turn - bool(wanted.enqueued), len(numbers)))
    seen = {r.key for r in history}
    candidates = [
        trainer.candidate(architecture, "search", number, why)
        for number, (architecture, why) in zip(numbers, chosen, strict=False)
        if number not in made and trainer.space.key(architecture) not in seen
    ]
    return candidates, not chosen


def _proposed(
    trainer: Trainer, wanted: Search, turn: int, numbers: range, made: dict[int, Record], history: Sequence[Record]
) -> tuple[list[Candidate], bool]:
    """Return the proposals of a round that are not trained yet, and whether the space has no more."""
    if wanted.propose is not None:
        return _from_pool(trainer, wanted, turn, numbers, made, history)
    seen = {r.key for r in history}
    candidates: list[Candidate] = []
    for number in numbers:
        if number in made:
            seen.add(made[number].key)
            continue
        architecture = propose(
            trainer.space,
            history,
            seen,
            derive(trainer.seed, wanted.sampler, number),
            wanted.sampler,
            wanted.enqueued,
            wanted.score,
            wanted.objectives,
        )
        if architecture is None:
            return candidates, True
        seen.add(trainer.space.key(architecture))
        known = any(trainer.space.key(one) == trainer.space.key(architecture) for one in wanted.enqueued)
        why = "enqueued" if known else wanted.sampler
        candidates.append(trainer.candidate(architecture, "search", number, why))
    return candidates, False
