"""How many classes fit the memory in a step of condensation.

In: a task, its networks and the free bytes of its device. Out: how many classes are taken at a time; 0 for all.
Measured, not guessed: the bytes that a network keeps for the gradient of an image are those that PyTorch saves.
"""

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from nas_proxy.condensation.matching import Network
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Networks, Task, open_networks
from nas_proxy.errors import ConfigError
from nas_proxy.spaces.space import SearchSpace

# Of the free memory: the rest is for the maps of the part at work, and for others.
SHARE = 0.5
# Float copies of an image while it is decoded, augmented and put in a row, and with its gradient.
REAL_COPIES, SYNTHETIC_COPIES = 3, 6
# Networks of a family differ, so some are looked at.
LOOKED_AT = 4


def classes_together(task: Task, networks: Networks, free: int) -> int:
    """Return how many classes a step can take at a time in a share of `free` bytes, at least 1; 0 for all."""
    count = fitting(task, networks, free)
    return 0 if count >= len(task.own) else count


def fitting(task: Task, networks: Networks, free: int) -> int:
    """Return how many classes like these would fit a share of `free` bytes, at least 1."""
    return max(1, int(SHARE * free / bytes_of_a_class(task, networks)))


def bytes_of_a_class(task: Task, networks: Networks) -> int:
    """Return the bytes that a class takes while it is in memory.

    The sets themselves (the synthetic images, their momentum, 8-bit real images) are not counted.
    """
    real, synthetic = task.per_class
    image = task.real.shape.channels * task.real.shape.height * task.real.shape.width * task.dtype.itemsize
    looked_at = (networks.draw(step) for step in range(LOOKED_AT if networks.limited else 1))
    kept = max(kept_bytes(network, task) for network in looked_at)
    return real * image * REAL_COPIES + synthetic * (image * SYNTHETIC_COPIES + kept)


def few_networks(task: Task, space: SearchSpace | None, exclude: Collection[str]) -> Networks:
    """Return embedding networks of the task to look at, uncompiled."""
    steps = 0 if task.recipe.embed == "convnet" else LOOKED_AT
    probe = replace(task, recipe=replace(task.recipe, steps=steps))
    return open_networks(probe, space, exclude, lambda text: None)


def check_divisible(recipe: Condensation, classes: int, together: int | None) -> None:
    """Raise ConfigError where so many classes at a time would change the loss."""
    if together is not None and together < classes and recipe.embed != "convnet":
        raise ConfigError(
            [
                f"--classes-per-step {together} would change the loss of --embed {recipe.embed}, whose networks see "
                f"all {classes} classes together (batch norm, spread of features); leave it out: where memory is "
                "short, images go through them part by part"
            ]
        )


def kept_bytes(network: Network, task: Task) -> int:
    """Return the bytes that an image's way through a network keeps for its gradient."""
    few, more = (_saved(network, task, n) for n in (2, 4))
    return max(0, more - few) // 2


def _saved(network: Network, task: Task, count: int) -> int:
    sizes: dict[int, int] = {}

    def note(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        sizes[storage.data_ptr()] = storage.nbytes()
        return saved

    images = torch.zeros(count, *task.real.shape[:3], device=task.device, dtype=task.dtype).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        features = network.embed(images)
    del features
    return sum(sizes.values())


def divided(task: Task, together: int) -> Task:
    """Return the task with `together` classes at a time; 0, and as many as there are, for all."""
    return replace(task, together=0 if together >= len(task.own) else together)
