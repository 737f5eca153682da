"""How well does full training repeat itself? Told from cells of NAS-Bench-201 that were published under several names.

The table has one training a cell. Cells that compute the same function are trainings of one architecture; from their
differences, a second training of samples of the table is simulated (`nas_proxy/ranking/repeatability.py`). Beside it
stands the plain correlation of the first two cells of each function, which is of other, mostly simpler, architectures.

    python benchmarks/repeatability.py --table nas_bench_201_public.csv:cifar10_valid_200ep --samples 24,100,400

The last line on stdout is one JSON object.
"""

import argparse
import time

import numpy as np
from scipy.stats import spearmanr

from nas_proxy.data.images import DataShape
from nas_proxy.ranking.repeatability import repeated
from nas_proxy.ranking.truth_table import load_truth_table
from nas_proxy.spaces.loading import load_space
from outcome import show


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", required=True, help="a truth table with one column, FILE:COLUMN")
    parser.add_argument("--samples", default="24,100,400", help="numbers of cells, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shape = DataShape(3, 32, 32, 10)
    table = load_truth_table(options.table, load_space("nas_bench_201", shape), shape.classes)
    found = {}
    for n in map(int, options.samples.split(",")):
        sample = table.scores[0].sample(n, random_state=options.seed).to_numpy()
        start = time.perf_counter()
        estimate = repeated(sample, table.isomorphic, options.seed)
        found[n] = {
            **{name: getattr(estimate, name).as_json() for name in ("spearman", "better_half")},
            "seconds": round(time.perf_counter() - start, 2),
        }
        print(f"{n}: {found[n]}", flush=True)
    pairs = np.array([group[:2] for group in table.isomorphic])
    result = {
        "benchmark": "repeatability",
        "space": "nas_bench_201",
        "truth": ",".join(table.columns),
        "cells": len(table.scores),
        "groups": len(table.isomorphic),
        "groups_that_agree": sum(len(set(group)) == 1 for group in table.isomorphic),
        "pairs_alone": round(float(spearmanr(pairs).statistic), 4),
        "samples": found,
        "settings": {"seed": options.seed},
    }
    show(result, "cpu", ("scipy", "numpy"))


if __name__ == "__main__":
    main()
