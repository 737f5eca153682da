"""Regret against cost on published tables: how good is the best found after so many full trainings' worth of work?

    python benchmarks/cost_to_quality.py --data DIR --keep traces.jsonl          # all; goes on where it was cut off
    python benchmarks/cost_to_quality.py --table nas_bench_201.csv:cifar10_valid_200ep --scores zero_cost.csv \
        --mid nas_bench_201.csv:cifar10_test_12ep:0.06 --cheapest 0.3 --arms ours,random,tpe --budgets 8,16,32

Regret is in points of accuracy, against the best architecture of the (limited) table, of the best that an arm has
fully trained by then; before it has any, that of a random architecture. Cost is in full trainings, and everything
counts: cheap trainings at their share, and what scores took (`--score-share`: a batch of 64 images forward and back
for each score of each architecture, against 200 epochs of 25,000 images; FLOPs and parameters are counted for
nothing). Bands are 95 % bootstrap intervals of the mean over repeats. `--mislead noise` shuffles every signal, the
cheap training among them, and `reversed` turns them around. Without a table: all cells of NAS-Bench-201's part, its
cheapest 60 % and 30 % by FLOPs, NAS-Bench-Macro's cheapest 60 %, and on each, ours, run and random with both kinds of
misleading signals. DIR holds the published tables that the README here names under "Inputs". Arms are described in
`arms.py`. The last line on stdout is one JSON object.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arms import ARMS, OPTUNA, PLANNED, TUNED, lacks
from nas_proxy.errors import DataError
from nas_proxy.seeds import derive, numpy_generator
from outcome import show
from published_tables import MISLEADING, Task, load_task, misled
from table_options import add_tables, check, count, folder_of, number, refuse, several

SCORE_SHARE = 64 / (200 * 25_000)
HORIZON = 64
# What is run to the largest budget that is asked for, and no further: ours, which is there by then, and the Gaussian
# process of Optuna, which takes a quarter of a second for each proposal, and more with each.
SLOW = {"gp": 0, "ours": 0}
REGRET = 0.3
MISLED_ARMS = ("ours", "run", "random")
# Changes with what an arm does, so that kept traces of another one do not count.
VERSIONS = {"ours": 4}


def published(folder: Path) -> list[Task]:
    """Return the four tasks of the published tables."""
    table, scores = folder / "nas_bench_201_public.csv", folder / "nas_bench_201_zero_cost_public.csv"
    cells, mid = f"{table}:cifar10_valid_200ep", f"{table}:cifar10_test_12ep:0.06"
    macro = folder / "nas_bench_macro_public.json"
    parts = (("nas_bench_201", 1.0), ("nas_bench_201_cheapest_60", 0.6), ("nas_bench_201_cheapest_30", 0.3))
    return [
        *(load_task(name, cells, scores, mid, part) for name, part in parts),
        load_task("nas_bench_macro_cheapest_60", f"{macro}:mean_acc", cheapest=0.6),
    ]


def horizon(arm: str, budgets: Sequence[float], most: int, task: Task, share: float) -> int:
    """Return up to which budget an arm is run: no further than to where everything is trained in all ways."""
    asked, n = int(np.ceil(max(budgets))), len(task.keys)
    everything = math.ceil(n * (1 + task.share + share * len(task.names)))
    return min(max(asked, min(most, SLOW.get(arm, most))), max(everything, most))


def traces(
    task: Task, arm: str, kind: str, repeats: int, until: float, share: float, kept: dict[str, Any], keep: Path | None
) -> Iterator[list[tuple[float, int]]]:
    """Yield the trace of each repeat, from what is kept where it is there."""
    facts = json.dumps([task.keys, task.truth.tolist(), task.names, np.nan_to_num(task.scores).tolist(), task.share])
    known = hashlib.sha256((facts + str(None if task.mid is None else task.mid.tolist())).encode()).hexdigest()[:12]
    for repeat in range(repeats):
        name = f"{known} {arm} {kind or '-'} {until:g} {share:g} {VERSIONS.get(arm, 1)} {repeat}"
        if name not in kept:
            seed = derive(repeat, "cost-to-quality")
            kept[name] = ARMS[arm](misled(task, kind, seed), seed, until, share)
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"name": name, "trace": kept[name]}) + "\n")
        yield [(float(cost), int(index)) for cost, index in kept[name]]


def regrets(task: Task, trace: Sequence[tuple[float, int]], budgets: Sequence[float]) -> list[float]:
    """Return the regret in points at each budget."""
    in_order = sorted(trace, key=lambda one: one[0])
    best = np.maximum.accumulate([task.truth[index] for _, index in in_order]) if trace else []
    known = np.array([task.truth.mean(), *best])
    trained = np.searchsorted([cost for cost, _ in in_order], np.asarray(budgets) + 1e-9, side="right")
    return [100 * float(task.truth.max() - known[n]) for n in trained]


def reached(curve: NDArray[np.float64], budgets: Sequence[int]) -> int | None:
    """Return the first budget from which the mean regret (b,) is at most `REGRET`; None where there is none."""
    return next((b for b, value in zip(budgets, curve, strict=True) if value <= REGRET), None)


def band(values: NDArray[np.float64]) -> list[float]:
    """Return the 95 % interval of the mean of values (repeats,)."""
    draws = numpy_generator(0, "band", len(values)).integers(0, len(values), (2000, len(values)))
    return [round(float(b), 4) for b in np.percentile(values[draws].mean(axis=1), [2.5, 97.5])]


def measure(
    task: Task, kind: str, names: Sequence[str], options: argparse.Namespace, kept: dict[str, Any]
) -> dict[str, Any]:
    """Return what is shown of one table and one kind of signals."""
    found: dict[str, Any] = {"regret": {}, "band": {}, "worst": {}, "curve": {}, "to_0.3": {}}

    def searched(arm: str, until: float) -> list[list[tuple[float, int]]]:
        return list(traces(task, arm, kind, options.repeats, until, options.score_share, kept, options.keep))

    for arm in names:
        if arm in PLANNED:
            each = [[regrets(task, trace, [b])[0] for trace in searched(arm, b)] for b in options.budgets]
            table = np.array(each).T
        else:
            most = options.horizon if not kind else 0
            until = horizon(arm, options.budgets, most, task, options.score_share)
            runs, steps = searched(arm, until), list(range(1, until + 1))
            table = np.array([regrets(task, trace, options.budgets) for trace in runs])
            curves = np.array([regrets(task, trace, steps) for trace in runs])
            curve = curves.mean(axis=0)
            low, high = zip(*(band(values) for values in curves.T), strict=True)
            found["curve"][arm] = {"mean": [round(float(v), 4) for v in curve], "low": low, "high": high}
            found["to_0.3"][arm] = {"equivalents": reached(curve, steps), "tried": until}
        columns = [f"{b:g}" for b in options.budgets]
        found["regret"][arm] = {b: round(float(v), 4) for b, v in zip(columns, table.mean(axis=0), strict=True)}
        found["band"][arm] = {b: band(v) for b, v in zip(columns, table.T, strict=True)}
        found["worst"][arm] = {b: round(float(v), 4) for b, v in zip(columns, table.max(axis=0), strict=True)}
        print(f"{task.name} {kind or 'as published'} {arm}: {found['regret'][arm]}", flush=True)
    told = {"architectures": len(task.keys), "remarks": list(task.remarks)}
    return found | times_fewer(found["to_0.3"]) | told


def times_fewer(reach: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return how many times fewer equivalents ours takes than the best arm of Optuna's.

    Apart: than those with Optuna's defaults, and than all, with Hyperband's factor 16 among them. Where an arm that did
    not arrive was not tried for as long as the best one took, it is a lower bound ("at_least").
    """
    mine, found = reach.get("ours", {}).get("equivalents"), {}
    for name, arms in (("times_fewer_than_optuna", OPTUNA), ("times_fewer_than_optuna_tuned", (*OPTUNA, *TUNED))):
        rivals = [reach[arm] for arm in arms if arm in reach]
        if mine and rivals:
            best, late = min((rival["equivalents"] or rival["tried"], not rival["equivalents"]) for rival in rivals)
            found[name] = {"times": round(best / mine, 2), "at_least": late}
    return found


def tasks(options: argparse.Namespace) -> list[Task]:
    if options.table:
        return [load_task("table", options.table, options.scores, options.mid, options.cheapest)]
    return published(folder_of(options.data))


def kept_in(path: Path | None) -> dict[str, Any]:
    """Return the traces that a file keeps, after cutting off a last line that a kill left unfinished."""
    if path is None or not path.exists():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if whole != content:
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return {line["name"]: line["trace"] for line in map(json.loads, whole.splitlines())}
    except (ValueError, KeyError, TypeError):
        raise DataError(f"--keep {path} holds something else than traces; name another file") from None


def possible_arms(options: argparse.Namespace, task: Task) -> tuple[list[str], dict[str, str]]:
    """Return the arms that can search a task, and what the others lack. Raises DataError for one that was asked for."""
    lacking = {arm: lack for arm in options.arms or ARMS if (lack := lacks(arm, task)) is not None}
    if lacking and options.arms and options.table:
        arm, lack = next(iter(lacking.items()))
        raise DataError(f"the arm {arm} needs {lack}; leave it out of --arms, or give it")
    for arm, lack in lacking.items():
        print(f"{task.name}: no arm {arm}, which needs {lack}", file=sys.stderr, flush=True)
    return [arm for arm in options.arms or ARMS if arm not in lacking], lacking


def run(options: argparse.Namespace) -> dict[str, Any]:
    kept = kept_in(options.keep)
    found: dict[str, dict[str, Any]] = {}
    for task in tasks(options):
        arms, lacking = possible_arms(options, task)
        for kind in [options.mislead] if options.table or options.mislead else MISLEADING:
            chosen = arms if not kind or options.mislead else [arm for arm in arms if arm in MISLED_ARMS]
            found[f"{task.name} {kind}".strip()] = measure(task, kind, chosen, options, kept) | {"left_out": lacking}
    if len(found) == 1:
        return {"benchmark": "cost_to_quality", "n": options.repeats, **next(iter(found.values()))}
    plain = [made["regret"] for name, made in found.items() if " " not in name]
    common = [arm for arm in options.arms or ARMS if all(arm in regret for regret in plain)]
    means = {a: {b: round(float(np.mean([r[a][b] for r in plain])), 4) for b in plain[0][a]} for a in common}
    return {"benchmark": "cost_to_quality", "n": options.repeats, "regret": means, "tables": found}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_tables(parser)
    known = ", ".join(ARMS)
    parser.add_argument("--arms", type=lambda text: text.replace("-", "_").split(","), help=f"{known}; all of them")
    parser.add_argument("--repeats", type=count(1), default=30, metavar="N")
    parser.add_argument(
        "--budgets",
        type=several(number(0, math.inf)),
        default=[8, 12, 16, 24, 32],
        metavar="B,…",
        help="full trainings",
    )
    parser.add_argument(
        "--horizon",
        type=count(0),
        default=HORIZON,
        metavar="N",
        help="budget up to which a regret of 0.3 is waited for",
    )
    parser.add_argument("--mislead", choices=MISLEADING, default="", help="what is done to the signals")
    parser.add_argument(
        "--score-share",
        type=number(0, 1, with_least=True),
        default=SCORE_SHARE,
        metavar="COST",
        help="cost of a score, in full trainings",
    )
    parser.add_argument("--keep", type=Path, help="file in which traces are kept")
    options = parser.parse_args()
    check(options, "keep")
    if unknown := [arm for arm in options.arms or () if arm not in ARMS]:
        refuse(f"there is no arm {unknown[0]!r}; there are {known}")
    return options


def main() -> None:
    options = arguments()
    try:
        result = run(options)
    except DataError as error:
        refuse(error)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result) + "\n", encoding="utf-8")
    show(result, "cpu", ("numpy", "scipy", "optuna"))


if __name__ == "__main__":
    main()
