"""GPUs that several workers of one executor share: how much of one a job had, and one job that has it to itself.

In: which job uses which device, and when. Out: turns. A job's share is that of fair parts: while k jobs use a GPU each
has 1/k of it. On the CPU a worker has a core of its own, so its share is all of that.
"""

import contextlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field


@dataclass
class Turn:
    """A job's use of a device. share: once it is over, the part of the device that it had meanwhile."""

    share: float = 1.0


@dataclass
class _Gpu:
    """jobs: that use it. alone: whether one of them has it, or waits to have it, to itself. clock: seconds of the GPU
    that a job would have had by `since`, had it used it all the time."""

    since: float
    jobs: int = 0
    alone: bool = False
    clock: float = 0.0

    def at(self, now: float) -> float:
        """Return the clock now."""
        self.clock += (now - self.since) / max(1, self.jobs)
        self.since = now
        return self.clock


@dataclass
class SharedGpus:
    """Who uses which GPU. now: tells the seconds."""

    now: Callable[[], float] = time.perf_counter
    _gpus: dict[str, _Gpu] = field(init=False)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self._gpus = defaultdict(lambda: _Gpu(self.now()))

    @contextlib.contextmanager
    def turn(self, device: str, *, alone: bool = False) -> Iterator[Turn]:
        """Use a device; wait while a job has it to itself, and with `alone` until no other job uses it."""
        turn = Turn()
        if device == "cpu":
            yield turn
            return
        with self._changed:
            gpu = self._gpus[device]
            self._changed.wait_for(lambda: not gpu.alone)
            gpu.alone = alone
            self._changed.wait_for(lambda: not alone or gpu.jobs == 0)
            began = self.now()
            before = gpu.at(began)
            gpu.jobs += 1
        try:
            yield turn
        finally:
            with self._changed:
                ended = self.now()
                turn.share = (gpu.at(ended) - before) / (ended - began) if ended > began else 1.0
                gpu.jobs -= 1
                gpu.alone = gpu.alone and not alone
                self._changed.notify_all()
