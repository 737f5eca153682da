"""Training the final network: on all development images, once, in this process.

In: a problem and an architecture of the search. Out: what was trained, and the seconds that it took.
"""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from nas_proxy.data.images import ImageSet
from nas_proxy.data.store import together
from nas_proxy.errors import RunFailedError
from nas_proxy.pipeline.problem import Problem
from nas_proxy.progress import Bar, Progress
from nas_proxy.seeds import derive
from nas_proxy.storage.records import Record
from nas_proxy.training.train import Fitted, Recipe, fit
from nas_proxy.untrusted import in_a_line


def joined(train: ImageSet, validation: ImageSet) -> ImageSet:
    """Return all development images, which decode as the train images do."""
    return replace(
        train,
        images=together(train.images, validation.images),
        labels=torch.cat([train.labels, validation.labels]),
    )


def fit_final(
    problem: Problem, record: Record, images: ImageSet, recipe: Recipe, progress: Progress
) -> tuple[Fitted, float]:
    """Train the network of `record` on `images`; return it, and the seconds that it took.

    Raises RunFailedError when the training raises, for the network's own reasons.
    """
    start = time.perf_counter()
    seed = derive(problem.config.seed, "final", record.key)
    with progress.stage("Final training", recipe.steps(len(images))) as bar:
        build = _counted(lambda: problem.space.build(record.architecture, problem.shape), bar)
        try:
            # Not recorded: a recording that breaks off would cost this process, which no other one replaces, the GPU.
            fitted = fit(build, images, recipe, seed, problem.device, recorded=False)
            bar.to(recipe.steps(len(images)))
        except Exception as error:
            if isinstance(error, MemoryError | OSError | torch.OutOfMemoryError):
                raise
            raise RunFailedError(f"the final training of {record.key} failed: {in_a_line(error)}") from error
    return fitted, time.perf_counter() - start


def _counted(build: Callable[[], nn.Module], bar: Bar) -> Callable[[], nn.Module]:
    """Return `build` with a bar that moves by one for each batch that the network is trained on."""
    steps = 0

    def count(module: nn.Module, _: object) -> None:
        nonlocal steps
        if module.training:
            bar.to(steps)
            steps += 1

    def built() -> nn.Module:
        network = build()
        network.register_forward_pre_hook(count)
        return network

    return built
