"""What `nas-proxy run --budget` finds on a table: its own plan, rounds and judging, all paid for in full trainings.

`ours` in `arms.py` searches and does nothing else. A run draws a uniform sample, trains it cheaply and fully, some of
it with a second seed, trains the baselines that judge, and makes its cheap trainings before the first full one. That is
planned here by `nas_proxy.pipeline.budget`, chosen by `nas_proxy.pipeline.choosing` and counted. The table's cheap
training stands for that on the proxy, so nothing is condensed; what second seeds and baselines show is not needed.
"""

from collections.abc import Iterator

from nas_proxy.errors import ConfigError
from nas_proxy.pipeline.budget import Plan, Takes, plan_for
from nas_proxy.pipeline.choosing import Pool, Rounds, choose, opening_of, propose
from nas_proxy.ranking.surrogate import Features
from nas_proxy.runs.settings import ROUND, RunConfig
from nas_proxy.seeds import numpy_generator
from nas_proxy.signals.signal import RANDOM_DRAWS
from nas_proxy.storage.records import Record
from nas_proxy.strategy.acquisition import Observed
from published_tables import Task

HOUR = 3600  # seconds of a budget: a full training


def whole_run(task: Task, features: Features, seed: int, budget: float, scored: float) -> list[tuple[float, int]]:
    """Return the trace of a run with a budget of so many full trainings; scored: what the scores of the pool took.

    Empty where the budget is too short for any run.
    """
    config = RunConfig(budget=f"{budget:g}h")
    try:
        plan = plan_for(config, lambda c: Takes(0.0, HOUR * (scored + _spent(task, c))), len(task.keys))
    except ConfigError:
        return []
    pool = Pool(dict(zip(task.keys, task.architectures, strict=True)), features, None, len(task.keys), whole=True)
    sample = numpy_generator(seed, "sample").permutation(len(task.keys))[: plan.judge].tolist()
    cheap = _cheaply(task, pool, plan, sample, seed)
    judging = _judging(task, plan.settings(config))
    return _fully(task, pool, plan, sample, cheap, seed, scored + task.share * len(cheap), budget - judging)


def _spent(task: Task, config: RunConfig) -> float:
    return config.truth + task.share * config.trials + _judging(task, config)


def _judging(task: Task, config: RunConfig) -> float:
    """Return what judging takes: further seeds of the sample and of the pick, random images and early stopping."""
    further = (config.seeds_of_truth - 1) * (config.sample + (config.truth > config.sample))
    return further + (RANDOM_DRAWS + 1) * config.sample * task.share


def _cheaply(task: Task, pool: Pool, plan: Plan, sample: list[int], seed: int) -> dict[int, float]:
    """Return the accuracies of the cheap trainings, all of which a run makes first; {} where the table has none."""
    if task.mid is None:
        return {}
    proposals, seen = plan.trials - len(sample), [_record(task, row, task.mid[row]) for row in sample]
    for number, size in enumerate(_sizes(proposals)):
        for architecture, _ in propose(pool, seed, "accuracy", 1, proposals, seen, number, size):
            row = task.architectures.index(architecture)
            seen.append(_record(task, row, task.mid[row]))
    rows = pool.rows()
    return {rows[r.key]: r.score for r in seen if r.score is not None}


def _sizes(proposals: int) -> Iterator[int]:
    done = sum(opening_of(proposals))
    if done:
        yield done
    while done < proposals:
        yield min(ROUND, proposals - done)
        done += ROUND


def _record(task: Task, row: int, accuracy: float) -> Record:
    known = {"score": float(accuracy), "losses": (1.0,)}
    return Record(task.keys[row], task.architectures[row], "search", row, 0, 1, 1, **known)  # type: ignore[arg-type]


def _fully(
    task: Task,
    pool: Pool,
    plan: Plan,
    sample: list[int],
    cheap: dict[int, float],
    seed: int,
    spent: float,
    until: float,
) -> list[tuple[float, int]]:
    """Return the trace of the full trainings; what is planned and, as the clock of a run lets it, what more fits."""
    rows, full, trace = pool.rows(), dict[int, float](), list[tuple[float, int]]()
    chosen, total = plan.truth - plan.judge, len(task.keys)
    more = ((range(plan.judge, plan.judge), range(n, n + ROUND)) for n in range(chosen, total, ROUND))
    for turn, (positions, numbers) in enumerate([*Rounds(plan.truth, plan.judge, ROUND), *more]):
        if turn >= -(-plan.truth // ROUND) and spent + len(numbers) > until:
            break
        uniform, closed = frozenset(sample[: positions.start]), frozenset(sample[positions.start :])
        seen = Observed(cheap, dict(full), uniform & full.keys(), closed)
        found = [rows[task.keys[task.architectures.index(a)]] for a, _ in choose(pool, seen, seed, turn, len(numbers))]
        for row in [*sample[positions.start : positions.stop], *found]:
            spent += 1
            full[row] = float(task.truth[row])
            trace.append((spent, row))
    return trace
