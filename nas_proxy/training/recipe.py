"""How a network is trained: the recipe alone, without the work and without PyTorch."""

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from nas_proxy.data import operations
from nas_proxy.validation import list_of, one_of

SCHEDULES = ("cosine", "step")
# More is a slip of the finger, which would fill the memory.
MOST_EPOCHS = 1_000_000


@dataclass(frozen=True)
class Recipe:
    """How a network is trained.

    epochs: passes over the data; a fraction is allowed. Batches are cut from a stream of shuffled passes, so
        all have the same size and `epochs` is reached to within one batch.
    batch_size: images a step; the whole set where that is smaller.
    learning_rate, momentum, weight_decay, nesterov: of stochastic gradient descent.
    warm_up, schedule: the rate rises linearly over the first `warm_up` of the steps; then it falls to zero along a
        "cosine", or to a tenth at half of the steps ("step", the paper's).
    augmentation: names of operations of `nas_proxy.data.augment`, one of which is drawn for each step; () for none.
    precision: "float32", "bfloat16", or "auto" for what `nas_proxy.training.execution.choose` finds fastest.
    """

    epochs: Annotated[float, Field(gt=0, le=MOST_EPOCHS, description="Epochs of a training.")]
    batch_size: Annotated[int, Field(ge=1, description="Images a step of a training; 50.")] = 50
    learning_rate: Annotated[float, Field(gt=0, description="Learning rate of a training; 0.05.")] = 0.05
    momentum: Annotated[float, Field(ge=0, le=0.999)] = 0.9
    weight_decay: Annotated[float, Field(ge=0)] = 5e-4
    nesterov: bool = True
    warm_up: Annotated[float, Field(ge=0, le=1)] = 0.1
    schedule: Annotated[str, one_of(*SCHEDULES)] = "cosine"
    augmentation: Annotated[tuple[str, ...], list_of(operations.FULL, what="operations", unique=False)] = (
        operations.FULL
    )
    precision: Annotated[str, one_of("auto", "float32", "bfloat16")] = "auto"

    def steps(self, images: int) -> int:
        """Return the number of steps on a set of so many images."""
        return max(1, round(self.epochs * images / self.batch(images)))

    def batch(self, images: int) -> int:
        """Return the images a step on a set of so many images."""
        return min(self.batch_size, images)

    def image_passes(self, images: int) -> int:
        """Return how many images, counted with repetition, a training passes through the network."""
        return self.steps(images) * self.batch(images)

    def rate(self, step: int, steps: int) -> float:
        """Return the learning rate of step 0 <= step < steps."""
        rise = round(self.warm_up * steps)
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        if self.schedule == "step":
            return self.learning_rate * (1.0 if step < steps / 2 else 0.1)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))
