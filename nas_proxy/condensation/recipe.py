"""What a condensed set is made by, and what making one gives: the recipe and the result, without the work."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from nas_proxy.data import operations
from nas_proxy.validation import Text, list_of, one_of

if TYPE_CHECKING:
    from nas_proxy.data.images import ImageSet

# Of the paper's ConvNet on 32×32 images, for which its rates are.
PAPER_FEATURES = 128 * 4 * 4


@dataclass(frozen=True)
class Condensation:
    """The recipe of a condensed set; defaults are the paper's, computed in bfloat16.

    Those of runs and comparisons are fewer steps, see `nas_proxy.runs.resolving.default_config`.

    method: "dm" learns the images by distribution matching, as everything below says; "random", "herding" and
        "kcenter" choose real images instead, see `nas_proxy.condensation.selection`, and "patches" parts of them, see
        `nas_proxy.condensation.patches`.
    source: a published set to be read instead, see `nas_proxy.condensation.published_sets`; then nothing else applies.
    images_per_class: synthetic images a class.
    steps: each with a new embedding network (the paper: 20,000).
    learning_rate, momentum: of stochastic gradient descent on the images. The paper's rate is 1, and 10 for more
        than 50 images a class, for the 2,048 features of 32×32 images; see `rate`.
    real_batch: real images a class and step.
    width, depth: of the embedding ConvNet (instance norm, ReLU, average pooling), and of what chooses real images.
    augmentation: operations of `nas_proxy.data.augment`, one drawn a class and step.
    precision: of the convolutions, "float32" or "bfloat16"; see `nas_proxy.condensation.embedding.Embedding`.
    formation: images that a stored one holds, down and across; see `nas_proxy.data.multi_formation`.
    match: features of the "last" block of the embedding network, as in the paper, or of "all" blocks.
    embed: embedding networks are ConvNets ("convnet", as in the paper), drawn from the search "space", or ResNets
        ("resnet18", of half as many channels as `width` says; see `nas_proxy.spaces.resnet18`).
    teacher_epochs, patches_across: of "patches" alone: epochs of the network that chooses them, and how many patches an
        image has down and across; None for what suits the images' size.
    """

    images_per_class: Annotated[int, Field(ge=1, description="Stored images a class; 10.")] = 10
    steps: Annotated[
        int, Field(ge=1, description="Steps of a condensation; 1,000 (digits: 200; the paper: 20,000).")
    ] = 20_000
    learning_rate: Annotated[float, Field(gt=0)] = 1.0
    momentum: Annotated[float, Field(ge=0, le=0.999)] = 0.5
    real_batch: Annotated[int, Field(ge=1, description="Real images a class and step; 256.")] = 256
    width: Annotated[int, Field(ge=1, le=4096, description="Channels of the embedding ConvNet; 128 (digits: 64).")] = (
        128
    )
    depth: Annotated[int, Field(ge=1, le=8)] = 3
    augmentation: Annotated[tuple[str, ...], list_of(operations.FULL, what="operations", unique=False)] = (
        operations.FULL
    )
    precision: Annotated[str, one_of("float32", "bfloat16")] = "bfloat16"
    method: Annotated[
        str,
        one_of("dm", "random", "herding", "kcenter", "patches"),
        Field(description="dm (distribution matching), random, herding, kcenter or patches; default dm."),
    ] = "dm"
    source: Annotated[Text | None, Field(description="Read a published .pt or .npz file instead.")] = None
    formation: Annotated[
        int,
        Field(
            ge=1, le=4, description="Images that a stored one holds, down and across: 2 packs four of half the size; 1."
        ),
    ] = 1
    match: Annotated[
        str,
        one_of("last", "all"),
        Field(description="Match the last block of the embedding networks, or all; default last."),
    ] = "last"
    embed: Annotated[
        str,
        one_of("convnet", "space", "resnet18"),
        Field(description="Embedding networks: convnet, resnet18, or drawn from the search space; default convnet."),
    ] = "convnet"
    teacher_epochs: Annotated[
        float, Field(gt=0, le=1_000_000, description="Epochs of the network that chooses patches; 10.")
    ] = 10.0
    patches_across: Annotated[
        int | None,
        Field(ge=1, le=8, description="Patches down and across an image of patches; 1, or 2 from 128 pixels on."),
    ] = None

    @property
    def learnt(self) -> bool:
        """Whether the images come about step by step, with a checkpoint of each, rather than by choosing or reading."""
        return self.source is None and self.method == "dm"

    @property
    def patched(self) -> bool:
        """Whether the images are patches that a teacher chooses."""
        return self.source is None and self.method == "patches"

    @property
    def compared(self) -> bool:
        """Whether the images are real ones, chosen by the features of a network."""
        return self.source is None and self.method in ("herding", "kcenter")

    @property
    def per_class(self) -> int:
        """Images of a class that networks are trained on: as many as the stored ones hold."""
        return self.images_per_class * self.formation**2

    def rate(self, features: int) -> float:
        """Return the step size for an embedding with so many features.

        The loss is a sum over features, so its gradient grows with their number. The paper's rates belong to its
        ConvNet on 32×32 images; for other sizes they are scaled so that the images move as far.
        """
        return self.learning_rate * PAPER_FEATURES / features


@dataclass(frozen=True)
class Condensed:
    """A finished condensed set.

    images: all of them. seconds: wall time over all attempts, from the beginning of each. losses: of each tenth step.
    embedded: keys of the architectures that served as embedding networks, where they came from the search space.
    """

    images: ImageSet
    seconds: float
    losses: tuple[float, ...] = field(default=(), repr=False)
    embedded: tuple[str, ...] = field(default=(), repr=False)
