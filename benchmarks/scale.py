"""A thousand workers on a simulated clock: how busy they are, and what a proposal costs after up to 100,000 trials.

What the one command does is measured: the time of a proposal by each sampler, of opening a trial and of closing it in
SQLite, each with so many trials before it. The workers are simulated: a training takes a random time (log-normal), and
no other; a worker that has finished waits until the command has closed its trial and handed it another one, which it
does one after another. The uniform sample is drawn as workers become free. Proposals are made in rounds
(`--round` of `nas-proxy run`): all of a round from the scores of those before it, before its trainings begin, so the
workers wait at the end of a round for its last training.

    python benchmarks/scale.py

The last line on stdout is one JSON object.
"""

import argparse
import heapq
import math
import random
import statistics
import tempfile
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import optuna

from nas_proxy.data.shape import DataShape
from nas_proxy.seeds import derive
from nas_proxy.spaces.loading import load_space
from nas_proxy.spaces.measured import Size
from nas_proxy.spaces.space import SearchSpace
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy.samplers import propose
from nas_proxy.training.train import Outcome
from outcome import show

WORKERS, TOTAL = 1000, 100_000
HISTORY = (100, 1000, 5000, 20_000, 100_000)
SAMPLERS = ("random", "evolution", "tpe")
# A proposal that takes longer is not measured with a longer history.
ENOUGH = 5.0
SHAPE = DataShape(1, 8, 8, 10)
SPACE = """
from torch import nn

from nas_proxy import Choice, Space

choices = Choice("c0", TEN)
for number in range(1, 7):
    choices = choices & Choice(f"c{number}", TEN)


def build(architecture, shape):
    return nn.Linear(1, 1)


space = Space("ten_million", choices, build)
"""


def history(space: SearchSpace, count: int) -> list[Record]:
    """Return finished trainings of so many different architectures, with scores that depend on them."""
    records: dict[str, Record] = {}
    for architecture in space.sample(0):
        key = space.key(architecture)
        score = statistics.mean(architecture.values()) / 10  # type: ignore[type-var]
        facts = {"params": 1, "flops": 1, "score": float(score), "losses": (0.5,) * 200}
        records[key] = Record(key, architecture, "search", len(records), 0, **facts)  # type: ignore[arg-type]
        if len(records) == count:
            break
    return list(records.values())


def proposal_seconds(space: SearchSpace, before: Sequence[Record], sampler: str) -> float:
    """Return the median seconds of a proposal, of five or as many as ten seconds allow."""
    seen, taken = {r.key for r in before}, list[float]()
    while len(taken) < 5 and sum(taken) < 10:
        start = time.perf_counter()
        assert propose(space, before, seen, derive(0, sampler, len(taken)), sampler) is not None
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def trial_seconds(folder: Path, count: int) -> tuple[list[float], list[float]]:
    """Return the seconds of opening and closing each of `count` trials in SQLite."""
    distributions = {f"c{n}": optuna.distributions.IntDistribution(1, 10) for n in range(7)}
    store, opening, closing = TrialStore(folder / "study.db"), list[float](), list[float]()
    outcome = Outcome(score=0.5, losses=(0.5,) * 200, diverged=False, seconds=0.0, image_passes=0)
    draws = random.Random(0)
    for index in range(count):
        architecture = {name: draws.randint(1, 10) for name in distributions}
        candidate = Candidate(str(index), architecture, "sample", index, Size(1, 1), distributions)
        start = time.perf_counter()
        number = store.begin("proxy", candidate, 0)
        opened = time.perf_counter()
        store.finish("proxy", number, outcome)
        opening.append(opened - start)
        closing.append(time.perf_counter() - opened)
    store.close()
    return opening, closing


def busy_share(total: int, round_size: int, mean: float, spread: float, propose_s: float, trial_s: float) -> float:
    """Return the share of the time in which the workers train, with `mean` seconds a training.

    round_size: `total` for a uniform sample. spread: of the durations' logarithm. propose_s, trial_s: of the command,
    for each proposal, and for closing a trial and opening the next.
    """
    draws = random.Random(0)
    now, trained, done = 0.0, 0.0, 0
    while done < total:
        size = min(round_size, total - done)
        lazily = round_size >= total  # a sample's architectures are drawn when they are needed
        now += 0.0 if lazily else size * propose_s
        each = trial_s + (propose_s if lazily else 0.0)
        ends: list[float] = []
        for index in range(size):
            if index >= WORKERS:  # the command waits for a worker, or has kept it waiting
                now = max(now, heapq.heappop(ends))
            now += each
            seconds = draws.lognormvariate(math.log(mean) - spread**2 / 2, spread)
            trained += seconds
            heapq.heappush(ends, now + seconds)
        now = max([now, *ends])
        done += size
    return trained / (now * WORKERS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--total", type=int, default=TOTAL, help="trials that are simulated")
    parser.add_argument("--trials", type=int, default=3000, help="trials whose opening and closing is measured")
    parser.add_argument("--longest", type=int, default=max(HISTORY), help="trials before a proposal that is measured")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "many.py").write_text(SPACE.replace("TEN", repr(tuple(range(1, 11)))))
        space = load_space(folder / "many.py", SHAPE)
        opening, closing = trial_seconds(folder, options.trials)
        lengths = [length for length in HISTORY if length <= options.longest]
        tracemalloc.start()
        records = history(space, lengths[-1])
        memory = tracemalloc.get_traced_memory()[0] / len(records)
        tracemalloc.stop()
        proposals: dict[str, dict[int, float]] = {sampler: {} for sampler in SAMPLERS}
        for sampler, found in proposals.items():
            for length in lengths:
                found[length] = proposal_seconds(space, records[:length], sampler)
                if found[length] > ENOUGH:
                    break
    part = options.trials // 5
    trial = statistics.median(opening) + statistics.median(closing)
    drawn = proposals["random"][lengths[-1]]
    sample = {m: busy_share(options.total, options.total, m, 0.5, drawn, trial) for m in (10, 30, 60, 300)}
    rounds = {r: busy_share(options.total, r, 300, 0.5, drawn, trial) for r in (1000, 4000, 10_000, 20_000, 50_000)}
    result = {
        "benchmark": "scale",
        "workers": WORKERS,
        "trials": options.total,
        "trial_ms": round(1000 * trial, 2),
        "trial_ms_first_and_last_fifth": [
            round(1000 * (statistics.median(opening[of]) + statistics.median(closing[of])), 2)
            for of in (slice(part), slice(-part, None))
        ],
        "n_trials_measured": options.trials,
        "record_bytes": round(memory),
        "proposal_ms": {s: {n: round(1000 * t, 2) for n, t in found.items()} for s, found in proposals.items()},
        "busy_share_of_sample_by_mean_seconds": {m: round(share, 4) for m, share in sample.items()},
        "busy_share_of_random_proposals_of_300_s_by_round": {r: round(share, 4) for r, share in rounds.items()},
    }
    show(result, "cpu", ("optuna",))


if __name__ == "__main__":
    main()
