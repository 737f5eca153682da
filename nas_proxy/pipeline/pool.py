"""The pool of a run: what its search chooses among, with scores of untrained networks as features.

In: a command at work whose sample is trained on the proxy. Out: a `Pool`. All architectures within the limits where
there are no more than `--pool`; else so many drawn uniformly, from the stream that the sample is of, grown twice by
mutations: of the best by the scores' vote before the proxy's proposals, and of the best by what those showed before the
full trainings. Whatever the run has trained or the user has named is in it.

A score is left out of the pool, not of the table, where computing it for the pool would take more than it tells: more
than a minute and a fifth of what the trainings take, and a larger share of that than it explains of the proxy's order.
That is the one decision that rests on measured seconds; it is taken once of each score, before the first pool that it
would be computed for, and kept with what was grown in `pool.json`.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from scipy import stats

from nas_proxy.files import write_json
from nas_proxy.names import PROXY, SIZES, TRUTH
from nas_proxy.pipeline import untrained
from nas_proxy.pipeline.scoring import sample_of
from nas_proxy.pipeline.work import Work
from nas_proxy.ranking.calibration import features_of
from nas_proxy.ranking.encoding import encode
from nas_proxy.ranking.scores import column
from nas_proxy.ranking.surrogate import Features, Floats
from nas_proxy.seeds import derive
from nas_proxy.signals.equal_cost import seconds_a_pass
from nas_proxy.signals.signal import Signal, ZeroCost
from nas_proxy.signals.stored_names import is_looked_up, score_name
from nas_proxy.spaces.objectives import ACCURACY
from nas_proxy.spaces.space import Architecture
from nas_proxy.storage.records import LATENCY
from nas_proxy.strategy.candidates import Stream
from nas_proxy.strategy.pool import grown

NAME = "pool.json"
# The share of the trainings' time that any score may take, and the seconds in any case.
MOST, MINUTE = 0.2, 60.0
# Parents of a generation, and its size as a share of the pool.
PARENTS, GROWTH = 32, 0.25
BY_VOTE, BY_PROXY = 1, 2


@dataclass(frozen=True, eq=False)
class Pool:
    """n architectures by key, in an order that growing does not change, and what is known before they are trained.

    costs: (n, c) of the objectives beside the accuracy; None where there is none. uniform: how many were drawn
    uniformly, which come first. whole: whether these are all there are.
    """

    architectures: Mapping[str, Architecture]
    features: Features
    costs: Floats | None
    uniform: int
    whole: bool

    @property
    def keys(self) -> list[str]:
        """The keys, in their order."""
        return list(self.architectures)

    def rows(self) -> dict[str, int]:
        """Return the row of each key."""
        return {key: row for row, key in enumerate(self.architectures)}


def open_pool(work: Work, generation: int = 0) -> Pool:
    """Return the pool as it has grown up to a generation, its scores computed where they are missing.

    Generations that are not there yet are not made, see `grow`.
    """
    members, uniform, whole = _members(work, generation)
    left_out = _left_out(work, len(members))
    signals = [signal for signal in work.plan.computed if signal.name not in left_out]
    columns = untrained.columns_of(work, signals, members)
    scores = [np.array(columns[signal.name].values, dtype=np.float64) for signal in signals]
    matrix = np.stack(scores, axis=1) if scores else np.zeros((len(members), 0))
    features = features_of(matrix, [signal.name for signal in signals], encode(list(members.values())))
    return Pool(members, features, _costs(work, members), uniform, whole)


def grow(work: Work, pool: Pool, generation: int, value: Floats) -> None:
    """Add mutations of the architectures of largest value (n,) as a generation, once; not where the pool is whole.

    value: minus infinity for what is no parent.
    """
    if pool.whole or has_grown(work, generation):
        return
    kept = _kept(work)
    best = np.argsort(-value, kind="stable")[:PARENTS]
    members = list(pool.architectures.values())
    parents = [(members[row], float(value[row])) for row in best if value[row] > -np.inf]
    seed = derive(work.config.seed, "pool", generation)
    added = grown(work.trainer.space, parents, pool.architectures, math.ceil(GROWTH * work.config.pool_size), seed)
    kept["generations"][str(generation)] = [dict(architecture) for architecture in added]
    write_json(work.run / NAME, kept)


def has_grown(work: Work, generation: int) -> bool:
    """Return whether the pool has a generation already."""
    return str(generation) in _kept(work)["generations"]


def _members(work: Work, generation: int) -> tuple[dict[str, Architecture], int, bool]:
    """Return the pool, how many of it were drawn uniformly, and whether that is the whole space within the limits."""
    space, size = work.trainer.space, work.config.pool_size
    found = _drawn(work, size + 1)
    whole = len(found) <= size
    found = dict(list(found.items())[:size])
    uniform = len(found)
    added = [a for number, of in sorted(_kept(work)["generations"].items()) if int(number) <= generation for a in of]
    studies = [study for study in (PROXY, TRUTH) if generation and work.store.has(study)]
    trained = [record.architecture for study in studies for record in work.store.records(study)]
    for architecture in (*work.problem.enqueued, *added, *trained):
        found.setdefault(space.key(architecture), architecture)
    return found, uniform, whole


def _drawn(work: Work, size: int) -> dict[str, Architecture]:
    """Return the beginning of the uniform stream, which may have to measure each to keep the limits.

    What made the set is in it: the uniform sample alone must not have it, since it judges that set.
    """
    space, found = work.trainer.space, work.drawn
    if found:
        return dict(islice(found.items(), size))
    with work.progress.stage("Pool", size - 1) as bar:
        for architecture in islice(Stream(space, work.config.seed), size):
            found[space.key(architecture)] = architecture
            bar.to(min(len(found), size - 1))
        if len(found) < size:
            bar.to(size - 1, f"all {len(found)} there are")
    return dict(found)


def _kept(work: Work) -> dict[str, Any]:
    """Return what the folder keeps: architectures by generation, and the reasons of scores that are left out."""
    try:
        kept = json.loads((work.run / NAME).read_text(encoding="utf-8"))
        if isinstance(kept, dict) and isinstance(kept.get("generations"), dict):
            return kept
    except (FileNotFoundError, ValueError):
        pass
    return {"generations": {}}


def _costs(work: Work, members: Mapping[str, Architecture]) -> Floats | None:
    names = [name for name in work.config.objective if name != ACCURACY]
    if not names:
        return None
    sizes = [Signal(name, ZeroCost(relative=False)) for name in names if name in SIZES]
    columns = untrained.columns_of(work, sizes, members)
    known = {name: np.array(column.values, dtype=np.float64) for name, column in columns.items()}
    if LATENCY in names:
        known[LATENCY] = _latencies(work, members)
    return np.stack([known[name] for name in names], axis=1)


def _latencies(work: Work, members: Mapping[str, Architecture]) -> Floats:
    latencies = work.trainer.latencies
    assert latencies is not None
    found = []
    with work.progress.stage("Time: latency", len(members)) as bar:
        for architecture in members.values():
            latency = latencies.of(architecture)
            found.append(math.nan if latency is None else latency.ms)
            bar.to(len(found))
    return np.array(found, dtype=np.float64)


def _left_out(work: Work, size: int) -> Mapping[str, str]:
    """Return the scores that the pool does without, each with the reason: of each decided once, and told then."""
    kept = _kept(work)
    reasons: dict[str, str] = dict(kept.get("left_out", {}))
    decided = [*kept["decided"]] if "decided" in kept else _decided_before(work, reasons)
    signals = [signal for signal in work.plan.computed if signal.name not in decided]
    if not signals:
        return reasons
    sample = sample_of(work)
    columns = untrained.columns_of(work, signals, {one.key: one.architecture for one in sample})
    records = {r.key: r for r in work.store.records(PROXY) if r.draw == 0}
    trained = column([records[one.key] for one in sample], work.plan.primary)
    scores, spent = untrained.opened(work), _training_seconds(work)
    for signal in signals:
        seconds = untrained.typical_seconds(signal, scores)
        reason = costs_too_much(signal.name, size, seconds, spent, columns[signal.name].values, trained)
        if reason is not None:
            reasons[signal.name] = reason
            work.progress.say(reason)
    decided += [signal.name for signal in signals]
    write_json(work.run / NAME, {**kept, "left_out": reasons, "decided": decided})
    return reasons


def _decided_before(work: Work, reasons: Mapping[str, str]) -> list[str]:
    """Return the scores that an earlier version decided on, of which it kept those that are left out."""
    if not reasons and "left_out" not in _kept(work):
        return []
    scores = untrained.opened(work)
    computed = [signal for signal in work.plan.computed if not is_looked_up(signal)]
    return [*reasons, *(signal.name for signal in computed if scores.of(score_name(signal)))]


def costs_too_much(
    name: str, size: int, seconds: float, spent: float, scores: Sequence[float], trained: Sequence[float]
) -> str | None:
    """Return why a pool of `size` does without a score; None where it does not.

    seconds: that one takes. spent: seconds of all trainings of the run. scores, trained: of the sample, by the score
    and after training on the proxy.
    """
    if size * seconds < MINUTE:
        return None
    share = size * seconds / spent if spent > 0 else 0.0
    both = np.array([scores, trained], dtype=np.float64)
    both = both[:, np.isfinite(both).all(axis=0)]
    told = 0.0
    if both.shape[1] > 2 and (np.ptp(both, axis=1) > 0).all():
        told = float(stats.spearmanr(*both).statistic) ** 2
    if share <= max(MOST, told):
        return None
    return (
        f"{name} is not computed for the pool: {size:,} scores would take {share:.0%} of what all trainings take, and "
        f"it explains {told:.0%} of the order on the proxy. It keeps its row of the table."
    )


def _training_seconds(work: Work) -> float:
    """Return about how many seconds the run's trainings take together, from those on the proxy."""
    config = work.config
    records = [r for r in work.store.records(PROXY) if r.complete]
    each = seconds_a_pass(records)
    if math.isnan(each) or not records:
        return math.inf
    proxy = config.trials * sum(r.seconds for r in records) / len(records)
    if work.problem.table is not None:
        return proxy  # nothing is trained fully
    full = config.truth + (config.seeds_of_truth - 1) * config.sample
    return proxy + full * each * config.full_training.image_passes(len(work.problem.data.train))
