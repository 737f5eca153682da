"""From the ledger to the files that people read: trials.csv, truth.csv, scores.csv and ranking.json."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nas_proxy.data.images import ImageSet
from nas_proxy.files import write_json, write_text
from nas_proxy.pipeline.ground_truth import DRAWS, Truth, by_draw, the_sample, truth_of
from nas_proxy.pipeline.session import Session
from nas_proxy.ranking.agreement import ELSEWHERE, REPEATABILITY, Signal, rank, ranked
from nas_proxy.ranking.baseline import CONTROL
from nas_proxy.ranking.repeatability import repeated
from nas_proxy.ranking.scores import best_first, column, other, pareto_front, values_of
from nas_proxy.search.candidates import sampled
from nas_proxy.signals.computed import NAMES, SIZES, Column, computed, mean_rank
from nas_proxy.spaces.limits import limits_text
from nas_proxy.spaces.loading import split_spec
from nas_proxy.storage.records import TRAINED, Record


def compute_signals(session: Session) -> dict[str, Column]:
    """Score the uniform sample by each of the settings' `signals`, and by those to be combined."""
    sample, names = the_sample(session), _names(session)
    with session.progress.stage("Signals", len(sample) * len(names)) as bar:
        return computed(
            names,
            session.space,
            [r.architecture for r in sample],
            session.data.train,
            session.config.seed,
            device=session.device,
            progress=bar.to,
        )


def _names(session: Session) -> tuple[str, ...]:
    config = session.config
    return tuple(dict.fromkeys([*config.signals, *(name for name in config.combine if name in NAMES)]))


def write_tables(session: Session, columns: Mapping[str, Column] | None = None) -> None:
    """Write trials.csv, truth.csv and scores.csv from what has been trained so far, and computed of the sample."""
    records = session.ledger.records("proxy")
    sample = [r.key for r in sampled(session, records)]
    _write_csv(_trials(records, set(sample)), session.run / "trials.csv")
    truth = truth_of(session)
    if truth is not None:
        _write_csv(_truth(truth, set(sample)), session.run / "truth.csv")
    if sample:
        _write_csv(_scores(session, sample, columns or {}), session.run / "scores.csv")


def _write_csv(frame: pd.DataFrame, path: Path) -> None:
    write_text(path, frame.to_csv(index=False))


def _trials(records: Sequence[Record], sample: set[str]) -> pd.DataFrame:
    """Return a row a candidate, in the order in which candidates were chosen."""
    several, pruned = any(r.score_std is not None for r in records), any(r.pruned_at is not None for r in records)
    timed = any(r.latency is not None for r in records)
    rows = [
        {
            "key": r.key,
            "index": number,
            "phase": _phase(r, sample),
            "state": _state(r),
            "score": r.score,
            "loss_sum": r.loss_sum,
            **({"score_std": r.score_std, "loss_sum_std": r.loss_sum_std} if several else {}),
            **({"pruned_at": r.pruned_at} if pruned else {}),
            "diverged": r.diverged,
            "seconds": r.seconds,
            "image_passes": r.image_passes,
            "params": r.params,
            "flops": r.flops,
            **(_latency(r) if timed else {}),
            "reason": r.reason,
            **r.architecture,
        }
        for number, r in enumerate(records)
    ]
    return pd.DataFrame(rows)


def _state(record: Record) -> str:
    return "complete" if record.complete else "failed" if record.failed else "pruned"


def _latency(record: Record) -> dict[str, float | None]:
    found = record.latency
    names = {"latency_ms": "ms", "latency_low_ms": "low", "latency_high_ms": "high"}
    return {name: None if found is None else getattr(found, attribute) for name, attribute in names.items()}


def _phase(record: Record, sample: set[str]) -> str:
    return "sample" if record.key in sample or record.phase == "sample" else "search"


def _truth(truth: Truth, sample: set[str]) -> pd.DataFrame:
    """Return a row an architecture with a ground truth, with the accuracy of each seed, and what training it took."""
    scores, records = truth.scores, truth.records
    first = {r.key: r for r in reversed(records)}
    seconds = {"seconds": [round(sum(r.seconds for r in records if r.key == key), 4) for key in first]}
    frame = pd.DataFrame(
        {
            "key": list(first),
            "phase": [_phase(r, sample) for r in first.values()],
            "accuracy": [scores.loc[key].mean() for key in first],
            **{f"accuracy_{seed}": [scores.loc[key, seed] for key in first] for seed in scores.columns},
            **(seconds if truth.trained else {}),
            "params": [r.params for r in first.values()],
            "flops": [r.flops for r in first.values()],
        }
    )
    return frame.sort_values("key", ignore_index=True)


def _scores(session: Session, sample: Sequence[str], columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return a row a sampled architecture and a column a signal; what is not trained or computed yet is empty."""
    by, records = session.config.score, session.ledger.records("proxy")
    proxy = {r.key: r for r in records if r.complete}

    def trained(signal: str, draws: int, score: str) -> pd.DataFrame:
        return by_draw(session.ledger.records(signal), draws, score).reindex(list(sample))

    random = trained("random", DRAWS, by)
    return pd.DataFrame(
        {
            "key": sample,
            "proxy": _scored(proxy, sample, by),
            "random": random.mean(axis=1).to_numpy(),
            **{f"random_{draw}": random[draw].to_numpy() for draw in range(DRAWS)},
            "early_stop": trained("early_stop", 1, by)[0].to_numpy(),
            **{name: _values(name, [proxy[key] for key in sample], columns) for name in _names(session)},
            f"proxy:{other(by)}": _scored(proxy, sample, other(by)),
            f"random:{other(by)}": trained("random", DRAWS, other(by)).mean(axis=1).to_numpy(),
            f"early_stop:{other(by)}": trained("early_stop", 1, other(by))[0].to_numpy(),
        }
    )


def _scored(proxy: Mapping[str, Record], sample: Sequence[str], by: str) -> list[float]:
    return column([proxy[key] for key in sample], by)


def _values(name: str, sample: Sequence[Record], columns: Mapping[str, Column]) -> Sequence[float | None]:
    if name in SIZES:  # whole numbers, known since the training
        return [getattr(r, name) for r in sample]
    return columns[name].values if name in columns else [None] * len(sample)


def write_ranking(session: Session, environment: dict[str, object], columns: Mapping[str, Column]) -> None:
    """Judge all signals by the ground truth and write ranking.json."""
    sample = the_sample(session)
    truth = truth_of(session)
    assert truth is not None  # the stage has made sure
    trained = [signal for signal in TRAINED if truth.trained or signal != "truth"]
    records = {signal: session.ledger.records(signal) for signal in trained}
    pick = best_first(records["proxy"], session.config.score)[0]
    keys = [r.key for r in sample]
    signals = _signals(session, sample, records, pick.key, columns)
    train = session.data.train
    truth_cost = _cost(truth.records, keys)
    used = ranked(signals, truth.scores, keys)
    if session.config.combine:
        signals.append(mean_rank([s for s in signals if s.name in session.config.combine], used))
    rows = rank(
        signals,
        truth.scores,
        keys,
        seed=session.config.seed,
        truth_seconds=truth_cost["seconds"] / truth.seeds if truth.trained else None,
        truth_image_passes=truth_cost["image_passes"] // truth.seeds if truth.trained else None,
        truth_stored_bytes=train.stored_bytes if truth.trained else None,
    )
    table = session.truth_table
    if table is not None and truth.seeds == 1 and table.twins:
        rows[REPEATABILITY] |= repeated(truth.scores.loc[used, 0].to_numpy(), table.twins, session.config.seed).row()
    ranking = {
        "n": len(used),
        "subset": subset(session, len(used)),
        "truth": origin(session, truth),
        "score": session.config.score,
        "signals": rows,
        "pick": _pick(pick, truth.scores, set(keys)),
        **_pareto(session.config.objective, records["proxy"], truth.scores),
        "cost": _run_cost(session, records["proxy"], truth, keys),
        "failures": {
            **{name: sum(r.failed for r in found) for name, found in records.items()},
            **{name: column.missing for name, column in columns.items() if name not in SIZES},
        },
        **_pruned(records["proxy"]),
        "environment": environment,
    }
    write_json(session.run / "ranking.json", ranking)


def _pruned(records: Sequence[Record]) -> dict[str, object]:
    """Return how many candidates a pruner ended, and about how long the rest of their trainings would have taken."""
    found = [r.seconds_saved for r in records if r.pruned_at is not None]
    return {"pruning": {"pruned": len(found), "seconds_saved": sum(found)}} if found else {}


def subset(session: Session, n: int) -> str:
    """Return what the n ranked architectures are a sample of."""
    config = session.config
    if within := limits_text(config.max_params, config.max_flops, config.max_latency_ms):
        return f"uniform sample of the architectures {within} ({n} of an unknown number)"
    size, whole = session.space.size, session.whole_space.size
    named, parameters = split_spec(session.config.space)
    space = f"the space {Path(named).stem}:{parameters}" if parameters else "the space"
    if session.truth_table is None or size is None or whole is None:
        return f"uniform sample of {space} ({n} of {size or 'unknown many'} architectures)"
    held = "all" if size == whole else f"{size:,} of"
    return (
        f"uniform sample of the {size:,} architectures in the truth table ({n}; it holds {held} {whole:,} of {space})"
    )


def origin(session: Session, truth: Truth) -> dict[str, object]:
    """Return where the truth comes from."""
    table = session.truth_table
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


def _signals(
    session: Session,
    sample: Sequence[Record],
    records: dict[str, list[Record]],
    pick: str,
    columns: Mapping[str, Column],
) -> list[Signal]:
    proxy = ImageSet.load(session.proxy_path)
    keys = [r.key for r in sample]
    condense_seconds = _condense_seconds(session)

    by = session.config.score

    def trained(name: str, draws: int, stored_bytes: int, extra: float = 0.0, pick: str | None = None) -> list[Signal]:
        """Return a signal by the score that counts and, from the same trainings, one by the other."""
        # The cost is that of one draw: one is what a user of the signal would train.
        cost = _cost(records[name], keys)
        seconds, passes = cost["seconds"] / draws + extra, cost["image_passes"] // draws
        second = f":{other(by)}"
        return [
            Signal(name, by_draw(records[name], draws, by), seconds, passes, stored_bytes, pick),
            Signal(
                name + second,
                by_draw(records[name], draws, other(by)),
                seconds,
                passes,
                stored_bytes,
                control=CONTROL + second,
            ),
        ]

    firsts, seconds = zip(
        trained("proxy", 1, proxy.stored_bytes, condense_seconds, pick),
        trained("random", DRAWS, len(proxy) * session.data.train.stored_bytes // len(session.data.train)),
        trained("early_stop", 1, session.data.train.stored_bytes),
        strict=True,
    )
    return [*firsts, *(_computed(session, name, scores, keys) for name, scores in columns.items()), *seconds]


def _computed(session: Session, name: str, column: Column, keys: Sequence[str]) -> Signal:
    scores = pd.DataFrame({0: column.ranked()}, index=list(keys), dtype=float)
    stored = column.images * session.data.train.stored_bytes // len(session.data.train)
    return Signal(name, scores, column.seconds, column.image_passes, stored, note=column.note())


def _cost(records: Iterable[Record], keys: Iterable[str]) -> dict[str, Any]:
    counted = set(keys)
    used = [r for r in records if r.key in counted]
    return {"seconds": sum(r.seconds for r in used), "image_passes": sum(r.image_passes for r in used)}


def _condense_seconds(session: Session) -> float:
    seconds = ImageSet.load_metadata(session.proxy_path)["seconds"]
    assert isinstance(seconds, (int, float))
    return float(seconds)


def _pick(pick: Record, truth: pd.DataFrame, sample: set[str]) -> dict[str, object]:
    seeds = list(truth.loc[pick.key]) if pick.key in truth.index else []
    known = bool(seeds) and all(v == v for v in seeds)  # noqa: PLR0124 (NaN differs from itself)
    return {
        "key": pick.key,
        "architecture": dict(pick.architecture),
        "phase": "sample" if pick.key in sample else "search",
        "proxy_score": pick.score,
        "proxy_loss_sum": pick.loss_sum,
        "truth": seeds if known else None,
        "truth_mean": sum(seeds) / len(seeds) if known else None,
        **({} if known else {"truth_reason": "its full training failed"}),
    }


def _pareto(objectives: Sequence[str], records: Sequence[Record], truth: pd.DataFrame) -> dict[str, object]:
    """Return the Pareto front, the cheapest first; nothing where accuracy is the only objective."""
    if len(objectives) == 1:
        return {}
    rows = [
        {
            "key": r.key,
            **dict(zip(objectives, values_of(r, objectives), strict=True)),
            "truth_mean": _known(truth.mean(axis=1, skipna=False).get(r.key)),
        }
        for r in pareto_front(records, objectives)
    ]
    return {"pareto": rows}


def _known(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _run_cost(session: Session, trained: Sequence[Record], truth: Truth, keys: Sequence[str]) -> dict[str, object]:
    """Return the seconds of the run, and the speed-up over training the sample fully with one seed."""
    condense = _condense_seconds(session)
    proxy = _cost(trained, keys)["seconds"]
    if not truth.trained:
        unknown = {"truth_seconds": None, "speedup": None, "speedup_reason": ELSEWHERE}
        return {"condense_seconds": condense, "proxy_seconds": proxy, **unknown}
    full = _cost(truth.records, keys)["seconds"] / truth.seeds
    speedup = full / (condense + proxy)
    return {
        "condense_seconds": condense,
        "proxy_seconds": proxy,
        "truth_seconds": full * truth.seeds,
        "speedup": speedup,
        "speedup_note": _speedup_note(speedup, condense, proxy / len(keys), full / len(keys)),
    }


def _speedup_note(speedup: float, condense: float, proxy: float, full: float) -> str:
    if proxy >= full:
        return "a training on the proxy takes as long as full training here, so the proxy saves nothing"
    pays = int(condense / (full - proxy)) + 1
    start = "full training is so cheap here that the proxy does not pay yet; it pays" if speedup < 1 else "it pays"
    return f"{start} from {pays} candidates on"
