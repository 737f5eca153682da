"""The search: a uniform sample of the space, then proposals by a sampler, all trained on the condensed set.

The sample is for judging the proxy, and the proposals are for finding a good architecture. Proposals are made in
rounds of fixed size from the scores of earlier rounds, each from (seed, number of the proposal), so neither the
number of workers nor a kill changes them.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from nas_proxy.errors import ConfigError, RunFailedError, SpaceError
from nas_proxy.pipeline.session import Session
from nas_proxy.ranking.scores import column, shown, value_of
from nas_proxy.search.samplers import propose
from nas_proxy.seeds import derive
from nas_proxy.spaces.limits import Limited, limits_text
from nas_proxy.spaces.objectives import ACCURACY, directions, improves
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.pruning import Curve, Pruning
from nas_proxy.training.train import Outcome

# Proposals made from the same scores: more keep more workers busy, fewer make a better informed search.
ROUND = 4
# A space in which most architectures fail is given up when failures outnumber the wanted sample this many times.
FAILURES = 5

_Done = Callable[[Outcome | Failure], None]


def sampled(session: Session, records: Sequence[Record]) -> list[Record]:
    """Return the records of the uniform sample: the first `truth` of the stream whose training did not fail.

    Ends early where the stream comes to an architecture that is not trained yet.
    """
    known = _unpruned(records)
    found: list[Record] = []
    count = session.config.truth
    for architecture in session.stream():
        record = known.get(session.space.key(architecture))
        if record is None or len(found) == count:
            break
        if record.complete:
            found.append(record)
    return found


def _unpruned(records: Iterable[Record]) -> dict[str, Record]:
    """Return records by key; what was pruned as a proposal is trained whole when the sample comes to it."""
    return {r.key: r for r in records if r.pruned_at is None}


def search(session: Session) -> None:
    """Train the sample and the proposals that are not trained yet.

    Raises RunFailedError when everything fails, ConfigError and SpaceError for a limit on latency that leaves out an
    enqueued architecture or all.
    """
    _check_latencies(session)
    total = max(session.config.trials, session.config.truth)
    with session.progress.stage("Search", total) as bar:
        by = session.config.score
        known = session.ledger.records("proxy")
        trained, best = len(known), max((v for v in column(known, by) if not math.isnan(v)), default=None)

        def done(result: Outcome | Failure) -> None:
            nonlocal trained, best
            trained += 1
            if isinstance(result, Outcome) and (value := value_of(result, by)) is not None:
                best = value if best is None else max(best, value)
            bar.to(min(trained, total), f"best {shown(best, by)}")

        bar.to(min(trained, total))
        start = time.monotonic()
        _train_sample(session, done)
        _train_proposals(session, done, start)
        bar.to(total, f"best {shown(best, by)}")
    _tell_left_out(session)
    pruned = [r.seconds_saved for r in session.ledger.records("proxy") if r.pruned_at is not None]
    if pruned:
        session.progress.say(f"{len(pruned)} proposals were pruned, which saved about {sum(pruned):.0f} s of training.")


def _tell_left_out(session: Session) -> None:
    sized, fast = session.sized_space, session.space
    for part in (sized,) if fast is sized else (sized, fast):
        if isinstance(part, Limited) and (told := part.left_out()) is not None:
            session.progress.say(f"{told}.")


def _check_latencies(session: Session) -> None:
    """Find the mistakes that only measuring shows."""
    most = session.config.max_latency_ms
    if most is None:
        return
    for architecture in session.enqueued:
        found = session.latencies.of(architecture)
        if found is not None and found.ms > most:
            raise ConfigError(
                [
                    f"--enqueue names {session.space.key(architecture)}, which takes {found.ms:.3g} ms, more than "
                    f"--max-latency-ms {most:g}; leave it out"
                ]
            )
    if next(session.stream(), None) is None:
        raise SpaceError(
            f"no architecture of the space {session.space.name!r} was found {limits_text(None, None, most)}; raise it"
        )


def _job(session: Session, candidate: Candidate, draw: int) -> Job:
    seed = derive(session.config.seed, "proxy", candidate.key, draw)
    recipe = session.config.proxy_training
    job = session.job(candidate.architecture, session.proxy_path, session.validation_path, recipe, seed)
    config = session.config
    return replace(job, minutes=config.candidate_minutes, megabytes=config.candidate_memory, seeds=config.seeds)


def _train(session: Session, candidates: Sequence[Candidate], done: _Done, history: Sequence[Record] = ()) -> None:
    """Train candidates; proposals are pruned by what the trainings in `history` have shown, the sample never."""
    tasks = [(candidate, 0) for candidate in candidates]
    curves = _curves(session, history)

    def job(candidate: Candidate, draw: int) -> Job:
        pruning = _pruning(session, candidate, curves)
        return replace(_job(session, candidate, draw), pruning=pruning)

    session.train_all("proxy", tasks, job, done)


def _curves(session: Session, history: Sequence[Record]) -> tuple[Curve, ...]:
    if session.config.pruner == "none":
        return ()
    scores = column(history, session.config.score)
    looked_at = [(r, value) for r, value in zip(history, scores, strict=True) if r.curve]
    return tuple(Curve(r.curve, value if r.complete else None) for r, value in looked_at)


def _pruning(session: Session, candidate: Candidate, curves: tuple[Curve, ...]) -> Pruning | None:
    pruner, by = session.config.pruner, session.config.score
    if pruner == "none":
        return None
    if candidate.phase == "sample":
        return Pruning(pruner, by, may_end=False)
    return Pruning(pruner, by, curves, ahead=candidate.index % ROUND)


def _train_sample(session: Session, done: _Done) -> None:
    wanted = session.config.truth
    while True:
        records = session.ledger.records("proxy")
        known = _unpruned(records)
        complete = 0
        missing: list[Candidate] = []
        # Failed architectures are passed over, so each wave takes as many further ones as the last one lost.
        for index, architecture in enumerate(session.stream()):
            if complete + len(missing) == wanted:
                break
            record = known.get(session.space.key(architecture))
            if record is None:
                missing.append(session.candidate(architecture, "sample", index))
            elif record.complete:
                complete += 1
        if not missing:
            break
        failures = [r for r in records if r.failed and r.phase == "sample"]
        if len(failures) > FAILURES * wanted:
            raise _all_failed(failures, complete)
        _train(session, missing, done)
        if complete == 0 and not any(r.complete for r in session.ledger.records("proxy")):
            raise _all_failed([r for r in session.ledger.records("proxy") if not r.complete], 0)
    if complete < wanted:
        session.progress.say(f"The space has only {complete} architectures that can be trained; all are in the sample.")


def _all_failed(failures: Sequence[Record], complete: int) -> RunFailedError:
    last = failures[-1]
    return RunFailedError(
        f"{'all' if complete == 0 else 'nearly all'} {len(failures)} candidates failed; "
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


def _enough(session: Session, history: Sequence[Record], start: float) -> str | None:
    """Return why no further architectures are proposed, None where they are."""
    patience, hours = session.config.patience, session.config.hours
    since = fruitless(history, session.config.score, session.config.objective)
    if patience is not None and since >= patience:
        return f"No improvement in {since} proposals; the search ends here (--patience {patience})."
    if hours is not None and time.monotonic() - start >= 3600 * hours:
        return f"The search ends here after --hours {hours:g}; the same command goes on with it."
    return None


def _train_proposals(session: Session, done: _Done, start: float) -> None:
    total = max(0, session.config.trials - session.config.truth)
    sampler = session.config.sampler
    records = session.ledger.records("proxy")
    made = {r.index: r for r in records if r.phase == "search"}
    history = [r for r in records if r.phase == "sample"]
    for first in range(0, total, ROUND):
        numbers = range(first, min(first + ROUND, total))
        if not all(number in made for number in numbers):
            if (reason := _enough(session, history, start)) is not None:
                session.progress.say(reason)
                return
            seen = {r.key for r in history}
            candidates = []
            for number in numbers:
                architecture = (
                    made[number].architecture
                    if number in made
                    else propose(
                        session.space,
                        history,
                        seen,
                        derive(session.config.seed, sampler, number),
                        sampler,
                        session.enqueued,
                        session.config.score,
                        session.config.objective,
                    )
                )
                if architecture is None:
                    session.progress.say("Every architecture of the space has been trained; the search ends here.")
                    break
                seen.add(session.space.key(architecture))
                if number not in made:
                    candidates.append(session.candidate(architecture, "search", number))
            _train(session, candidates, done, history)
            records = session.ledger.records("proxy")
            made = {r.index: r for r in records if r.phase == "search"}
            if architecture is None:
                return
        history += [made[number] for number in numbers if number in made]
