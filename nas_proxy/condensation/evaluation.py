"""How good a condensed set is to train on: the accuracy of ConvNet-3, or of another network, beside random images.

The images that judge are the validation images; the test images stay closed. Accuracy is not what the set is for:
a set that trains well can rank badly (see the ranking of a run).
"""

import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import nn

from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.data.splits import random_subset
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.spaces.convnet import ConvNet, deepest
from nas_proxy.spaces.resnet18 import SHARE_OF_WIDTH, resnet18
from nas_proxy.training.train import Recipe, train

NETWORKS = 5
KINDS = ("convnet", "resnet18")


def paper_recipe(epochs: float, augmentation: tuple[str, ...]) -> Recipe:
    """Return the recipe with which the paper trains on condensed sets (its number of epochs is 1,000)."""
    return Recipe(
        epochs=epochs,
        batch_size=256,
        learning_rate=0.01,
        warm_up=0.0,
        schedule="step",
        nesterov=False,
        augmentation=augmentation,
    )


@dataclass(frozen=True)
class Evaluation:
    """Accuracies (fractions) over several networks: mean and standard deviation, of the set and of random images."""

    accuracy: float
    std: float
    random_accuracy: float
    random_std: float

    def as_json(self) -> dict[str, float]:
        """Return the values as JSON."""
        return asdict(self)


def evaluate(
    images: ImageSet,
    train_images: ImageSet,
    validation: ImageSet,
    recipe: Recipe,
    seed: int,
    *,
    width: int = 128,
    depth: int = 3,
    network: str = "convnet",
    networks: int = NETWORKS,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Train networks on `images` and as many on random images of the same number, each set another draw.

    Where `images` hold several in one, the random images do so too. width, depth: of the ConvNet; a "resnet18" has
    half as many channels in its first stage. networks: how many on each, two or more.
    """
    per_class = len(images) * images.formation**2 // len(images.classes)
    shape = train_images.shape
    accuracies: dict[str, list[float]] = {"set": [], "random": []}
    for number in range(networks):
        drawn = random_subset(train_images, per_class, torch_generator(seed, "evaluate", number))
        for name, data in (("set", images), ("random", drawn.packed(images.formation))):
            outcome = train(
                lambda: _network(network, shape, width, depth),
                data.unpacked(),
                validation,
                recipe,
                derive(seed, "evaluate", name, number),
                device,
            )
            accuracies[name].append(outcome.score)
            if progress is not None:
                progress(sum(map(len, accuracies.values())))
    return Evaluation(
        statistics.fmean(accuracies["set"]),
        statistics.stdev(accuracies["set"]),
        statistics.fmean(accuracies["random"]),
        statistics.stdev(accuracies["random"]),
    )


def _network(kind: str, shape: DataShape, width: int, depth: int) -> nn.Module:
    if kind == "resnet18":
        return resnet18(shape, max(1, width // SHARE_OF_WIDTH))
    return ConvNet(shape, depth=deepest(shape, depth), width=width)
