"""The search on one signal's images: a uniform sample of the space, then proposals, trained.

The sample is for judging signals, and the proposals are for finding a good architecture. An architecture of the sample
whose training fails is replaced by the next of the stream. How proposals are made: `nas_proxy.strategy.proposing`.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from nas_proxy.errors import ConfigError, RunFailedError, SpaceError
from nas_proxy.names import PROXY
from nas_proxy.ranking.scores import column, shown, value_of
from nas_proxy.spaces.limits import limits_text
from nas_proxy.spaces.space import Architecture
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.strategy.candidates import Search, unpruned
from nas_proxy.strategy.proposing import Proposals, workers_left_idle
from nas_proxy.strategy.trainer import Done, Tasks, Trainer
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.pruning import Pruning
from nas_proxy.training.train import Outcome

# A space in which most architectures fail is given up when failures outnumber the wanted sample this many times.
FAILURES = 5


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

        def done(result: Outcome | Failure, record: Record) -> None:
            nonlocal trained, best
            del record
            trained += 1
            if isinstance(result, Outcome) and (value := value_of(result, by)) is not None:
                best = value if best is None else max(best, value)
            bar.to(min(trained, total), f"best {shown(best, by)}")

        bar.to(min(trained, total))
        start = time.monotonic()
        _train_sample(trainer, wanted, done)
        _train_proposals(trainer, wanted, done, start)
        bar.to(min(trained, total), f"best {shown(best, by)}")  # fewer, where it was ended
    if trainer.latencies is not None:
        trainer.latencies.tell = lambda count: None  # further ones have a bar of their own
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
    trainer: Trainer, wanted: Search, tasks: Tasks, pruning: Callable[[Candidate], Pruning | None], done: Done
) -> None:
    def job(candidate: Candidate, draw: int) -> Job:
        plain = trainer.job(wanted.signal, candidate, draw, wanted.images, wanted.recipe)
        ends = pruning(candidate)
        return replace(plain, minutes=wanted.minutes, megabytes=wanted.megabytes, seeds=wanted.seeds, pruning=ends)

    trainer.train(wanted.signal, tasks, job, done)


def _train_sample(trainer: Trainer, wanted: Search, done: Done) -> None:
    watched = None if wanted.pruner == "none" else Pruning(wanted.pruner, wanted.score, may_end=False)
    while True:
        records = _first_draws(trainer, wanted)
        known = unpruned(records)
        complete = 0
        missing: list[tuple[Architecture, int]] = []
        # Failed architectures are passed over, so each wave takes as many further ones as the last one lost.
        for index, architecture in enumerate(wanted.stream):
            if complete + len(missing) == wanted.sample:
                break
            record = known.get(trainer.space.key(architecture))
            if record is None:
                missing.append((architecture, index))
            elif record.complete:
                complete += 1
        if not missing:
            if complete == 0 and (failed := [r for r in records if r.failed]):
                raise _all_failed(wanted.signal, failed, 0)
            break
        failures = [r for r in records if r.failed and r.phase == "sample"]
        if len(failures) > FAILURES * wanted.sample:
            raise _all_failed(wanted.signal, failures, complete)
        tasks = ((trainer.candidate(architecture, "sample", index), 0) for architecture, index in missing)
        # An architecture is measured when it is its turn, but for latencies, which want all workers idle.
        _train(trainer, wanted, tasks if trainer.latencies is None else list(tasks), lambda _: watched, done)
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


def _train_proposals(trainer: Trainer, wanted: Search, done: Done, start: float) -> None:
    records = _first_draws(trainer, wanted)
    made = sum(r.phase == "search" for r in records)
    if made < wanted.proposals and (idle := workers_left_idle(trainer, wanted)) is not None:
        trainer.progress.say(idle)
    proposals = Proposals(trainer, wanted, records, start)

    def told(result: Outcome | Failure, record: Record) -> None:
        proposals.done(record)
        done(result, record)

    _train(trainer, wanted, proposals, proposals.pruning, told)
