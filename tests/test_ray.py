"""Jobs on a Ray cluster of two simulated machines: what local processes give, whatever happens to a machine.

Each machine has Ray's own processes; only the host is shared.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from conftest import blobs, write_space
from nas_proxy.errors import ClusterError, ConfigError
from nas_proxy.runs.folder import open_run
from nas_proxy.runs.settings import resolve
from nas_proxy.threads import one_thread
from nas_proxy.training.jobs import Failure, Job, performed
from nas_proxy.training.train import Outcome, Recipe

ray = pytest.importorskip("ray", reason="Ray is not installed")
pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("default")]

from ray.cluster_utils import Cluster  # noqa: E402

from nas_proxy.training import ray_node  # noqa: E402
from nas_proxy.training.ray_executor import RayExecutor  # noqa: E402

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    """A head without room for jobs, and two machines with a CPU each."""
    folder = tmp_path_factory.mktemp("node")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
        for _ in range(2):
            add(started)
        yield started
        started.shutdown()


def add(cluster: Cluster) -> Any:
    return cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)


@pytest.fixture
def executor(cluster) -> Iterator[RayExecutor]:
    with RayExecutor(cluster.address) as joined:
        yield joined


@pytest.fixture
def jobs(tmp_path, tiny_space) -> Callable[..., Job]:
    path = tmp_path / "images.safetensors"
    blobs().save(path)

    def make(width: int, seed: int = 0, epochs: float = 2) -> Job:
        architecture = {"width": width, "act": "relu"}
        return Job(str(tiny_space), architecture, path, path, Recipe(epochs=epochs, batch_size=8), seed, "cpu")

    return make


def comparable(result):
    return (result.score, result.losses) if isinstance(result, Outcome) else result


def test_a_cluster_gives_what_this_process_gives(executor, jobs):
    work = [(width, jobs(width)) for width in (1, 2, 3, 4, 8)]
    with one_thread():
        here = {tag: comparable(performed(job)) for tag, job in work}
    assert executor.count == executor.free == 2
    assert {tag: comparable(result) for tag, result in executor.run(work)} == here
    assert here[3] == Failure("ValueError: three is not a width")
    assert isinstance(executor.run_apart(jobs(4)), Outcome)
    nodes = executor.nodes()
    assert [node.workers for node in nodes] == ["1 CPU", "1 CPU"]
    assert sum(node.done for node in nodes) == len(work) + 1
    assert len(executor._sent) == 2  # the images once, though they train and are scored on, and the space


@dataclass(frozen=True)
class Says:
    """A job of another kind, with no file."""

    device: str = "cpu"
    minutes: float | None = None
    megabytes: float | None = None
    how: str = "well"

    def on(self, device):
        return replace(self, device=device)

    def perform(self):
        if self.how == "exit":
            os._exit(5)
        if self.how == "sleep":
            time.sleep(60)
        return os.getpid(), os.getppid()
