"""How a worker process ends: after its time, or why it is gone, and whether its job is to be done again.

In: an exit code, what the kernel has counted, how much memory was free. Out: a `Death`, with a sentence that says no
more than is known. A process may be killed (SIGKILL) by anybody: by the kernel where memory is short, by a scheduler,
by a person, by the network itself. The kernel's counter of such kills, or a machine with next to no memory left, tells
the first from the others.
"""

import contextlib
import math
import signal
import subprocess
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from nas_proxy.hardware import free_bytes, total_bytes

# How often a job is done again whose process was killed, on this machine or with its machine.
REPEATS = 3
# Processes in a row that may end before their job has begun, which says nothing of the job.
STARTS = 10
# Of the machine's memory: with less left something may have killed for it, as earlyoom does from there. Seconds between
# two looks.
LITTLE, PAUSE = 0.1, 0.25
# Where Linux counts the processes that it has killed for memory: in this container, on the whole machine.
COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))


@dataclass(frozen=True)
class Death:
    """The end of a process that should have answered.

    begun: whether the job had. fresh: whether it was the first job of the process. memory: what tells that the machine
    had too little; "" for nothing. seconds: since the job was sent.
    """

    code: int
    begun: bool
    fresh: bool = True
    memory: str = ""
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        """Whether it was killed while it worked."""
        return self.begun and self.code == -signal.SIGKILL

    def reason(self, times: int = 1) -> str:
        """Return what happened, in words; times: how often it did."""
        if not self.killed:
            return f"the worker process died with {'signal' if self.code < 0 else 'exit code'} {abs(self.code)}"
        often = {1: "once", 2: "twice"}.get(times, f"{times} times")
        return f"the worker process was killed {often}, {self.memory or 'from outside or by the network itself'}"


def memory_kills() -> int:
    """Return how many processes the kernel has killed for memory; 0 where it does not tell."""
    for file in COUNTERS:
        try:
            lines = file.read_text(encoding="ascii").splitlines()
        except (OSError, ValueError):
            continue
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return 0


@dataclass
class Memory:
    """What is seen of the machine's memory while a job is under way. free: the latest bytes."""

    kills: int = field(default_factory=memory_kills)
    free: deque[int] = field(default_factory=lambda: deque(maxlen=2))

    def told(self) -> str:
        """Return what tells that there was too little; "" for nothing."""
        if memory_kills() > self.kills:
            return "and the kernel killed for lack of memory meanwhile: the machine was out of memory"
        total, least = total_bytes(), min(self.free, default=math.inf)
        if least < LITTLE * total:
            left = f"{least / 1e9:.1f} of the machine's {total / 1e9:.1f} GB of memory were left"
            return f"when {left}: it was probably out of memory"
        return ""


@contextlib.contextmanager
def watched() -> Iterator[Memory]:
    """Look at the machine's memory while the block runs."""
    memory, over = Memory(), threading.Event()

    def look() -> None:
        while not over.wait(PAUSE):
            memory.free.append(free_bytes(torch.device("cpu")))

    threading.Thread(target=look, daemon=True).start()
    try:
        yield memory
    finally:
        over.set()


@contextlib.contextmanager
def ended_after(minutes: float | None, process: "subprocess.Popen[bytes]", late: threading.Event) -> Iterator[None]:
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
