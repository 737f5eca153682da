"""The executor of many jobs at once: processes, one thread each, that share nothing but files.

In: jobs of any kind, see `nas_proxy.training.jobs`. Out: their results, or a `Failure` for one that takes its process
down, or more time or memory than it may. One worker is a process of its own too: a network may end it.

The processes are started with the interpreter's own command line rather than `multiprocessing`: a script that
uses nas_proxy then needs no `if __name__ == "__main__"`. They end by themselves when this process dies.
"""

import contextlib
import functools
import os
import queue
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from nas_proxy.errors import CodeChangedError, NasProxyError, RunFailedError
from nas_proxy.process_start import BEGINNING
from nas_proxy.training.deaths import REPEATS, STARTS, Death, ended_after, watched
from nas_proxy.training.executor import Executor, Jobs, here, run_all
from nas_proxy.training.jobs import Failure, Result, Timed, Work, too_much, without_recording
from nas_proxy.training.memory_limit import TOO_MUCH
from nas_proxy.training.messages import BEGUN, PREPARE, read_message, write_frame, write_message
from nas_proxy.training.node import Node
from nas_proxy.training.shared_gpu import SharedGpus
from nas_proxy.training.train import Outcome

# What a worker begins with. Its own folder and the working directory are not where it looks for modules: a file there
# may be called like one of them. The folder of this package comes last, for where it is not installed.
ROOT = Path(__file__).resolve().parents[2]
BEGIN = "import sys; sys.path.append(sys.argv.pop()); from nas_proxy.training.worker_process import begin; begin()"
# Seconds between two looks at whether a worker that says nothing is still there.
LOOK = 0.25
_Tag = TypeVar("_Tag")


class ProcessExecutor:
    """`count` workers, an `Executor`; use it as a context manager.

    `run` yields (tag, result) in the order of completion. A worker that dies is replaced, and its job fails, as does
    one that takes longer or more memory than it may. Where the worker was killed, its job is done again up to `REPEATS`
    times, not counting deaths before it had begun; where no worker begins, RunFailedError is raised.
    A job for which a GPU that others use has too little memory left has it to itself in a second attempt. Seconds of a
    result on a GPU are the job's share of them.

    devices: the n-th worker trains on the n-th of them, over and over; () for where the job says.
    """

    def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
        self.count = count
        self.devices = tuple(devices)
        self._performed = 0
        self._workers: list[WorkerProcess] = []
        self._idle: list[WorkerProcess] = []
        self._done: queue.SimpleQueue[tuple[WorkerProcess, Any, Any]] = queue.SimpleQueue()
        self._gpus = SharedGpus()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.end()

    def run(self, jobs: Jobs[_Tag, Result]) -> Iterator[tuple[_Tag, Result | Failure]]:
        """Perform the jobs, taking the next from `jobs` only when a worker is free."""
        return run_all(self, jobs)

    def nodes(self) -> tuple[Node, ...]:
        """Return this machine."""
        return here(self, self._performed)

    @property
    def free(self) -> int:
        """How many workers have nothing to do."""
        return self.count - len(self._workers) + len(self._idle)

    def run_apart(self, job: Work[Result]) -> Result | Failure:
        """Perform one job in a process on the first device, while no other worker does anything."""
        while self.free < self.count:  # what is done only now is wanted no more
            list(self.results())
        if not self._workers:
            self._hire()
        self._idle.sort(key=self._workers.index, reverse=True)
        self.submit(None, job)
        ((_, result),) = self.results()
        return cast("Result | Failure", result)

    def submit(self, tag: object, job: Work[Any]) -> None:
        """Let a free worker, a process of its own, begin a job; `results` tells when it is done."""
        if not self._idle:
            self._hire()
        worker = self._idle.pop()
        worker.start(job, functools.partial(_put, self._done, worker, tag))

    def _hire(self) -> None:
        devices = self.devices or (None,)
        self._idle.append(WorkerProcess(self._gpus, devices[len(self._workers) % len(devices)]))
        self._workers.append(self._idle[-1])

    def results(self, timeout: float | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield what has been submitted and is done: at least one, unless none is within `timeout` seconds."""
        with contextlib.suppress(queue.Empty):
            worker, tag, result = self._done.get(timeout=timeout)
            self._idle.append(worker)
            if isinstance(result, BaseException):
                raise result
            self._performed += 1
            yield tag, result


def _put(
    done: "queue.SimpleQueue[tuple[WorkerProcess, Any, Any]]", worker: "WorkerProcess", tag: object, result: object
) -> None:
    done.put((worker, tag, result))


def lanes(executor: Executor, device: str) -> int:
    """Return how many jobs' seconds pass at a time: those of the workers, or of the GPUs that workers share."""
    devices = set(executor.devices) or {device}
    return len(devices) if isinstance(executor, ProcessExecutor) and "cpu" not in devices else executor.count


class WorkerProcess:
    """A process that performs one job at a time; whatever that does to it becomes a `Failure`, and it is replaced.

    gpus: which it shares with other workers. device: where it trains; None for where each job says.
    """

    def __init__(self, gpus: SharedGpus, device: str | None = None) -> None:
        self._gpus = gpus
        self._device = device
        self._ended = False
        self._ending = threading.Lock()
        self._ready = False
        self._served = 0  # jobs since the process began
        self._process = self._launch()

    @staticmethod
    def _launch() -> "subprocess.Popen[bytes]":
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with BEGINNING:
            return subprocess.Popen(
                [sys.executable, "-P", "-c", BEGIN, str(os.getpid()), str(ROOT)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **single},
                # An interrupt typed in the terminal is for the coordinating process, which then stops the workers.
                start_new_session=True,
            )

    def start(self, job: Work[Result], done: Callable[[object], None]) -> None:
        """Send the job; `done` is called on another thread with its result, or with what keeps any from being done."""

        def act() -> None:
            try:
                result: object = self.perform(job)
            except BaseException as error:  # noqa: BLE001 (whoever waits for the result raises it)
                result = error
            done(result)

        threading.Thread(target=act, daemon=True).start()

    def perform(self, job: Work[Result]) -> Result | Failure:
        """Have the job performed, and wait for it.

        Raises RunFailedError where processes end before they begin, CodeChangedError where the space is another one.
        """
        try:
            return self._answer(job)
        except NasProxyError:
            raise
        except Exception as error:  # noqa: BLE001 (what cannot even be sent)
            self._relaunch()
            return Failure(f"{type(error).__name__}: {error}")

    def _answer(self, job: Work[Result]) -> Result | Failure:
        if self._device is not None:
            job = job.on(self._device)
        answer = self._tried(job)
        if isinstance(answer, Failure) and answer.memory:  # of which other workers may have had the rest
            answer = _later(answer.seconds, self._tried(job, alone=True))
        if isinstance(answer, Failure) and (again := without_recording(job, answer)) is not None:
            return _later(answer.seconds, self._answer(again))
        return answer

    def _tried(self, job: Work[Result], *, alone: bool = False) -> Result | Failure:
        """Return what becomes of a job, with its share of the time on a GPU that others use too."""
        with self._gpus.turn(job.device, alone=alone) as turn:
            answer = self._repeated(job)
        return cast("Result", answer.shared(turn.share)) if isinstance(answer, Timed) else answer

    def _repeated(self, job: Work[Result]) -> Result | Failure:
        """Return what becomes of a job in as many processes as that takes."""
        kills, starts, spent = 0, 0, 0.0
        while isinstance(found := self._attempt(job), Death):
            if self._ended:
                return Failure("the worker process was stopped")
            self._relaunch()
            starts = 0 if found.begun else starts + 1
            kills += found.killed
            spent += found.seconds
            if starts == STARTS:
                raise RunFailedError(f"no worker process begins to work: {STARTS} in a row ended; {found.reason()}")
            if found.begun and found.code == TOO_MUCH and job.megabytes is not None:
                if found.fresh:
                    return Failure(too_much(job), seconds=spent)
                # otherwise what earlier jobs left behind may be what was too much
            elif (found.begun and not found.killed) or kills > REPEATS:
                return Failure(found.reason(kills), seconds=spent)
        return _later(spent, found)

    def _attempt(self, job: Work[Result]) -> Result | Failure | Death:
        """Return what becomes of a job in this process, which is replaced where the job took too long or spoilt it."""
        process, late, fresh = self._process, threading.Event(), self._served == 0
        assert process.stdin is not None
        answers, begun, answer, sent = _Answers(process), False, None, time.perf_counter()
        try:
            if not self._ready:
                read_message(answers)  # what a process loads before its first job is not the job's time
                self._ready = True
            if job.megabytes is not None and fresh:  # nor is what shows how much memory it has before
                write_frame(process.stdin, PREPARE)
                read_message(answers)
            sent = time.perf_counter()
            with watched() as memory, ended_after(job.minutes, process, late):
                write_message(process.stdin, job)
                begun = read_message(answers) == BEGUN
                answer = read_message(answers)
        except (EOFError, OSError):
            answer = None
        seconds = time.perf_counter() - sent
        if late.is_set():  # perhaps with an answer at the last moment
            self._relaunch()
            return Failure("the worker process was stopped" if self._ended else _too_long(job), seconds=seconds)
        if answer is None:
            return Death(_code(process), begun, fresh, memory.told() if begun else "", seconds)
        if isinstance(answer, CodeChangedError):
            raise answer
        self._served += 1
        if isinstance(answer, Failure) and answer.spoilt:
            self._relaunch()
        return cast("Result | Failure", answer)

    def _relaunch(self) -> None:
        self.stop()
        with self._ending:
            if not self._ended:
                self._ready, self._served, self._process = False, 0, self._launch()

    def end(self) -> None:
        """Stop the process for good: its death is then no reason to start another."""
        with self._ending:  # or a process that is just being started would stay
            self._ended = True
        self.stop()

    def stop(self) -> None:
        """End the process at once, with what it has started, and free its pipes."""
        if self._process.returncode is None:
            _kill_group(self._process)
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


class _Answers:
    """What a worker process writes, until it is gone: a process that it has left may hold the pipe open for ever."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        assert process.stdout is not None
        self._process, self._pipe = process, process.stdout.fileno()
        self._ready = select.poll()
        self._ready.register(self._pipe, select.POLLIN)

    def read(self, size: int) -> bytes:
        """Return so many bytes, fewer where there are no more."""
        found = bytearray()
        while len(found) < size:
            if not self._ready.poll(1000 * LOOK):
                if _is_gone(self._process):
                    break
                continue
            if not (part := os.read(self._pipe, size - len(found))):
                break
            found += part
        return bytes(found)


def _is_gone(process: "subprocess.Popen[bytes]") -> bool:
    """Whether a process has ended; its number stays its own until somebody waits for it."""
    if not hasattr(os, "waitid"):
        return process.poll() is not None
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _code(process: "subprocess.Popen[bytes]") -> int:
    """Wait for the end of a process, end what it has started, and return its exit code."""
    if hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # its number stays its own as long
            _kill_group(process)
    return process.wait()


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _later(spent: float, found: Result | Failure) -> Result | Failure:
    """Return a result with the seconds that attempts before it took, where it tells its own: they are spent as well."""
    if not spent or not isinstance(found, Outcome | Failure):
        return found
    return cast("Result | Failure", replace(found, seconds=spent + found.seconds))


def _too_long(job: Work[Any]) -> str:
    return f"took longer than {job.minutes:.3g} minute{'' if job.minutes == 1 else 's'}"
