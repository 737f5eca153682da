"""Several workers on one GPU: how many, whose seconds, and what becomes of a job that lacks memory among others."""

import os
import pickle
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cuda_emulation import EmulatedCuda
from nas_proxy import hardware
from nas_proxy.environment import environment
from nas_proxy.hardware import MOST_ON_A_GPU, jobs_at_once
from nas_proxy.pipeline.work import open_executor
from nas_proxy.runs.resolving import resolve
from nas_proxy.signals.score_job import Scored
from nas_proxy.signals.zero_cost import Score
from nas_proxy.training import worker_pool, worker_process
from nas_proxy.training.jobs import Failure
from nas_proxy.training.shared_gpu import SharedGpus
from nas_proxy.training.train import Outcome
from nas_proxy.training.worker_pool import lanes

OUTCOME = Outcome(score=0.5, losses=(1.0,), diverged=False, seconds=8.0, image_passes=10, seconds_saved=4.0)


class Clock:
    seconds = 100.0

    def __call__(self):
        return self.seconds


def test_jobs_that_use_a_gpu_at_once_share_its_time():
    clock = Clock()
    gpus = SharedGpus(clock)
    with gpus.turn("cuda:0") as first:
        clock.seconds += 2
        with gpus.turn("cuda:0") as second, gpus.turn("cuda:1") as elsewhere, gpus.turn("cpu") as cpu:
            clock.seconds += 4
        clock.seconds += 2
    assert (first.share, second.share, elsewhere.share, cpu.share) == (0.75, 0.5, 1.0, 1.0)
    clock.seconds += 50  # in which nobody uses it
    with gpus.turn("cuda:0") as later:
        clock.seconds += 1
    assert later.share == 1.0


def test_a_job_alone_waits_for_others_and_others_for_it():
    gpus, events, inside, leave = SharedGpus(), [], threading.Event(), threading.Event()

    def alone():
        with gpus.turn("cuda:0", alone=True):
            events.append("alone")
            inside.set()
            leave.wait(10)
            events.append("done")

    def other():
        with gpus.turn("cuda:0"):
            events.append("other")

    threads = [threading.Thread(target=target) for target in (alone, other)]
    with gpus.turn("cuda:0"):
        threads[0].start()
        while not gpus._gpus["cuda:0"].alone:
            pass
        threads[1].start()
        with gpus.turn("cuda:1"):  # another one is free
            events.append("first")
    assert inside.wait(10)
    leave.set()
    for thread in threads:
        thread.join(10)
    assert events == ["first", "alone", "done", "other"]


def test_results_tell_their_share_of_the_seconds():
    found = replace(OUTCOME, seeds=(OUTCOME,)).shared(0.25)
    assert (found.seconds, found.seconds_saved, found.seeds[0].seconds, found.score) == (2.0, 1.0, 2.0, 0.5)
    assert Scored(Score(1.0, 8.0), (3.0,)).shared(0.5) == Scored(Score(1.0, 4.0), (3.0,))


class Work:
    device, minutes, megabytes = "cuda:0", None, None

    def on(self, device):
        return self

    def perform(self):
        return OUTCOME


@pytest.mark.parametrize("fits_alone", [True, False])
def test_a_job_that_lacks_memory_among_others_is_done_again_alone(monkeypatch, fits_alone):
    gpus, alone = SharedGpus(), []
    worker = object.__new__(worker_pool.WorkerProcess)
    worker._device, worker._gpus = None, gpus
    lack = Failure("out of memory on cuda:0", spoilt=True, memory=True)

    def attempt(job):
        alone.append(gpus._gpus["cuda:0"].alone)
        return OUTCOME if alone[-1] and fits_alone else lack

    monkeypatch.setattr(worker, "_attempt", attempt)
    found = worker._answer(Work())
    assert found == (replace(OUTCOME, seconds=found.seconds, seconds_saved=found.seconds_saved) if fits_alone else lack)
    assert alone == [False, True]
    assert not gpus._gpus["cuda:0"].alone


def test_a_worker_leaves_no_memory_reserved(monkeypatch):
    frames, given = iter([pickle.dumps(Work())]), []

    def read(stream):
        try:
            return next(frames)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr(worker_process, "read_frame", read)
    monkeypatch.setattr(worker_process, "write_message", lambda stream, message: given.append(message))
    monkeypatch.setattr(worker_process, "performed", lambda job: "result")
    for module, name in (
        *((os, name) for name in ("dup", "dup2", "fdopen")),
        (worker_process.signal, "signal"),
        (threading.Thread, "start"),
    ):
        monkeypatch.setattr(module, name, lambda *arguments: None)
    stream = SimpleNamespace(fileno=lambda: None, buffer=None)
    streams = SimpleNamespace(argv=["", "1"], stdin=stream, stdout=stream, stderr=stream)
    monkeypatch.setattr(worker_process, "sys", streams)
    with EmulatedCuda():
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append("emptied"))
        worker_process.main()
    assert given == ["ready", "begun", "result", "emptied"]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 6), ("200000 100000", 2), ("150000 100000", 2), ("20000 100000", 1), ("800000 100000", 6), ("", 6)],
)
def test_the_cores_that_count_are_those_that_may_be_used(monkeypatch, tmp_path, limit, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    if limit:
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert jobs_at_once("cpu") == expected
    assert environment("cpu", 1)["cores"] == expected


@pytest.mark.parametrize(
    ("multiprocessors", "gigabytes", "cores", "expected"),
    [(132, 80, 16, MOST_ON_A_GPU), (40, 15, 16, 2), (108, 10, 16, 2), (108, 40, 3, 3), (20, 6, 16, 1), (8, 2, 1, 1)],
)
def test_the_default_number_of_workers_follows_from_the_gpu(
    monkeypatch, multiprocessors, gigabytes, cores, expected, tiny_space
):
    monkeypatch.setattr(hardware, "cores", lambda: cores)
    with EmulatedCuda(2) as gpu:
        gpu.card = {"multi_processor_count": multiprocessors, "total_memory": gigabytes << 30}
        assert jobs_at_once("cuda:0") == expected
        given = {"space": str(tiny_space)}
        assert open_executor(resolve({**given, "device": "cuda"}), "cuda:0").count == expected
        assert open_executor(resolve({**given, "device": "cuda", "workers": 7}), "cuda:0").count == 7
        each = max(1, min(expected, cores // 2))
        several = open_executor(resolve({**given, "devices": ["cuda:0", "cuda:1"]}), "cuda:0")
        assert several.count == 2 * each
        # A GPU's seconds are shared by its workers, so an estimate divides by the GPUs.
        assert lanes(several, "cuda:0") == 2
        assert lanes(open_executor(resolve({**given, "device": "cuda"}), "cuda:0"), "cuda:0") == 1
    assert jobs_at_once("cpu") == cores
    assert lanes(open_executor(resolve({**given, "device": "cpu"}), "cpu"), "cpu") == cores
