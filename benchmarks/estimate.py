"""How good the estimate of `--dry-run` is: the seconds that it tells for each stage, and those that the stage takes.

python benchmarks/estimate.py --case digits=digits --case "small=folder:DIR|{"limit": 100}" --out DIR
"""

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from nas_proxy.environment import environment
from nas_proxy.pipeline.dry_run import estimate_run
from nas_proxy.pipeline.stages import STAGES, run_all
from nas_proxy.progress import SILENT, Bar
from nas_proxy.runs.resolving import resolve

# How the titles of a run's bars begin, by what the estimate calls it; none is shown within another.
BARS = {
    "read": ("Load",),
    "condense": ("Condense",),
    "search": ("Train: proxy", "Pool", "Score: ", "Time: latency", "Search"),
    "truth": ("Full trainings", "Judge: further seeds"),
    "rank": ("Baseline: ",),
}


class Clock:
    """A progress that keeps the seconds of each bar."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        print(text, file=sys.stderr)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Bar]:
        began = time.perf_counter()
        with SILENT.stage(title, total) as bar:
            yield bar
        self.seconds[title] = self.seconds.get(title, 0.0) + time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", action="append", required=True, help="NAME=DATASET, then settings as JSON after a |")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    for case in options.case:
        named, _, settings = case.partition("|")
        name, _, dataset = named.partition("=")
        given = {"dataset": dataset, "workers": options.workers, **json.loads(settings or "{}")}
        print(json.dumps(measured(name, given, options.out / name)), flush=True)


def measured(name: str, given: dict[str, object], out: Path) -> dict[str, object]:
    config = resolve(given)
    shutil.rmtree(out, ignore_errors=True)
    began = time.perf_counter()
    found = estimate_run(config, out, tuple(STAGES)).estimate
    estimating = time.perf_counter() - began
    clock = Clock()
    began = time.perf_counter()
    run_all(config, out, progress=clock)
    whole = time.perf_counter() - began - clock.seconds.get("Estimate", 0.0)
    told = {stage: vars(span) for stage, span in found.by_stage.items()} | {"all": vars(found.seconds)}
    for bound, rest in vars(found.speeds.judging).items():
        told["rank"] = {**told["rank"], bound: told["rank"][bound] - rest}
    took = {stage: _taken(clock.seconds, titles) for stage, titles in BARS.items()} | {"all": whole}
    return {
        "case": name,
        "settings": given,
        "estimating": round(estimating, 1),
        "estimate": told,
        "took": took,
        "ratio": {stage: told[stage]["value"] / took[stage] for stage in told if took[stage]},
        "bars": clock.seconds,
        "environment": environment("cpu", 1),
    }


def _taken(seconds: dict[str, float], titles: tuple[str, ...]) -> float:
    return sum(taken for title, taken in seconds.items() if title.startswith(titles))


if __name__ == "__main__":
    main()
