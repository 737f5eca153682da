"""Rank correlation against the number of condensed images a class, beside as many random real images.

For each number a comparison is made (`nas-proxy compare`, signals dm and random, at as many image passes a candidate
whatever the number is) in a folder of its own in `--out`, where a run that is cut off goes on.

    python benchmarks/rank_per_class.py --data folder:cifar10 --space nas_bench_201:cells=1 \\
        --truth-table nas_bench_201.csv:cifar10_valid_200ep --ipc 1,10,50 --out runs/rank-curve

The last line on stdout is one JSON object.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve
from outcome import show

ROWS = ("dm", "dm:loss_sum", "random", "random:loss_sum")
INTERVAL = ("value", "low", "high")


def point(ipc: int, options: argparse.Namespace) -> dict[str, Any]:
    """Compare sets of `ipc` images a class, and return what each row is worth."""
    condense = {"images_per_class": ipc, "steps": options.steps, "width": options.width}
    settings = resolve(
        {
            "dataset": options.data,
            "space": options.space,
            "truth_table": options.truth_table,
            "device": options.device,
            "workers": options.workers,
            "limit": options.limit,
            "condense": {**condense, "real_batch": options.real_batch},
            "proxy_training": {"batch_size": options.batch, "learning_rate": options.learning_rate},
            "full_training": {"epochs": options.truth_epochs},
            "truth": options.sample,
            "compare": {"signals": ["dm", "random"], "draws": options.draws, "passes": options.passes},
        }
    )
    run = run_all(settings, options.out / f"ipc-{ipc}")
    rows = json.loads((run / "ranking.json").read_text(encoding="utf-8"))["signals"]
    found: dict[str, Any] = {"ipc": ipc}
    for row in ROWS:
        found[row] = {name: rounded(rows[row]["spearman"][name]) for name in INTERVAL}
        if row.startswith("dm"):
            found[row]["minus_random"] = {name: rounded(rows[row]["minus_random"][name]) for name in INTERVAL}
    found["making_seconds"] = round(rows["dm"]["cost"]["making_seconds"], 1)
    return found


def rounded(value: float | None) -> float | None:
    """Return three digits of a value that may be missing."""
    return None if value is None else round(value, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="as --dataset of nas-proxy compare")
    parser.add_argument("--limit", type=int, default=None, help="images a class that are used of the data")
    parser.add_argument("--space", default="convnet")
    parser.add_argument("--truth-table", default=None, help="FILE[:COLUMN]; else the sample is trained fully")
    parser.add_argument("--truth-epochs", type=float, default=None)
    parser.add_argument("--ipc", default="1,10,50", help="images a class, with commas between")
    parser.add_argument("--sample", type=int, default=24, help="architectures")
    parser.add_argument("--draws", type=int, default=3, help="sets of each kind")
    parser.add_argument("--steps", type=int, default=100, help="of a condensation")
    parser.add_argument("--width", type=int, default=64, help="of the embedding ConvNets")
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5000, help="images through a candidate, counted with repetition")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder of the comparisons")
    options = parser.parse_args()
    points = []
    for ipc in map(int, options.ipc.split(",")):
        points.append(point(ipc, options))
        print(json.dumps(points[-1]), flush=True)
    settings = ("space", "sample", "draws", "steps", "width", "real_batch", "passes", "batch", "learning_rate")
    result = {
        "benchmark": "rank_per_class",
        "data": options.data.rpartition("/")[2].rpartition(":")[2],
        **{name: getattr(options, name) for name in settings},
        "n": options.sample,
        "points": points,
    }
    show(result, options.device, ("torch",))


if __name__ == "__main__":
    main()
