"""Deaths of worker processes: what is done again, what is not, and that the sentence at the end is true."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace

import pytest

from nas_proxy.errors import RunFailedError
from nas_proxy.training import deaths
from nas_proxy.training.deaths import REPEATS, STARTS, Death
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.memory_limit import TOO_MUCH
from nas_proxy.training.train import Outcome, Recipe
from nas_proxy.training.worker_pool import ProcessExecutor, WorkerProcess

pytestmark = pytest.mark.processes

# A worker without PyTorch: each process takes the next word of the plan, and meets its end where that says.
WORKER = """
import os, pickle, signal, struct, sys
plan = sys.argv[1]
with open(plan) as file:
    first, *rest = file.read().split() or ["well"]
with open(plan, "w") as file:
    file.write(" ".join(rest))
def killed():
    os.kill(os.getpid(), signal.SIGKILL)
def say(message):
    data = pickle.dumps(message)
    sys.stdout.buffer.write(struct.pack("<Q", len(data)) + data)
    sys.stdout.buffer.flush()
if first == "starting":
    killed()
if first == "broken":
    sys.exit(3)
say("ready")
jobs = 0
while True:
    data = sys.stdin.buffer.read(struct.unpack("<Q", sys.stdin.buffer.read(8))[0])
    if data == b"prepare":
        say(0)
        continue
    if first == "waiting":
        sys.exit(0)
    say("begun")
    if first == "working":
        killed()
    if first.startswith("code"):
        os._exit(int(first[4:]))
    if first.startswith("second") and jobs:
        os._exit(int(first[6:]))
    if first == "answering":
        sys.stdout.buffer.write(struct.pack("<Q", 1000) + b"half of")
        sys.stdout.buffer.flush()
        killed()
    jobs += 1
    say("result")
    if first == "leaving":  # and a process stays that holds the pipes, in a group of its own
        if os.fork():
            os._exit(0)
        os.setsid()
        with open(plan + ".left", "w") as file:
            file.write(str(os.getpid()))
        signal.pause()
"""
OFTEN = f"the worker process was killed {REPEATS + 1} times, from outside or by the network itself"


@dataclass(frozen=True)
class Asked:
    """A job of which nothing is asked but an answer."""

    device: str = "cpu"
    minutes: float | None = None
    megabytes: float | None = None

    def on(self, device):
        return replace(self, device=device)

    def perform(self):
        raise AssertionError


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """A function that returns a pool of one worker, of processes that end as planned."""
    plan, started = tmp_path / "plan", []

    def launch():
        command = [sys.executable, "-c", WORKER, str(plan)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True))
        return started[-1]

    def opened(ends: str) -> ProcessExecutor:
        plan.write_text(ends)
        opened.started = started
        return ProcessExecutor(1)

    monkeypatch.setattr(WorkerProcess, "_launch", staticmethod(launch))
    return opened


@pytest.mark.parametrize(
    ("ends", "result", "processes"),
    [
        ("working " * REPEATS, "result", REPEATS + 1),
        ("working " * (REPEATS + 1), Failure(OFTEN), REPEATS + 2),  # and one for the next job
        ("answering", "result", 2),
        # Before its job has begun a process is no measure of the job.
        ("starting starting waiting starting starting", "result", 6),
        (("starting " * 4 + "working ") * REPEATS, "result", 5 * REPEATS + 1),
        (("waiting " * 2 + "working ") * (REPEATS + 1), Failure(OFTEN), 3 * (REPEATS + 1) + 1),
        # What the network does itself it would do again.
        ("code5", Failure("the worker process died with exit code 5"), 2),
        ("code0", Failure("the worker process died with exit code 0"), 2),
        (f"code{TOO_MUCH}", Failure(f"the worker process died with exit code {TOO_MUCH}"), 2),
    ],
)
def test_a_job_is_done_again_where_its_end_may_come_from_elsewhere(pool, ends, result, processes):
    with pool(ends) as executor:
        ((_, found),) = executor.run([("job", Asked())])
        assert found == result
        assert not isinstance(found, Failure) or found.seconds > 0  # what was spent on it is spent
        assert len(pool.started) == processes
        assert list(executor.run([("next", Asked())])) == [("next", "result")]


def test_what_a_process_leaves_behind_holds_nothing_up(pool, tmp_path):
    try:
        with pool("leaving") as executor:
            jobs = [(0, Asked()), (1, Asked(minutes=5))]
            assert list(executor.run(jobs)) == [(0, "result"), (1, "result")]
            assert len(pool.started) == 2
    finally:
        os.kill(int((tmp_path / "plan.left").read_text()), signal.SIGKILL)


def test_too_much_memory_is_told_from_a_kill(pool):
    job = Asked(megabytes=100)
    with pool(f"code{TOO_MUCH}") as executor:
        assert list(executor.run([(0, job)])) == [(0, Failure("needed more than 100 MB of memory"))]
    # What earlier jobs left in the process may be what was too much: a fresh one tells.
    with pool(f"second{TOO_MUCH} well") as executor:
        assert list(executor.run([(0, job), (1, job)])) == [(0, "result"), (1, "result")]
    with pool(f"second{TOO_MUCH} code{TOO_MUCH}") as executor:
        assert dict(executor.run([(0, job), (1, job)]))[1] == Failure("needed more than 100 MB of memory")


@pytest.mark.parametrize(("end", "told"), [("starting", "signal 9"), ("broken", "exit code 3")])
def test_where_no_process_begins_the_command_ends_and_no_candidate_fails(pool, end, told):
    with pool(f"{end} " * STARTS) as executor, pytest.raises(RunFailedError, match=f"{STARTS} in a row .* {told}$"):
        list(executor.run([(0, Asked())]))


def test_a_machine_that_starts_no_process_ends_the_command(pool, monkeypatch):
    with pool("working") as executor:
        assert list(executor.run([])) == []
        executor._hire()

        def refused():
            raise OSError(12, "Cannot allocate memory")

        monkeypatch.setattr(WorkerProcess, "_launch", staticmethod(refused))
        with pytest.raises(OSError, match="Cannot allocate"):
            list(executor.run([(0, Asked())]))


KILL, OTHERWISE = Death(-signal.SIGKILL, begun=True), "from outside or by the network itself"


@pytest.mark.parametrize(
    ("kills", "free", "told"),
    [
        (0, 15, OTHERWISE),
        (0, 1.7, OTHERWISE),
        (1, 15, "and the kernel killed for lack of memory meanwhile: the machine was out of memory"),
        (0, 1.2, "when 1.2 of the machine's 16.0 GB of memory were left: it was probably out of memory"),
    ],
)
def test_the_sentence_says_no_more_than_is_known(monkeypatch, tmp_path, kills, free, told):
    counter = tmp_path / "memory.events"
    counter.write_text("oom 7\noom_kill 3\noom_group_kill 0\n")
    monkeypatch.setattr(deaths, "COUNTERS", (tmp_path / "not there", counter))
    monkeypatch.setattr(deaths, "total_bytes", lambda: 16_000_000_000)
    monkeypatch.setattr(deaths, "free_bytes", lambda device: int(free * 1e9))
    monkeypatch.setattr(deaths, "PAUSE", 0.01)
    with deaths.watched() as memory:
        counter.write_text(f"oom 7\noom_kill {3 + kills}\noom_group_kill 0\n")
        until = time.monotonic() + 5
        while not memory.free and time.monotonic() < until:
            time.sleep(0.01)
    found = replace(KILL, memory=memory.told())
    assert found.reason(4) == f"the worker process was killed 4 times, {told}"
    assert replace(found, code=-11).reason() == "the worker process died with signal 11"
    counter.unlink()
    assert deaths.memory_kills() == 0


SPACE = """
from pathlib import Path
from torch import nn
from nas_proxy import Choice, Space

def build(a, shape):
    with open({began!r}, "a") as file:
        file.write("began ")
    return nn.Sequential(nn.Flatten(), nn.Linear(shape.channels * shape.height * shape.width, shape.classes))

space = Space("told", Choice("width", (1, 2)), build)
"""


@pytest.mark.slow
def test_a_training_that_is_killed_three_times_gives_what_an_undisturbed_one_gives(images, tmp_path):
    began, path, space = tmp_path / "began", tmp_path / "images.safetensors", tmp_path / "told.py"
    space.write_text(SPACE.format(began=str(began)))
    images.save(path)
    job = Job(str(space), {"width": 1}, path, path, Recipe(epochs=400, batch_size=4), 0, "cpu")
    with ProcessExecutor(1) as executor:
        ((_, alone),) = executor.run([(0, job)])
        began.write_text("")
        worker = executor._workers[0]

        def kill(before_the_work: bool) -> None:
            process = worker._process
            while not before_the_work and not began.read_text():
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            while worker._process is process:
                time.sleep(0.01)
            began.write_text("")

        def kills() -> None:
            for before_the_work in (False, True, False, True, True, False):
                kill(before_the_work)

        killing = threading.Thread(target=kills)
        killing.start()
        ((_, found),) = executor.run([(0, job)])
        killing.join()
    assert isinstance(found, Outcome)
    assert (found.score, found.losses) == (alone.score, alone.losses)
    assert found.seconds > alone.seconds  # what was lost is spent as well
