"""What a run saved: the time that random search would have needed to find as good an architecture, against its own.

In: how the search stands, and the records of what it did. Out: the object "saving" of `ranking.json`. Guarantees:
condensing, scores, choices and every training that ended count, those that only judge too; both sides have the same
workers, and one seed a training. Neither side has what it takes to start, to read the data, to rank and to report.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict

import numpy as np

from nas_proxy.data.images import ImageSet
from nas_proxy.names import PROXY, TRUTH
from nas_proxy.pipeline import untrained
from nas_proxy.pipeline.choosing import Standing, choosing_seconds
from nas_proxy.pipeline.scoring import Scores
from nas_proxy.pipeline.work import Work
from nas_proxy.ranking.ranking import Saving
from nas_proxy.report.formats import duration
from nas_proxy.storage.records import Record
from nas_proxy.strategy.saving import saving
from nas_proxy.training.worker_pool import lanes

HOUR = 3600.0


def saved(work: Work, scores: Scores, found: Standing, full_seconds: float | None) -> dict[str, object]:
    """Return what the run saved; full_seconds: of one full training, where none was timed here, None if not known."""
    pick, pool, exact = found.pick, len(found.pool.architectures), work.problem.table is not None
    timed = [r.seconds for r in uniform(work.store.records(TRUTH), scores.keys) if r.complete]
    each = sum(timed) / len(timed) if timed else full_seconds
    if pick is None:
        return asdict(Saving(pool=pool, reason="no full training that the search may see has ended", sentence=""))
    if each is None:
        return asdict(Saving(pool=pool, reason="what a full training takes was not measured here", sentence=""))
    spent = _spent(work, scores, found, each)
    rows, drawn_from = found.pool.rows(), np.arange(found.pool.uniform)
    best = pick.validation or 0.0
    equal = [rows[b.key] for b in found.order if exact and b.validation is not None and b.validation >= best]
    seed, failed = work.config.seed, found.failed
    needed = saving(found.fit, drawn_from, seed, rows[pick.key], exact=exact, equal=equal, failed=failed)
    workers = lanes(work.executor, work.problem.device)
    return asdict(
        against_random((needed.trainings, needed.low, needed.high), each / workers, spent, pool, estimated=not timed)
    )


def uniform(records: Sequence[Record], sample: Collection[str]) -> list[Record]:
    """Return the full trainings of the uniform sample, which alone cost what those of random search do.

    What a search chooses is larger and slower. All of them where none of the sample is trained.
    """
    keys = set(sample)
    return [r for r in records if r.key in keys] or [*records]


def against_random(
    trainings: tuple[float, float, float],
    each: float,
    spent: Mapping[str, float],
    pool: int,
    *,
    estimated: bool = False,
) -> Saving:
    """Return the saving. trainings: of random search, with the ends of its interval. each, spent: seconds by the clock.

    Raises ValueError where nothing was spent.
    """
    total = sum(spent.values())
    if total <= 0:
        raise ValueError("nothing was spent, so that there is nothing to compare with")
    value, low, high = (count * each for count in trainings)
    ratio, least, most = (seconds / total for seconds in (value, low, high))
    took = f"{duration(total)} that this run took, {duration(spent.get('judging', 0.0))} of them to judge"
    times = f"{_digits(ratio)} [{_digits(least)}, {_digits(most)}] times the {took}"
    random = f"Random search would have found as good a one in {duration(value)} [{duration(low)}, {duration(high)}]"
    sentence = f"{random}, {times}" + ("; this run saved nothing" if ratio < 1 else "")
    if estimated:
        sentence += "; full trainings were not timed here, and are estimated"
    return Saving(
        ratio,
        (least, most),
        trainings[0],
        (trainings[1], trainings[2]),
        value / HOUR,
        (low / HOUR, high / HOUR),
        total / HOUR,
        {name: seconds / HOUR for name, seconds in spent.items()},
        pool,
        estimated,
        f"{sentence}.",
    )


def _digits(ratio: float) -> str:
    """Return a ratio with two digits that count."""
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2g}"


def _spent(work: Work, scores: Scores, found: Standing, each: float) -> dict[str, float]:
    """Return the seconds by the clock that the run took, by what they were for."""
    store, workers = work.store, lanes(work.executor, work.problem.device)
    full = store.records(TRUTH)
    if work.problem.table is not None:
        first = each * sum(believed.validation is not None for believed in found.order)
    else:
        first = _seconds([r for r in full if r.draw == 0])
    studies = [study for name, study in scores.studies.items() if name != PROXY]
    judging = _seconds([r for r in full if r.draw > 0]) + sum(_seconds(store.records(study)) for study in studies)
    kept, latencies = untrained.opened(work), work.trainer.latencies
    return {
        "condensing": float(str(ImageSet.load_metadata(scores.sets[PROXY][0].path)["seconds"])),
        "scores": untrained.seconds_of(work.plan.computed, kept) / workers,
        "latencies": 0.0 if latencies is None else latencies.seconds,  # one by one, whatever the workers
        "choosing": choosing_seconds(work),
        "proxy": _seconds(store.records(PROXY)) / workers,
        "full": first / workers,
        "judging": judging / workers,
    }


def _seconds(records: list[Record]) -> float:
    return sum(r.seconds for r in records)
