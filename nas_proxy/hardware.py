"""What the machine has for this process: speed in bfloat16, free memory, memory in use; and how it computes.

In: a device. Out: a fact or a number of bytes. psutil answers for each operating system; the limit of a container
is read here, since psutil tells that of the machine.
"""

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F

from nas_proxy.threads import one_thread

# How many times as fast bfloat16 must be, and in how many rounds that is measured: some 20 ms in all.
WORTH_ROUNDING, MEASURED = 1.2, 6
# What Linux says of a container from within.
CGROUP = Path("/sys/fs/cgroup")
# Of a GPU, for each of several trainings at a time.
MULTIPROCESSORS_EACH, BYTES_EACH, MOST_ON_A_GPU = 16, 4 << 30, 4


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 faster than float32; on the CPU as a convolution is seen to do."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bfloat16_speed() > WORTH_ROUNDING


@functools.cache
def bfloat16_speed() -> float:
    """Return how many times as fast as in float32 a convolution in bfloat16 is on one core, measured once a process.

    A processor's features do not tell: among those with AVX-512 BF16 some are twice as fast in it, some half as fast.
    Other work on the machine hardly matters, since the thread's own time is taken, and the shorter of several.
    """
    kinds = (torch.float32, torch.bfloat16)
    shortest = dict.fromkeys(kinds, math.inf)
    with one_thread(), torch.no_grad():
        maps, weight = (
            torch.ones(size).to(memory_format=torch.channels_last) for size in ((4, 64, 16, 16), (64, 64, 3, 3))
        )
        operands = {kind: (maps.to(kind), weight.to(kind)) for kind in kinds}
        for _ in range(MEASURED):
            for kind, both in operands.items():
                began = time.thread_time()
                F.conv2d(*both, padding=1)
                shortest[kind] = min(shortest[kind], time.thread_time() - began)
    return shortest[torch.float32] / shortest[torch.bfloat16]


def free_bytes(device: torch.device) -> int:
    """Return the free memory of a device: of the CPU what the system calls available, within a container's limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    available: int = psutil.virtual_memory().available
    container = _container()
    return available if container is None else min(available, container[0] - container[1])


def total_bytes() -> int:
    """Return the memory of the machine, or of a container that has a limit."""
    total: int = psutil.virtual_memory().total
    container = _container()
    return total if container is None else min(total, container[0])


def _container() -> tuple[int, int] | None:
    """Return how much memory the container may use, and uses; None for no container, or one without a limit."""
    try:
        limit, used = (int((CGROUP / f"memory.{name}").read_text(encoding="utf-8")) for name in ("max", "current"))
    except (OSError, ValueError):
        return None
    return limit, used


def cores() -> int:
    """Return how many cores this process may use: those of its affinity, within a container's share of time."""
    found = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = (CGROUP / "cpu.max").read_text(encoding="utf-8").split()
        return max(1, min(found, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):  # no container, or one without a limit ("max")
        return found


def jobs_at_once(device: str, gpus: int = 1) -> int:
    """Return how many trainings suit a device at a time: one a core, which on GPUs are divided among `gpus`.

    A small network's kernels fill a few multiprocessors of a GPU, and each process holds some memory of its own there.
    """
    if device == "cpu":
        return cores()
    card = torch.cuda.get_device_properties(device)
    room = min(card.multi_processor_count // MULTIPROCESSORS_EACH, card.total_memory // BYTES_EACH)
    return max(1, min(MOST_ON_A_GPU, cores() // gpus, room))


def held_bytes() -> int:
    """Return the memory of this process alone: without files that are mapped into it, on Linux without shared memory.

    It is what a look a hundred times a second can afford, which the exact figure of Linux (`uss`) is not.
    """
    process = psutil.Process()
    if psutil.LINUX:
        memory = process.memory_info()
        return int(memory.rss - memory.shared)
    return int(process.memory_full_info().uss)


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Let convolutions on a GPU give the same each time, and float32 be float32, while the block runs.

    cuDNN's fastest weight gradients add up in any order, and it computes float32 with 10 bits of mantissa (TF32) unless
    told otherwise. Other kernels that have no order (the gradients of max pooling, of interpolation and of indexing)
    stay as they are, so a network with those repeats to rounding.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    with cudnn.flags(enabled=cudnn.enabled, benchmark=False, deterministic=True, allow_tf32=False):
        yield
