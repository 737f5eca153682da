"""Patches of real images, chosen by a small teacher and packed: the method `patches`.

In: real images and a recipe. Out: `images_per_class` images of each class, each of one patch or of several in a grid.
Source: Sun, Shi, Yu & Lin, "On the Diversity and Realism of Distilled Dataset: An Efficient Dataset Distillation
Paradigm" (RDED), CVPR 2024. A teacher is trained on the real images. Of each of some images of a class several random
crops are looked at, and the one on which the teacher's cross-entropy with the class is lowest is its patch; of the
patches of a class those of the lowest cross-entropy are taken.

Four differences to the authors' method: the teacher does not label the packed images, which keep their class, since
networks are trained on classes here; it is a ConvNet that is trained for some epochs, where theirs is trained long; it
sees a crop at the size of the images, before that is made smaller for packing; crops have the images' proportions.

Guarantees: what is drawn comes from the seed and the class alone; where the work was cut off after the teacher was
trained it goes on with that teacher and gives the same images.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from nas_proxy.condensation.recipe import Condensation, Condensed
from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.data.store import taken
from nas_proxy.errors import ConfigError, DataError, RunFailedError
from nas_proxy.files import atomic_path
from nas_proxy.hardware import reproducible
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.spaces.convnet import ConvNet, deepest
from nas_proxy.training.recipe import Recipe
from nas_proxy.training.train import fit

# The authors' numbers: images of a class that are looked at, crops of each, and the least share of its area.
LOOKED_AT, CROPS, LEAST_AREA = 300, 5, 0.08
# Pixels a side from which on they pack two patches across, and below which an image is one patch.
LARGE = 128
# Images that the teacher is trained on at most, which bounds its time and its room on a GPU.
TAUGHT = 50_000
# Pixels that go through the teacher together, and passes forward that take as long as one in training.
PIXELS, FORWARD = 500 * 32 * 32, 3

Told = Callable[[int, float], None]


def across(recipe: Condensation, height: int, width: int) -> int:
    """Return how many patches an image has down and across.

    Where the recipe does not say, 2 for images of 128 pixels a side and more that can be halved, else 1. Raises
    ConfigError where the pixels cannot be divided by it.
    """
    if recipe.patches_across is None:
        return 2 if min(height, width) >= LARGE and height % 2 == width % 2 == 0 else 1
    if height % recipe.patches_across or width % recipe.patches_across:
        raise ConfigError(
            [
                f"--patches-across {recipe.patches_across} divides images evenly, but these have {height}×{width} "
                "pixels; leave it out, or resize them with --image-size"
            ]
        )
    return recipe.patches_across


def teacher_of(recipe: Condensation, shape: DataShape) -> ConvNet:
    """Return a fresh teacher for images of `shape`, with batch norm as the authors' has: it learns in few epochs."""
    return ConvNet(shape, depth=deepest(shape, recipe.depth), width=recipe.width, norm="batch")


def teaching(recipe: Condensation) -> Recipe:
    """Return how the teacher is trained."""
    return Recipe(epochs=recipe.teacher_epochs, augmentation=recipe.augmentation)


def taught(classes: Sequence[int]) -> int:
    """Return on how many images the teacher is trained; `classes` are the numbers of images of each."""
    return sum(classes) if sum(classes) <= TAUGHT else sum(min(members, _each(len(classes))) for members in classes)


def _each(classes: int) -> int:
    return max(1, TAUGHT // classes)


@dataclass(frozen=True)
class Effort:
    """What choosing patches takes: steps and images of the teacher's training, and crops looked at, by class.

    In `steps` of progress, looking at crops counts as the steps of training that would take as long.
    """

    training_steps: int
    training_passes: int
    crops: tuple[int, ...]

    @property
    def looking_steps(self) -> list[int]:
        """Steps of progress of each class."""
        batch = self.training_passes / self.training_steps
        return [math.ceil(crops / (FORWARD * batch)) for crops in self.crops]

    @property
    def steps(self) -> int:
        """All steps of progress."""
        return self.training_steps + sum(self.looking_steps)

    @property
    def passes(self) -> int:
        """All images and crops that pass through the teacher."""
        return self.training_passes + sum(self.crops)


def effort(recipe: Condensation, classes: Sequence[int], side: int) -> Effort:
    """Return what choosing patches takes; `classes` are the numbers of images of each, side is as of `across`."""
    how, images = teaching(recipe), taught(classes)
    most = max(LOOKED_AT, recipe.per_class * side**2)
    crops = tuple(CROPS * min(members, most) for members in classes)
    return Effort(how.steps(images), how.image_passes(images), crops)


def choose_patches(
    real: ImageSet,
    recipe: Condensation,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    checkpoint: Path | None = None,
    progress: Told = lambda steps, loss: None,
) -> Condensed:
    """Return the packed patches of each class of `real`, on the CPU: those of class 0 first.

    checkpoint: where the trained teacher is kept; whoever has stored the images removes it. progress: told steps and
    loss, of the teacher after each epoch, of the patches after each class. Raises DataError for a class with fewer
    images than patches are wanted, ConfigError for sizes that cannot be divided, and RunFailedError when the teacher's
    loss is not finite and when a GPU has too little memory.
    """
    began, device = time.perf_counter(), torch.device(device)
    side = across(recipe, real.shape.height, real.shape.width)
    wanted = recipe.per_class * side**2
    members = [index.cpu() for index in real.of_class()]
    for index, name in zip(members, real.classes, strict=True):
        if len(index) < wanted:
            raise DataError(
                f"class {name!r} has {len(index)} train images, but each of {wanted} patches a class is of another "
                "image; ask for fewer images a class, or fewer patches in each"
            )
    try:
        network, before = _teacher(real, recipe, seed, device, checkpoint, progress)
        work = effort(recipe, [len(index) for index in members], side)
        done, patches = work.training_steps, []
        with reproducible(device):
            for label, (index, steps) in enumerate(zip(members, work.looking_steps, strict=True)):
                looked_at = work.crops[label] // CROPS
                found, loss = _of_class(network, real, index, label, looked_at, wanted, seed, device)
                # Best and worse of a class side by side, so that no image has all of the best.
                patches.append(found.view(side**2, -1, *found.shape[1:]).transpose(0, 1).flatten(0, 1))
                done += steps
                progress(done, loss)
    except torch.OutOfMemoryError:
        raise RunFailedError(
            f"the teacher of --method patches needs more memory than is free on {device}; lower --width, --image-size "
            "or --limit"
        ) from None
    finally:
        if device.type == "cuda":
            torch.cuda.empty_cache()
    labels = torch.arange(len(members)).repeat_interleave(wanted)
    chosen = ImageSet(torch.cat(patches), labels, real.scale.cpu(), real.offset.cpu(), real.classes)
    images = replace(chosen.packed(side), formation=1).packed(recipe.formation)
    return Condensed(images, time.perf_counter() - began + before)


def _teacher(
    real: ImageSet, recipe: Condensation, seed: int, device: torch.device, checkpoint: Path | None, progress: Told
) -> tuple[nn.Module, float]:
    """Return the trained teacher, and the seconds that an earlier attempt trained it; 0 where it is trained now."""
    how = teaching(recipe)
    identity = f"{real.fingerprint()} {recipe.depth} {recipe.width} {how} {seed}"
    weights, seconds = _kept(checkpoint, identity)
    if weights is None:
        began, images = time.perf_counter(), _taught(real, seed)
        batch = how.batch(len(images))

        def after(network: nn.Module, losses: Sequence[float]) -> bool:
            progress(min(how.steps(len(images)), math.ceil(len(losses) * len(images) / batch)), losses[-1])
            return False

        fitted = fit(
            lambda: teacher_of(recipe, real.shape), images, how, derive(seed, "patches", "teacher"), device, after
        )
        if not math.isfinite(fitted.losses[-1]):
            raise RunFailedError(
                f"the loss of the teacher of --method patches is {fitted.losses[-1]}; give another --width or --seed"
            )
        weights = {name: w.detach().cpu().contiguous() for name, w in fitted.network.state_dict().items()}
        if checkpoint is not None:
            metadata = {"identity": identity, "seconds": str(time.perf_counter() - began)}
            with atomic_path(checkpoint) as temporary:
                save_file(weights, temporary, metadata=metadata)
    # Built anew in either case, so that an attempt that goes on computes as one that was not cut off.
    with torch.device("meta"):
        network = teacher_of(recipe, real.shape)
    network.load_state_dict(weights, assign=True)
    return network.to(device).eval(), seconds


def _kept(checkpoint: Path | None, identity: str) -> tuple[dict[str, Tensor] | None, float]:
    if checkpoint is None or not checkpoint.exists():
        return None, 0.0
    try:
        with safe_open(checkpoint, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != identity:
                return None, 0.0
            names = file.keys()
            return {name: file.get_tensor(name).clone() for name in names}, float(metadata["seconds"])
    except (SafetensorError, OSError):
        return None, 0.0


def _taught(real: ImageSet, seed: int) -> ImageSet:
    """Return the images that the teacher is trained on: all, or as many of each class at random; unread in a store."""
    if len(real) <= TAUGHT:
        return real
    draws, each = torch_generator(seed, "patches", "taught"), _each(len(real.classes))
    index = torch.cat([m[torch.randperm(len(m), generator=draws)[:each].to(m.device)] for m in real.of_class()])
    index = index.sort().values
    return replace(real, images=taken(real.images, index), labels=real.labels[index])


def _of_class(
    network: nn.Module,
    real: ImageSet,
    members: Tensor,
    label: int,
    count: int,
    wanted: int,
    seed: int,
    device: torch.device,
) -> tuple[Tensor, float]:
    """Return `wanted` patches of `count` images of a class, uint8 (wanted, c, h, w), and their mean cross-entropy.

    The lowest comes first.
    """
    draws = torch_generator(seed, "patches", label)
    index = members[torch.randperm(len(members), generator=draws)[:count]]
    boxes = draw_boxes(count, draws)
    _, height, width = real.images.shape[1:]
    each = max(1, PIXELS // (height * width * CROPS))
    losses = torch.cat(
        [
            cross_entropies(
                network, _selected(real, index[start : start + each]).to(device), boxes[start : start + each]
            )
            for start in range(0, count, each)
        ]
    )
    lowest, crop = losses.min(1)
    best = lowest.argsort(stable=True)[:wanted]
    images = _selected(real, index[best]).images[:].float()
    found = cropped(images, boxes[best, crop[best]])
    return found.round().clamp(0, 255).to(torch.uint8), float(lowest[best].mean())


def _selected(real: ImageSet, index: Tensor) -> ImageSet:
    found = real.select(index.to(real.labels.device))
    return found.to("cpu")


def draw_boxes(count: int, draws: torch.Generator) -> Tensor:
    """Return crops of `count` images, (count, CROPS, 3): their share of a side, and the middle across and down.

    The share of the area is uniform; the middle is such that a crop lies inside. Coordinates run from -1 to 1.
    """
    area, across, down = torch.rand(3, count, CROPS, generator=draws)
    share = (LEAST_AREA + (1 - LEAST_AREA) * area).sqrt()
    return torch.stack([share, (1 - share) * (2 * across - 1), (1 - share) * (2 * down - 1)], dim=2)


def cropped(images: Tensor, boxes: Tensor) -> Tensor:
    """Return a crop of each of the float `images` (n, c, h, w), `boxes` (n, 3), at the same size, bilinearly."""
    share, across, down = boxes.unbind(1)
    nothing = torch.zeros_like(share)
    maps = torch.stack([share, nothing, across, nothing, share, down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(maps.to(images.device), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def cross_entropies(network: nn.Module, images: ImageSet, boxes: Tensor) -> Tensor:
    """Return the network's cross-entropy with the label on each crop, (n, CROPS), float64 on the CPU.

    As -log p it would be zero for all that the network is sure of, and these are the patches that are wanted.
    """
    crops = boxes.shape[1]
    whole = images.decode().repeat_interleave(crops, 0)
    logits = network(cropped(whole, boxes.flatten(0, 1))).double()
    label = images.labels.repeat_interleave(crops).unsqueeze(1)
    others = logits.scatter(1, label, -math.inf).logsumexp(1)
    return F.softplus(others - logits.gather(1, label).squeeze(1)).cpu().view(-1, crops)
