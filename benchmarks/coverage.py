"""Do the intervals of a ranking cover what they should? Known populations, and how often 95 % intervals hold.

A score and a truth are bivariate normal with a given Spearman correlation; with ties, both are cut into levels of equal
probability. Each trial draws n architectures and takes the interval of `correlation_interval`, as `nas-proxy
rank` does, of Spearman's rho over all of them and among the better half by truth, and of Kendall's tau. What is to be
covered is the value in the whole population, by a sample of 400,000 (4,000 for Kendall's tau, ten times).

    python benchmarks/coverage.py --trials 1000
    python benchmarks/coverage.py --trials 600 --levels 7 --statistics spearman_top_half

An even number of levels puts the better half on the edge of one: samples then take a level more or less than the
population, and its value is not what they estimate.

The last line on stdout is one JSON object.
"""

import argparse
import itertools

import numpy as np
from scipy import stats

from nas_proxy.ranking.agreement import Pair, Plan, correlation_interval
from nas_proxy.ranking.intervals import Correlation, Floats, kendall, spearman
from outcome import show

BOUNDS = (0.92, 0.98)
STATISTICS: dict[str, tuple[Correlation, float]] = {
    "spearman": (spearman, 1.0),
    "spearman_top_half": (spearman, 0.5),
    "kendall": (kendall, 1.0),
}


def drawn(n: int, rho: float, rng: np.random.Generator, levels: int) -> tuple[Floats, Floats]:
    """Return a score and a truth (n,) whose Spearman correlation without ties is rho; 0 levels for no ties."""
    pearson = 2 * np.sin(np.pi * rho / 6)
    x = rng.standard_normal(n)
    y = pearson * x + np.sqrt(1 - pearson**2) * rng.standard_normal(n)
    if not levels:
        return x, y
    edges = stats.norm.ppf(np.arange(1, levels) / levels)
    return np.digitize(x, edges).astype(float), np.digitize(y, edges).astype(float)


def population(statistic: str, rho: float, levels: int) -> float:
    """Return the value of the statistic in the whole population."""
    rng = np.random.default_rng(0)
    if statistic == "kendall":
        return float(np.mean([stats.kendalltau(*drawn(4_000, rho, rng, levels)).statistic for _ in range(10)]))
    x, y = drawn(400_000, rho, rng, levels)
    if statistic == "spearman_top_half":
        best = y >= np.sort(y)[-(len(y) // 2)]
        x, y = x[best], y[best]
    return float(stats.spearmanr(x, y).statistic)


def coverage(statistic: str, n: int, rho: float, trials: int, resamples: int, levels: int) -> dict[str, object]:
    """Return how often the interval covers the population's value, and how wide it is."""
    correlation, fraction = STATISTICS[statistic]
    target = population(statistic, rho, levels)
    covered, below, widths = 0, 0, []
    for trial in range(trials):
        rng = np.random.default_rng((list(STATISTICS).index(statistic), n, levels > 0, round(100 * rho), trial))
        x, y = drawn(n, rho, rng, levels)
        plan = Plan(n, trial, resamples)
        found = correlation_interval([[Pair("score", x, "truth", y)]], correlation, plan, fraction)
        if found.low is None or found.high is None:
            continue
        covered += found.low <= target <= found.high
        below += target < found.low
        widths.append(found.high - found.low)
    return {
        "population": round(target, 4),
        "coverage": round(covered / max(1, len(widths)), 4),
        "missed_below": below,
        "missed_above": len(widths) - covered - below,
        "width": round(float(np.median(widths)), 3),
        "without_bounds": trials - len(widths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--resamples", type=int, default=999, help="nas-proxy rank takes 9,999")
    parser.add_argument("--n", default="24,100", help="numbers of architectures, with commas between")
    parser.add_argument("--rho", default="0.3,0.7,0.9", help="Spearman correlations, with commas between")
    parser.add_argument("--levels", type=int, default=6, help="of the scores and truths with ties")
    parser.add_argument("--statistics", default=",".join(STATISTICS))
    options = parser.parse_args()
    sizes, rhos = [int(n) for n in options.n.split(",")], [float(rho) for rho in options.rho.split(",")]
    found = []
    for statistic, n, ties, rho in itertools.product(options.statistics.split(","), sizes, (False, True), rhos):
        levels = options.levels if ties else 0
        case = {"statistic": statistic, "n": n, "ties": ties, "rho": rho}
        found.append(case | coverage(statistic, n, rho, options.trials, options.resamples, levels))
        print(found[-1], flush=True)
    outside = [case for case in found if not BOUNDS[0] <= float(str(case["coverage"])) <= BOUNDS[1]]
    result = {
        "benchmark": "coverage",
        "level": 0.95,
        "trials": options.trials,
        "resamples": options.resamples,
        "levels": options.levels,
        "cases": found,
        "outside": [{k: case[k] for k in ("statistic", "n", "ties", "rho", "coverage")} for case in outside],
    }
    show(result, "cpu", ("scipy", "numpy"))


if __name__ == "__main__":
    main()
