"""The paper's table: what was trained and computed in, the object of `ranking.json` out.

The rows are those of a run's ranking (`nas_proxy.ranking.agreement`), one for each signal and way of scoring, with
precision at 10, Spearman with FLOPs held fixed, the difference to random images at the whole cost, and the cost itself.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pandas as pd

from nas_proxy.compare.asked import Comparison
from nas_proxy.compare.contenders import (
    EARLY_STOP,
    LOSS_SUM,
    RANDOM,
    control_of,
    draws_of,
    is_made,
    is_total,
    rows_of,
    total_of,
)
from nas_proxy.compare.work import Work, passes_of
from nas_proxy.errors import UserError
from nas_proxy.pipeline.ground_truth import by_draw
from nas_proxy.pipeline.session import Session
from nas_proxy.ranking.agreement import REPEATABILITY, Row, Signal, difference, rank, ranked
from nas_proxy.ranking.baseline import beats
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.ranking.summary import origin, subset
from nas_proxy.signals.computed import COMBINED, mean_rank
from nas_proxy.signals.equal_cost import Cost, cost_of, pays_from, seconds_a_pass, together
from nas_proxy.spaces.loading import split_spec
from nas_proxy.storage.records import Record

TOPS = (5, 10)


@dataclass(frozen=True)
class Table:
    """ranking: the object of `ranking.json`. scores: a row a sampled architecture, a column a signal and draw."""

    ranking: dict[str, object]
    scores: pd.DataFrame


def make_table(session: Session, comparison: Comparison, work: Work, environment: dict[str, object]) -> Table:
    """Judge every signal by the truth. Raises UserError when too few architectures have all scores."""
    keys = work.keys
    records = {name: _of(session.ledger.records(study), set(keys)) for name, study in work.studies.items()}
    _check_complete(records)
    costs = {name: _cost(session, comparison, work, name, records) for name in comparison.signals}
    signals = [
        _signal(row, name, comparison, work, records, costs[name])
        for name in comparison.signals
        for row in rows_of(name, comparison.score)
    ]
    used = ranked(signals, work.truth.scores, keys)
    if comparison.combine:
        costs[COMBINED] = together([costs[name] for name in _members(comparison)])
        signals.append(_combined(signals, comparison, costs[COMBINED], used))
    truth_cost = _truth_cost(session, work)
    rows = rank(
        signals,
        work.truth.scores,
        keys,
        seed=session.config.seed,
        truth_seconds=None if truth_cost is None else truth_cost.seconds,
        truth_image_passes=None if truth_cost is None else truth_cost.passes,
        truth_stored_bytes=None if truth_cost is None else truth_cost.stored_bytes,
        tops=TOPS,
        given=pd.Series({candidate.key: float(candidate.size.flops) for candidate in work.sample}),
    )
    by_name = {signal.name: signal for signal in signals}
    full = _full_seconds(session, work, records)
    for row, signal in by_name.items():
        name = row.removesuffix(LOSS_SUM)
        rows[row] |= {"control": signal.control, "cost": costs[name].as_json()}
        rows[row] |= _against_total(signal, by_name, comparison, work, used)
        rows[row] |= _remarks(name, work, costs[name], len(keys), full)
    if truth_cost is not None:
        rows[REPEATABILITY]["cost"] = truth_cost.as_json()
    ranking: dict[str, object] = {
        "n": len(used),
        "sample": len(keys),
        "subset": subset(session, len(used)),
        "truth": origin(session, work.truth),
        "remarks": _said(session, work, len(used)),
        "signals": rows,
        "equal_cost": {name: {**asdict(plan), "what": plan.sentence()} for name, plan in work.plans.items()},
        "settings": _settings(session, comparison),
        "failures": _failures(records, work),
        "environment": environment,
    }
    return Table(ranking, _scores(signals, work))


def _members(comparison: Comparison) -> list[str]:
    """Return the signals of the mean rank, each once: two ways of scoring one training cost one."""
    return list(dict.fromkeys(row.removesuffix(LOSS_SUM) for row in comparison.combine))


def _combined(signals: Sequence[Signal], comparison: Comparison, cost: Cost, used: Sequence[str]) -> Signal:
    found = mean_rank([signal for signal in signals if signal.name in comparison.combine], used)
    control = control_of(COMBINED, comparison.score)
    return replace(
        found, seconds=cost.seconds, image_passes=cost.passes, stored_bytes=cost.stored_bytes, control=control
    )


def _check_complete(records: dict[str, list[Record]]) -> None:
    """Raise UserError for a signal without enough scores; its name says more than that architectures lack one."""
    for name, found in records.items():
        keys = {r.key for r in found} - {r.key for r in found if not r.complete}
        failed = [r for r in found if not r.complete]
        if len(keys) < LEAST and failed:
            raise UserError(
                f"only {len(keys)} architectures have all scores by {name}, and a ranking needs at least {LEAST}; the "
                f"last training failed with: {failed[-1].reason}; leave {name} out of --signals, or enlarge --sample"
            )


def _of(records: Sequence[Record], keys: set[str]) -> list[Record]:
    return [r for r in records if r.key in keys]


def _cost(session: Session, comparison: Comparison, work: Work, name: str, records: dict[str, list[Record]]) -> Cost:
    train = session.data.train
    if name in work.columns:
        column = work.columns[name]
        stored = column.images * train.stored_bytes // len(train)
        return Cost(column.seconds, 0.0, column.image_passes, 0, column.images, stored)
    found = cost_of(records[name], set(work.keys), draws_of(name, comparison.draws), work.sets.get(name, ()))
    if name == EARLY_STOP:
        return replace(found, stored_images=len(train), stored_bytes=train.stored_bytes)
    return found


def _signal(
    row: str,
    name: str,
    comparison: Comparison,
    work: Work,
    records: dict[str, list[Record]],
    cost: Cost,
) -> Signal:
    control = control_of(row, comparison.score)
    if name in work.columns:
        column = work.columns[name]
        scores = pd.DataFrame({0: column.ranked()}, index=work.keys, dtype=float)
        return Signal(row, scores, cost.seconds, cost.passes, cost.stored_bytes, note=column.note(), control=control)
    by_loss = row.endswith(LOSS_SUM)
    scores = by_draw(_scored(records[name], by_loss=by_loss), draws_of(name, comparison.draws))
    diverged = sum(r.diverged for r in records[name])
    counted = "the lowest" if by_loss else "chance"
    note = f"{diverged} of {len(records[name])} trainings diverged and count as {counted}" if diverged else None
    return Signal(row, scores, cost.seconds, cost.passes, cost.stored_bytes, note=note, control=control)


def _scored(records: Sequence[Record], *, by_loss: bool) -> list[Record]:
    """Return the records with minus the sum of losses as their score, where wanted; a divergence is below all."""
    if not by_loss:
        return list(records)
    sums = [-r.loss_sum for r in records if r.complete and r.loss_sum is not None]
    lowest = float(np.nextafter(min(sums, default=0.0), -math.inf))
    return [
        replace(r, score=None if not r.complete else lowest if r.loss_sum is None else -r.loss_sum) for r in records
    ]


def _truth_cost(session: Session, work: Work) -> Cost | None:
    """Return what one seed of full training cost; None where a table holds it."""
    if not work.truth.trained:
        return None
    train = session.data.train
    found = cost_of(work.truth.records, set(work.keys), work.truth.seeds, ())
    return replace(found, stored_images=len(train), stored_bytes=train.stored_bytes)


def _full_seconds(session: Session, work: Work, records: dict[str, list[Record]]) -> float | None:
    """Return the seconds of one full training: measured, or by its recipe's image passes at the speed of another."""
    known = work.truth.records if work.truth.trained else records.get(EARLY_STOP) or records.get(RANDOM) or []
    each = seconds_a_pass(known)
    return None if math.isnan(each) else each * session.config.full_training.image_passes(len(session.data.train))


def _against_total(
    signal: Signal, signals: dict[str, Signal], comparison: Comparison, work: Work, used: Sequence[str]
) -> Row:
    """Return how the signal compares with random images at the whole cost of a condensed set."""
    name, suffix = signal.name.removesuffix(LOSS_SUM), LOSS_SUM * signal.name.endswith(LOSS_SUM)
    total = total_of(name, comparison.signals)
    if not is_made(name) or total is None:
        return {}
    found = difference(signal, signals[total + suffix], work.truth.scores, used, comparison.run.seed)
    answer = {key.replace("beats_random", "beats_random_total"): value for key, value in beats(found).items()}
    more = {f"total_{key}" if key.startswith("more_") else key: value for key, value in answer.items()}
    return {"minus_random_total": found.as_json(), **more, "total_control": total + suffix}


def _remarks(name: str, work: Work, cost: Cost, candidates: int, full: float | None) -> Row:
    if is_total(name):
        return {"equal_cost": work.plans[name].sentence()}
    if not is_made(name):
        return {}
    estimated = {} if work.truth.trained else {"pays_from_note": "an estimate: full training was not timed here"}
    return {**pays_from(cost, candidates, full), **estimated}


def _said(session: Session, work: Work, used: int) -> list[str]:
    """Return what a reader of the table should know of it."""
    said = []
    _, parameters = split_spec(session.config.space)
    if session.truth_table is not None and parameters:
        said.append(f"the space has {parameters}; the truth table may be of networks that were built otherwise")
    if work.truth.seeds == 1:
        said.append("the truth has one seed, so its repeatability is not known")
    if used < len(work.keys):
        said.append(f"{len(work.keys) - used} of the {len(work.keys)} sampled architectures lack a score or a truth")
    return said


def _settings(session: Session, comparison: Comparison) -> dict[str, object]:
    recipe = session.config.condense
    return {
        "dataset": session.config.dataset.split("/")[-1],
        "space": session.config.space.split("/")[-1],
        "seed": session.config.seed,
        "draws": comparison.draws,
        "passes": passes_of(session, comparison),
        "candidates": comparison.sharing,
        **{name: getattr(recipe, name) for name in ("images_per_class", "steps", "real_batch", "width")},
        **{name: getattr(session.config.proxy_training, name) for name in ("batch_size", "learning_rate")},
    }


def _failures(records: dict[str, list[Record]], work: Work) -> dict[str, int]:
    found = {name: sum(not r.complete for r in of) for name, of in records.items()}
    found |= {"truth": sum(not r.complete for r in work.truth.records)}
    return found | {name: column.missing for name, column in work.columns.items()}


def _scores(signals: Sequence[Signal], work: Work) -> pd.DataFrame:
    """Return the scores: `dm` is the mean over the draws `dm_0`, `dm_1`, …; what failed is empty."""
    columns: dict[str, object] = {"key": work.keys}
    for signal in signals:
        table = signal.scores.reindex(work.keys)
        if signal.name in work.columns:
            columns[signal.name] = work.columns[signal.name].values
            continue
        columns[signal.name] = table.mean(axis=1, skipna=False).to_numpy()
        if table.shape[1] > 1:
            columns |= {f"{signal.name}_{draw}": table[draw].to_numpy() for draw in table}
    truth = work.truth.scores.reindex(work.keys)
    columns |= {f"truth_{seed}": truth[seed].to_numpy() for seed in truth}
    return pd.DataFrame(columns)
