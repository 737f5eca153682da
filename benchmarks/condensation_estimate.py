"""How long a condensation will take and how much memory, from a few steps at its real settings.

In: real images, of all classes or of some of them, and the recipe. Out: an `Estimate`; nothing is written.
A step's time is taken to be proportional to the number of classes, since the loss is a sum over classes. What a step
takes whatever the classes are is scaled too, so the estimate errs on the long side where steps are short;
`scaling.py` measures by how much.
"""

import contextlib
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.memory import bytes_of_a_class, divided, few_networks, fitting
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Task, members_of, open_networks, timed_steps
from nas_proxy.data.images import ImageSet
from nas_proxy.hardware import free_bytes, held_bytes
from nas_proxy.spaces.space import SearchSpace

# After one that is not counted, since it allocates what the others use again.
STEPS = 3
# Float copies of the synthetic images that stay from step to step: themselves, momentum, gradient.
COPIES = 3
SAMPLED_EVERY = 0.002


@dataclass(frozen=True)
class Estimate:
    """What a condensation would take on this machine.

    seconds: all steps and the start. seconds_per_step: the median of the measured steps, for all classes;
        slowest_per_step: the slowest of them. start_seconds: once, for compiling.
    memory_bytes: the most that is needed beyond what the program had before; of a GPU where it works on one.
    classes_per_step: classes in memory at a time.
    steps, classes: of the condensation. measured_steps, measured_classes: what the estimate is made from.
    """

    seconds: float
    seconds_per_step: float
    slowest_per_step: float
    start_seconds: float
    memory_bytes: int
    classes_per_step: int
    steps: int
    classes: int
    measured_steps: int
    measured_classes: int
    device: str


def estimate(
    real: ImageSet,
    recipe: Condensation,
    seed: int,
    *,
    classes: int | None = None,
    device: torch.device | str = "cpu",
    space: SearchSpace | None = None,
    classes_per_step: int | None = None,
    steps: int = STEPS,
    clock: Callable[[], float] = time.perf_counter,
) -> Estimate:
    """Take `steps` steps of `recipe`, and one before them, on the classes of `real`, and scale them to `classes`.

    real: each class with as many images as a step takes, or all. classes: of the whole data; None for those of `real`.
    space, classes_per_step: as in `condense`. clock: times the steps; with one thread on the CPU, `time.thread_time` is
        blind to other work on the machine.
    """
    device = torch.device(device)
    measured = len(real.classes)
    classes = classes or measured
    task = Task(real.to(device), members_of(real), recipe, seed, device, ALONE)
    few = few_networks(task, space, ())
    together = min(classes, classes_per_step or fitting(task, few, free_bytes(device)))
    task = divided(task, together)
    _load_gradients()
    with watched(device) as peak:
        began = time.perf_counter()
        # As many steps as make the same work of fewer classes, which decides about compiling.
        same_work = replace(recipe, steps=math.ceil(recipe.steps * classes / measured))
        networks = open_networks(replace(task, recipe=same_work), space, (), lambda text: None)
        started = time.perf_counter() - began
        seconds = [taken * classes / measured for taken in timed_steps(task, networks, steps, clock)]
    stored = recipe.images_per_class * math.prod(real.shape[:3]) * task.dtype.itemsize * COPIES
    at_a_time = max(0, together - min(measured, together))
    memory = peak.bytes + (classes - measured) * stored + at_a_time * bytes_of_a_class(task, few)
    median = statistics.median(seconds)
    return Estimate(
        seconds=started + recipe.steps * median,
        seconds_per_step=median,
        slowest_per_step=max(seconds),
        start_seconds=started,
        memory_bytes=memory,
        classes_per_step=together,
        steps=recipe.steps,
        classes=classes,
        measured_steps=steps,
        measured_classes=measured,
        device=str(device),
    )


def _load_gradients() -> None:
    """Have PyTorch load what the first gradient of a process needs, some 35 MB that no later step takes."""
    number = torch.ones(1, requires_grad=True)
    torch.autograd.grad(2 * number, number, torch.ones(1))


class Peak:
    """The most memory that was in use, in `bytes` beyond that of the beginning."""

    def __init__(self) -> None:
        self.bytes = 0


@contextlib.contextmanager
def watched(device: torch.device) -> Iterator[Peak]:
    """Watch the memory of this process, or of its GPU, while the block runs."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    before, ended = held_bytes(), threading.Event()

    def watch() -> None:
        while not ended.wait(SAMPLED_EVERY):
            peak.bytes = max(peak.bytes, held_bytes() - before)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()
        peak.bytes = max(peak.bytes, held_bytes() - before)
