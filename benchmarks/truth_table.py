"""Time loading a truth table of all 15,625 cells of NAS-Bench-201 and ranking three signals by it.

The table is made here: the published names, and made-up accuracies in per cent that grow with the number of 3×3
convolutions. Measured in one process after the imports: listing the space's names, reading and checking the CSV file,
drawing the uniform sample, and the full ranking (Spearman, Kendall, better half, regret, differences, with 9,999
resamples each) of three signals, one of them the control, on that sample. `peak_mb` is the highest memory of the
process less what its imports take, most of it PyTorch's and depending on its build; `process_peak_mb` is all of it.

    python benchmarks/truth_table.py --sample 100 --repeats 5

The last line on stdout is one JSON object.
"""

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from nas_proxy.data.images import DataShape
from nas_proxy.ranking.agreement import ScoredSignal, rank
from nas_proxy.ranking.truth_table import known_part, load_truth_table
from nas_proxy.spaces.loading import load_space
from outcome import show

SHAPE = DataShape(3, 32, 32, 10)


def write_table(path: Path) -> int:
    space = load_space("nas_bench_201", SHAPE)
    draws = np.random.default_rng(0)
    keys = [space.key(a) for a in space.sample(0)]
    accuracy = [60 + 4 * key.count("nor_conv_3x3") + draws.normal() for key in keys]
    pd.DataFrame({"arch_str": keys, "index": range(len(keys)), "accuracy": accuracy}).to_csv(path, index=False)
    return len(keys)


def signals(truth: pd.DataFrame, sample: list[str]) -> list[ScoredSignal]:
    draws = np.random.default_rng(1)

    def noisy(name: str, columns: int, noise: float) -> ScoredSignal:
        values = truth.loc[sample, [0] * columns].to_numpy() + draws.normal(0, noise, (len(sample), columns))
        return ScoredSignal(name, pd.DataFrame(values, index=sample), 1.0, 1, 1)

    return [noisy("proxy", 1, 0.02), noisy("random", 3, 0.03), noisy("params", 1, 0.05)]


def once(path: Path, sample_size: int) -> tuple[float, float, int]:
    """Return the seconds of loading and of ranking, and the number of rows."""
    start = time.perf_counter()
    space = load_space("nas_bench_201", SHAPE)
    table = load_truth_table(f"{path}:accuracy", space, SHAPE.classes)
    part = known_part(space, table)
    sample = [part.key(a) for a, _ in zip(part.sample(0), range(sample_size), strict=False)]
    loaded = time.perf_counter()
    costs = {"truth_seconds": None, "truth_image_passes": None, "truth_stored_bytes": None}
    rows = rank(signals(table.scores, sample), table.scores, sample, seed=0, **costs)
    assert len(rows) == 4
    return loaded - start, time.perf_counter() - loaded, len(table.scores)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=100, help="architectures that are ranked")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    load_space("nas_bench_201", SHAPE)
    imports = peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_table(path)
        taken = []
        for number in range(options.repeats):
            taken.append(once(path, options.sample))
            print(f"{number}: loading {taken[-1][0]:.2f} s, ranking {taken[-1][1]:.2f} s", flush=True)
    totals = [loading + ranking for loading, ranking, _ in taken]
    result = {
        "benchmark": "truth_table",
        "seconds": round(statistics.median(totals), 3),
        "seconds_range": [round(min(totals), 3), round(max(totals), 3)],
        "first_seconds": round(totals[0], 3),
        "loading_seconds": round(statistics.median(loading for loading, _, _ in taken), 3),
        "ranking_seconds": round(statistics.median(ranking for _, ranking, _ in taken), 3),
        "peak_mb": round(peak_mb() - imports, 1),
        "process_peak_mb": round(peak_mb(), 1),
        "rows": taken[0][2],
        "sample": options.sample,
        "signals": 3,
        "n": options.repeats,
    }
    show(result, "cpu", ("numpy", "pandas", "scipy"))


if __name__ == "__main__":
    main()
