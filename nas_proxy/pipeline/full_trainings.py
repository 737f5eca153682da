"""Full trainings one after another: each round is chosen from what the rounds before it showed.

In: a run whose proxy has been searched on. Out: `--truth` full trainings, `--judge` of them the uniform sample, spread
evenly among those that are chosen by expected improvement; then further seeds of what judges, and `search.json`. What a
published table holds is looked up, and nothing trained. Guarantees: a search sees validation images alone; a run that
was cut off proposes the same again, since a round is chosen from the rounds before it, as they are recorded.
"""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from nas_proxy.names import PROXY, TRUTH
from nas_proxy.pipeline.budget import TOLERATED
from nas_proxy.pipeline.choosing import Rounds, Standing, choose, counted, on_proxy, standing
from nas_proxy.pipeline.ground_truth import images_of_truth, train_fully
from nas_proxy.pipeline.pool import BY_PROXY, Pool, grow, has_grown, open_pool
from nas_proxy.pipeline.scoring import sample_of
from nas_proxy.pipeline.work import Work
from nas_proxy.ranking.believed import is_finished, write_order
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.ranking.surrogate import believe
from nas_proxy.runs.settings import RUN_FILE
from nas_proxy.signals.equal_cost import seconds_a_pass
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.strategy.acquisition import Observed
from nas_proxy.strategy.trainer import Done
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.train import Outcome
from nas_proxy.training.worker_pool import lanes

# What is kept of a budget: full trainings after which it ended the search.
ENDED = "trainings"
# Seconds of ranking and reporting; and what all that judges may take more than expected.
REPORTING, SPARE = 15.0, 1.15
Known = Mapping[str, float | None]  # what a search sees of full trainings, by key; None of those that failed


def full_trainings(work: Work) -> Standing:
    """Do the full trainings that are missing, and return how the search stands then."""
    sample = sample_of(work)
    pool = _grown(work)
    total = min(max(work.config.truth, len(sample)), len(pool.architectures))
    if total < work.config.truth and not pool.whole:
        work.progress.say(
            f"The pool has {total} architectures, so there are no more full trainings than that, though --truth is "
            f"{work.config.truth}; give a larger --pool."
        )
    rounds = Rounds(total, len(sample), work.config.round_size)
    chosen = _trained_in_rounds(work, pool, sample, rounds)
    found = _standing(work, pool, sample, chosen)
    write_order(work.run.path, found.order, reach=None)
    if work.problem.table is None:
        there = {r.key for r in work.store.records(TRUTH)}  # all, but where a budget ended before
        judged = {one.key: one for one in sample if one.key in there}
        if found.pick is not None and found.pick.key not in judged:
            judged[found.pick.key] = next(c for c in chosen if c.key == found.pick.key)
        seeds, title = work.config.seeds_of_truth, "Judge: further seeds"
        if seeds > 1:
            train_fully(work.trainer, work.files, work.config.full_training, list(judged.values()), seeds, title)
    write_order(work.run.path, found.order, reach=work.config.reach)
    return found


def how_it_stands(work: Work) -> Standing:
    """Return how the search stands by what has been trained so far."""
    pool, sample = open_pool(work, BY_PROXY), sample_of(work)
    return _standing(work, pool, sample, _chosen_so_far(work, pool, sample))


def chosen_of(work: Work, found: Standing) -> list[Record]:
    """Return what the search has chosen where a table holds the accuracies, and no study: as records of no training."""
    if work.problem.table is None:
        return []
    known = {r.key for r in work.store.records(PROXY)}
    seen = {b.key: b.validation for b in found.order if b.validation is not None and b.key not in known}
    of = found.pool.architectures
    chosen = [work.trainer.candidate(of[key], "search", number) for number, key in enumerate(seen)]
    return [looked_up(c, seen[c.key]) for c in chosen]


def looked_up(candidate: Candidate, accuracy: float) -> Record:
    """Return an architecture with a published accuracy as the record of a training that was none."""
    c, size = candidate, candidate.size
    known = {"score": accuracy, "validation": accuracy, "latency": c.latency}
    return Record(c.key, c.architecture, c.phase, c.index, 0, size.params, size.flops, **known)  # type: ignore[arg-type]


def _grown(work: Work) -> Pool:
    """Return the pool, grown by mutations of what looks best after the proxy."""
    before = open_pool(work, BY_PROXY)
    if not before.whole and not has_grown(work, BY_PROXY):
        seen = _on_proxy(work, before)
        belief = standing(before, seen, None).fit if seen.cheap else None
        if belief is not None:
            value = believe(belief, np.arange(len(before.architectures))).mean
            value[list(seen.failed)] = -np.inf
            grow(work, before, BY_PROXY, value)
            return open_pool(work, BY_PROXY)
    return before


def _on_proxy(work: Work, pool: Pool) -> Observed:
    epochs = math.ceil(work.config.proxy_training.epochs)
    return on_proxy(pool, work.store.records(PROXY), work.plan.primary, epochs)


def _seen(work: Work) -> Known:
    """Return what a search sees of each full training that there is."""
    table = work.problem.table
    if table is not None:
        means = table.scores.mean(axis=1)
        return dict(zip(means.index, map(float, means), strict=True))
    return {r.key: r.validation if r.complete else None for r in work.store.records(TRUTH) if r.draw == 0}


def _observed(
    work: Work,
    pool: Pool,
    waiting: Sequence[Record | Candidate],
    trained: Sequence[Record | Candidate],
    later: Sequence[Record] = (),
) -> Observed:
    """Return what the trainings on the proxy and the full ones in `trained` showed; `waiting` is not proposed.

    later: full trainings that were chosen after those, of which nothing is seen, not even that they failed.
    """
    rows, known = pool.rows(), _seen(work)
    known = {key: value for key, value in known.items() if key not in {one.key for one in later}}
    full = {rows[one.key]: value for one in trained if one.key in rows and (value := known.get(one.key)) is not None}
    # In folders of earlier versions there are full trainings of which a search may see nothing.
    failed = {rows[key] for key in _without_accuracy(work, known, trained) if key in rows} - full.keys()
    closed = {rows[one.key] for one in waiting if one.key in rows} - full.keys() | failed
    on_images = _on_proxy(work, pool)
    return replace(on_images, full=full, closed=on_images.closed | closed, failed=on_images.failed | failed)


def _without_accuracy(work: Work, known: Known, trained: Sequence[Record | Candidate]) -> list[str]:
    """Return the keys of full trainings that failed, and of what a table lacks; not of what is yet to be trained."""
    if work.problem.table is not None:
        return [one.key for one in trained if one.key not in known]
    return [key for key, value in known.items() if value is None]


def _standing(
    work: Work, pool: Pool, sample: Sequence[Record | Candidate], chosen: Sequence[Record | Candidate]
) -> Standing:
    trained = {one.key: one for one in (*sample, *chosen)}
    seen = _observed(work, pool, (), list(trained.values()))
    return standing(pool, seen, None if work.problem.table is not None else len(work.problem.data.validation))


def _made(work: Work) -> dict[int, Record]:
    """Return the chosen full trainings that there are, by number."""
    records = work.store.records(TRUTH) if work.problem.table is None else []
    return {r.index: r for r in records if r.phase == "search" and r.draw == 0 and r.why is not None}


def _chosen_so_far(work: Work, pool: Pool, sample: Sequence[Record | Candidate]) -> Sequence[Record | Candidate]:
    if work.problem.table is None:
        made = _made(work)
        return [made[number] for number in sorted(made)]
    total = min(max(work.config.truth, len(sample)), len(pool.architectures))
    return _looked_up(work, pool, sample, Rounds(total, len(sample), work.config.round_size))


def _trained_in_rounds(
    work: Work, pool: Pool, sample: Sequence[Record | Candidate], rounds: Rounds
) -> Sequence[Record | Candidate]:
    """Train round after round, and return all that were chosen."""
    if work.problem.table is not None:
        finished = is_finished(work.run.path, work.config.reach, work.run / RUN_FILE)
        with contextlib.nullcontext() if finished else counted(work):
            return _looked_up(work, pool, sample, rounds)
    store = work.store
    done = sum(r.draw == 0 for r in store.records(TRUTH))
    with work.progress.stage("Full trainings", rounds.total) as bar:

        def told(result: Outcome | Failure | None = None, record: Record | None = None) -> None:
            nonlocal done
            del record
            done += result is not None
            best = max((value for value in _seen(work).values() if value is not None), default=None)
            more = [f"{done - rounds.total} more"] if done > rounds.total else []  # as a budget had time for them
            bar.to(min(done, rounds.total), ", ".join(more + ([] if best is None else [f"best {best:.1%} val"])))

        told()
        for turn, (positions, numbers) in _within_budget(work, sample, rounds):
            made, there = _made(work), {(r.key, r.draw) for r in store.records(TRUTH)}
            uniform = [one for one in sample[positions.start : positions.stop] if (one.key, 0) not in there]
            candidates = [work.trainer.candidate(one.architecture, one.phase, one.index) for one in uniform]
            if any(number not in made for number in numbers):
                before = [*sample[: positions.start], *(made[n] for n in sorted(made) if n < numbers.start)]
                later = [record for number, record in made.items() if number >= numbers.start]
                seen = _observed(work, pool, sample[positions.start :], before, later)
                with counted(work):
                    found = choose(pool, seen, work.config.seed, turn, len(numbers))
                # In a run that was extended, some of a round may be trained already, under these numbers or later ones.
                known = {record.key for record in made.values()}
                fresh = [one for one in found if work.trainer.space.key(one[0]) not in known]
                candidates += [
                    work.trainer.candidate(architecture, "search", number, why)
                    for number, (architecture, why) in zip((n for n in numbers if n not in made), fresh, strict=False)
                ]
            _train(work, candidates, told)
            if not candidates and numbers.stop > rounds.total - rounds.sample and len(made) < numbers.stop:
                break  # beyond what was planned, and the pool has no more
    made = _made(work)
    return [made[number] for number in sorted(made)]


def _within_budget(
    work: Work, sample: Sequence[Record | Candidate], rounds: Rounds
) -> Iterator[tuple[int, tuple[range, range]]]:
    """Yield rounds with their numbers; with a budget as many as it has room for, fewer or more than planned."""
    clock, planned, least = work.clock, list(enumerate(rounds)), min(LEAST, rounds.sample)
    if clock is None:
        yield from planned
        return
    ended = clock.known(ENDED)  # by an earlier command, which may have reserved more for what judges

    def goes_on(positions: range, numbers: range) -> bool:
        if ended is not None:
            return positions.stop + numbers.stop <= ended
        share = TOLERATED if positions.start < least else 1.0
        return clock.allows(_round_seconds(work, len(positions) + len(numbers)), judging_seconds(work, sample), share)

    for turn, (positions, numbers) in planned:
        if not _known(work, positions, numbers, sample) and not goes_on(positions, numbers):
            clock.once(ENDED, functools.partial(float, positions.start + numbers.start))
            if positions.start < least:  # a ranking takes so many
                yield turn, (range(positions.start, least), range(numbers.start, numbers.start))
            _say_end(work)
            return
        yield turn, (positions, numbers)
    turn, chosen = len(planned), range(rounds.total - rounds.sample, rounds.total - rounds.sample + rounds.size)
    while goes_on(nobody := range(rounds.sample, rounds.sample), chosen):
        yield turn, (nobody, chosen)
        turn, chosen = turn + 1, range(chosen.stop, chosen.stop + rounds.size)
    clock.once(ENDED, functools.partial(float, rounds.sample + chosen.start))


def proxy_ends(work: Work) -> Callable[[], str | None]:
    """Return what says whether proposals for the proxy end, as they do when half of what a budget leaves is spent.

    What judges is not in that half, so that as much is left for full trainings, whatever the plan was made from. Where
    a table has their accuracies it is all that is left.
    """
    clock, looked_up = work.clock, work.problem.table is not None
    if clock is None:
        return lambda: None

    def until() -> float:
        # The sample is trained, which tells what judging takes.
        sample = [r for r in work.store.records(PROXY) if r.phase == "sample" and r.complete]
        left = clock.seconds - clock.spent - judging_seconds(work, sample)
        return clock.spent + (left if looked_up else left / 2)

    def ends() -> str | None:
        if clock.spent < clock.once("proxy_until", until):
            return None
        if looked_up:
            return f"What the budget of {work.config.budget} left is spent on the proxy."
        return f"Half of what the budget of {work.config.budget} left is spent on the proxy; full trainings follow."

    return ends


def _known(work: Work, positions: range, numbers: range, sample: Sequence[Record | Candidate]) -> bool:
    """Return whether a round is trained already."""
    made, there = _made(work), {r.key for r in work.store.records(TRUTH)}
    keys = [one.key for one in sample[positions.start : positions.stop]]
    return all(key in there for key in keys) and all(number in made for number in numbers)


def _say_end(work: Work) -> None:
    done = sum(r.draw == 0 for r in work.store.records(TRUTH))
    work.progress.say(
        f"The budget of {work.config.budget} ends the search after {done} of {work.config.truth} full trainings, so "
        "that what judges fits in; the same command with a larger one goes on."
    )


def _round_seconds(work: Work, trainings: int) -> float:
    """Return about how long so many full trainings take, by the clock."""
    return math.ceil(trainings / lanes(work.executor, work.problem.device)) * _full_seconds(work)


def _full_seconds(work: Work) -> float:
    """Return what a full training takes: those that there are, or else by its image passes."""
    known = [r.seconds for r in work.store.records(TRUTH) if r.complete]
    if known:
        return sum(known) / len(known)
    each = seconds_a_pass([r for r in work.store.records(PROXY) if r.complete])
    return each * work.config.full_training.image_passes(len(work.problem.data.train))


def judging_seconds(work: Work, sample: Sequence[Record | Candidate]) -> float:
    """Return about how long all takes that comes after the search: further seeds, baselines, ranking, report."""
    store, seeds = work.store, work.store.records(TRUTH)
    second = max(0, (work.config.seeds_of_truth - 1) * (len(sample) + 1) - sum(r.draw > 0 for r in seeds))
    second = second if work.problem.table is None else 0
    proxy = [r.seconds for r in store.records(PROXY) if r.complete]
    others = [signal for signal in work.plan.trained if signal.name != PROXY]
    wanted = sum(signal.draws * len(sample) for signal in others)
    left = max(0, wanted - sum(len(store.records(s.name)) for s in others if store.has(s.name)))
    each = sum(proxy) / len(proxy) if proxy else 0.0
    spent = second * _full_seconds(work) + left * each
    return SPARE * spent / lanes(work.executor, work.problem.device) + REPORTING


def _train(work: Work, candidates: Sequence[Candidate], told: Done) -> None:
    images = images_of_truth(work.files)

    def job(candidate: Candidate, draw: int) -> Job:
        return work.trainer.job(TRUTH, candidate, draw, images, work.config.full_training)

    work.trainer.train(TRUTH, [(candidate, 0) for candidate in candidates], job, told)


def _looked_up(
    work: Work, pool: Pool, sample: Sequence[Record | Candidate], rounds: Rounds
) -> Sequence[Record | Candidate]:
    """Choose round after round from the accuracies of a table."""
    chosen: list[Candidate] = []
    with work.progress.stage("Look up", rounds.total) as bar:
        for turn, (positions, numbers) in enumerate(rounds):
            seen = _observed(work, pool, sample[positions.start :], [*sample[: positions.start], *chosen])
            for number, (architecture, why) in zip(
                numbers, choose(pool, seen, work.config.seed, turn, len(numbers)), strict=False
            ):
                chosen.append(work.trainer.candidate(architecture, "search", number, why))
            bar.to(min(positions.stop + numbers.stop, rounds.total))
    return chosen
