"""How much memory a training needs, and its end where that is too much. For worker processes.

On the CPU it is what the process holds beyond what it held before its first training, files mapped into memory aside
(see `nas_proxy.hardware`). A thread looks at it a hundred times a second, since the system's
own limits count address space, of which PyTorch reserves more than it uses. On a GPU it is what PyTorch's allocator
holds there beyond the images, and the allocator itself refuses more.
"""

import contextlib
import functools
import math
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from nas_proxy.data.images import from_raw
from nas_proxy.hardware import held_bytes
from nas_proxy.training.train import Recipe, train

# Exit code of a process that ended itself because its training needed too much; no other part of Python's uses it.
TOO_MUCH = 77
MB = 1_000_000
_PAUSE = 0.01


@dataclass
class Use:
    """The most that a training needed so far, in bytes."""

    most: int = 0


@contextlib.contextmanager
def limited(megabytes: float, device: str) -> Iterator[Use]:
    """Measure what is needed meanwhile; with more than `megabytes` the process ends with `TOO_MUCH`.

    On a GPU, torch.OutOfMemoryError is raised instead.
    """
    with _on_gpu(megabytes, device) if device != "cpu" else _on_cpu(megabytes, base()) as use:
        yield use


@contextlib.contextmanager
def measured(device: str) -> Iterator[Use]:
    """Measure what this process needs meanwhile beyond what it holds."""
    with _on_gpu(math.inf, device) if device != "cpu" else _on_cpu(math.inf, held_bytes()) as use:
        yield use


@functools.cache
def base() -> int:
    """Return the bytes held before the first training, but after a tiny one: PyTorch loads much when it is needed."""
    images = torch.arange(8 * 256, dtype=torch.uint8).view(8, 1, 16, 16)
    data = from_raw(images, torch.arange(8) % 2, ("a", "b"))

    def build() -> nn.Module:
        body = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten()]
        return nn.Sequential(*body, nn.Linear(8 * 16, 2))

    for precision in ("float32", "auto"):
        train(build, data, data, Recipe(epochs=8, batch_size=4, precision=precision), 0)
    return held_bytes()


def give_back(device: str) -> None:
    """Let other processes have the memory of a GPU that PyTorch keeps here for the next job."""
    if device != "cpu":
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _on_cpu(megabytes: float, base: int) -> Iterator[Use]:
    use, over = Use(), threading.Event()

    def look() -> None:
        while not over.wait(_PAUSE):
            use.most = max(use.most, held_bytes() - base)
            if use.most > megabytes * MB:
                os._exit(TOO_MUCH)

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield use
    finally:
        over.set()
        watcher.join()


@contextlib.contextmanager
def _on_gpu(megabytes: float, device: str) -> Iterator[Use]:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    base, total = torch.cuda.memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
    reserved = torch.cuda.memory_reserved(device)
    torch.cuda.set_per_process_memory_fraction(min(1.0, (reserved + megabytes * MB) / total), device)
    use = Use()
    try:
        yield use
    finally:
        use.most = torch.cuda.max_memory_allocated(device) - base
        torch.cuda.set_per_process_memory_fraction(1.0, device)
