"""An executor in this process does what worker processes do, to the last digit."""

import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from conftest import blobs
from nas_proxy.signals.computed import Workers, computed
from nas_proxy.spaces.loading import load_space
from nas_proxy.training.executor import Executor, InlineExecutor
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.train import Outcome, Recipe
from nas_proxy.training.worker_pool import ProcessExecutor

ARCHITECTURE = {"depth": 2, "width": 32, "norm": "batch", "activation": "relu", "pooling": "max"}


@pytest.fixture
def job(tmp_path):
    blobs(channels=3, size=16).save(tmp_path / "data.safetensors")
    paths = [tmp_path / "data.safetensors"] * 2
    return Job("convnet", ARCHITECTURE, *paths, Recipe(epochs=2, batch_size=9), 1, "cpu")


def results(executor: Executor, jobs):
    with executor:
        return {tag: replace(result, seconds=0) for tag, result in executor.run(jobs)}


@pytest.mark.slow
def test_scores_are_those_of_worker_processes(job):
    jobs = [(seed, replace(job, seed=seed)) for seed in range(2)]
    torch.set_num_threads(2)
    inline, apart = results(InlineExecutor(), jobs), results(ProcessExecutor(1), jobs)
    assert torch.get_num_threads() == 2
    assert inline == apart
    assert isinstance(inline[0], Outcome)
    assert inline[0].losses != inline[1].losses


@pytest.mark.slow
def test_without_a_cluster_nothing_of_ray_is_imported():
    script = (
        "import sys\nfrom nas_proxy.cli import app\nfrom nas_proxy.pipeline import stages, work\n"
        "from nas_proxy.runs.settings import RunConfig\nwork.open_executor(RunConfig(), 'cpu').close()\n"
        "print([name for name in sys.modules if name.partition('.')[0] == 'ray'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"


@dataclass(frozen=True)
class Says:
    """A job that returns where it is done, or raises."""

    device: str = "cpu"
    minutes: float | None = None
    megabytes: float | None = None
    raises: bool = False

    def on(self, device):
        return replace(self, device=device)

    def perform(self):
        if self.raises:
            raise ValueError("not this one")
        return self.device, self.megabytes


def test_jobs_are_taken_one_at_a_time_and_failures_have_a_reason():
    taken = []

    def jobs():
        for number in range(3):
            taken.append(number)
            yield number, Says(raises=number == 1)

    with InlineExecutor() as executor:
        seen = []
        for tag, result in executor.run(jobs()):
            seen.append((tag, result, len(taken)))
    assert seen == [
        (0, ("cpu", None), 1),
        (1, Failure("ValueError: not this one"), 2),
        (2, ("cpu", None), 3),
    ]


def test_a_job_may_wait_for_the_result_of_another():
    done = []

    def jobs():
        yield 0, Says()
        while not done:
            yield None
        yield 1, Says()

    with InlineExecutor() as executor:
        executor.count = 2
        for tag, _ in executor.run(jobs()):
            done.append(tag)
    assert done == [0, 1]


def test_a_result_waits_until_it_is_taken():
    executor = InlineExecutor(("meta",))
    assert executor.free == executor.count == 1
    executor.submit("tag", Says(megabytes=0.001))
    assert executor.free == 0
    # A limit on memory takes a process that can be ended.
    assert list(executor.results(0)) == [("tag", ("meta", None))]
    assert executor.free == 1
    assert executor.run_apart(Says()) == ("meta", None)


def test_untrained_networks_score_the_same_in_workers(tmp_path, tiny_space):
    data = blobs()
    data.save(tmp_path / "train.safetensors")
    space = load_space(str(tiny_space), data.shape)
    architectures = [{"width": width, "act": "relu"} for width in (1, 8, 4, 3)]  # three is not a width
    names = ["params", "naswot", "jacob_cov", "az_nas"]
    here = computed(names, space, architectures, data, 0)
    with InlineExecutor() as executor:
        told = []
        there = computed(
            names,
            space,
            architectures,
            data,
            0,
            progress=told.append,
            workers=Workers(executor, str(tiny_space), tmp_path / "train.safetensors"),
        )
    assert told == list(range(1, 17))
    for name in names:
        pairs = zip(here[name].scores, there[name].scores, strict=True)
        assert all(repr(replace(one, seconds=0)) == repr(replace(two, seconds=0)) for one, two in pairs)
        assert (here[name].images, here[name].relative) == (there[name].images, there[name].relative)


@pytest.mark.slow
def test_a_score_whose_worker_ends_has_a_reason(tmp_path):
    blobs().save(tmp_path / "train.safetensors")
    path = tmp_path / "ends.py"
    path.write_text(
        "import os\nfrom nas_proxy import Choice, Space\nfrom torch import nn\n"
        "def build(architecture, shape):\n"
        "    os._exit(3) if architecture['width'] == 2 else None\n"
        "    width = architecture['width']\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 3))\n"
        "space = Space('ends', Choice('width', (8, 2)), build)\n"
    )
    space = load_space(str(path), blobs().shape)
    with ProcessExecutor(1) as executor:
        workers = Workers(executor, str(path), tmp_path / "train.safetensors")
        column = computed(["synflow"], space, [{"width": 2}, {"width": 8}], blobs(), 0, workers=workers)["synflow"]
    assert column.scores[0].reason == "the worker process died with exit code 3"
    assert column.scores[1].value > 0
