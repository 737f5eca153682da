"""How well few full trainings calibrate published signals: Spearman on the architectures that were not drawn.

    python benchmarks/calibrated_correlation.py --data DIR
    python benchmarks/calibrated_correlation.py --table nas_bench_201.csv:cifar10_valid_200ep --scores zero_cost.csv \
        --mid nas_bench_201.csv:cifar10_test_12ep:0.06 --cheapest 0.3 --trainings 24

Each draw takes a uniform sample of the (limited) table as its full trainings, calibrates all signals with them, and
correlates the prediction with the truth on all others. Beside it:
the best single signal, which nobody knows beforehand; the mean rank without any fit; and the
correlation that cross-fitting over the sample estimates, against the one over the rest, which tells whether a report
may show it. Without a table: all cells of NAS-Bench-201's part and its cheapest 60 % and 30 % by FLOPs, with and
without the 12-epoch accuracy, and all of NAS-Bench-Macro's part and its cheapest 60 %; DIR holds the published tables
that the README here names under "Inputs". The last line on stdout is one JSON object.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from cost_to_quality import band
from nas_proxy.errors import DataError
from nas_proxy.ranking.calibration import calibrate, cross_fitted, features_of
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.seeds import derive, numpy_generator
from outcome import show
from published_tables import Task, load_task
from table_options import add_tables, check, count, folder_of, refuse, several

MID = "mid"


def signals(task: Task) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Return the scores of the pool (n, s) with the cheap training among them, and their names."""
    if task.mid is None:
        return task.scores, task.names
    return np.column_stack([task.scores, task.mid]), (*task.names, MID)


def spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    return float(stats.spearmanr(a, b).statistic)


def lowest(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return scores with one below all others in place of each that is missing."""
    return np.where(np.isnan(values), np.nextafter(np.nanmin(values), -np.inf), values)


def check_task(task: Task, trainings: Sequence[int]) -> None:
    """Raise DataError where a table cannot tell how well its signals are calibrated."""
    if not signals(task)[1]:
        raise DataError(f"{task.name} has no scores and no cheap training to calibrate; give --scores or --mid")
    if np.ptp(task.truth) == 0:
        raise DataError(f"all accuracies of {task.name} are {task.truth[0]:g}, so there is no order to find")
    if max(trainings) > len(task.keys) - LEAST:
        raise DataError(
            f"{max(trainings)} of the {len(task.keys)} architectures of {task.name} leave fewer than {LEAST} to judge "
            f"by; give --trainings up to {len(task.keys) - LEAST}"
        )


def draw(task: Task, size: int, number: int, encoded: bool, crossed: bool) -> dict[str, float]:
    """Return the correlations of one draw of `size` full trainings."""
    scores, names = signals(task)
    seed = derive(number, "calibrated-correlation", size)
    rows = numpy_generator(seed, "draw").permutation(len(task.keys))
    rest, truth = np.sort(rows[size:]), task.truth
    full = {int(row): float(truth[row]) for row in rows[:size]}
    given: dict[str, Any] = {"seed": seed, "encoding": task.encoding if encoded else None, "trained": {MID}}
    found = calibrate(scores, names, full, **given)
    seen = cross_fitted(scores, names, full, **given) if crossed else {}
    vote = features_of(scores, names, None, {MID}).vote
    single = {name: spearman(lowest(scores[:, i])[rest], truth[rest]) for i, name in enumerate(names)}
    return {
        "calibrated": spearman(found.prediction[rest], truth[rest]),
        "mean_rank": spearman(vote[rest], truth[rest]),
        **({"cross_fitted": spearman(np.array([*seen.values()]), np.array([*full.values()]))} if crossed else {}),
        **{f"single {name}": value for name, value in single.items()},
    }


def measure(task: Task, options: argparse.Namespace) -> dict[str, Any]:
    """Return means over draws, by the number of full trainings, with 95 % intervals of the calibrated one."""
    found: dict[str, Any] = {"architectures": len(task.keys), "remarks": list(task.remarks)}
    for size in options.trainings:
        drawn = [
            draw(task, size, number, not options.without_encoding, number < options.crossed)
            for number in range(options.draws)
        ]
        means = {name: round(float(np.mean([d[name] for d in drawn if name in d])), 4) for name in drawn[0]}
        best = max((name for name in means if name.startswith("single ")), key=lambda name: means[name])
        values = np.array([d["calibrated"] for d in drawn])
        found[str(size)] = {
            "calibrated": means["calibrated"],
            "band": band(values),
            "worst": round(float(values.min()), 4),
            "mean_rank": means["mean_rank"],
            "best_single": {best.removeprefix("single "): means[best]},
            "less_than_best_single": round(means[best] - means["calibrated"], 4),
            "cross_fitted": means.get("cross_fitted"),
        }
        print(f"{task.name}, {size} trainings: {found[str(size)]}", flush=True)
    return found


def tasks(options: argparse.Namespace) -> list[Task]:
    if options.table:
        return [load_task("table", options.table, options.scores, options.mid, options.cheapest)]
    folder = folder_of(options.data)
    table, scores = folder / "nas_bench_201_public.csv", folder / "nas_bench_201_zero_cost_public.csv"
    found = []
    for part in (1.0, 0.6, 0.3):
        name = "nas_bench_201" + (f"_cheapest_{100 * part:.0f}" if part < 1 else "")
        mid = f"{table}:cifar10_test_12ep:0.06"
        task = load_task(name, f"{table}:cifar10_valid_200ep", scores, mid, part)
        found += [task, replace(task, name=f"{name}, untrained scores alone", mid=None)]
    macro = f"{folder / 'nas_bench_macro_public.json'}:mean_acc"
    parts = (("nas_bench_macro", 1.0), ("nas_bench_macro_cheapest_60", 0.6))
    return [*found, *(load_task(name, macro, cheapest=part) for name, part in parts)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_tables(parser)
    parser.add_argument("--trainings", type=several(count(LEAST)), default=[12, 24, 50], metavar="N,…")
    parser.add_argument("--draws", type=count(1), default=30, metavar="N")
    parser.add_argument(
        "--crossed", type=count(0), default=10, metavar="N", help="of the draws, those that are cross-fitted too"
    )
    parser.add_argument("--without-encoding", action="store_true", help="give the surrogate the signals alone")
    options = parser.parse_args()
    check(options)
    try:
        searched = tasks(options)
        for task in searched:
            check_task(task, options.trainings)
        found = {task.name: measure(task, options) for task in searched}
    except DataError as error:
        refuse(error)
    result = {"benchmark": "calibrated_correlation", "n": options.draws, "tables": found}
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    show(result, "cpu", ("numpy", "scipy"))


if __name__ == "__main__":
    main()
