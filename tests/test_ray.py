"""Jobs on a Ray cluster of two simulated machines: what local processes give, whatever happens to a machine.

Each machine has Ray's own processes; only the host is shared.
"""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import blobs, collect_what_libraries_leave
from nas_proxy.data.images import ImageSet, from_raw
from nas_proxy.data.store import open_store
from nas_proxy.errors import ClusterError, ConfigError, RunFolderError
from nas_proxy.runs.resolving import resolve
from nas_proxy.signals.own import fingerprint
from nas_proxy.signals.score_job import ScoreJob
from nas_proxy.spaces.loading import pinned
from nas_proxy.threads import one_thread
from nas_proxy.training.jobs import Failure, Job, performed
from nas_proxy.training.train import Outcome, Recipe
from ray_jobs import Does

pytest.importorskip("ray", reason="Ray is not installed")

from ray.cluster_utils import Cluster

from nas_proxy.training import ray_node
from nas_proxy.training.ray_executor import RayExecutor
from nas_proxy.training.ray_node import Parcel, unpacked

# Ray leaves sockets and log files open when it is stopped.
pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("ignore::ResourceWarning")]
MARK = "NAS_PROXY_TEST"
REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for jobs, and two machines with a CPU each."""
    # Of a short name: Ray's sockets lie in it, whose paths may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", f"{REPOSITORY}{os.pathsep}{REPOSITORY / 'tests'}")
        patch.setenv(MARK, str(os.getpid()))
        patch.setenv("NAP", "0.3")
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 * 2**20})
        for _ in range(2):
            add(started)
        yield started
        started.shutdown()
    collect_what_libraries_leave()


def add(cluster: Cluster) -> Any:
    """Add a machine; Ray's processes there have this process's environment."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_job_that_ends_or_hangs_its_process_fails_alone(executor):
    work = [("exits", Does("exits")), ("hangs", Does(seconds=600, minutes=0.03)), ("well", Does()), ("again", Does())]
    results = dict(executor.run(work))
    assert results["exits"] == Failure("the worker process died with exit code 5")
    assert results["hangs"] == Failure("took longer than 0.03 minutes")
    assert {type(results[name]) for name in ("well", "again")} == {tuple}


@pytest.mark.slow
def test_a_job_that_takes_rays_worker_along_is_done_again_three_times(executor):
    ((_, result),) = executor.run([(0, Does("ends Ray's worker"))])
    assert result == Failure("its machine or Ray's worker there was lost 4 times (WorkerCrashedError)")
    ((_, result),) = executor.run([(0, Does())])
    assert isinstance(result, tuple)


@pytest.mark.slow
def test_what_is_under_way_is_cancelled(cluster):
    with RayExecutor(cluster.address) as executor:
        ((_, first),) = executor.run([(0, Does())])
        executor.submit(1, Does(seconds=600))
        assert list(executor.results(timeout=1)) == []
        assert executor.free == 1
    wait_for(lambda: not alive(first[0]))


def test_a_space_that_has_changed_since_the_command_began_is_told(executor, jobs, tiny_space):
    job = replace(jobs(5), space=pinned(str(tiny_space)))
    tiny_space.write_text(f"{tiny_space.read_text()}\n")
    with pytest.raises(ClusterError, match="has changed since the command began"):
        list(executor.run([(0, job)]))


@pytest.mark.slow
def test_a_machine_of_another_version_is_told(executor):
    executor._versions = {**ray_node.versions(), "PyTorch": "0.4.1"}
    with pytest.raises(ClusterError) as error:
        list(executor.run([(0, Does())]))
    there = f"{ray_node.platform.node()} has PyTorch {ray_node.versions()['PyTorch']}, and this machine 0.4.1"
    assert str(error.value) == f"the machines of the Ray cluster differ: {there}; install the same there"


@pytest.mark.slow
def test_a_space_travels_with_what_lies_beside_it(executor, jobs, tmp_path):
    home = tmp_path / "home"
    (home / "parts").mkdir(parents=True)
    (home / "parts" / "__init__.py").write_text("from parts.layers import hidden\n")
    (home / "parts" / "layers.py").write_text("from torch import nn\n\ndef hidden(*n):\n    return nn.Linear(*n)\n")
    (home / "mine.py").write_text(
        "from torch import nn\n\nfrom nas_proxy import Choice, Space\nfrom parts import hidden\n\n\n"
        "def space_for(shape, *, times=1):\n"
        "    def build(a, shape):\n"
        "        n, w = shape.channels * shape.height * shape.width, times * a['width']\n"
        "        return nn.Sequential(nn.Flatten(), hidden(n, w), hidden(w, shape.classes))\n"
        "    return Space('mine', Choice('width', (1, 2)), build)\n"
    )
    job = replace(jobs(1), space=f"{home / 'mine.py'}:times=3", architecture={"width": 2})
    executor.submit("away", job)
    with one_thread():
        here = performed(job)
    home.rename(tmp_path / "gone")
    ((_, away),) = executor.results()
    assert comparable(away) == comparable(here)
    assert isinstance(away, Outcome)


@pytest.mark.slow
def test_a_score_of_ones_own_travels_with_what_lies_beside_it(executor, jobs, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "helper.py").write_text("def value():\n    return 7.0\n")
    (home / "mine.py").write_text("from helper import value\n\n\ndef score(network, images):\n    return value()\n")
    name, train = f"{home / 'mine.py'}:score", jobs(1)
    whose = {"file": home / "mine.py", "code": fingerprint(name)}
    executor.submit(0, ScoreJob(name, train.space, train.architecture, train.data, 0, "cpu", **whose))
    home.rename(tmp_path / "gone")
    ((_, found),) = executor.results()
    assert found.score.value == 7.0


def test_a_set_whose_images_are_in_a_store_needs_that_on_the_machine(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_node.tempfile, "tempdir", str(tmp_path))
    part = Part(tmp_path)
    images = from_raw(open_store(tmp_path / "store", part), torch.zeros(4, dtype=torch.int64), ("one",))
    images.save(tmp_path / "large.safetensors")
    parcel = Parcel.of(tmp_path, (tmp_path / "large.safetensors",), lambda arrays: arrays)
    assert len(ImageSet.load(unpacked(parcel, lambda arrays: arrays))) == 4
    shutil.rmtree(tmp_path / "store")
    shutil.rmtree(tmp_path / f"nas-proxy-{os.getuid()}")
    with pytest.raises(RunFolderError, match=r"the images that .* names are no longer in .*store"):
        unpacked(parcel, lambda arrays: arrays)
    assert list((tmp_path / f"nas-proxy-{os.getuid()}").iterdir()) == []


@dataclass(frozen=True)
class Part:
    """Four black images, which are decoded into a store."""

    folder: Path
    name: str = "part"
    count: int = 4
    shape: tuple[int, int, int] = (1, 8, 8)

    def digest(self, block: range) -> str:
        return str(block)

    def pixels(self, index: int) -> Any:
        return np.zeros(self.shape, dtype=np.uint8)


def test_what_a_machine_has_not_used_for_long_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_node.tempfile, "tempdir", str(tmp_path))
    places = []
    for name, age in (("old", ray_node.UNUSED + 60), ("young", 60), ("new", 0)):
        (tmp_path / name).write_text(name)
        places.append(unpacked(Parcel.of(tmp_path, (tmp_path / name,), list), list))
        past = time.time() - age
        os.utime(places[-1].parent, (past, past))
    assert [place.exists() for place in places] == [False, True, True]
    assert places[1].read_text() == "young"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"ray": "ray://h:1"}, "ray is 'ray://h:1', which is Ray Client's; start the command on the cluster, as by"),
        ({"ray": "yes"}, "ray is 'yes'; it must be none, auto, or an address such as 10.0.0.1:6379"),
        ({"gpus_per_candidate": 0.5}, "gpus_per_candidate is 0.5, which is for a Ray cluster; give ray as well"),
        ({"ray": "auto", "devices": ["cpu"]}, "devices is cpu, of this machine; on a Ray cluster gpus_per_candidate"),
        ({"ray": "auto", "gpus_per_candidate": 1.5}, "gpus_per_candidate is 1.5; it must be below 1 or a whole number"),
    ],
)
def test_settings_that_do_not_go_with_a_cluster(settings, sentence):
    with pytest.raises(ConfigError) as error:
        resolve(settings)
    assert str(error.value).startswith(sentence)


def test_a_cluster_without_gpus(cluster):
    with pytest.raises(ClusterError, match=r"no machine of the Ray cluster has a CPU and 0.25 GPUs for a candidate"):
        RayExecutor(cluster.address, gpus=0.25)


def test_a_cluster_that_is_not_there():
    with pytest.raises(
        ClusterError, match=r"no Ray cluster answers at 127.0.0.1:1 .*start one with `ray start --head`"
    ):
        RayExecutor("127.0.0.1:1")


def wait_for(
    happened: Callable[[], object], process: "subprocess.Popen[bytes] | None" = None, log: Path | None = None
) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        told = "" if log is None else log.read_text()
        assert process is None or process.poll() is None, told
        assert time.monotonic() < deadline, told
        time.sleep(0.2)


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False
