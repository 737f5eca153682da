"""Training many candidates at once: a pool of processes, one thread each, that share nothing but files.

A `Job` names everything by value or by path and its `Outcome` depends on nothing else, so where and in which
order jobs run changes no result. With one worker the jobs run in this process, on one thread as well.

The processes are started with the interpreter's own command line rather than `multiprocessing`: a script that
uses nas_proxy then needs no `if __name__ == "__main__"`. They end by themselves when this process dies.
"""

import contextlib
import functools
import os
import pickle
import queue
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

import torch

from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.spaces.loading import load_space
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.threads import one_thread
from nas_proxy.training.memory import TOO_MUCH, limited
from nas_proxy.training.pruning import Pruning
from nas_proxy.training.repeats import repeated
from nas_proxy.training.train import Outcome, Recipe, Watch, train

REASON_LENGTH = 500
KILLED = "the worker process was killed twice; the machine was probably out of memory"
# What a worker is told before its first job with a limit on memory.
PREPARE = "prepare"
_Tag = TypeVar("_Tag")


@dataclass(frozen=True)
class Job:
    """Trainings of `architecture` of the space `space` on the images in `data`, scored on those in `evaluation`.

    minutes: how long it may take before it is ended; None for as long as it likes.
    megabytes: how much memory it may need, see `nas_proxy.training.memory`; None for as much as there is.
    seeds: trainings whose mean is wanted; their seeds derive from `seed`. pruning: what may end it early.
    """

    space: str
    architecture: Architecture
    data: Path
    evaluation: Path
    recipe: Recipe
    seed: int
    device: str
    minutes: float | None = None
    megabytes: float | None = None
    seeds: int = 1
    pruning: Pruning | None = None

    @property
    def alone(self) -> bool:
        """Whether it needs a process of its own, which can be ended."""
        return self.minutes is not None or self.megabytes is not None


@dataclass(frozen=True)
class Failure:
    """A training that raised, ran out of memory or time, or took its process down with it."""

    reason: str


def perform(job: Job) -> Outcome | Failure:
    """Train, and turn whatever the network raises into a reason."""
    try:
        if job.device.startswith("cuda:"):
            torch.cuda.set_device(job.device)  # nothing is left on another one by the way
        data, evaluation = _image_set(job.data, job.device), _image_set(job.evaluation, job.device)
        space = _space(job.space, data.shape)

        def once(seed: int, watch: Watch | None) -> Outcome:
            build = lambda: space.build(job.architecture, data.shape)  # noqa: E731
            return train(build, data, evaluation, job.recipe, seed, job.device, watch)

        if job.megabytes is None:
            return repeated(once, job.recipe, job.seed, job.seeds, job.pruning)
        with limited(job.megabytes, job.device) as use:
            found = repeated(once, job.recipe, job.seed, job.seeds, job.pruning)
        return replace(found, memory=use.most)
    except torch.OutOfMemoryError:
        return Failure(f"out of memory on {job.device}" if job.megabytes is None else _too_much(job))
    except MemoryError:
        return Failure("out of memory")
    except Exception as error:  # noqa: BLE001 (a candidate may raise anything, and the search goes on)
        if "can't allocate memory" in str(error):
            return Failure("out of memory")
        return Failure(f"{type(error).__name__}: {error}"[:REASON_LENGTH])


def _too_much(job: Job) -> str:
    return f"needed more than {job.megabytes:g} MB of memory{'' if job.device == 'cpu' else f' on {job.device}'}"


@functools.lru_cache(maxsize=16)
def _loaded(path: Path, written: int, device: str) -> ImageSet:
    del written  # a file that is written again is another file
    return ImageSet.load(path).unpacked().to(device)


def _image_set(path: Path, device: str) -> ImageSet:
    return _loaded(path, path.stat().st_mtime_ns, device)


@functools.lru_cache(maxsize=16)
def _space(spec: str, shape: DataShape) -> SearchSpace:
    return load_space(spec, shape)


class Pool:
    """`count` workers; use it as a context manager.

    `run` yields (tag, result) in the order of completion. A worker that dies is replaced, and its job fails, at
    once or, where it was killed, when that happens again; so does one that takes longer or more memory than it may,
    for which jobs with a limit run in a process even where `count` is 1.

    devices: the n-th worker trains on the n-th of them, over and over; () for where the job says.
    """

    def __init__(self, count: int, devices: Sequence[str] = ()) -> None:
        self.count = count
        self.devices = tuple(devices)
        self._workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._done: queue.SimpleQueue[tuple[_Worker, Any, Outcome | Failure]] = queue.SimpleQueue()

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

    def run(self, jobs: Iterable[tuple[_Tag, Job]]) -> Iterator[tuple[_Tag, Outcome | Failure]]:
        """Perform the jobs, taking the next from `jobs` only when a worker is free."""
        if self.count > 1:
            yield from self._run_spread(iter(jobs))
            return
        with one_thread():
            for tag, job in jobs:
                if job.alone:
                    yield from self._run_spread(iter([(tag, job)]))
                else:
                    yield tag, perform(job if not self.devices else replace(job, device=self.devices[0]))

    def _run_spread(self, jobs: Iterator[tuple[_Tag, Job]]) -> Iterator[tuple[_Tag, Outcome | Failure]]:
        while True:
            while self.free and (following := next(jobs, None)) is not None:
                self.submit(*following)
            if self.free == self.count:
                return
            yield from self.results()

    @property
    def free(self) -> int:
        """How many workers have nothing to do."""
        return self.count - len(self._workers) + len(self._idle)

    def submit(self, tag: object, job: Job) -> None:
        """Let a free worker, a process of its own, begin a job; `results` tells when it is done."""
        if not self._idle:
            devices = self.devices or (None,)
            self._idle.append(_Worker(devices[len(self._workers) % len(devices)]))
            self._workers.append(self._idle[-1])
        worker = self._idle.pop()
        worker.start(job, functools.partial(_put, self._done, worker, tag))

    def results(self, timeout: float | None = None) -> Iterator[tuple[Any, Outcome | Failure]]:
        """Yield what has been submitted and is done: at least one, unless none is within `timeout` seconds."""
        with contextlib.suppress(queue.Empty):
            worker, tag, result = self._done.get(timeout=timeout)
            self._idle.append(worker)
            yield tag, result


def _put(
    done: "queue.SimpleQueue[tuple[_Worker, Any, Outcome | Failure]]",
    worker: "_Worker",
    tag: object,
    result: Outcome | Failure,
) -> None:
    done.put((worker, tag, result))


class _Worker:
    """A process that performs one job at a time, and the thread that waits for its answer.

    device: where it trains; None for where each job says.
    """

    def __init__(self, device: str | None = None) -> None:
        self._device = device
        self._ended = False
        self._ready = False
        self._served = 0  # jobs since the process began
        self._process = self._launch()

    @staticmethod
    def _launch() -> "subprocess.Popen[bytes]":
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return subprocess.Popen(
            [sys.executable, "-m", "nas_proxy.training.worker_process", str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **single},
            # An interrupt typed in the terminal is for the coordinating process, which then stops the workers.
            start_new_session=True,
        )

    def start(self, job: Job, done: Callable[[Outcome | Failure], None]) -> None:
        """Send the job; `done` is called on another thread."""
        threading.Thread(target=lambda: done(self._answer(job)), daemon=True).start()

    def _answer(self, job: Job) -> Outcome | Failure:
        if self._device is not None:
            job = replace(job, device=self._device)
        return self._attempt(job, last=False) or self._attempt(job, last=True) or Failure(KILLED)

    def _attempt(self, job: Job, *, last: bool) -> Outcome | Failure | None:
        """Return what became of a job; None where the process was killed and this was not the last attempt."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Event()
        try:
            if not self._ready:
                read_message(process.stdout)  # what a process loads before its first job is not the job's time
                self._ready = True
            if job.megabytes is not None and self._served == 0:  # nor is what shows how much memory it has before
                write_message(process.stdin, PREPARE)
                read_message(process.stdout)
            with _ended_after(job.minutes, process, late):
                write_message(process.stdin, job)
                answer = read_message(process.stdout)
        except (EOFError, OSError):
            answer = None
        if answer is None or late.is_set():  # both, where the answer comes at the last moment
            code, fresh = process.wait(), self._served == 0
            failure = self._replaced(job, f"took longer than {job.minutes:.3g} minutes" if late.is_set() else None)
            # A kill may have nothing to do with the job, and what earlier jobs left behind may be what was too much.
            again = code == -signal.SIGKILL or (code == TOO_MUCH and not fresh)
            return None if again and not (last or late.is_set() or self._ended) else failure
        assert isinstance(answer, Outcome | Failure)
        self._served += 1
        return answer

    def _replaced(self, job: Job, reason: str | None) -> Failure:
        """Start another process for one that is gone, and return why it went."""
        code = self._process.wait()
        if self._ended:
            return Failure("the worker process was stopped")
        self.stop()
        self._ready, self._served, self._process = False, 0, self._launch()
        if code == TOO_MUCH and reason is None:
            return Failure(_too_much(job))
        return Failure(reason or _cause_of_death(code))

    def end(self) -> None:
        """Stop the process for good: its death is then no reason to start another."""
        self._ended = True
        self.stop()

    def stop(self) -> None:
        """End the process at once and free its pipes."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


@contextlib.contextmanager
def _ended_after(minutes: float | None, process: "subprocess.Popen[bytes]", late: threading.Event) -> Iterator[None]:
    """Kill the process and set `late` when this context lasts longer than `minutes`."""
    if minutes is None:
        yield
        return
    deciding, over = threading.Lock(), threading.Event()

    def end() -> None:
        with deciding:
            if not over.is_set():
                late.set()
                process.kill()

    timer = threading.Timer(60 * minutes, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with deciding:  # an answer and the end of its time may come at once
            over.set()


def _cause_of_death(code: int) -> str:
    if code == -signal.SIGKILL:
        return KILLED
    return f"the worker process died with {'signal' if code < 0 else 'exit code'} {abs(code)}"


def write_message(stream: IO[bytes], message: object) -> None:
    """Write one length-prefixed pickle. Both ends are this program, so unpickling is safe."""
    data = pickle.dumps(message)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


def read_message(stream: IO[bytes]) -> object:
    """Read what `write_message` wrote. Raises EOFError when the other end is gone."""
    header = stream.read(8)
    if len(header) < 8:
        raise EOFError
    data = stream.read(struct.unpack("<Q", header)[0])
    return pickle.loads(data)
