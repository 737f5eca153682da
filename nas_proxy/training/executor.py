"""What performs jobs: the protocol, and the executor that needs no process.

In: jobs of any kind, see `nas_proxy.training.jobs`. Out: their results, or a `Failure` for one that raises. Every
executor gives the same results to the last digit. Worker processes are `nas_proxy.training.worker_pool`, and many
machines `nas_proxy.training.ray_executor`.
"""

import platform
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import is_dataclass, replace
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias, TypeVar

from nas_proxy.threads import one_thread
from nas_proxy.training.jobs import Failure, Result, Work, performed
from nas_proxy.training.node import Node

_Tag = TypeVar("_Tag")
# Jobs with their tags; None among them says that the next one has to wait for a result of those before it.
Jobs: TypeAlias = Iterable[tuple[_Tag, Work[Result]] | None]


class Executor(Protocol):
    """Performs up to `count` jobs at a time; a context manager, which ends what it has started.

    count: may grow and shrink with the machines that there are.
    devices: the n-th of the jobs that are performed at a time trains on the n-th of them, over and over; () for where
        each job says.
    """

    devices: tuple[str, ...]

    @property
    def count(self) -> int:
        """How many jobs are performed at a time."""

    @property
    def free(self) -> int:
        """How many more jobs may be submitted now."""

    def nodes(self) -> tuple[Node, ...]:
        """Return the machines at work, this one alone where there are no others; any thread may ask."""

    def submit(self, tag: object, job: Work[Any]) -> None:
        """Begin a job; `results` tells when it is done. Only while something is `free`."""

    def results(self, timeout: float | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield (tag, result) of what has been submitted and is done: at least one, unless `timeout` seconds pass."""

    def run(self, jobs: Jobs[_Tag, Result]) -> Iterator[tuple[_Tag, Result | Failure]]:
        """Perform the jobs in the order of completion, taking the next from `jobs` only when something is free."""

    def run_apart(self, job: Work[Result]) -> Result | Failure:
        """Perform one job on the first device, while nothing else is performed."""

    def close(self) -> None:
        """End whatever was started."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def run_all(executor: Executor, jobs: Jobs[_Tag, Result]) -> Iterator[tuple[_Tag, Result | Failure]]:
    """Perform jobs by submitting one whenever something is free: what `Executor.run` does."""
    waiting, open_jobs = iter(jobs), 0

    def submit() -> None:
        nonlocal open_jobs
        while executor.free > 0 and (following := next(waiting, None)) is not None:
            executor.submit(*following)
            open_jobs += 1

    submit()
    while open_jobs:
        for done in executor.results():
            open_jobs -= 1
            yield done
            submit()


def here(executor: Executor, done: int) -> tuple[Node, ...]:
    """Return this machine as the only one at work: what `Executor.nodes` does where there are no others."""
    return (Node(platform.node(), ", ".join(executor.devices) or f"{executor.count} at once", done),)


class InlineExecutor:
    """Performs one job at a time in this process, on one thread: for tests and notebooks.

    A network that ends its process ends this one, and limits on time and memory, which take a process to keep, do not
    count: for what may do harm there are worker processes.
    """

    def __init__(self, devices: Sequence[str] = ()) -> None:
        self.count = 1
        self.devices = tuple(devices)
        self._performed = 0
        self._done: deque[tuple[Any, Any]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def free(self) -> int:
        """1, or 0 while the last result waits to be taken."""
        return self.count - len(self._done)

    def submit(self, tag: object, job: Work[Any]) -> None:
        """Perform a job at once."""
        self._done.append((tag, self._perform(job)))

    def results(self, timeout: float | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield the result of what has been submitted."""
        del timeout  # nothing is waited for
        while self._done:
            yield self._done.popleft()

    def nodes(self) -> tuple[Node, ...]:
        """Return this machine."""
        return here(self, self._performed)

    def run(self, jobs: Jobs[_Tag, Result]) -> Iterator[tuple[_Tag, Result | Failure]]:
        """Perform the jobs one after another."""
        return run_all(self, jobs)

    def run_apart(self, job: Work[Result]) -> Result | Failure:
        """Perform one job."""
        return self._perform(job)

    def close(self) -> None:
        """Forget what has not been taken."""
        self._done.clear()

    def _perform(self, job: Work[Result]) -> Result | Failure:
        self._performed += 1
        if self.devices:
            job = job.on(self.devices[0])
        if job.megabytes is not None and is_dataclass(job):
            job = replace(job, megabytes=None)  # more than that would end this process
        with one_thread():
            return performed(job)
