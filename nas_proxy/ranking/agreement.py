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
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from nas_proxy.errors import UserError
from nas_proxy.names import COMBINED, REPEATABILITY
from nas_proxy.ranking.baseline import (
    CONTROL,
    ONE_SEED,
    Draws,
    Pair,
    Plan,
    beats,
    generator,
    mean_of,
    minus_control,
    resampled,
)
from nas_proxy.ranking.intervals import (
    LEAST,
    RESAMPLES,
    Correlation,
    Floats,
    Interval,
    best_part,
    bootstrap_interval,
    jackknife_interval,
    kendall,
    partial_spearman,
    spearman,
    undefined,
    value_of,
)

Row = dict[str, object]

TOP = 5
NO_TRAINING = "the pick has no full training"
ELSEWHERE = "the accuracies are published ones, and what they cost was not measured here"
KENDALL_BOOTSTRAP_MOST = 300  # architectures; the bootstrap of Kendall's tau grows with their square


@dataclass(frozen=True)
class ScoredSignal:
    """A score of every architecture, higher for better, and what it cost.

    scores: index: the architecture's key; one column a draw. Rows beyond the sample are ignored.
    seconds, image_passes, stored_bytes: cost of all scores together.
    pick: the key of the architecture that the signal chose; None for the best of the sample.
    note: what a reader of its correlation should know of the scores.
    baseline: the signal that it should beat.
    """

    name: str
    scores: pd.DataFrame
    seconds: float
    image_passes: int
    stored_bytes: int
    pick: str | None = None
    note: str | None = None
    baseline: str = CONTROL


def ranked(signals: Sequence[ScoredSignal], truth: pd.DataFrame, sample: Sequence[str]) -> list[str]:
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


def mean_rank(members: Sequence[ScoredSignal], keys: Sequence[str]) -> ScoredSignal:
    """Return the signal that scores each of `keys` by the mean of its ranks by the members; it costs what they cost.

    Ties share their mean rank. Each member has a finite score for every key. It has as many draws as the member with
    the fewest, of those that have several: a member with one draw ranks alike in all of them.
    """
    ranks = [signal.scores.loc[list(keys)].rank() for signal in members]
    draws = min((table.shape[1] for table in ranks if table.shape[1] > 1), default=1)
    columns = {
        draw: sum(table.iloc[:, min(draw, table.shape[1] - 1)] for table in ranks) / len(ranks) for draw in range(draws)
    }
    return ScoredSignal(
        COMBINED,
        pd.DataFrame(columns),
        sum(signal.seconds for signal in members),
        sum(signal.image_passes for signal in members),
        sum(signal.stored_bytes for signal in members),
        note=f"the mean rank of {', '.join(signal.name for signal in members)}",
    )


def rank(
    signals: Sequence[ScoredSignal],
    truth: pd.DataFrame,
    sample: Sequence[str],
    *,
    seed: int,
    truth_seconds: float | None,
    truth_image_passes: int | None,
    truth_stored_bytes: int | None,
    tops: Sequence[int] = (TOP,),
    given: pd.Series | None = None,
    control: str = CONTROL,
    seen: Collection[int] = (),
    resamples: int = RESAMPLES,
) -> dict[str, Row]:
    """Return one row a signal, in their order, and the row "repeatability": the truth as its own signal.

    truth: index: the architecture's key; one column of accuracies (fractions) a seed; rows beyond the sample count for
    the regret alone, where they have all seeds. Its cost is None where it was trained elsewhere. tops: each adds
    "precision_at_…".
    given: a number of each architecture, such as its FLOPs; adds "partial_spearman", with its rank held fixed.
    A signal's control is its baseline, that of the truth the signal named `control`. seen: seeds of the truth by which
    a search has chosen, see `regret`. Raises UserError as `ranked` does.
    """
    keys = ranked(signals, truth, sample)
    plan = Plan(len(keys), seed, resamples)
    values = truth.loc[keys]
    trained = truth[np.isfinite(truth.to_numpy(float)).all(axis=1)].sort_index()
    draws = {signal.name: _beside_truth(signal, values) for signal in signals}
    draws[REPEATABILITY] = _beside_itself(values)
    wanted = {control, *(signal.baseline for signal in signals)}
    controls = {name: resampled(draws[name], plan) for name in wanted if name in draws}
    fixed = None if given is None else given.loc[keys].to_numpy(float)
    searched = next((signal.pick for signal in signals if signal.pick is not None), None)

    def row(name: str, other: str) -> tuple[Row, Row]:
        gain = minus_control(name, draws, controls.get(other), plan, other)
        agreement = _agreement(draws[name], plan, tops, fixed)
        return agreement, {"minus_random": gain.as_json(), **beats(gain)}

    rows: dict[str, Row] = {}
    for signal in signals:
        agreement, gain = row(signal.name, signal.baseline)
        rows[signal.name] = {
            **agreement,
            **({} if signal.note is None else {"spearman_note": signal.note}),
            **_choice(signal, truth, trained, keys, searched, seen),
            **_cost(signal.seconds, signal.image_passes, signal.stored_bytes),
            **gain,
        }
    agreement, gain = row(REPEATABILITY, control)
    cost = _cost(truth_seconds, truth_image_passes, truth_stored_bytes)
    rows[REPEATABILITY] = {**agreement, **_own_choice(truth.shape[1]), **cost, **gain}
    return rows


def difference(
    signal: ScoredSignal,
    control: ScoredSignal,
    truth: pd.DataFrame,
    keys: Sequence[str],
    seed: int,
    resamples: int = RESAMPLES,
) -> Interval:
    """Return the signal's Spearman correlation less the control's over the architectures `keys`, as `rank` does."""
    plan = Plan(len(keys), seed, resamples)
    draws = {one.name: _beside_truth(one, truth.loc[list(keys)]) for one in (signal, control)}
    return minus_control(signal.name, draws, resampled(draws[control.name], plan), plan, control.name)


def correlation_interval(draws: Draws, correlation: Correlation, plan: Plan, fraction: float = 1.0) -> Interval:
    """Return the mean of `correlation` over all pairs, among the best `fraction` by each pair's own truth.

    That part is selected again in every resample (see `best_part`); the interval's n is its size, the least
    over the seeds. A constant column leaves the value undefined, a part of fewer than 4 the bounds.
    """
    n = plan.n
    if not draws:
        return undefined(ONE_SEED, n)
    pairs = [pair for draw in draws for pair in draw]

    truths = {pair.truth_name: pair.truth for pair in pairs}

    def statistic(counts: Floats) -> Floats:
        # Once for each seed, and not for each draw beside it.
        among = {
            name: counts if fraction == 1 else best_part(truth, counts, fraction) for name, truth in truths.items()
        }
        return mean_of([correlation(p.score, p.truth, among[p.truth_name]) for p in pairs])

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
    return replace(bootstrap_interval(statistic, n, generator(plan), plan.resamples), n=size)


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


def regret(
    trained: pd.DataFrame, picks: Sequence[str], searched: str | None = None, seen: Collection[int] = ()
) -> float:
    """Return how much accuracy (a fraction) the picks lose against the best of all rows of `trained`.

    The best is chosen by one seed and read off another, averaged over all ordered pairs of seeds, so that
    luck in one training is not counted as quality; the regret can hence be negative. Ties for the best, and
    several picks, are averaged. With one seed choice and reading coincide, which biases the regret upwards.
    searched: the row that a search chose by what it saw of the seeds `seen`: off those it is not read, neither as the
    best nor as a pick, where there are others.
    """
    table, chosen, is_pick = trained.to_numpy(float), trained.index == searched, trained.index.isin(picks)
    seeds = range(table.shape[1])
    orders = [(a, b) for a in seeds for b in seeds if a != b and not (b in seen and (chosen & is_pick).any())]
    found = []
    for a, b in orders or [(0, 0)]:
        may_be_best = ~chosen if b in seen and orders and not chosen.all() else np.ones(len(table), dtype=np.bool_)
        rows = table[may_be_best]
        found.append(rows[rows[:, a] == rows[:, a].max(), b].mean() - table[is_pick, b].mean())
    return float(np.mean(found))


def _beside_truth(signal: ScoredSignal, values: pd.DataFrame) -> Draws:
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


def _agreement(draws: Draws, plan: Plan, tops: Sequence[int], fixed: Floats | None) -> Row:
    parts = {"top_half": 0.5, "top_20": 0.2}
    row: Row = {
        "spearman": correlation_interval(draws, spearman, plan).as_json(),
        "kendall": correlation_interval(draws, kendall, plan).as_json(),
        **{
            f"spearman_{name}": correlation_interval(draws, spearman, plan, share).as_json()
            for name, share in parts.items()
        },
    }
    if fixed is not None:
        row["partial_spearman"] = _partial(draws, fixed, plan).as_json()
    for top in tops:
        most, name = min(top, plan.n), f"precision_at_{top}"
        each = [precision_at(most, pair.score, pair.truth) for draw in draws for pair in draw]
        row[name] = float(np.mean(each)) if each else None
        row |= {} if each else {f"{name}_reason": ONE_SEED}
        row[f"{name}_chance"] = most / plan.n
    return row


def _partial(draws: Draws, fixed: Floats, plan: Plan) -> Interval:
    columns = [column for draw in draws for pair in draw for column in (pair.score, pair.truth)]
    if np.ptp(fixed) == 0:
        return undefined("what is held fixed is constant", plan.n)
    whole = np.ones((1, plan.n))
    if any(math.isclose(abs(float(spearman(column, fixed, whole)[0])), 1.0) for column in columns):
        return undefined("it gives the same order as what is held fixed, so nothing is left to compare", plan.n)
    return correlation_interval(draws, lambda x, y, counts: partial_spearman(x, y, fixed, counts), plan)


def _choice(
    signal: ScoredSignal,
    truth: pd.DataFrame,
    trained: pd.DataFrame,
    keys: list[str],
    searched: str | None,
    seen: Collection[int],
) -> Row:
    means = signal.scores.loc[keys].mean(axis=1)
    picks = sorted(means.index[means == means.max()]) if signal.pick is None else [signal.pick]
    if picks[0] not in trained.index:
        reason = (
            f"the pick is not fully trained with all {truth.shape[1]} seeds" if picks[0] in truth.index else NO_TRAINING
        )
        return {"regret": None, "regret_reason": reason, "pick": picks[0]}
    row: Row = {"regret": regret(trained, picks, searched, seen), "pick": picks[0]}
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
