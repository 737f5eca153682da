"""What a trial costs beyond its training: 5,000 trials of a uniform sample whose training does nothing.

All else is what `nas-proxy search` does with one worker and SQLite: draw an architecture, measure its size, open a
trial, send it to the worker, close the trial with a score. `per_trial_ms` is the whole time by the number of trials;
`growth` is the time of the last hundred trials, from one training to the next, by that of the first hundred. TPE's
own growth is reported beside it: the time Optuna takes for one proposal from a hundred and from 5,000 scores.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --ray --count 1000

With --ray on a Ray cluster that is started for it: a head without room for trainings, and two machines with a CPU each,
all of them processes of this machine, so that Ray's own work is on the same cores.

The last line on stdout is one JSON object. Takes about two minutes where nothing else runs.
"""

import argparse
import contextlib
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import optuna

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import prepare_run
from nas_proxy.runs.settings import RunConfig
from nas_proxy.spaces.loading import load_space
from nas_proxy.training.jobs import Work
from nas_proxy.training.worker_pool import ProcessExecutor
from outcome import show

HUNDRED = 100
SPACE = """
import itertools

from torch import nn

from nas_proxy import Choice, Space
from nas_proxy.training import jobs
from nas_proxy.training.train import Outcome

trainings = itertools.count()


def nothing(*_, **__):
    return Outcome(score=next(trainings) % 97 / 97, losses=(0.5,) * 200, diverged=False, seconds=0.0, image_passes=0)


jobs.train = nothing  # in the worker, which imports this file
choices = Choice("first", range(1, 11)) & Choice("second", range(1, 11))
choices = choices & Choice("third", range(1, 11)) & Choice("fourth", range(1, 11)) & Choice("act", ("relu", "tanh"))


def build(architecture, shape):
    width = architecture["first"]
    pixels = shape.channels * shape.height * shape.width
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, shape.classes))


space = Space("many", choices, build)
"""


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Start a Ray cluster of two machines with a CPU each, and yield its address."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    memory = 100 * 2**20
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": memory})
    try:
        for _ in range(2):
            started.add_node(num_cpus=1, object_store_memory=memory)
        yield started.address
    finally:
        started.shutdown()


def executor_class(ray: str) -> type[Any]:
    """Return the class of the executor that a run is given."""
    if ray == "none":
        return ProcessExecutor
    from nas_proxy.training.ray_executor import RayExecutor

    return RayExecutor


def trials(folder: Path, count: int, ray: str = "none") -> tuple[float, list[float]]:
    """Return the seconds of a search, and the times at which its trainings began."""
    space = folder / "many.py"
    space.write_text(SPACE.replace("range(1, 11)", repr(tuple(range(1, 11)))))
    config = RunConfig(
        dataset="digits",
        space=str(space),
        trials=count,
        truth=count,
        judge=count,  # all of them in the uniform sample, so that nothing is scored to choose by
        workers=1 if ray == "none" else 0,
        ray=ray,
        device="cpu",
        condense=Condensation(method="random"),
    )
    run = prepare_run(folder / "run", config)
    run_stages(run, ("condense",))
    begun: list[float] = []

    kind = executor_class(ray)
    submit = kind.submit

    def told(pool: Any, tag: object, job: Work[Any]) -> None:
        begun.append(time.perf_counter())
        submit(pool, tag, job)

    with mock.patch.object(kind, "submit", told):
        start = time.perf_counter()
        run_stages(run, ("search",))
        return time.perf_counter() - start, begun


def tpe(space_file: Path, scores: int) -> float:
    """Return the median seconds of one proposal by Optuna's TPE from so many scores."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = load_space(str(space_file), (1, 8, 8, 10))  # type: ignore[arg-type]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), direction="maximize")
    for number in range(scores):
        trial = study.ask()
        space.suggest(trial)
        study.tell(trial, number % 97 / 97)
    study.sampler = optuna.samplers.TPESampler(seed=0, n_startup_trials=0)
    taken = []
    for _ in range(10):
        start = time.perf_counter()
        space.suggest(study.ask())
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=5000, help="trials")
    parser.add_argument("--ray", action="store_true", help="on a Ray cluster of two machines")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        with cluster() if options.ray else contextlib.nullcontext("none") as address:
            seconds, begun = trials(Path(folder), options.count, address)
        proposals = [tpe(Path(folder) / "many.py", scores) for scores in (HUNDRED, options.count)]
    first, last = begun[HUNDRED] - begun[0], begun[-1] - begun[-1 - HUNDRED]
    between = [1000 * (b - a) for a, b in itertools.pairwise(begun)]
    result = {
        "benchmark": "overhead",
        "executor": f"Ray {version('ray')}, two machines with a CPU each" if options.ray else "one local process",
        "per_trial_ms": round(1000 * seconds / options.count, 3),
        "growth": round(last / first, 3),
        "first_hundred_ms": round(10 * first, 3),
        "last_hundred_ms": round(10 * last, 3),
        "between_trainings_ms": [round(q, 2) for q in statistics.quantiles(between, n=20)[::9]],
        "tpe_proposal_ms": [round(1000 * value, 2) for value in proposals],
        "tpe_growth": round(proposals[1] / proposals[0], 2),
        "n": options.count,
    }
    show(result, "cpu", ("optuna",))


if __name__ == "__main__":
    main()
