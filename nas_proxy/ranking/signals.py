"""How well signals rank architectures: each signal's scores against the accuracy of full training.

In: a score of every architecture by every signal (one column a draw) and its accuracy after full training
(one column a seed), both higher for better. Out: the object "signals" of ranking.json.
Guarantees: all signals are judged on the same architectures and the same resamples; the rows' order and
other signals change nothing; nothing is NaN, and what is undefined is null with a reason.

A correlation is the mean over the signal's draws and the truth's seeds. Its interval is over architectures
drawn like the sample, for these draws and seeds: neither retraining nor redrawing is in it, nor that a sample
which is a large part of a small space leaves less to chance. Only `minus_random` resamples draws as well.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from nas_proxy.errors import UserError
from nas_proxy.ranking.estimates import (
    LEAST,
    RESAMPLES,
    Correlation,
    Floats,
    Interval,
    best_part,
    bootstrap_interval,
    jackknife_interval,
    kendall,
    percentile_interval,
    resampled_counts,
    spearman,
    undefined,
    value_of,
)
from nas_proxy.seeds import numpy_generator

Row = dict[str, object]

CONTROL = "random"
REPEATABILITY = "repeatability"
TOP = 5
ONE_SEED = "the truth has one seed, so no second full training is there to compare it with"
ELSEWHERE = "the accuracies are published ones, and what they cost was not measured here"
KENDALL_BOOTSTRAP_MOST = 300  # architectures; the bootstrap of Kendall's tau grows with their square


@dataclass(frozen=True)
class Signal:
    """A score of every architecture, higher for better, and what it cost.

    scores: index: the architecture's key; one column a draw. Rows beyond the sample are ignored.
    seconds, image_passes, stored_bytes: cost of all scores together.
    pick: the key of the architecture that the signal chose; None for the best of the sample.
    note: what a reader of its correlation should know of the scores.
    control: the signal that it should beat.
    """

    name: str
    scores: pd.DataFrame
    seconds: float
    image_passes: int
    stored_bytes: int
    pick: str | None = None
    note: str | None = None
    control: str = CONTROL


class Pair(NamedTuple):
    """One draw of a signal beside one seed of the truth, each (n,), with names for a reader."""

    score_name: str
    score: Floats
    truth_name: str
    truth: Floats


class Plan(NamedTuple):
    """How n architectures are resampled: the same for every signal and statistic."""

    n: int
    seed: int
    resamples: int = RESAMPLES


Draws = Sequence[Sequence[Pair]]
"""For each draw of a signal, its pairs with the seeds of the truth; every draw has equally many."""


def ranked(signals: Sequence[Signal], truth: pd.DataFrame, sample: Sequence[str]) -> list[str]:
    """Return, sorted, the keys of the sample with a finite value in every column of every signal and truth.

    Raises UserError for fewer than 4.
    """
    keys = sorted(set(sample))
    tables = [truth, *(signal.scores for signal in signals)]
    finite = [np.isfinite(table.reindex(keys).to_numpy(float)).all(axis=1) for table in tables]
    used = [key for key, usable in zip(keys, np.all(finite, axis=0), strict=True) if usable]
    if len(used) < LEAST:
        raise UserError(
            f"only {len(used)} of the {len(keys)} sampled architectures have both a score from every signal "
            f"and a full training, and a ranking needs at least {LEAST}; a larger sample or fewer failures "
            "would work"
        )
    return used


def rank(
    signals: Sequence[Signal],
    truth: pd.DataFrame,
    sample: Sequence[str],
    *,
    seed: int,
    truth_seconds: float | None,
    truth_image_passes: int | None,
    truth_stored_bytes: int | None,
    resamples: int = RESAMPLES,
) -> dict[str, Row]:
    """Return one row a signal, in their order, and the row "repeatability": the truth as its own signal.

    truth: index: the architecture's key; one column of accuracies (fractions) a seed; rows beyond the sample
    count for the regret alone. Its cost is None where it was trained elsewhere. The control of the truth is the
    signal named "random". Raises UserError as `ranked` does.
    """
    keys = ranked(signals, truth, sample)
    plan = Plan(len(keys), seed, resamples)
    values = truth.loc[keys]
    trained = truth[np.isfinite(truth.to_numpy(float)).all(axis=1)].sort_index()
    draws = {signal.name: _beside_truth(signal, values) for signal in signals}
    draws[REPEATABILITY] = _beside_itself(values)
    wanted = {CONTROL, *(signal.control for signal in signals)}
    controls = {name: _resampled(draws[name], plan) for name in wanted if name in draws}
    rows: dict[str, Row] = {}
    for signal in signals:
        rows[signal.name] = {
            **_agreement(draws[signal.name], plan),
            **({} if signal.note is None else {"spearman_note": signal.note}),
            **_choice(signal, trained, keys),
            **_cost(signal.seconds, signal.image_passes, signal.stored_bytes),
            "minus_random": minus_control(
                signal.name, draws, controls.get(signal.control), plan, signal.control
            ).as_json(),
        }
    rows[REPEATABILITY] = {
        **_agreement(draws[REPEATABILITY], plan),
        **_own_choice(truth.shape[1]),
        **_cost(truth_seconds, truth_image_passes, truth_stored_bytes),
        "minus_random": minus_control(REPEATABILITY, draws, controls.get(CONTROL), plan).as_json(),
    }
    return rows


def correlation_interval(draws: Draws, correlation: Correlation, plan: Plan, fraction: float = 1.0) -> Interval:
    """Return the mean of `correlation` over all pairs, among the best `fraction` by each pair's own truth.

    That part is selected again in every resample (see `best_part`); the interval's n is its size, the least
    over the seeds. A constant column leaves the value undefined, a part of fewer than 4 the bounds.
    """
    n = plan.n
    if not draws:
        return undefined(ONE_SEED, n)
    pairs = [pair for draw in draws for pair in draw]

    def statistic(counts: Floats) -> Floats:
        def among(truth: Floats) -> Floats:
            return counts if fraction == 1 else best_part(truth, counts, fraction)

        return _mean([correlation(p.score, p.truth, among(p.truth)) for p in pairs])

    parts = [best_part(pair.truth, np.ones((1, n)), fraction)[0] > 0 for pair in pairs]
    size = min(int(part.sum()) for part in parts)
    for pair, part in zip(pairs, parts, strict=True):
        for name, column in ((pair.score_name, pair.score), (pair.truth_name, pair.truth)):
            if np.ptp(column[part]) == 0:
                where = "" if fraction == 1 else f"best {fraction:.0%} of the "
                return undefined(f"{name} is constant over the {where}{n} architectures", size)
    if size < LEAST:
        return undefined(f"an interval needs at least {LEAST} architectures", size, value_of(statistic, n))
    if correlation is kendall and n > KENDALL_BOOTSTRAP_MOST:
        return replace(jackknife_interval(statistic, n), n=size)
    return replace(bootstrap_interval(statistic, n, _generator(plan), plan.resamples), n=size)


def minus_control(
    name: str, draws: Mapping[str, Draws], control: Floats | None, plan: Plan, against: str = CONTROL
) -> Interval:
    """Return the signal's Spearman correlation less that of the control `against`, with a percentile interval.

    control: Spearman's rho of the control in each resample, a column a draw: (resamples, draws). The signal
    is taken in the same resamples of architectures; crossed with them, the draws of both are resampled (Owen
    2007, "The pigeonhole bootstrap"), k - 1 of k with replacement: the mean of so many has the unbiased
    variance s**2 / k, where k of k would give only (k - 1) / k of it (Rao and Wu 1988). One draw shows no
    spread, and the seeds of the truth are held fixed. Crossing counts the noise of single scores twice and
    more, so with draws that are alike the bounds are too wide; three draws whose correlations differ by far
    more than that noise say little about their spread, and the bounds are then too narrow.
    """
    n = plan.n
    if control is None:
        return undefined(f"there is no signal named {against!r}", n)
    if name == against:
        return undefined("this is the control itself", n)
    if not draws[name]:
        return undefined(ONE_SEED, n)
    own, other = (float(_per_draw(draws[of], np.ones((1, n))).mean()) for of in (name, against))
    if math.isnan(own) or math.isnan(other):
        return undefined(f"the correlation of {name if math.isnan(own) else against} is undefined", n)
    drawn = _redrawn(_resampled(draws[name], plan), plan, name) - _redrawn(control, plan, against)
    single = f"{against} has one draw, so the bounds leave out how much draws differ"
    return percentile_interval(own - other, drawn, n, single if control.shape[1] == 1 else None)


def precision_at(most: int, score: Floats, truth: Floats) -> float:
    """Return the share of the `most` best by score (n,) that are among the `most` best by truth (n,).

    Ties at either cut are broken at random, and this is the expected value: a block of m that tie for r
    places counts r / m each. A constant score so gets exactly chance, most / n.
    """

    def membership(column: Floats) -> Floats:
        cut = np.sort(column)[-most]
        above, tied = column > cut, column == cut
        share: Floats = above + tied * ((most - above.sum()) / tied.sum())
        return share

    return float(membership(score) @ membership(truth)) / most


def regret(trained: pd.DataFrame, picks: Sequence[str]) -> float:
    """Return how much accuracy (a fraction) the picks lose against the best of all rows of `trained`.

    The best is chosen by one seed and read off another, averaged over all ordered pairs of seeds, so that
    luck in one training is not counted as quality; the regret can hence be negative. Ties for the best, and
    several picks, are averaged. With one seed choice and reading coincide, which biases the regret upwards.
    """
    table = trained.to_numpy(float)
    seeds = range(table.shape[1])
    chosen = table[trained.index.isin(picks)].mean(axis=0)
    orders = [(a, b) for a in seeds for b in seeds if a != b] or [(0, 0)]
    best = [table[table[:, a] == table[:, a].max(), b].mean() for a, b in orders]
    return float(np.mean([value - chosen[b] for value, (_, b) in zip(best, orders, strict=True)]))


def _beside_truth(signal: Signal, values: pd.DataFrame) -> Draws:
    scores = signal.scores.loc[values.index]
    named = {name: signal.name if scores.shape[1] == 1 else f"{signal.name} ({name})" for name in scores}
    return [
        [
            Pair(named[name], score.to_numpy(float), f"the truth ({key})", truth.to_numpy(float))
            for key, truth in values.items()
        ]
        for name, score in scores.items()
    ]


def _beside_itself(values: pd.DataFrame) -> Draws:
    """One draw, since the seeds of the truth are held fixed; none with one seed."""
    columns = [(f"the truth ({key})", column.to_numpy(float)) for key, column in values.items()]
    pairs = [Pair(*b, *a) for b in columns for a in columns if a[0] != b[0]]
    return [pairs] if pairs else []


def _mean(columns: Sequence[Floats]) -> Floats:
    mean: Floats = np.mean(columns, axis=0)
    return mean


def _per_draw(draws: Draws, counts: Floats) -> Floats:
    """Spearman's rho of each draw, averaged over its pairs: (resamples, draws)."""
    return np.stack([_mean([spearman(p.score, p.truth, counts) for p in draw]) for draw in draws], axis=1)


def _generator(plan: Plan) -> np.random.Generator:
    return numpy_generator(plan.seed, "rank", "architectures")


def _resampled(draws: Draws, plan: Plan) -> Floats:
    batches = resampled_counts(plan.n, _generator(plan), plan.resamples)
    return np.concatenate([_per_draw(draws, counts) for counts in batches])


def _redrawn(rho: Floats, plan: Plan, name: str) -> Floats:
    """The mean of draws - 1 draws with replacement in each resample; of the only one where there is one."""
    resamples, draws = rho.shape
    rng = numpy_generator(plan.seed, "rank", "draws", name)
    chosen = rng.integers(draws, size=(resamples, max(1, draws - 1)))
    return _mean(list(np.take_along_axis(rho, chosen, axis=1).T))


def _agreement(draws: Draws, plan: Plan) -> Row:
    most = min(TOP, plan.n)
    each = [precision_at(most, pair.score, pair.truth) for draw in draws for pair in draw]
    return {
        "spearman": correlation_interval(draws, spearman, plan).as_json(),
        "kendall": correlation_interval(draws, kendall, plan).as_json(),
        "spearman_top_half": correlation_interval(draws, spearman, plan, fraction=0.5).as_json(),
        "precision_at_5": float(np.mean(each)) if each else None,
        **({} if each else {"precision_at_5_reason": ONE_SEED}),
        "precision_at_5_chance": most / plan.n,
    }


def _choice(signal: Signal, trained: pd.DataFrame, keys: list[str]) -> Row:
    means = signal.scores.loc[keys].mean(axis=1)
    picks = sorted(means.index[means == means.max()]) if signal.pick is None else [signal.pick]
    if picks[0] not in trained.index:
        return {"regret": None, "regret_reason": "the pick has no full training", "pick": picks[0]}
    row: Row = {"regret": regret(trained, picks), "pick": picks[0]}
    if trained.shape[1] == 1:
        row["regret_note"] = "the best is chosen by the only seed of the truth, which biases the regret upwards"
    if len(picks) > 1:
        row["pick_note"] = f"{len(picks)} architectures tie for the best score; the regret is their mean"
    return row


def _own_choice(seeds: int) -> Row:
    """The truth's own pick: by definition what the regret is measured against."""
    row: Row = {"pick": None, "pick_reason": "each seed of the truth has its own best architecture"}
    return row | ({"regret": 0.0} if seeds > 1 else {"regret": None, "regret_reason": ONE_SEED})


def _cost(seconds: float | None, image_passes: int | None, stored_bytes: int | None) -> Row:
    cost: Row = {"seconds": seconds, "image_passes": image_passes, "stored_bytes": stored_bytes}
    return cost | {f"{name}_reason": ELSEWHERE for name, value in cost.items() if value is None}
