"""Choosing real images instead of learning synthetic ones: the baselines that a condensed set must beat.

- `random`: uniformly, class by class.
- `herding`: greedily, so that the mean feature of the chosen follows the mean feature of the class
  (Welling, ICML 2009; as exemplars in Rebuffi et al., iCaRL, CVPR 2017).
- `kcenter`: greedily, always the image farthest from those already chosen, beginning at the class mean
  (farthest-first traversal; Sener & Savarese, ICLR 2018).

Features are those of a ConvNet that was trained briefly on the real images, before its classifier.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nas_proxy.data.images import ImageSet
from nas_proxy.data.splits import random_subset
from nas_proxy.hardware import reproducible
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.spaces.convnet import ConvNet, deepest
from nas_proxy.training.train import EVALUATION_BATCH, Recipe, fit

# Long enough for features that tell the classes apart, and far from a full training.
FEATURE_RECIPE = Recipe(epochs=5, batch_size=128)
METHODS = ("random", "herding", "kcenter")


def select(
    real: ImageSet,
    per_class: int,
    method: str,
    seed: int,
    *,
    width: int = 128,
    depth: int = 3,
    augmentation: tuple[str, ...] = (),
    device: torch.device | str = "cpu",
) -> ImageSet:
    """Return `per_class` images of each class of `real`, on the CPU: those of class 0 first.

    width, depth: of the ConvNet whose features `herding` and `kcenter` compare. Raises DataError for a class with
    fewer images.
    """
    chosen = random_subset(real, per_class, torch_generator(seed, "select", method))
    if method == "random":
        return chosen.to("cpu")
    features = _features(real, seed, width, depth, augmentation, device)
    choose = CHOICE[method]
    index = [members[choose(features[members], per_class)] for members in real.to("cpu").of_class()]
    return real.to("cpu").select(torch.cat(index))


def herd(features: Tensor, count: int) -> Tensor:
    """Return the indices of `count` rows of `features` (n, d) whose running mean stays next to the mean of all."""
    mean = features.mean(0)
    total = torch.zeros_like(mean)
    chosen: list[int] = []
    for size in range(1, count + 1):
        distance = (mean - (total + features) / size).square().sum(1)
        distance[chosen] = torch.inf
        chosen.append(int(distance.argmin()))
        total = total + features[chosen[-1]]
    return torch.tensor(chosen)


def farthest_first(features: Tensor, count: int) -> Tensor:
    """Return the indices of `count` rows of `features` (n, d): the one next to the mean, then always the farthest."""
    chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
    nearest = (features - features[chosen[0]]).square().sum(1)
    for _ in range(count - 1):
        nearest[chosen] = -torch.inf
        chosen.append(int(nearest.argmax()))
        nearest = torch.minimum(nearest, (features - features[chosen[-1]]).square().sum(1))
    return torch.tensor(chosen)


CHOICE: dict[str, Callable[[Tensor, int], Tensor]] = {"herding": herd, "kcenter": farthest_first}


def _features(
    real: ImageSet, seed: int, width: int, depth: int, augmentation: tuple[str, ...], device: torch.device | str
) -> Tensor:
    """Return the features (n, d) of all images, on the CPU."""
    recipe = Recipe(FEATURE_RECIPE.epochs, FEATURE_RECIPE.batch_size, augmentation=augmentation)
    shape = real.shape
    fitted = fit(
        lambda: ConvNet(shape, depth=deepest(shape, depth), width=width),
        real,
        recipe,
        derive(seed, "select", "features"),
        device,
    )
    real = real.to(device)
    embed = fitted.network.eval().get_submodule("features")
    with torch.no_grad(), reproducible(real.labels.device):
        batches = range(0, len(real), EVALUATION_BATCH)
        return torch.cat([embed(real.decode(slice(i, i + EVALUATION_BATCH))).flatten(1).cpu() for i in batches])
