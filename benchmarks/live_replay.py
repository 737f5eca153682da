"""Replay searches on a table of finished trainings, with the true seconds of each: regret against minutes.

    python benchmarks/live_replay.py --rows benchmarks/results/fashion-convnets-cpu.jsonl --repeats 100

The rows are those of `convnet_table.py`; of unfinished ones, the architectures that have a row are the space. A
search pays for a full training what it and the look at the validation images took (seconds of the processor, one
thread), and no repeat. At any moment its pick is, of what it has trained fully, the best by what it sees:

    --sees validation   the accuracy on the validation images, so that a pick can be mistaken (what a user has)
    --sees test         the judge's own accuracy, as published tables are usually replayed

Regret is in points of test accuracy below the best of the table; until something is trained, that of a random pick.

Arms (`--arms`, commas between):
random: uniformly random order. tpe: Optuna's TPE as it comes; what it proposes again is refused and it is asked anew.
tpe_hyperband: the same with Optuna's Hyperband, which sees the validation accuracy after each epoch of the training's
own curve and ends it there. Only what was trained to the end can be picked.
evolution: regularised evolution, population 10, tournament 3.
order:SIGNAL: the signal of all architectures first (paid for), then full trainings in its order; signals are the
columns that `convnet_table.py table` writes, such as flops, vote, random10 or early_stop:loss_sum.
events:NAME=FOLDER: runs that were made live. Each file events.jsonl at any depth of FOLDER is one repeat, and holds a
line of JSON for each piece of work in the order in which it ended:

    {"key": "depth=1,…", "fidelity": "full", "seconds": 12.3}
    {"key": null, "fidelity": "condense", "seconds": 80.0}

key: the architecture, as in the rows, or null for work that is of none. fidelity: "full" for a full training, any other
name for all else that costs (scores, condensing, training on a proxy, fitting, choosing). seconds: what it took, on the
same processor with one thread; where workers ran at the same time, each its own. Optional: "score", the validation
accuracy of that training (the table's where absent), and "pick", a key, what the run would hand out after this event;
else the pick is the best by score of what was trained fully. It is judged by the table, like every other.

The last line on stdout is one JSON object; `--out FILE` writes it, too.
"""

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna

from convnet_rows import read_rows
from nas_proxy.files import write_json
from replayed_searches import Event, Table, repeats_of, table_of
from small_convnets import space

BUDGETS = (0.5, 1, 1.5, 2, 3, 4, 6)  # minutes
TARGETS = (1.0, 0.5, 0.3, 0.1)  # points of regret
ARMS = (
    "random",
    "tpe",
    "tpe_hyperband",
    "evolution",
    "order:flops",
    "order:vote",
    "order:random10",
    "order:early_stop",
)
# Steps at which the table of mean regrets is searched for a target, seconds.
STEP = 1.0


def regret_at(events: Sequence[Event], table: Table, seconds: np.ndarray) -> np.ndarray:
    """Return the regret in points at each moment; what is under way there is not known yet."""
    tests = np.array([training.test for training in table.values()])
    picks = [math.nan, *(table[e.pick].test if e.pick is not None else math.nan for e in events)]
    ends = np.cumsum([event.seconds for event in events])
    found = np.array(picks)[np.searchsorted(ends, seconds, side="right")]
    return 100 * (tests.max() - np.where(np.isnan(found), tests.mean(), found))


def judged(runs: Sequence[list[Event]], table: Table, budgets: Sequence[float]) -> dict[str, Any]:
    """Return mean regrets with 95 % bands (normal, over repeats) at budgets in minutes, and minutes to targets.

    A target has the minutes from which on the mean regret stays at or below it; None where the largest budget is
    not enough.
    """
    at = np.array([regret_at(events, table, 60 * np.array(budgets)) for events in runs])
    error = 1.96 * at.std(axis=0, ddof=1) / math.sqrt(len(runs)) if len(runs) > 1 else np.full(at.shape[1], math.nan)
    steps = np.arange(0, 60 * max(budgets) + STEP, STEP)
    mean = np.mean([regret_at(events, table, steps) for events in runs], axis=0)
    regret = {
        f"{budget:g}": {
            "mean": round(float(at[:, i].mean()), 3),
            "band": None if math.isnan(error[i]) else round(float(error[i]), 3),
            "worst": round(float(at[:, i].max()), 3),
        }
        for i, budget in enumerate(budgets)
    }
    return {"repeats": len(runs), "regret": regret, "minutes_to": {f"{t:g}": _first(steps, mean, t) for t in TARGETS}}


def _first(steps: np.ndarray, mean: np.ndarray, target: float) -> float | None:
    """Return the minutes from which on the mean regret stays at most at `target`; None where it never does."""
    above = np.nonzero(mean > target)[0]
    last = above[-1] + 1 if len(above) else 0
    return round(float(steps[last]) / 60, 2) if last < len(steps) else None


def replay(
    rows: Sequence[dict[str, Any]], arms: Sequence[str], sees: str, repeats: int, budgets: Sequence[float]
) -> dict[str, Any]:
    """Return what every arm reaches on the table of `rows`."""
    table = table_of(rows, sees)
    full = [training.seconds for training in table.values()]
    picked = max(table.values(), key=lambda training: training.seen)
    best = max(training.test for training in table.values())
    return {
        "sees": sees,
        "budgets_equivalents": {f"{b:g}": round(60 * b / float(np.mean(full)), 1) for b in budgets},
        "all_trained_minutes": round(sum(full) / 60, 1),
        "mean_full_training_seconds": round(float(np.mean(full)), 2),
        "regret_of_everything_trained": round(100 * (best - picked.test), 3),
        "arms": {
            _name(arm): judged(repeats_of(arm, rows, table, repeats, 60 * max(budgets)), table, budgets) for arm in arms
        },
    }


def _name(arm: str) -> str:
    return arm.removeprefix("events:").partition("=")[0] if arm.startswith("events:") else arm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True)
    parser.add_argument("--arms", type=lambda text: text.split(","), default=ARMS)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--sees", choices=("validation", "test", "both"), default="both")
    parser.add_argument("--budgets", type=lambda text: [float(b) for b in text.split(",")], default=BUDGETS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    first, *rows = read_rows(options.rows)
    seen = ("validation", "test") if options.sees == "both" else (options.sees,)
    found = {
        "benchmark": "live_replay",
        "setting": first["setting"],
        "rows": len(rows),
        "of": space.size,
        **{sees: replay(rows, options.arms, sees, options.repeats, options.budgets) for sees in seen},
    }
    if options.out is not None:
        write_json(options.out, found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
