"""Workers: the same outcomes wherever a job runs, reasons for what fails, and life after a death."""

import pickle
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas_proxy.spaces.apart import serving
from nas_proxy.threads import one_thread
from nas_proxy.training.jobs import Failure, Job, performed
from nas_proxy.training.shared_gpu import SharedGpus
from nas_proxy.training.train import Outcome, Recipe
from nas_proxy.training.worker_pool import ProcessExecutor, WorkerProcess

pytestmark = pytest.mark.processes


@pytest.fixture
def jobs(images, tmp_path, tiny_space):
    path = tmp_path / "images.safetensors"
    images.save(path)

    def make(width: int, seed: int = 0, epochs: float = 2) -> Job:
        architecture = {"width": width, "act": "relu"}
        return Job(str(tiny_space), architecture, path, path, Recipe(epochs=epochs, batch_size=8), seed, "cpu")

    return make


def comparable(result):
    return (result.score, result.losses) if isinstance(result, Outcome) else result


def test_processes_and_this_process_give_the_same(jobs):
    work = [(width, jobs(width)) for width in (1, 2, 3, 4, 8)]
    with one_thread():
        here = {tag: comparable(performed(job)) for tag, job in work}
    with ProcessExecutor(1) as alone, ProcessExecutor(2) as several:
        assert {tag: comparable(r) for tag, r in alone.run(work)} == here
        assert {tag: comparable(r) for tag, r in several.run(work)} == here
    assert here[3] == Failure("ValueError: three is not a width")


def test_ordinary_trainings_are_done_in_one_process(jobs):
    with ProcessExecutor(1) as pool:
        pids = set()
        for seed in range(3):
            assert isinstance(pool.run_apart(jobs(2, seed)), Outcome)
            pids.add(pool._workers[0]._process.pid)
    assert len(pids) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="users' code runs in this process there")
def test_a_worker_begins_while_a_users_code_gets_a_process_of_its_own(monkeypatch):
    """The copy for the user's code holds what is open: the worker's beginning must not wait for the copy's end."""
    begin, beginning, begun = subprocess._fork_exec, threading.Event(), threading.Event()

    def slowly(*arguments):
        beginning.set()
        time.sleep(0.5)
        return begin(*arguments)

    def hire():
        WorkerProcess(SharedGpus()).end()
        begun.set()

    monkeypatch.setattr(subprocess, "_fork_exec", slowly)
    threading.Thread(target=hire, daemon=True).start()
    assert beginning.wait(60)
    child = serving(lambda link: link.hear())
    assert child is not None
    with child:
        assert begun.wait(60)


ENDS = """
import os
import signal
import sys

import torch
from torch import nn

from nas_proxy import Choice, Space


class Ends(nn.Linear):
    how = "well"

    def forward(self, x):
        if self.how == "exit":
            os._exit(5)
        if self.how == "sys.exit":
            sys.exit(4)
        if self.how == "signal":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.how == "GPU":
            raise torch.AcceleratorError("CUDA error: device-side assert triggered\\nCompile with TORCH_USE_CUDA_DSA")
        logits = super().forward(x.flatten(1))
        return (logits, x) if self.how == "tuple" else logits


def build(architecture, shape):
    network = Ends(shape.channels * shape.height * shape.width, shape.classes)
    network.how = architecture["how"]
    return network


space = Space("ends", Choice("how", ("well", "exit", "sys.exit", "signal", "GPU", "tuple")), build)
"""
REASONS = {
    "exit": "the worker process died with exit code 5",
    "sys.exit": "SystemExit: 4",
    "signal": "the worker process died with signal 11",
    "GPU": "AcceleratorError: CUDA error: device-side assert triggered Compile with TORCH_USE_CUDA_DSA",
    "tuple": "TypeError: the network returned an object of type tuple, expected a tensor",
}


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_candidate_that_ends_its_process_fails_alone(images, tmp_path, count):
    space, path = tmp_path / "ends.py", tmp_path / "images.safetensors"
    space.write_text(ENDS)
    images.save(path)

    def job(how: str) -> Job:
        return Job(str(space), {"how": how}, path, path, Recipe(epochs=1, batch_size=36), 0, "cpu")

    with ProcessExecutor(count) as pool:
        results = dict(pool.run([(how, job(how)) for how in (*REASONS, "well")]))
        assert isinstance(results.pop("well"), Outcome)
        assert {how: failure.reason for how, failure in results.items()} == REASONS
        assert results["GPU"].spoilt

    with ProcessExecutor(1) as pool:
        processes = []
        for how in ("tuple", "GPU", "well"):
            ((_, result),) = pool.run([(how, job(how))])
            processes.append(pool._workers[0]._process.pid)
        assert isinstance(result, Outcome)
        assert processes[0] != processes[1] == processes[2]

        # What cannot even be sent fails as well.
        unsent = [(0, replace(job("well"), architecture={"how": lambda: "well"})), (1, job("well"))]
        (_, first), (_, second) = pool.run(unsent)
        assert "pickle" in first.reason
        assert isinstance(second, Outcome)


@pytest.mark.slow
def test_workers_train_on_their_devices(jobs):
    with ProcessExecutor(3, ("cpu", "cuda:7")) as pool:
        results = dict(pool.run([(i, jobs(4, i)) for i in range(6)]))
        assert [worker._device for worker in pool._workers] == ["cpu", "cuda:7", "cpu"]
    failed = [r.reason for r in results.values() if isinstance(r, Failure)]
    # The one whose device is not there fails; the others train.
    assert 1 <= len(failed) < 6
    assert not any("cpu" in reason for reason in failed)


@pytest.mark.slow
def test_a_pool_of_one_trains_on_its_device(jobs):
    with ProcessExecutor(1, ("cpu",)) as pool:
        ((_, result),) = pool.run([(0, replace(jobs(4), device="cuda:7"))])
    assert isinstance(result, Outcome)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_two_workers_share_a_gpu(jobs):
    with ProcessExecutor(2, ("cuda:0", "cuda:0")) as pool:
        results = dict(pool.run([(i, jobs(4, 0)) for i in range(4)]))
    assert all(isinstance(r, Outcome) for r in results.values())
    assert len({comparable(r) for r in results.values()}) == 1


@pytest.mark.slow
def test_workers_end_with_their_parent(tmp_path, jobs):
    script = tmp_path / "parent.py"
    script.write_text(
        "import pickle, sys\n"
        "from nas_proxy.training.worker_pool import ProcessExecutor\n"
        "pool = ProcessExecutor(2)\n"
        "work = pickle.load(open(sys.argv[1], 'rb'))\n"
        "for _ in pool.run(work[:2]):\n"
        "    pass\n"
        "print(*[w._process.pid for w in pool._workers], flush=True)\n"
        "list(pool.run(work[2:]))\n"
    )
    work = tmp_path / "work.pickle"
    work.write_bytes(pickle.dumps([(i, jobs(4, epochs=1 if i < 2 else 10**6)) for i in range(4)]))
    with subprocess.Popen([sys.executable, script, work], stdout=subprocess.PIPE, text=True) as parent:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        time.sleep(0.5)
        parent.kill()
    assert len(pids) == 2
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


SLEEPY = """
import time

from torch import nn

from nas_proxy import Choice, Space


class Sleepy(nn.Module):
    def __init__(self, pixels, classes, seconds):
        super().__init__()
        self.linear, self.seconds = nn.Linear(pixels, classes), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return self.linear(x.flatten(1))


def build(architecture, shape):
    pixels = shape.channels * shape.height * shape.width
    return Sleepy(pixels, shape.classes, architecture["seconds"])


space = Space("sleepy", Choice("seconds", (0.0, 600.0)), build)
"""


GREEDY = """
import time

import torch
from torch import nn

from nas_proxy import Choice, Space


class Greedy(nn.Module):
    def __init__(self, pixels, classes, megabytes):
        super().__init__()
        self.linear, self.megabytes = nn.Linear(pixels, classes), megabytes

    def forward(self, x):
        if self.megabytes:
            taken = torch.ones(self.megabytes, 250_000)
            time.sleep(0.5)
        return self.linear(x.flatten(1))


def build(architecture, shape):
    pixels = shape.channels * shape.height * shape.width
    return Greedy(pixels, shape.classes, architecture["megabytes"])


space = Space("greedy", Choice("megabytes", (0, 100, 400)), build)
"""


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_candidate_that_needs_too_much_memory_is_ended_and_the_others_go_on(images, tmp_path, count):
    space, path = tmp_path / "greedy.py", tmp_path / "images.safetensors"
    space.write_text(GREEDY)
    images.save(path)
    recipe = Recipe(epochs=1, batch_size=36)

    def job(megabytes: int) -> Job:
        return Job(str(space), {"megabytes": megabytes}, path, path, recipe, 0, "cpu", megabytes=250)

    work = [(i, job(megabytes)) for i, megabytes in enumerate((0, 400, 100, 100, 400))]
    with ProcessExecutor(count) as pool:
        results = dict(pool.run(work))
    assert {i for i, result in results.items() if isinstance(result, Failure)} == {1, 4}
    assert results[1] == results[4] == Failure("needed more than 250 MB of memory")
    assert all(90 <= results[i].memory / 1e6 <= 130 for i in (2, 3))
    assert results[0].memory < 20e6
    with ProcessExecutor(1) as pool:
        (_, unlimited), *_ = pool.run([(0, replace(job(0), megabytes=None))])
    assert comparable(unlimited) == comparable(results[0])
    assert unlimited.memory is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_candidate_that_needs_too_much_memory_of_a_gpu_fails_alone(images, tmp_path):
    space, path = tmp_path / "greedy.py", tmp_path / "images.safetensors"
    space.write_text(GREEDY.replace("250_000)", "250_000, device=x.device)"))
    images.save(path)
    recipe = Recipe(epochs=1, batch_size=36)
    work = [
        (i, Job(str(space), {"megabytes": needed}, path, path, recipe, 0, "cuda:0", megabytes=250))
        for i, needed in enumerate((0, 400, 100))
    ]
    with ProcessExecutor(1) as pool:
        results = dict(pool.run(work))
    assert results[1] == Failure("needed more than 250 MB of memory on cuda:0")
    assert isinstance(results[0], Outcome)
    assert results[2].memory >= 100e6


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_a_candidate_that_hangs_is_ended_and_the_others_go_on(images, tmp_path, count):
    space, path = tmp_path / "sleepy.py", tmp_path / "images.safetensors"
    space.write_text(SLEEPY)
    images.save(path)
    recipe = Recipe(epochs=1, batch_size=8)
    work = [
        (i, Job(str(space), {"seconds": seconds}, path, path, recipe, 0, "cpu", minutes=0.15))
        for i, seconds in enumerate((0.0, 600.0, 0.0, 0.0))
    ]
    with ProcessExecutor(count) as pool:
        results = dict(pool.run(work))
        assert results[1] == Failure("took longer than 0.15 minutes")
        assert 9 <= results[1].seconds < 15
        assert all(isinstance(results[i], Outcome) for i in (0, 2, 3))
        assert all(isinstance(result, Outcome) for _, result in pool.run(work[2:]))
