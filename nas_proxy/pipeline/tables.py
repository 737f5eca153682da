"""The CSV files of a run: records and scores in, a row a candidate, a fully trained or a sampled architecture out."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nas_proxy.files import write_text
from nas_proxy.names import PROXY, SIZES, columns_of
from nas_proxy.pipeline import untrained
from nas_proxy.pipeline.ground_truth import Truth, by_draw, truth_of
from nas_proxy.pipeline.scoring import sample_of
from nas_proxy.pipeline.work import Work
from nas_proxy.signals.signal import EqualCost
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.strategy.candidates import sampled


def write_tables(
    work: Work,
    studies: Mapping[str, str] | None = None,
    made_of_others: Mapping[str, pd.DataFrame] | None = None,
    chosen: Sequence[Record] = (),
) -> None:
    """Write trials.csv, truth.csv and scores.csv from what has been trained and computed so far.

    studies: the names of the studies of signals that are not called as the signal is. made_of_others: the
    scores of rows such as the mean rank, by key. chosen: what a search chose of published accuracies alone.
    """
    lead = work.plan.lead
    records = [] if lead is None else [r for r in work.store.records(lead) if r.draw == 0]
    sample: Sequence[Record | Candidate] = (
        sample_of(work) if lead is None else sampled(work.stream(), records, work.config.sample)
    )
    keys = [one.key for one in sample]
    if lead == PROXY:
        _write(trials_table(records, set(keys)), work, "trials.csv")
    known: Sequence[Record | Candidate] = [r for r in records if r.complete] or sample
    truth = truth_of(work.store, work.problem.table, [*known, *chosen], work.config.seeds_of_truth)
    if truth is not None and lead is not None:
        _write(truth_table(truth, set(keys)), work, "truth.csv")
    if sample:
        _write(scores_table(work, sample, truth, studies or {}, made_of_others or {}), work, "scores.csv")


def _write(frame: pd.DataFrame, work: Work, name: str) -> None:
    write_text(work.run / name, frame.to_csv(index=False))


def trials_table(records: Sequence[Record], sample: set[str]) -> pd.DataFrame:
    """Return a row a candidate, in the order in which candidates were chosen; its choices are the last columns."""
    several, pruned = any(r.score_std is not None for r in records), any(r.pruned_at is not None for r in records)
    timed = any(r.latency is not None for r in records)
    rows = [
        {
            "key": r.key,
            "index": number,
            "phase": _phase(r, sample),
            "state": "complete" if r.complete else "failed" if r.failed else "pruned",
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
            **columns_of(r.architecture),
        }
        for number, r in enumerate(records)
    ]
    return pd.DataFrame(rows)


def _latency(record: Record) -> dict[str, float | None]:
    latency = record.latency
    names = {"latency_ms": "ms", "latency_low_ms": "low", "latency_high_ms": "high"}
    return {name: None if latency is None else getattr(latency, attribute) for name, attribute in names.items()}


def _phase(record: Record, sample: set[str]) -> str:
    return "sample" if record.key in sample or record.phase == "sample" else "search"


def truth_table(truth: Truth, sample: set[str]) -> pd.DataFrame:
    """Return a row an architecture with a ground truth, with the accuracy of each seed, and what training it took."""
    scores, records = truth.scores, truth.records
    timed = any(r.latency is not None for r in records)
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
            **({"latency_ms": [_latency(r)["latency_ms"] for r in first.values()]} if timed else {}),
        }
    )
    return frame.sort_values("key", ignore_index=True)


def scores_table(
    work: Work,
    sample: Sequence[Record | Candidate],
    truth: Truth | None,
    studies: Mapping[str, str],
    made_of_others: Mapping[str, pd.DataFrame],
) -> pd.DataFrame:
    """Return a row a sampled architecture and a column a row of the table: `dm` is the mean of `dm_0`, `dm_1`, ….

    What is not trained or computed yet, and what failed, is empty; the truth stands last, a column a seed.
    """
    keys = [one.key for one in sample]
    computed = untrained.so_far(work, keys)
    columns: dict[str, object] = {"key": keys}
    for signal in work.plan.signals:
        if not signal.trained:
            column = pd.Series(computed[signal.name])
            columns[signal.name] = column.astype("Int64") if signal.name in SIZES else column
            continue
        study = studies.get(signal.name)
        if isinstance(signal.source, EqualCost) and study is None:
            continue  # what it trains on is not known yet
        records = work.store.records(study or signal.name) if work.store.has(study or signal.name) else []
        for row, by in work.plan.rows(signal).items():
            table = by_draw(records, signal.draws, by).reindex(keys)
            columns |= _drawn(row, table)
    for row, table in made_of_others.items():
        columns |= _drawn(row, table.reindex(keys))
    if truth is not None:
        known = truth.scores.reindex(keys)
        columns |= {f"truth_{seed}": known[seed].to_numpy() for seed in known}
    return pd.DataFrame(columns)


def _drawn(row: str, table: pd.DataFrame) -> dict[str, object]:
    """Return a column of means over the draws and, where there are several, one of each draw."""
    several = {f"{row}_{draw}": table[draw].to_numpy() for draw in table} if table.shape[1] > 1 else {}
    return {row: table.mean(axis=1, skipna=False).to_numpy(), **several}
