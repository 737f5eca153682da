"""What a run found beside its table: the pick, the Pareto front, what all of it took, what failed and was pruned."""

from collections.abc import Mapping, Sequence

import pandas as pd

from nas_proxy.data.images import ImageSet
from nas_proxy.names import PROXY, SIZES, TRUTH
from nas_proxy.pipeline.choosing import Standing
from nas_proxy.pipeline.ground_truth import Truth
from nas_proxy.pipeline.network import network_of
from nas_proxy.pipeline.scoring import Scores
from nas_proxy.pipeline.work import Work
from nas_proxy.ranking.agreement import ELSEWHERE
from nas_proxy.ranking.believed import Believed, means
from nas_proxy.ranking.scores import best_first, pareto_front, values_of
from nas_proxy.storage.records import Record

MOST_CURVES = 10
"""Architectures whose curves are kept for the page, the best by the proxy first."""


def outcome(work: Work, scores: Scores, truth: Truth, found: Standing) -> dict[str, object]:
    """Return what a run has beside its table: the pick, the Pareto front, what all took and what was pruned."""
    records = work.store.records(PROXY)
    keys = scores.keys
    known = {r.key: r for r in (*truth.records, *records)}
    believed = [b for b in found.order if b.validation is not None][:MOST_CURVES]
    # Where a search may see nothing of any full training, as in folders of earlier versions, the proxy chooses.
    best = [known[b.key] for b in believed] or best_first(records)[:MOST_CURVES]
    on_proxy = next((r for r in records if r.key == best[0].key), None)
    # By what was seen of the first seed the search has chosen, so that the others alone tell how good the pick is.
    seen = frozenset({0} if believed and truth.trained else ())
    pick = _pick(best[0], on_proxy, truth.scores, set(keys), seen)
    pick |= _belief(believed[0], trained=truth.trained) if believed else {}
    return {
        "pick": pick | _tested(work, truth) | network_of(work, best[0]),
        "curves": [_curves(one, truth, records) for one in best],
        **_pareto(work.config.objective, records, truth, means(found.order)),
        "cost": _run_cost(scores, records, truth, keys),
        "failures": {
            **{
                name: sum(r.failed for r in work.store.records(name))
                for name in (*scores.studies, *([TRUTH] if truth.trained else []))
            },
            **{name: column.missing for name, column in scores.columns.items() if name not in SIZES},
        },
        **_pruned(records),
    }


def _tested(work: Work, truth: Truth) -> dict[str, object]:
    return {"test_images": work.problem.counts.test} if truth.trained else {}


def _curves(one: Record, truth: Truth, on_proxy: Sequence[Record]) -> dict[str, object]:
    full = next((r.losses for r in truth.records if r.key == one.key and truth.trained), ())
    proxy = next((r.losses for r in on_proxy if r.key == one.key), ())
    return {"key": one.key, "proxy": list(proxy), "truth": list(full)}


def _belief(believed: Believed, *, trained: bool) -> dict[str, object]:
    return {
        "validation": believed.validation if trained else None,
        "posterior_mean": believed.mean,
        "posterior_low": believed.low,
        "posterior_high": believed.high,
    }


def _pruned(records: Sequence[Record]) -> dict[str, object]:
    """Return how many candidates a pruner ended, and about how long the rest of their trainings would have taken."""
    saved = [r.seconds_saved for r in records if r.pruned_at is not None]
    return {"pruning": {"pruned": len(saved), "seconds_saved": sum(saved)}} if saved else {}


def _pick(
    pick: Record, on_proxy: Record | None, truth: pd.DataFrame, sample: set[str], seen: frozenset[int]
) -> dict[str, object]:
    seeds = dict(truth.loc[pick.key].dropna()) if pick.key in truth.index else {}
    unseen = [value for seed, value in seeds.items() if seed not in seen]
    read, known = unseen or list(seeds.values()), bool(seeds)
    return {
        "key": pick.key,
        "architecture": dict(pick.architecture),
        "phase": "sample" if pick.key in sample else "search",
        "proxy_score": None if on_proxy is None else on_proxy.score,
        "proxy_loss_sum": None if on_proxy is None else on_proxy.loss_sum,
        "truth": list(seeds.values()) if known else None,
        "truth_chosen_by": len(seeds) - len(unseen),
        "truth_mean": sum(read) / len(read) if known else None,
        **({} if known else {"truth_reason": "its full training failed"}),
    }


def _pareto(
    objectives: Sequence[str], records: Sequence[Record], truth: Truth, believed: Mapping[str, float] | None
) -> dict[str, object]:
    """Return the Pareto front, the cheapest first; nothing where accuracy is the only objective.

    records: of the proxy. believed: the accuracy after full training, by key.
    """
    if len(objectives) == 1:
        return {}
    known = truth.scores.mean(axis=1)  # of the seeds that there are: what a search chooses has one
    rows = [
        {
            "key": r.key,
            **dict(zip(objectives, values_of(r, objectives, believed), strict=True)),
            "truth_mean": _known(known.get(r.key)),
        }
        for r in pareto_front(records, objectives, truth.records, believed)
    ]
    return {"pareto": rows}


def _known(value: float | None) -> float | None:
    return None if value is None or pd.isna(value) else float(value)


def _run_cost(scores: Scores, trained: Sequence[Record], truth: Truth, keys: Sequence[str]) -> dict[str, object]:
    """Return the seconds of the run, and the speed-up over training the sample fully with one seed."""
    condense = float(str(ImageSet.load_metadata(scores.sets[PROXY][0].path)["seconds"]))  # by the clock
    proxy = sum(r.seconds for r in _of(trained, keys))
    if not truth.trained:
        unknown = {"truth_seconds": None, "speedup": None, "speedup_reason": ELSEWHERE}
        return {"condense_seconds": condense, "proxy_seconds": proxy, **unknown}
    # Fewer than all seeds of all, where a budget ended before.
    fully = [r.seconds for r in _of(truth.records, keys) if r.draw < truth.seeds]
    full = sum(fully) / max(len(fully), 1) * len(keys)
    speedup = full / (condense + proxy)
    return {
        "condense_seconds": condense,
        "proxy_seconds": proxy,
        "truth_seconds": sum(fully),
        "speedup": speedup,
        "speedup_note": _speedup_note(speedup, condense, proxy / len(keys), full / len(keys)),
    }


def _speedup_note(speedup: float, condense: float, proxy: float, full: float) -> str:
    if proxy >= full:
        return "a training on the proxy takes as long as full training here, so the proxy saves nothing"
    pays = int(condense / (full - proxy)) + 1
    start = "full training is so cheap here that the proxy does not pay yet; it pays" if speedup < 1 else "it pays"
    return f"{start} from {pays} candidates on"


def _of(records: Sequence[Record], keys: Sequence[str]) -> list[Record]:
    wanted = set(keys)
    return [r for r in records if r.key in wanted]
