"""Dataset condensation by distribution matching: from a real set to a few synthetic images a class.

Source: Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023. In many randomly drawn,
never trained networks, each class of the synthetic set S is given the mean feature of the real class T:

    min_S  E_θ  Σ_c ‖ mean_{x∈T_c} ψ_θ(A(x, ω_c)) − mean_{s∈S_c} ψ_θ(A(s, ω_c)) ‖²

with ψ_θ the flattened last feature map and A differentiable Siamese augmentation, one draw ω_c a class and step.
Step t draws everything from (seed, t), so a condensation that is cut off goes on where its checkpoint stands and
ends with the same images.
"""

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas_proxy import augment
from nas_proxy.convnet import deepest
from nas_proxy.data import random_subset
from nas_proxy.errors import RunFailedError
from nas_proxy.files import atomic_path
from nas_proxy.images import ImageSet, quantised
from nas_proxy.matching import Embedding, Engine, augmented, loss_and_gradient, open_engine
from nas_proxy.seeds import torch_generator

CHECKPOINT_SECONDS = 2.0
PAPER_FEATURES = 128 * 4 * 4


@dataclass(frozen=True)
class Condensation:
    """The recipe of a condensed set; defaults are the paper's but for the number of steps.

    method: "dm" learns the images by distribution matching, as everything below says; "random", "herding" and
        "kcenter" choose real images instead, see `nas_proxy.selection`.
    source: a published set to be read instead, see `nas_proxy.exchange`; then nothing else applies.
    images_per_class: synthetic images a class.
    steps: each with a new embedding network (the paper: 20,000).
    learning_rate, momentum: of stochastic gradient descent on the images. The paper's rate is 1, and 10 for more
        than 50 images a class, for the 2,048 features of 32×32 images; see `rate`.
    real_batch: real images a class and step.
    width, depth: of the embedding ConvNet (instance norm, ReLU, average pooling).
    augmentation: operations of `nas_proxy.augment`, one drawn a class and step.
    precision: of the convolutions, "float32" or "bfloat16"; see `nas_proxy.matching.Embedding`.
    """

    images_per_class: int = 10
    steps: int = 20_000
    learning_rate: float = 1.0
    momentum: float = 0.5
    real_batch: int = 256
    width: int = 128
    depth: int = 3
    augmentation: tuple[str, ...] = augment.FULL
    precision: str = "bfloat16"
    method: str = "dm"
    source: str | None = None

    def rate(self, features: int) -> float:
        """Return the step size for an embedding with so many features.

        The loss is a sum over features, so its gradient grows with their number. The paper's rates belong to its
        ConvNet on 32×32 images; for other sizes they are scaled so that the images move as far.
        """
        return self.learning_rate * PAPER_FEATURES / features


@dataclass(frozen=True)
class Condensed:
    """A finished condensation: the images, wall seconds over all attempts, and the loss of each tenth step."""

    images: ImageSet
    seconds: float
    losses: tuple[float, ...]


@dataclass
class _State:
    """What a checkpoint holds: float images and momentum (classes·ipc, c, h, w), steps done, seconds, losses."""

    images: Tensor
    velocity: Tensor
    step: int = 0
    seconds: float = 0.0
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))


def condense(
    real: ImageSet,
    recipe: Condensation,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Condensed:
    """Learn `recipe.images_per_class` synthetic images for each class of `real`.

    checkpoint: file in which the state is kept every few seconds and from which the work goes on; it is removed
        at the end. A checkpoint of another data set, recipe or seed is ignored.
    progress: called with (steps done, loss) now and then. say: told, once, why the work is slower than it could be.
    Raises RunFailedError when the loss is no longer finite; the last good checkpoint stays.
    """
    device = torch.device(device)
    identity = f"{real.fingerprint()} {asdict(recipe)} {seed}"
    real = real.to(device)
    labels = torch.arange(len(real.classes), device=device).repeat_interleave(recipe.images_per_class)
    state = _restored(checkpoint, identity, device) or _initial(real, recipe, seed)
    members = real.of_class()
    engine = open_engine(
        Embedding(real.shape, recipe.width, deepest(real.shape, recipe.depth), recipe.precision),
        device,
        real=sum(min(len(index), recipe.real_batch) for index in members),
        synthetic=len(labels),
        steps=recipe.steps,
        say=say,
    )
    started, saved = time.perf_counter() - state.seconds, time.perf_counter()
    losses = state.losses.tolist()
    while state.step < recipe.steps:
        loss = _step(state, real, members, engine, recipe, seed)
        state.step += 1
        if state.step % 10 == 0 or state.step == recipe.steps:
            # Instance norm maps images that have run away to a finite loss.
            overflow = 0 * state.images.square().sum()
            losses.append(_finite(float(loss + overflow), state.step, recipe))
            if progress is not None:
                progress(state.step, losses[-1])
        if checkpoint is not None and time.perf_counter() - saved > CHECKPOINT_SECONDS:
            state.losses, state.seconds = torch.tensor(losses), time.perf_counter() - started
            _save(checkpoint, identity, state)
            saved = time.perf_counter()
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return Condensed(
        quantised(state.images.cpu(), labels.cpu(), real.classes), time.perf_counter() - started, tuple(losses)
    )


def _initial(real: ImageSet, recipe: Condensation, seed: int) -> _State:
    chosen = random_subset(real, recipe.images_per_class, torch_generator(seed, "condense", "initial"))
    images = chosen.decode().contiguous()
    return _State(images, torch.zeros_like(images))


def _step(
    state: _State, real: ImageSet, members: list[Tensor], engine: Engine, recipe: Condensation, seed: int
) -> Tensor:
    """Take one step in place and return the loss, on the device."""
    draws = torch_generator(seed, "condense", state.step)
    chosen = [_some(index, recipe.real_batch, draws) for index in members]
    real_sizes, sizes = [len(index) for index in chosen], [recipe.images_per_class] * len(members)
    images = state.images.requires_grad_()
    if recipe.augmentation:
        operations = augment.draw_operations(len(members), recipe.augmentation, draws)
        rows = augment.draw(operations, recipe.augmentation, real.shape.height, real.shape.width, draws)
        names = [recipe.augmentation[operation] for operation in operations.tolist()]

    def of_class(label: int, images: Tensor) -> Tensor:
        return augmented(images, names[label], rows, label) if recipe.augmentation else images

    classes = range(len(members))
    real_images = torch.cat(engine.map(lambda label: of_class(label, real.decode(chosen[label])), classes))
    blocks = torch.split(images, recipe.images_per_class)
    synthetic = torch.cat([of_class(label, block) for label, block in enumerate(blocks)])
    weights = engine.place(engine.embedding.weights(torch_generator(seed, "condense", "network", state.step)))
    loss, slope = loss_and_gradient(engine, weights, real_images, real_sizes, synthetic, sizes)
    (gradient,) = torch.autograd.grad(synthetic, images, slope)
    with torch.no_grad():
        state.images = images.detach()
        state.velocity.mul_(recipe.momentum).add_(gradient)
        state.images.sub_(state.velocity, alpha=recipe.rate(engine.embedding.features))
    return loss


def _some(index: Tensor, at_most: int, draws: torch.Generator) -> Tensor:
    """Return up to `at_most` of the indices, without repetition."""
    return index[torch.randperm(len(index), generator=draws)[:at_most].to(index.device, non_blocking=True)]


def _finite(loss: float, step: int, recipe: Condensation) -> float:
    if not math.isfinite(loss):
        raise RunFailedError(
            f"the matching loss is {loss} at step {step}; lower the learning rate of the images "
            f"(now {recipe.learning_rate:g}) and run the same command again"
        )
    return loss


def _save(path: Path, identity: str, state: _State) -> None:
    tensors = {
        "images": state.images.detach().cpu().contiguous(),
        "velocity": state.velocity.cpu().contiguous(),
        "losses": state.losses,
    }
    metadata = {"identity": identity, "step": str(state.step), "seconds": str(state.seconds)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def _restored(path: Path | None, identity: str, device: torch.device) -> _State | None:
    if path is None or not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in ("images", "velocity", "losses")}
    except (SafetensorError, OSError):
        return None
    if metadata.get("identity") != identity:
        return None
    state = _State(**tensors, step=int(metadata["step"]), seconds=float(metadata["seconds"]))
    return replace(state, images=state.images.to(device), velocity=state.velocity.to(device))
