"""How well signals rank: what was trained and computed in, the object of `ranking.json` out.

One row for each signal and way of scoring, by `nas_proxy.ranking.agreement`, with what it cost and the difference to
random images at the whole cost. A run adds what it picked, what that took and what failed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nas_proxy.errors import UserError
from nas_proxy.names import CALIBRATED, COMBINED, EARLY_STOP, PROXY, RANDOM, REPEATABILITY, SIZES, TOTAL, TRUTH
from nas_proxy.pipeline.calibrated import Calibrated, calibrated
from nas_proxy.pipeline.choosing import Standing
from nas_proxy.pipeline.ground_truth import Truth, by_draw
from nas_proxy.pipeline.outcome import outcome
from nas_proxy.pipeline.saved import saved, uniform
from nas_proxy.pipeline.scoring import Scores, passes_of
from nas_proxy.pipeline.work import Work
from nas_proxy.ranking.agreement import Row, ScoredSignal, difference, mean_rank, rank, ranked
from nas_proxy.ranking.baseline import beats
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.ranking.repeatability import repeated
from nas_proxy.signals.equal_cost import Cost, cost_of, pays_from, seconds_a_pass, together
from nas_proxy.signals.signal import AllImages, EqualCost, Signal
from nas_proxy.spaces.limits import limits_text
from nas_proxy.spaces.loading import split_spec
from nas_proxy.storage.records import Record

TOPS = (5, 10)


def judge(
    work: Work, scores: Scores, truth: Truth, environment: dict[str, object], found: Standing | None = None
) -> tuple[dict[str, Any], dict[str, pd.DataFrame]]:
    """Return the object of `ranking.json`, and the scores of the rows that are made of other rows.

    found: how the search of a run stands. Raises UserError for too few architectures.
    """
    keys, plan = scores.keys, work.plan
    records = {name: _of(work.store.records(study), keys) for name, study in scores.studies.items()}
    if work.config.compare is not None:
        _check_complete(records)
    costs = {signal.name: _cost(work, signal, scores, records) for signal in plan.signals}
    signals = scored_signals(work, scores, records, costs)
    used = ranked(signals, truth.scores, keys)
    lacking = len(keys) - len(used)
    control = plan.row(RANDOM, plan.shown[0])
    if plan.combine:
        members = [signal for signal in signals if signal.name in plan.combine]
        costs[COMBINED] = together([costs[name] for name in dict.fromkeys(_base(m.name) for m in members)])
        signals.append(replace(_with_cost(mean_rank(members, used), costs[COMBINED]), baseline=control))
    truth_cost = _truth_cost(work, truth, keys)
    made = _calibrated(work, signals, scores, truth, used)
    if made is not None:
        names = dict.fromkeys(_base(name) for name in made.calibration.weights)
        fitted_to = _truth_cost(work, truth, made.fitted, truth.seeds)
        costs[CALIBRATED] = together([*(costs[name] for name in names), *([fitted_to] if fitted_to else [])])
        pick = None if found is None or found.pick is None else found.pick.key
        signals.append(replace(_with_cost(made.signal, costs[CALIBRATED]), baseline=control, pick=pick))
        used = list(made.judged)
    rows = rank(
        signals,
        truth.scores,
        used,
        seed=work.config.seed,
        truth_seconds=None if truth_cost is None else truth_cost.seconds,
        truth_image_passes=None if truth_cost is None else truth_cost.passes,
        truth_stored_bytes=None if truth_cost is None else truth_cost.stored_bytes,
        tops=TOPS,
        given=pd.Series({one.key: float(_flops(one)) for one in scores.sample}),
        control=control,
        # A search sees the validation images of the first seed.
        seen=frozenset({0} if found is not None and truth.trained else ()),
    )
    full = _full_seconds(work, truth, records, keys)
    for signal in signals:
        name = _base(signal.name)
        rows[signal.name] |= {"control": signal.baseline, "cost": costs[name].as_json()}
        if name not in {COMBINED, CALIBRATED}:
            rows[signal.name] |= _against_equal_cost(work, signal, signals, truth, used)
            rows[signal.name] |= _remarks(plan[name], scores, costs[name], len(keys), full, trained=truth.trained)
    if made is not None:
        rows[CALIBRATED]["calibration"] = made.as_json()
    if truth_cost is not None:
        rows[REPEATABILITY]["cost"] = truth_cost.as_json()
    table = work.problem.table
    if table is not None and truth.seeds == 1 and table.isomorphic:
        rows[REPEATABILITY] |= repeated(truth.scores.loc[used, 0].to_numpy(), table.isomorphic, work.config.seed).row()
    ranking: dict[str, Any] = {
        "n": len(used),
        "sample": len(keys),
        "subset": subset(work, len(used)),
        "truth": _origin(work, truth),
        "score": work.config.score if work.config.compare is None else work.config.compare.score,
        "remarks": _said(work, truth, len(keys), lacking),
        "signals": rows,
        "equal_cost": {name: {**asdict(one), "what": one.sentence()} for name, one in scores.equal_cost.items()},
        "settings": _settings(work),
        "failures": _failures(work, scores, truth),
        **(outcome(work, scores, truth, found) if found is not None else {}),
        **({"saving": saved(work, scores, found, full)} if found is not None else {}),
        "environment": environment,
    }
    return ranking, {s.name: s.scores for s in signals if s.name in {COMBINED, CALIBRATED}}


def _calibrated(
    work: Work, signals: Sequence[ScoredSignal], scores: Scores, truth: Truth, used: Sequence[str]
) -> Calibrated | None:
    """Return the calibrated ranking by all signals; None where there are not two of them."""
    plan, compare = work.plan, work.config.compare
    members = [s for s in signals if s.name != COMBINED and not isinstance(plan[_base(s.name)].source, EqualCost)]
    if len(members) < 2:
        return None
    trained = frozenset(s.name for s in members if plan[_base(s.name)].trained)
    architectures = {one.key: one.architecture for one in scores.sample}
    order = [key for key in scores.keys if key in set(used)]
    fitted_on = None if compare is None else compare.calibrate
    if fitted_on is not None and len(order) - fitted_on < LEAST:
        raise UserError(
            f"--calibrate {fitted_on} leaves {max(0, len(order) - fitted_on)} of {len(order)} architectures to judge "
            f"by, and a ranking needs at least {LEAST}; give --calibrate {max(1, len(order) - LEAST)} or less, or a "
            "larger --sample"
        )
    return calibrated(members, trained, truth.scores, architectures, order, work.config.seed, fitted_on)


def scored_signals(
    work: Work, scores: Scores, records: Mapping[str, Sequence[Record]], costs: Mapping[str, Cost]
) -> list[ScoredSignal]:
    """Return the rows of the table, each with its scores of the sample: by their first score first, in a run."""
    plan = work.plan
    rows: list[ScoredSignal] = []
    for signal in plan.signals:
        for row, by in plan.rows(signal).items():
            if not signal.trained:
                column = scores.columns[signal.name]
                frame = pd.DataFrame({0: column.ranked()}, index=scores.keys, dtype=float)
                note, baseline = column.note(), plan.row(signal.baseline, plan.shown[0])
            else:
                frame = by_draw(records[signal.name], signal.draws, by)
                note, baseline = _diverged(records[signal.name], by), plan.row(signal.baseline, by)
            found = ScoredSignal(row, frame, 0.0, 0, 0, note=note, baseline=baseline)
            rows.append(_with_cost(found, costs[signal.name]))
    # Rows by the score that a run is not decided by come last.
    return sorted(rows, key=lambda row: work.config.compare is None and ":" in row.name)


def _with_cost(signal: ScoredSignal, cost: Cost) -> ScoredSignal:
    return replace(signal, seconds=cost.seconds, image_passes=cost.passes, stored_bytes=cost.stored_bytes)


def _diverged(records: Sequence[Record], by: str) -> str | None:
    diverged = sum(r.diverged for r in records)
    counted = "the lowest" if by == "loss_sum" else "chance"
    return f"{diverged} of {len(records)} trainings diverged and count as {counted}" if diverged else None


def _base(row: str) -> str:
    """Return the signal of a row."""
    return row.partition(":")[0]


def _of(records: Sequence[Record], keys: Sequence[str]) -> list[Record]:
    wanted = set(keys)
    return [r for r in records if r.key in wanted]


def _flops(one: Any) -> int:
    return one.flops if isinstance(one, Record) else one.size.flops


def _check_complete(records: Mapping[str, Sequence[Record]]) -> None:
    """Raise UserError for a signal without enough scores; its name says more than that architectures lack one."""
    for name, found in records.items():
        failed = [r for r in found if not r.complete]
        keys = {r.key for r in found} - {r.key for r in failed}
        if len(keys) < LEAST and failed:
            raise UserError(
                f"only {len(keys)} architectures have all scores by {name}, and a ranking needs at least {LEAST}; the "
                f"last training failed with: {failed[-1].reason}; leave {name} out of --signals, or enlarge --sample"
            )


def _cost(work: Work, signal: Signal, scores: Scores, records: Mapping[str, Sequence[Record]]) -> Cost:
    train = work.problem.data.train
    if not signal.trained:
        column = scores.columns[signal.name]
        stored = column.images * train.stored_bytes // len(train)
        return Cost(column.seconds, 0.0, column.image_passes, 0, column.images, stored)
    cost = cost_of(records[signal.name], set(scores.keys), signal.draws, scores.sets.get(signal.name, ()))
    if isinstance(signal.source, AllImages):
        return replace(cost, stored_images=len(train), stored_bytes=train.stored_bytes)
    return cost


def _truth_cost(work: Work, truth: Truth, keys: Sequence[str], seeds: int = 1) -> Cost | None:
    """Return what so many seeds of full training of `keys` cost; None where a table holds it."""
    if not truth.trained:
        return None
    train = work.problem.data.train
    cost = cost_of(truth.records, set(keys), truth.seeds, ())
    # Where a budget ended before all that judges had all seeds, as if they had them: of all other rows all are trained.
    trained = sum(r.key in keys and r.draw < truth.seeds for r in truth.records)
    more = seeds * len(set(keys)) * truth.seeds / max(trained, 1)
    return replace(
        cost,
        training_seconds=more * cost.training_seconds,
        training_passes=round(more * cost.training_passes),
        stored_images=len(train),
        stored_bytes=train.stored_bytes,
    )


def _full_seconds(
    work: Work, truth: Truth, records: Mapping[str, Sequence[Record]], keys: Sequence[str]
) -> float | None:
    """Return the seconds of one full training: measured, or by its recipe's image passes at the speed of another."""
    known = uniform(truth.records, keys) if truth.trained else records.get(EARLY_STOP) or records.get(RANDOM) or []
    each = seconds_a_pass(known)
    return None if math.isnan(each) else each * work.config.full_training.image_passes(len(work.problem.data.train))


def _against_equal_cost(
    work: Work, signal: ScoredSignal, signals: Sequence[ScoredSignal], truth: Truth, used: Sequence[str]
) -> Row:
    """Return how the signal compares with random images at the whole cost of a condensed set."""
    name, colon, score = signal.name.partition(":")
    total = next((t for t in (f"{TOTAL}@{name}", TOTAL) if any(s.name == t for s in work.plan.signals)), None)
    if not work.plan[name].made or total is None:
        return {}
    other = next(s for s in signals if s.name == total + colon + score)
    gain = difference(signal, other, truth.scores, used, work.config.seed)
    answer = {key.replace("beats_random", "beats_random_total"): value for key, value in beats(gain).items()}
    more = {f"total_{key}" if key.startswith("more_") else key: value for key, value in answer.items()}
    return {"minus_random_total": gain.as_json(), **more, "total_control": other.name}


def _remarks(signal: Signal, scores: Scores, cost: Cost, candidates: int, full: float | None, *, trained: bool) -> Row:
    if isinstance(signal.source, EqualCost):
        return {"equal_cost": scores.equal_cost[signal.name].sentence()}
    if not signal.made:
        return {}
    estimated = {} if trained else {"pays_from_note": "an estimate: full training was not timed here"}
    return {**pays_from(cost, candidates, full), **estimated}


def subset(work: Work, n: int) -> str:
    """Return what the n ranked architectures are a sample of."""
    config = work.config
    size, whole = work.trainer.space.size, work.problem.whole_space.size
    if within := limits_text(config.max_params, config.max_flops, config.max_latency_ms):
        of_all = "" if whole is None else f"; the space has {whole:,}"
        return f"uniform sample of the architectures {within} ({n} of an unknown number{of_all})"
    named, parameters = split_spec(config.space)
    space = f"the space {Path(named).stem}:{parameters}" if parameters else "the space"
    if work.problem.table is None or size is None or whole is None:
        return f"uniform sample of {space} ({n} of {size or 'unknown many'} architectures)"
    held = "all" if size == whole else f"{size:,} of"
    return (
        f"uniform sample of the {size:,} architectures in the truth table ({n}; it holds {held} {whole:,} of {space})"
    )


def _origin(work: Work, truth: Truth) -> dict[str, object]:
    """Return where the truth comes from."""
    table = work.problem.table
    if table is None:
        return {"source": "training", "seeds": truth.seeds}
    return {
        "source": "table",
        "file": table.path.name,
        "columns": list(table.columns),
        "seeds": truth.seeds,
        "architectures": len(table.scores),
        "fingerprint": table.fingerprint,
    }


def _said(work: Work, truth: Truth, sample: int, lacking: int) -> list[str]:
    """Return what a reader of the table should know of it; lacking: architectures without a score or a truth."""
    said = []
    _, parameters = split_spec(work.config.space)
    if work.problem.table is not None and parameters:
        said.append(f"the space has {parameters}; the truth table may be of networks that were built otherwise")
    if truth.seeds == 1 and (work.problem.table is None or not work.problem.table.isomorphic):
        said.append("the truth has one seed, so its repeatability is not known")
    if lacking:
        said.append(f"{lacking} of the {sample} sampled architectures lack a score or a truth")
    return said


def _settings(work: Work) -> dict[str, object]:
    config = work.config
    lead = None if work.plan.lead is None else work.plan[work.plan.lead]
    draws = config.compare.draws if config.compare is not None else (lead.draws if lead is not None else 1)
    return {
        "dataset": config.dataset.split("/")[-1],
        "space": config.space.split("/")[-1],
        "seed": config.seed,
        "draws": draws,
        "passes": passes_of(work),
        "candidates": _candidates(work),
        **({"method": config.condense.method} if work.plan.lead == PROXY else {}),
        **{name: getattr(config.condense, name) for name in ("images_per_class", "steps", "real_batch", "width")},
        **{name: getattr(config.proxy_training, name) for name in ("batch_size", "learning_rate")},
    }


def _candidates(work: Work) -> int:
    """Return how many candidates share the making of a set: those of the search, which may have had fewer to choose."""
    if work.config.compare is not None:
        return work.plan.sharing
    return len({r.key for r in work.store.records(PROXY) if r.complete or r.pruned_at is not None})


def _failures(work: Work, scores: Scores, truth: Truth) -> dict[str, int]:
    """Return how many trainings of each signal failed, those of architectures that others replaced too."""
    found = {name: sum(r.failed for r in work.store.records(study)) for name, study in scores.studies.items()}
    found |= {TRUTH: sum(r.failed for r in truth.records)} if truth.trained else {}
    return found | {name: column.missing for name, column in scores.columns.items() if name not in SIZES}
