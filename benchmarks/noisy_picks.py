"""How good a pick is, and whether its saving is believed rightly, where a search sees few validation images.

    python benchmarks/noisy_picks.py --out benchmarks/results/noisy-picks-fashion-cpu.json

On the ConvNets of `convnet_table.py`: the search of `nas_proxy.strategy.acquisition` sees the accuracy on 5,000
validation images of what it trains fully (and `early_stop` as its cheap training); test images judge. After so many
full trainings' worth, the same trainings are looked at in three ways:

best_seen        the best by validation is the pick
exact            the best by the posterior mean of a surrogate that takes what was seen for the truth
known_noise      the same, where what so few images tell is part of the noise (what `nas-proxy run` does)

and of the last two: how often the 95 % interval of the full trainings that random search would need (the saving)
covers the number that it does need for the pick's test accuracy, (n + 1) / (k + 2) with k better ones, and the median
ratio of the two. The last line on stdout is one JSON object.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arms import pool_of
from nas_proxy.files import write_json
from nas_proxy.ranking.surrogate import believe, fit
from nas_proxy.seeds import derive
from nas_proxy.strategy.acquisition import Observed, Plan, after, next_actions
from nas_proxy.strategy.saving import saving
from outcome import show
from published_tables import Task, load_task

TABLE = Path(__file__).parent / "results" / "fashion-convnets-cpu.csv"
SCORES = ("params", "flops", "synflow", "jacob_cov", "naswot", "az_nas")
IMAGES, SHARE = 5000, 0.07


def task_of(table: Path, scores: Path) -> tuple[Task, np.ndarray]:
    """Return the table as a task judged on test images, and what a search sees. scores: file that is written."""
    frame = pd.read_csv(table)
    frame[["key", *SCORES]].to_csv(scores, index=False)
    task = load_task("fashion", f"{table}:test_acc", scores, f"{table}:early_stop:{SHARE}")
    return task, frame.set_index("key").loc[list(task.keys), "validation_acc"].to_numpy()


def searched(task: Task, seen: np.ndarray, seed: int, budget: float) -> Observed:
    """Return what a search of so many full trainings' worth has observed."""
    features, observed, spent, number = pool_of(task), Observed(), 0.0, 0
    assert task.mid is not None
    while actions := next_actions(features, observed, Plan(), seed, number):
        results = []
        for action in actions:
            spent += 1.0 if action.fidelity == "full" else task.share
            if spent > budget:
                return after(observed, results)
            column = seen if action.fidelity == "full" else task.mid
            results.append((action, float(column[action.index])))
        observed, number = after(observed, results), number + 1
    return observed


def looked_at(task: Task, observed: Observed, images: int | None, seed: int) -> dict[str, float]:
    """Return the regret of the pick in points, and the saving against what it is."""
    n, rows = len(task.keys), np.array([*observed.full])
    fitted = fit(pool_of(task), observed.cheap, observed.full, images)
    pick = int(rows[np.argmax(believe(fitted, rows).mean)])
    told, needed = saving(fitted, np.arange(n), seed, pick), (n + 1) / ((task.truth > task.truth[pick]).sum() + 2)
    covered = told.low - 1e-9 <= needed <= told.high + 1e-9
    regret = 100 * float(task.truth.max() - task.truth[pick])
    return {"regret": regret, "covered": float(covered), "ratio": told.trainings / needed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--budgets", type=lambda text: [float(b) for b in text.split(",")], default=[12, 16, 24, 32])
    parser.add_argument("--out", type=Path, required=True, help="file for the result, beside the last line")
    options = parser.parse_args()
    task, seen = task_of(options.table, scores := options.out.with_suffix(".scores.csv"))
    scores.unlink()
    found: dict[str, Any] = {}
    for budget in options.budgets:
        runs = [searched(task, seen, derive(seed, "noisy-picks"), budget) for seed in range(options.repeats)]
        best = [100 * (task.truth.max() - task.truth[max(o.full, key=lambda i, o=o: o.full[i])]) for o in runs]
        ways = {"best_seen": {"regret": round(float(np.mean(best)), 3)}}
        for name, images in (("exact", None), ("known_noise", IMAGES)):
            each = pd.DataFrame([looked_at(task, observed, images, seed) for seed, observed in enumerate(runs)])
            error = 1.96 * each["regret"].std() / len(each) ** 0.5
            ways[name] = {
                "regret": round(float(each["regret"].mean()), 3),
                "band": round(float(error), 3),
                "covered": round(float(each["covered"].mean()), 3),
                "ratio": round(float(each["ratio"].median()), 2),
            }
        found[f"{budget:g}"] = ways
        print(budget, json.dumps(ways), flush=True)
    result = {"benchmark": "noisy_picks", "n": options.repeats, "images": IMAGES, "budgets": found}
    write_json(options.out, result)
    show(result, "cpu", ("numpy", "scipy"))


if __name__ == "__main__":
    main()
