"""The training contract: (network, data, recipe, seed) → learning curve, score and cost.

There is one loop; how the arithmetic of its steps is done is a `nas_proxy.training.execution.ExecutionMode`. In `PLAIN`
it is the reference, plain PyTorch in float32, with which faster modes must agree.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.data import augment
from nas_proxy.data.images import ImageSet
from nas_proxy.hardware import reproducible
from nas_proxy.seeds import derive, seeded, torch_generator
from nas_proxy.training.cuda_graph import CudaGraphStep
from nas_proxy.training.execution import PLAIN, ExecutionMode, attempt, choose, without_recording
from nas_proxy.training.recipe import Recipe as Recipe  # noqa: PLC0414 (others import it from here as well)
from nas_proxy.transfer import network_to, to_device

EVALUATION_BATCH = 500
# Bytes of images that are augmented together, of one step at least: on a GPU launches are what it takes, on the CPU
# the cache is small.
TOGETHER = {"cuda": 64 << 20}


@dataclass(frozen=True)
class Outcome:
    """What a training gave.

    score: accuracy on the evaluation images, a fraction; chance (1 ÷ classes) after a divergence.
    validation: the same on the validation images, where those are other ones and were given.
    losses: mean training loss of each pass over the data (of the last, possibly partial one too).
    diverged: whether a loss or a logit was not finite.
    seconds: wall time of training and evaluation.
    image_passes: images passed through the network in training, counted with repetition.
    note: what the user should know of how the network was trained; mostly nothing.
    seeds: the trainings with different seeds that this is the mean of; () for a single one.
    curve: (step, score so far) at some steps, where somebody watched, see `nas_proxy.training.pruning`.
    pruned_at: the step of `curve` after which it was ended as not promising; the score is then that of so far.
    memory: the most bytes it needed, where that was measured, see `nas_proxy.training.memory_limit`.
    reason, seconds_saved: that in words, and what the rest would have taken, an estimate.
    """

    score: float
    losses: tuple[float, ...] = field(repr=False)
    diverged: bool
    seconds: float
    image_passes: int
    note: str = ""
    seeds: tuple["Outcome", ...] = field(default=(), repr=False)
    curve: tuple[tuple[int, float], ...] = field(default=(), repr=False)
    pruned_at: int | None = None
    memory: int | None = None
    reason: str = ""
    seconds_saved: float = 0.0
    validation: float | None = None

    def shared(self, share: float) -> "Outcome":
        """Return the outcome with that share of the seconds, for a GPU that the training had with others."""
        seeds = tuple(each.shared(share) for each in self.seeds)
        return replace(self, seconds=share * self.seconds, seconds_saved=share * self.seconds_saved, seeds=seeds)


@dataclass(frozen=True)
class Watch:
    """How a training is looked at on the way, which changes nothing but may end it.

    epochs: after how many epochs. by: what is looked at: the "accuracy" on the evaluation images, or "loss_sum", the
        negated mean of the epochs' training losses so far (a sum grows with the epochs, and says nothing on the way).
    ends: is told the epochs done and that score, higher for better, and says whether the training ends there.
    """

    epochs: frozenset[int]
    ends: Callable[[int, float], bool]
    by: str = "accuracy"


@dataclass(frozen=True)
class Fitted:
    """A trained network, the mean training loss of each pass over the data, and the images passed through it."""

    network: nn.Module
    losses: tuple[float, ...] = field(repr=False)
    image_passes: int


def fit(
    build: Callable[[], nn.Module],
    data: ImageSet,
    recipe: Recipe,
    seed: int,
    device: torch.device | str = "cpu",
    after: "_After | None" = None,
    *,
    recorded: bool = True,
) -> Fitted:
    """Build a network and train it on `data`; see `train` for what is guaranteed and raised, and `fit_in` for `after`.

    What cannot be trained in the fastest mode begins again in a simpler one. recorded: whether steps may be recorded on
    a GPU; not in a process that cannot do without the device where a recording breaks off.
    """
    data = data.to(device)
    fastest = choose(recipe.precision, data.shape, torch.device(device))
    fastest = replace(fastest, recorded=fastest.recorded and recorded)
    return attempt(lambda mode: fit_in(mode, build, data, recipe, seed, after), fastest)[0]


def train(
    build: Callable[[], nn.Module],
    data: ImageSet,
    evaluation: ImageSet,
    recipe: Recipe,
    seed: int,
    device: torch.device | str = "cpu",
    watch: Watch | None = None,
    *,
    unrecorded: str = "",
    validation: ImageSet | None = None,
) -> Outcome:
    """Build a network, train it on `data` and score it on `evaluation`, and on `validation` where that is given.

    All randomness (initial weights, dropout, order, augmentation, what a network draws from PyTorch's, Python's or
    NumPy's generators) comes from `seed`; the global generators are left as they were. A training that `watch` ends has
    the score of that moment. unrecorded: why its steps must not be recorded on a GPU; "" where they may. Raises what
    the network raises, TypeError when its output is no tensor, ValueError when that has the wrong shape, and
    `cuda_graph.RecordingError` where a recording breaks off.
    """
    start = time.perf_counter()
    data, evaluation = data.to(device), evaluation.to(device)
    validation = None if validation is None else validation.to(device)
    fastest, known = choose(recipe.precision, data.shape, torch.device(device)), ""
    if unrecorded:
        fastest, known = without_recording(fastest, unrecorded)
    outcome, note = attempt(
        lambda mode: train_in(mode, build, data, evaluation, recipe, seed, watch, validation), fastest
    )
    return replace(outcome, seconds=time.perf_counter() - start, note=note or known)


def train_in(
    mode: ExecutionMode,
    build: Callable[[], nn.Module],
    data: ImageSet,
    evaluation: ImageSet,
    recipe: Recipe,
    seed: int,
    watch: Watch | None = None,
    validation: ImageSet | None = None,
) -> Outcome:
    """Do what `train` does in one mode, on the device where the images are."""
    start = time.perf_counter()
    chance = 1 / len(data.classes)
    ended: list[int] = []

    def after(network: nn.Module, losses: Sequence[float]) -> bool:
        if watch is None or len(losses) not in watch.epochs:
            return False
        score: float | None = -sum(losses) / len(losses)
        if watch.by == "accuracy":
            score = accuracy(network, evaluation, mode)
            network.train()
        if watch.ends(len(losses), chance if score is None else score):
            ended.append(len(losses))
        return bool(ended)

    fitted = fit_in(mode, build, data, recipe, seed, after)
    diverged = not all(math.isfinite(loss) for loss in fitted.losses)
    score = None if diverged else accuracy(fitted.network, evaluation, mode)
    seen = None if score is None or validation is None else accuracy(fitted.network, validation, mode)
    if validation is not None and seen is None:
        seen = chance
    return Outcome(
        score=chance if score is None else score,
        losses=fitted.losses,
        diverged=score is None,
        seconds=time.perf_counter() - start,
        image_passes=fitted.image_passes,
        pruned_at=ended[0] if ended else None,
        validation=seen,
    )


def fit_in(
    mode: ExecutionMode,
    build: Callable[[], nn.Module],
    data: ImageSet,
    recipe: Recipe,
    seed: int,
    after: "_After | None" = None,
) -> Fitted:
    """Do what `fit` does in one mode, on the device where the images are.

    after: is given the network and the losses after each epoch, and says whether the training ends there.
    """
    device = data.images.device
    with seeded(derive(seed, "network"), device), reproducible(device):
        network = mode.placed(network_to(build(), device))
        losses, passes = _fit(network, data, recipe, seed, mode, after)
    return Fitted(network, losses, passes)


_After = Callable[[nn.Module, Sequence[float]], bool]


def _fit(
    network: nn.Module, data: ImageSet, recipe: Recipe, seed: int, mode: ExecutionMode, after: _After | None
) -> tuple[tuple[float, ...], int]:
    """Train in place; return the mean loss of each epoch and the image passes. Stops at a loss that is not finite."""
    draws = torch_generator(seed, "batches")
    steps, batch = recipe.steps(len(data)), recipe.batch(len(data))
    rates: Sequence[float] | Tensor = [recipe.rate(step, steps) for step in range(steps)]
    order, on_device = to_device(
        [_order(len(data), steps * batch, draws).view(steps, batch), torch.tensor(rates)], data.images.device
    )
    step = _step(network, recipe, mode, len(data.classes))
    if mode.recorded:
        rates = on_device
    network.train()
    losses: list[float] = []
    for epoch in _epochs(len(data), batch, steps, recipe.epochs):
        batches = _batches(order[epoch.start : epoch.stop], data, recipe.augmentation, draws)
        pending = [step(*one, rates[number]) for number, one in zip(epoch, batches, strict=True)]
        # The only host synchronisation, once an epoch.
        losses.append(float(torch.stack(pending).mean()))
        if not math.isfinite(losses[-1]) or (after is not None and after(network, losses)):
            return tuple(losses), epoch.stop * batch
    return tuple(losses), steps * batch


def _step(network: nn.Module, recipe: Recipe, mode: ExecutionMode, classes: int) -> Callable[..., Tensor]:
    """Return a function of augmented images, labels and a learning rate, which takes a step and returns its loss."""
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=True,
    )

    def step(images: Tensor, labels: Tensor, rate: float | Tensor) -> Tensor:
        for group in optimiser.param_groups:
            group["lr"] = rate
        logits = mode.logits(network, images)
        _check(logits, len(labels), classes)
        loss = F.cross_entropy(logits, labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.detach()

    def state() -> Iterator[Tensor]:
        return itertools.chain(network.parameters(), network.buffers())

    def momentum() -> Iterator[Tensor]:
        for kept in optimiser.state.values():
            yield from (value for value in kept.values() if isinstance(value, Tensor))

    return CudaGraphStep(step, state, momentum) if mode.recorded else step


def _epochs(images: int, batch: int, steps: int, epochs: float) -> list[range]:
    """Return the steps of each epoch: a step belongs to the epoch in which its first image does."""
    ends = sorted({min(steps, math.ceil((e + 1) * images / batch)) for e in range(math.ceil(epochs))} | {steps})
    return [range(start, end) for start, end in itertools.pairwise([0, *ends])]


def _order(images: int, length: int, draws: torch.Generator) -> Tensor:
    """Return `length` indices: shuffled passes over the images, one after another."""
    return torch.cat([torch.randperm(images, generator=draws) for _ in range(-(-length // images))])[:length]


def _batches(
    order: Tensor, data: ImageSet, strategy: tuple[str, ...], draws: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the augmented images and the labels of an epoch's steps, `order` (steps, batch).

    One operation is drawn for each step, its parameters for each image, all of them before the epoch begins.
    """
    steps, batch = order.shape
    channels, height, width, _ = data.shape
    if strategy:
        chosen = augment.draw_operations(steps, strategy, draws)
        names = [strategy[index] for index in chosen.tolist()]
        rows = augment.draw(chosen.repeat_interleave(batch), strategy, height, width, draws).to(order.device)
    together = max(1, TOGETHER.get(order.device.type, 0) // (4 * batch * channels * height * width))
    for first in range(0, steps, together):
        some = range(first, min(first + together, steps))
        images = data.decode(order[some.start : some.stop].flatten())
        if strategy:
            of_them = rows.rows(slice(batch * some.start, batch * some.stop))
            images = _augmented(images, [names[step] for step in some], of_them)
        yield from zip(torch.split(images, batch), data.labels[order[some.start : some.stop]], strict=True)


def _augmented(images: Tensor, names: Sequence[str], rows: augment.Draws) -> Tensor:
    """Augment the images of some steps, each with its operation; `rows` has the parameters of each image."""
    if len(set(names)) == 1:
        return augment.apply_one(images, names[0], rows)
    owners = torch.arange(len(names)).repeat_interleave(len(images) // len(names))
    result = torch.empty_like(images)
    operations = list(dict.fromkeys(names))
    mine = [torch.nonzero(torch.tensor([other == name for other in names])[owners]).flatten() for name in operations]
    for name, index in zip(operations, to_device(mine, images.device), strict=True):
        result[index] = augment.apply_one(images[index], name, rows.rows(index))
    return result


def _check(logits: object, batch: int, classes: int) -> None:
    if not isinstance(logits, Tensor):
        raise TypeError(f"the network returned an object of type {type(logits).__name__}, expected a tensor")
    if tuple(logits.shape) != (batch, classes):
        raise ValueError(f"the network returned shape {tuple(logits.shape)}, expected {(batch, classes)}")


@torch.no_grad()
def accuracy(network: nn.Module, evaluation: ImageSet, mode: ExecutionMode = PLAIN) -> float | None:
    """Return the fraction of images classified correctly, or None when a logit is not finite. Waits for a GPU once.

    A network that draws random numbers in evaluation draws the same ones each time, whenever it is looked at.
    """
    network.eval()
    with seeded(0, evaluation.labels.device), reproducible(evaluation.labels.device):
        return _accuracy(network, evaluation, mode)


def _accuracy(network: nn.Module, evaluation: ImageSet, mode: ExecutionMode) -> float | None:
    right = torch.zeros((), device=evaluation.labels.device, dtype=torch.int64)
    finite = torch.ones((), device=evaluation.labels.device, dtype=torch.bool)
    for start in range(0, len(evaluation), EVALUATION_BATCH):
        batch = slice(start, start + EVALUATION_BATCH)
        logits = mode.logits(network, evaluation.decode(batch))
        finite &= logits.isfinite().all()
        right += (logits.argmax(1) == evaluation.labels[batch]).sum()
    count, is_finite = torch.stack([right, finite.long()]).tolist()
    return count / len(evaluation) if is_finite else None
