"""A thousand workers on a simulated clock: how busy a search keeps them, and what a trial costs after 100,000 others.

The search is the real one (`nas_proxy.strategy`, with its proposals, sizes and trials in SQLite); only its workers are
simulated. A training takes a random time (log-normal) on a clock that runs with the command and leaps to the end of the
next training where the command would wait, so what the command takes for a trial keeps workers waiting as it would.
Measured at the start of a search and behind a history of 100,000 trials, which are written into the file directly.

The command's seconds a trial found there are then put in for it, and 100,000 trials are simulated whole, for several
sizes of the window (`--round`), and mean durations and spreads of a training.

    python benchmarks/scale.py

The last line on stdout is one JSON object.
"""

import argparse
import contextlib
import heapq
import json
import math
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import optuna

from nas_proxy.data.shape import DataShape
from nas_proxy.progress import shown
from nas_proxy.spaces.cost import Sizes
from nas_proxy.spaces.loading import load_space
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy.candidates import Search, Stream
from nas_proxy.strategy.samplers import LONG, Proposer
from nas_proxy.strategy.search import search
from nas_proxy.strategy.trainer import Images, Trainer
from nas_proxy.training.executor import InlineExecutor, Jobs, run_all
from nas_proxy.training.train import Outcome, Recipe
from outcome import show

WORKERS, TOTAL, SAMPLE, EPOCHS = 1000, 100_000, 100, 60
MEANS, SPREADS, WINDOWS = (15, 30, 60, 120, 300), (0.25, 0.5, 1.0), (1000, 2000, 4000, 8000, 16_000)
ENOUGH = 0.9
# What of the command is timed on its own.
PARTS = {
    "proposal": (Proposer, "propose"),
    "learning": (Proposer, "learn"),
    "size": (Sizes, "of"),
    "opening": (TrialStore, "begin"),
    "closing": (TrialStore, "finish"),
}
SHAPE = DataShape(1, 8, 8, 10)
SPACE = """
from torch import nn

from nas_proxy import Choice, Space

choices = Choice("c0", TEN)
for number in range(1, 7):
    choices = choices & Choice(f"c{number}", TEN)


def build(architecture, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.channels * shape.height * shape.width, shape.classes))


space = Space("ten_million", choices, build)
"""


class SimulatedWorkers(InlineExecutor):
    """`count` workers that train for log-normal times on a clock of their own: seconds of the command and leaps."""

    def __init__(self, count: int, mean: float, spread: float) -> None:
        super().__init__()
        self.count = count
        self.trained: list[tuple[float, float]] = []  # when each training began and ended
        self._draws = random.Random(0)
        self._how = math.log(mean) - spread**2 / 2, spread
        self._leapt = -time.perf_counter()
        self._ends: list[tuple[float, int, Any, float]] = []

    @property
    def now(self) -> float:
        """The time of the simulated clock in seconds."""
        return self._leapt + time.perf_counter()

    @property
    def free(self) -> int:
        """How many have nothing to do."""
        return self.count - len(self._ends)

    def submit(self, tag: object, job: Any) -> None:
        """Begin a training."""
        start, architecture = self.now, job.architecture
        end = start + self._draws.lognormvariate(*self._how)
        self.trained.append((start, end))
        score = statistics.fmean(architecture.values()) / 10 + self._draws.gauss(0, 0.02)
        heapq.heappush(self._ends, (end, len(self.trained), tag, score))

    def results(self, timeout: float | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield the next training that ends."""
        del timeout
        end, number, tag, score = heapq.heappop(self._ends)
        self._leapt += max(0.0, end - self.now)
        losses = tuple(round(2.3 / (1 + epoch) + number / 1e5, 5) for epoch in range(EPOCHS))
        yield tag, Outcome(score, losses, diverged=False, seconds=1.0, image_passes=1)

    def run(self, jobs: Jobs[Any, Any]) -> Iterator[tuple[Any, Any]]:
        """Perform the jobs."""
        return run_all(self, jobs)

    def busy_share(self) -> float | None:
        """Return the share of their time that workers train, from when all are at work to the last one's beginning.

        None where there are too few trainings to tell.
        """
        if len(self.trained) <= self.count:
            return None
        start, end = self.trained[self.count - 1][0], self.trained[-1][0]
        trained = sum(max(0.0, min(b, end) - max(a, start)) for a, b in self.trained)
        return round(trained / (self.count * (end - start)), 4)


@contextlib.contextmanager
def timed() -> Iterator[dict[str, list[float]]]:
    """Yield the seconds of each call of what is in `PARTS`, meanwhile."""
    found: dict[str, list[float]] = {name: [] for name in PARTS}

    def clocked(seconds: list[float], inner: Any) -> Any:
        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = inner(*arguments)
            seconds.append(time.perf_counter() - start)
            return result

        return call

    with contextlib.ExitStack() as stack:
        for name, (kind, method) in PARTS.items():
            stack.enter_context(mock.patch.object(kind, method, clocked(found[name], getattr(kind, method))))
        yield found


def memory() -> int:
    """Return the bytes that this process has in memory."""
    pages = Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def part_of_search(folder: Path, before: int, trials: int, window: int, sampler: str, mean: float) -> dict[str, Any]:
    """Search from `before` trials in the file to `trials` more; return what it took."""
    space = load_space(folder / "many.py", SHAPE)
    executor, nowhere = SimulatedWorkers(WORKERS, mean, 0.5), Path("nowhere")
    store = TrialStore(folder / "study.db")
    trainer = Trainer(
        store, executor, space, str(folder / "many.py"), "cpu", 0, Sizes(space, SHAPE), shown(progress=False)
    )
    wanted = Search(
        "proxy",
        Stream(space, 0),
        SAMPLE,
        Images(lambda _: nowhere, lambda: nowhere),
        Recipe(epochs=EPOCHS),
        proposals=before + trials - SAMPLE,
        sampler=sampler,
        round=window,
    )
    begun: list[float] = []
    begin = executor.submit
    executor.submit = lambda tag, job: (begun.append(time.perf_counter()), begin(tag, job))[1]  # type: ignore[method-assign]
    empty, start, held = memory(), time.perf_counter(), len(store.records("proxy"))
    assert held == before, (held, before)
    with timed() as parts:
        search(trainer, wanted)
    store.close()
    end = time.perf_counter()
    opened = begun[0] - start
    return {
        "trials_before": before,
        "trials": trials,
        "command_ms": round(1000 * (end - begun[0]) / trials, 2),
        "parts_ms": {name: quartiles(seconds) for name, seconds in parts.items() if seconds},
        "busy_share": executor.busy_share(),
        "seconds_until_first": round(opened, 1),
        "memory_mb": round(memory() / 1e6),
        "memory_before_mb": round(empty / 1e6),
    }


def quartiles(seconds: list[float]) -> list[float]:
    """Return the mean, and the median and the 95th percentile, in ms."""
    points = statistics.quantiles(seconds, n=20)
    return [round(1000 * value, 2) for value in (statistics.fmean(seconds), points[9], points[18])]


def fill(place: Path, total: int) -> None:
    """Write finished proposals into a study until it has `total` trials, each like its last one but for its numbers."""
    draws = random.Random(1)
    with contextlib.closing(sqlite3.connect(place)) as base:
        (last, number, *rest) = base.execute(
            "SELECT trial_id, number, study_id, state, datetime_start, datetime_complete FROM trials "
            "ORDER BY trial_id DESC LIMIT 1"
        ).fetchone()
        options = base.execute("SELECT param_name, distribution_json FROM trial_params WHERE trial_id = ?", (last,))
        distributions = dict(options.fetchall())
        told = dict(base.execute("SELECT key, value_json FROM trial_user_attributes WHERE trial_id = ?", (last,)))
        index = json.loads(told["index"])
        for each in range(1, total - number):
            trial = last + each
            chosen = {name: draws.randrange(10) for name in distributions}
            key = ",".join(f"{name}={chosen[name] + 1}" for name in sorted(chosen))
            own = told | {"key": json.dumps(key), "index": json.dumps(index + each)}
            base.execute(
                "INSERT INTO trials (trial_id, number, study_id, state, datetime_start, datetime_complete) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (trial, number + each, *rest),
            )
            base.executemany(
                "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES (?, ?, ?, ?)",
                [(trial, name, chosen[name], distributions[name]) for name in chosen],
            )
            base.executemany(
                "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)",
                [(trial, *attribute) for attribute in own.items()],
            )
            base.execute(
                "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (?, 0, ?, 'FINITE')",
                (trial, (statistics.fmean(chosen.values()) + 1) / 10),
            )
        base.commit()


def simulated_share(total: int, window: int, mean: float, spread: float, command: float) -> float:
    """Return the share of the whole time in which workers train: `command` seconds a trial, of which half to close it.

    window: proposal i waits until all but the window - 1 before it have ended; `total` for a uniform sample.
    """
    draws, how = random.Random(0), (math.log(mean) - spread**2 / 2, spread)
    ends: list[tuple[float, int]] = []
    ended, known, number = bytearray(total), 0, 0
    now, trained = 0.0, 0.0
    while known < total:
        if len(ends) < WORKERS and number < total and known >= number + 1 - window:
            now += command / 2
            seconds = draws.lognormvariate(*how)
            trained += seconds
            heapq.heappush(ends, (now + seconds, number))
            number += 1
            continue
        end, one = heapq.heappop(ends)
        now = max(now, end) + command / 2
        ended[one] = 1
        while known < total and ended[known]:
            known += 1
    return trained / (now * WORKERS)


def least_mean(total: int, window: int, spread: float, command: float) -> float | None:
    """Return the mean seconds of a training from which on workers are busy enough; None where they never are."""
    if simulated_share(total, window, 1e4 * WORKERS * command, spread, command) < ENOUGH:
        return None
    low, high = 0.0, 10 * WORKERS * command
    while high - low > 0.1 * high:
        middle = (low + high) / 2
        enough = simulated_share(total, window, middle, spread, command) >= ENOUGH
        low, high = (low, middle) if enough else (middle, high)
    return round(high, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total", type=int, default=TOTAL, help="trials that are simulated whole")
    parser.add_argument("--first", type=int, default=6000, help="trials at the start that are measured")
    parser.add_argument("--last", type=int, default=3000, help="trials at the end that are measured")
    parser.add_argument("--window", type=int, default=8000, help="--round of the search that is measured")
    parser.add_argument("--mean", type=float, default=60.0, help="seconds of a training there")
    parser.add_argument("--sampler", default="tpe", help="--sampler of the search that is measured")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    load = os.getloadavg()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "many.py").write_text(SPACE.replace("TEN", repr(tuple(range(1, 11)))))
        how = options.window, options.sampler, options.mean
        first = part_of_search(folder, 0, options.first, *how)
        print(first, flush=True)
        fill(folder / "study.db", options.total - options.last)
        last = part_of_search(folder, options.total - options.last, options.last, *how)
    print(last, flush=True)
    command = max(first["command_ms"], last["command_ms"]) / 1000
    result = {
        "benchmark": "scale",
        "workers": WORKERS,
        "sampler": options.sampler,
        "successor_from": LONG,
        "window": options.window,
        "mean_seconds": options.mean,
        "spread": 0.5,
        "measured": [first, last],
        "simulated_trials": options.total,
        "simulated_command_ms": round(1000 * command, 2),
        "busy_share": [
            {"window": w, "mean": m, "spread": s, "share": round(simulated_share(options.total, w, m, s, command), 4)}
            for w in WINDOWS
            for m in MEANS
            for s in SPREADS
        ],
        "least_mean_seconds": [
            {"window": w, "spread": s, "seconds": least_mean(options.total, w, s, command)}
            for w in WINDOWS[2:]
            for s in SPREADS
        ],
    }
    show(result, "cpu", ("optuna",), load_at_start=[round(value, 1) for value in load])


if __name__ == "__main__":
    main()
