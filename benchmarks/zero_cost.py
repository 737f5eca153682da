"""How do signals that need no training rank the cells of NAS-Bench-201 for which accuracies are published?

Draws cells from a table of published accuracies, scores each, and correlates the scores with the accuracy of 200
epochs on CIFAR-10. A cell without a score counts as the lowest.

    python benchmarks/zero_cost.py --table nas_bench_201_public.csv --signals synflow --cells 400
    python benchmarks/zero_cost.py --table nas_bench_201_public.csv --signals synflow,jacob_cov,naswot \
        --cells 100 --data folder:cifar10
    python benchmarks/zero_cost.py --table nas_bench_201_public.csv --signals az_nas --cells 300

The last line on stdout is one JSON object.
"""

import argparse
import statistics
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development
from nas_proxy.ranking.intervals import RESAMPLES, bootstrap_interval, spearman
from nas_proxy.ranking.names import ZERO_COST
from nas_proxy.signals import az_nas
from nas_proxy.signals.computed import computed
from nas_proxy.spaces.loading import load_space
from outcome import show
from search_spaces.nas_bench_201 import parse

SHAPE = DataShape(3, 32, 32, 10)


def images(source: str | None) -> ImageSet:
    """Return training images, or black ones, which do for the signals that see none."""
    if source is not None:
        return development(open_source(source, image_size=None), seed=0, limit=100).train
    black = torch.zeros(10, 3, 32, 32, dtype=torch.uint8)
    return ImageSet(black, torch.arange(10), torch.ones(3), torch.zeros(3), tuple("0123456789"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, required=True, help="CSV with arch_str and the column of accuracies")
    parser.add_argument("--column", default="cifar10_valid_200ep")
    parser.add_argument("--signals", default="synflow", help=f"of {','.join(ZERO_COST)}, with commas between")
    parser.add_argument("--cells", type=int, default=400)
    parser.add_argument("--data", help="CIFAR-10 as nas-proxy run --dataset takes it; synflow and az_nas need none")
    parser.add_argument("--noise", type=int, default=az_nas.NOISE, help="images of noise that az_nas sees")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    az_nas.NOISE = options.noise
    rows = pd.read_csv(options.table).sample(options.cells, random_state=options.seed)
    truth = rows[options.column].to_numpy(float)
    cells = [parse(name) for name in rows["arch_str"]]
    data, space = images(options.data), load_space("nas_bench_201", SHAPE)
    found = {}
    for name in options.signals.split(","):
        column = computed([name], space, cells, data, options.seed)[name]
        score = np.asarray(column.ranked())
        interval = bootstrap_interval(
            lambda counts, score=score: spearman(score, truth, counts),
            len(truth),
            np.random.default_rng(options.seed),
            RESAMPLES,
        )
        found[name] = {
            "spearman": round(float(spearman(score, truth, np.ones((1, len(truth))))[0]), 4),
            "low": round(float(interval.low or np.nan), 4),
            "high": round(float(interval.high or np.nan), 4),
            "n": len(truth),
            "missing": column.missing,
            "seconds_a_cell": round(statistics.mean(s.seconds for s in column.scores), 4),
            "seconds_median": round(statistics.median(s.seconds for s in column.scores), 4),
        }
        print(f"{name}: {found[name]}", flush=True)
    result = {
        "benchmark": "zero_cost",
        "space": "nas_bench_201",
        "truth": options.column,
        "signals": found,
        "settings": {
            "seed": options.seed,
            "threads": options.threads,
            "images": options.data is not None,
            "noise": options.noise,
        },
    }
    show(result, "cpu", ("torch",))


if __name__ == "__main__":
    main()
