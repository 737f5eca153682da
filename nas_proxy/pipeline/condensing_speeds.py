"""How fast this machine condenses: a recipe and a few images in, seconds of an image in a step out.

What is known without work is whether networks are compiled; the rest is measured in a step or two on few images, and
on more where that takes a moment.
"""

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.embedding import Embedding, compiles
from nas_proxy.condensation.memory import bytes_of_a_class, few_networks, fitting
from nas_proxy.condensation.patches import teacher_of, teaching
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Task, members_of, open_networks, timed_steps
from nas_proxy.data.images import ImageSet
from nas_proxy.hardware import free_bytes
from nas_proxy.pipeline.forecast import COARSE, MEASURED, THERE_AND_BACK, Span, within
from nas_proxy.pipeline.problem import Prospect
from nas_proxy.spaces.convnet import deepest
from nas_proxy.spaces.space import SearchSpace
from nas_proxy.training.memory_limit import MB
from nas_proxy.training.train import fit

# Real and synthetic images of a class in the measured steps of condensing; steps of a teacher's training.
REAL, SYNTHETIC, TEACHING = 64, 4, 4
# Seconds of the step of more images, as the one of few has it, and of a compilation.
LARGER, COMPILING = 1.0, 30.0


def compiling(prospect: Prospect, recipe: Condensation) -> Span:
    """Return the seconds of a compilation, none where there will be none."""
    shape, classes = prospect.shape, prospect.shape.classes
    if recipe.embed != "convnet":
        return within(1.0, COARSE)
    embedding = Embedding(shape, recipe.width, deepest(shape, recipe.depth), recipe.precision, recipe.match == "all")
    real = int(min(recipe.real_batch, prospect.counts.train / classes)) * classes
    synthetic = recipe.images_per_class * recipe.formation**2 * classes
    device = torch.device(prospect.device)
    compiled = compiles(embedding, device, real=real, synthetic=synthetic, steps=recipe.steps)
    return within(COMPILING if compiled else 0.1, 3)


def embedding_speed(prospect: Prospect, recipe: Condensation) -> tuple[Span, float]:
    """Return the seconds of an image in a step of condensing, and the MB that the whole needs.

    Of two classes with few images, most is what any step takes, so a step of more classes with as many images as they
    will have is timed too where it takes a moment.
    """
    few = prospect.few
    smallest = min(map(len, few.of_class()))
    several = max(1, min(SYNTHETIC, smallest) // recipe.formation**2) if smallest >= recipe.formation**2 else 1
    small = replace(recipe, images_per_class=several, real_batch=REAL, steps=1)
    if smallest < recipe.formation**2:
        small = replace(small, formation=1)
    task = _task(prospect, few, small)
    config, device, classes = prospect.config, torch.device(prospect.device), prospect.shape.classes
    whole, looked_at = replace(task, recipe=recipe), few_networks(task, _embedding_space(prospect, recipe), ())
    together = min(classes, config.classes_per_step or fitting(whole, looked_at, free_bytes(device)))
    each = _timed_step(prospect, task, 2)
    if (more := _repeated(prospect, recipe, LARGER / each, together)) is not None:
        each = _timed_step(prospect, _task(prospect, more, replace(recipe, steps=1)), 1)
    return within(each, MEASURED * 1.2), together * bytes_of_a_class(whole, looked_at) / MB


def _task(prospect: Prospect, images: ImageSet, recipe: Condensation) -> Task:
    device = torch.device(prospect.device)
    return Task(images.to(device), members_of(images), recipe, prospect.config.seed, device, ALONE)


def _embedding_space(prospect: Prospect, recipe: Condensation) -> SearchSpace | None:
    return prospect.whole_space if recipe.embed == "space" else None


def _timed_step(prospect: Prospect, task: Task, steps: int) -> float:
    """Return the seconds of the fastest of some steps, after a first one, for each of its images."""
    space = _embedding_space(prospect, task.recipe)
    seconds = min(timed_steps(task, open_networks(task, space, (), lambda text: None), steps))
    real, synthetic = task.per_class
    return seconds / (len(task.members) * (real + THERE_AND_BACK * synthetic))


def _repeated(prospect: Prospect, recipe: Condensation, most: float, together: int) -> ImageSet | None:
    """Return the few images again and again, as of classes as large as a step sees them.

    most: images of a step, synthetic ones as often as they count. together: classes that memory has room for.
    None where that is not more than the few.
    """
    few = prospect.few
    real = max(int(min(recipe.real_batch, prospect.counts.train / prospect.shape.classes)), recipe.per_class)
    wanted = min(together, int(most / (real + THERE_AND_BACK * recipe.per_class)))
    if wanted * real <= 2 * len(few.classes) * REAL:
        return None
    places = torch.arange(wanted * real)
    again = few.select(places % len(few))
    return replace(again, labels=places % wanted, classes=tuple(map(str, range(wanted))))


def teaching_speed(prospect: Prospect, recipe: Condensation, rough: Span) -> Span:
    """Return the seconds of an image in a training step of the network that chooses images; `rough` if it diverges."""
    few, ticks = prospect.few, list[float]()
    steps = replace(teaching(recipe), epochs=TEACHING, batch_size=len(few))

    def after(network: nn.Module, losses: Sequence[float]) -> bool:
        ticks.append(time.perf_counter())
        return False

    fit(lambda: teacher_of(recipe, few.shape), few, steps, prospect.config.seed, prospect.device, after)
    taken = [later - earlier for earlier, later in itertools.pairwise(ticks)]
    return within(min(taken) / len(few), MEASURED * 1.2) if taken else rough
