"""One step of distribution matching: where embedding networks come from, and what a step does to the images.

In: a `Task` (real images, recipe, seed, device) and a `State` (synthetic images, momentum, step number).
Guarantees: step t draws everything from (seed, t), so a step depends on the state alone. Classes are taken a group at a
time where the memory asks for it, with the same loss: it is a sum over classes. Where it is not, because batch norm has
the statistics of all classes or the loss is divided by the spread of all, images go through part by part, see
`nas_proxy.condensation.matching`.
"""

import functools
import itertools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas_proxy.condensation.ahead import ahead
from nas_proxy.condensation.checkpoint import State
from nas_proxy.condensation.distributed import ProcessGroup
from nas_proxy.condensation.embedding import Embedding, Engine, open_engine
from nas_proxy.condensation.matching import Network, loss_and_gradient, spread
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.space_embedding import open_space_embedding
from nas_proxy.data import augment
from nas_proxy.data.images import ImageSet
from nas_proxy.data.multi_formation import decoded
from nas_proxy.data.splits import random_subset
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.spaces.convnet import deepest
from nas_proxy.spaces.resnet18 import resnet18_space
from nas_proxy.spaces.space import SearchSpace
from nas_proxy.transfer import to_device


@dataclass(frozen=True)
class Networks:
    """Where embedding networks come from.

    draw: the network of a step. rate: the step size that suits them. limited: whether steps are kept short of where
    the loss would be zero, because networks differ in how steep it is. embedded: the architectures' keys.
    """

    draw: Callable[[int], Network]
    rate: float
    limited: bool = False
    embedded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """What does not change from step to step.

    members: the indices of each class's real images, on the host. together: classes that are in memory at a time; 0
        for all.
    """

    real: ImageSet
    members: tuple[Tensor, ...]
    recipe: Condensation
    seed: int
    device: torch.device
    ranks: ProcessGroup
    together: int = 0

    @property
    def groups(self) -> list[range]:
        """The classes of this process in groups of `together`, the last of them maybe smaller."""
        each = self.together or len(self.own)
        return [self.own[start : start + each] for start in range(0, len(self.own), each)]

    @property
    def own(self) -> range:
        """The classes of this process."""
        return self.ranks.own(len(self.members))

    @property
    def dtype(self) -> torch.dtype:
        """Of images and gradients."""
        return torch.float64 if self.recipe.precision == "float64" else torch.float32

    @property
    def per_class(self) -> tuple[int, int]:
        """The most real and synthetic images of a class in a step."""
        largest = max(map(len, self.members))
        return min(largest, self.recipe.real_batch), self.recipe.images_per_class * self.recipe.formation**2


def members_of(real: ImageSet) -> tuple[Tensor, ...]:
    """Return the indices of each class's images, on the host, where steps draw from them."""
    return tuple(index.cpu() for index in real.of_class())


def initial(task: Task) -> State:
    """Return the state before the first step: random real images of each of this process's classes, at rest."""
    recipe = task.recipe
    several = recipe.images_per_class * recipe.formation**2
    chosen = random_subset(task.real, several, torch_generator(task.seed, "condense", "initial"))
    own = slice(task.own.start * recipe.images_per_class, task.own.stop * recipe.images_per_class)
    images = chosen.packed(recipe.formation).to(task.device).decode().to(task.dtype)[own].contiguous()
    return State(images, torch.zeros_like(images))


def open_networks(
    task: Task, space: SearchSpace | None, exclude: Collection[str], say: Callable[[str], None]
) -> Networks:
    """Return where the recipe's embedding networks come from; `space` and `exclude` as in `condense`."""
    recipe, shape = task.recipe, task.real.shape
    if recipe.embed != "convnet":
        drawn_from = resnet18_space(recipe.width) if recipe.embed == "resnet18" else space
        if drawn_from is None:
            raise ValueError("embedding networks from the search space need the space")
        family = open_space_embedding(
            drawn_from,
            shape,
            steps=recipe.steps,
            exclude=exclude if recipe.embed == "space" else (),
            seed=task.seed,
            precision=recipe.precision,
            every_block=recipe.match == "all",
            device=task.device,
            ranks=task.ranks,
        )

        def draw(step: int) -> Network:
            return family.network(step, derive(task.seed, "condense", "network", step))

        keys = tuple(drawn_from.key(a) for a in family.architectures) if recipe.embed == "space" else ()
        return Networks(draw, recipe.learning_rate, True, keys)
    sizes = [_images(task, classes) for classes in task.groups]
    engine = open_engine(
        Embedding(shape, recipe.width, deepest(shape, recipe.depth), recipe.precision, recipe.match == "all"),
        task.device,
        real=sizes[0][0],
        synthetic=sizes[0][1],
        others=sorted(set(sizes) - {sizes[0]}),
        steps=recipe.steps * len(task.groups),
        say=say,
    )
    return convnets(task, engine)


def convnets(task: Task, engine: Engine) -> Networks:
    """Return ConvNets that an engine computes, a fresh one for each step."""
    weights = ahead(
        lambda step: engine.embedding.weights(torch_generator(task.seed, "condense", "network", step)), task.device
    )
    return Networks(
        lambda step: engine.network(engine.place(weights(step))), task.recipe.rate(engine.embedding.features)
    )


def _images(task: Task, classes: range) -> tuple[int, int]:
    """Return how many real and synthetic images of some classes there are in a step."""
    real = sum(min(len(task.members[label]), task.recipe.real_batch) for label in classes)
    return real, len(classes) * task.per_class[1]


def take_step(state: State, task: Task, networks: Networks) -> Tensor:
    """Take one step in place and return the loss, on the device."""
    recipe = task.recipe
    draws = torch_generator(task.seed, "condense", state.step)
    # Every process draws for all classes, so that how many share them changes nothing.
    chosen = [_some(index, recipe.real_batch, draws) for index in task.members]
    augmented = _Augmented(task, chosen, _augmentation(task, draws))
    network = networks.draw(state.step)
    if network.normalised:
        loss, gradient = _matched(network, augmented, task.own, state.images, lean=len(task.groups) > 1)
    else:
        each, start = recipe.images_per_class, task.own.start
        found = [
            _matched(
                network, augmented, group, state.images[(group.start - start) * each : (group.stop - start) * each]
            )
            for group in task.groups
        ]
        loss, gradient = (torch.cat(part) for part in zip(*found, strict=True))
    if networks.limited:
        gradient = limited_gradient(gradient, loss, networks.rate)
    state.velocity.mul_(recipe.momentum).add_(gradient)
    state.images.sub_(state.velocity, alpha=networks.rate)
    state.step += 1
    return loss.sum()


@dataclass(frozen=True)
class _Augmented:
    """The images of a step as a network sees them. chosen: the real ones of each class, as indices on the host."""

    task: Task
    chosen: list[Tensor]
    change: Callable[[int, Tensor], Tensor]

    def real(self, classes: range, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return the chosen real images of some classes, or of all of them in a row those at `rows`, in that order."""
        index = torch.cat([self.chosen[label] for label in classes])[rows]
        sizes = torch.tensor([len(self.chosen[label]) for label in classes])
        counts = torch.bincount(torch.arange(len(sizes)).repeat_interleave(sizes)[rows], minlength=len(sizes))
        place = to_device([index], self.task.real.labels.device)[0]
        images = _on_device(self.task.real.select(place), self.task.device)
        ends = itertools.pairwise([0, *counts.cumsum(0).tolist()])
        blocks = [(label, slice(*both)) for label, both in zip(classes, ends, strict=True) if both[0] < both[1]]

        def one(block: tuple[int, slice]) -> Tensor:
            label, own = block
            return self.change(label, images.decode(own).to(self.task.dtype))

        return torch.cat(spread(one, blocks, self.task.device))

    def synthetic(self, classes: range, images: Tensor) -> Tensor:
        """Return the synthetic images of some classes: `images` decoded and augmented, differentiable."""
        blocks = torch.split(decoded(images, self.task.recipe.formation), self.task.per_class[1])
        return torch.cat([self.change(label, block) for label, block in zip(classes, blocks, strict=True)])


def _matched(
    network: Network, augmented: _Augmented, classes: range, stored: Tensor, *, lean: bool = False
) -> tuple[Tensor, Tensor]:
    """Return the loss of each of some classes, and the gradient of its sum by their `stored` synthetic images."""
    task = augmented.task
    images = stored.detach().requires_grad_()
    synthetic = augmented.synthetic(classes, images)
    loss, slope = loss_and_gradient(
        network,
        functools.partial(augmented.real, classes) if lean else augmented.real(classes),
        [len(augmented.chosen[label]) for label in classes],
        synthetic.detach(),
        [task.per_class[1]] * len(classes),
        lean=lean,
    )
    (gradient,) = torch.autograd.grad(synthetic, images, slope)
    return loss, gradient


def limited_gradient(gradient: Tensor, losses: Tensor, rate: float) -> Tensor:
    """Shorten the gradient (n, …) of each class so that a step of size `rate` does not overshoot.

    A step without momentum goes no further than Polyak's, loss ÷ squared length of the gradient, which leads to
    where the linearised loss is zero ("Introduction to Optimization", 1987). losses: (classes,).
    """
    length = gradient.view(len(losses), -1).square().sum(1)
    factor = torch.where(length > 0, losses / (rate * length), 1.0).clamp(max=1.0)
    return gradient * factor.repeat_interleave(len(gradient) // len(losses)).view(-1, 1, 1, 1)


def _augmentation(task: Task, draws: torch.Generator) -> Callable[[int, Tensor], Tensor]:
    """Draw one operation and its parameters for each class; return what applies them to images of a class."""
    strategy = task.recipe.augmentation
    if not strategy:
        return lambda label, images: images
    operations = augment.draw_operations(len(task.members), strategy, draws)
    rows = augment.draw(operations, strategy, task.real.shape.height, task.real.shape.width, draws)
    names = [strategy[operation] for operation in operations.tolist()]
    matrices: dict[int, Tensor] = {}
    return lambda label, images: augment.apply_same(images, names[label], rows, label, matrices)


def _some(index: Tensor, at_most: int, draws: torch.Generator) -> Tensor:
    """Return up to `at_most` of the indices, without repetition."""
    return index[torch.randperm(len(index), generator=draws)[:at_most]]


def _on_device(images: ImageSet, device: torch.device) -> ImageSet:
    """Return images on a device; those of a set that stays on the host go there through pinned memory."""
    if device.type != "cuda" or images.labels.device.type == "cuda":
        return images.to(device)
    names = ("images", "labels", "scale", "offset")
    tensors = to_device([getattr(images, name)[:] for name in names], device)
    return replace(images, **dict(zip(names, tensors, strict=True)))  # type: ignore[arg-type]


def timed_steps(
    task: Task, networks: Networks, steps: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the seconds of `steps` steps after a first one."""
    state, seconds = initial(task), []
    for _ in range(steps + 1):
        began = clock()
        float(take_step(state, task, networks))  # waits for the device
        seconds.append(clock() - began)
    return seconds[1:]
