"""What `nas-proxy condense --dry-run` tells: the time and memory of a condensation, before anything is written.

In: the settings of a run. Out: an estimate from some classes of the user's own data; the run folder is not touched.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

from nas_proxy.condensation.estimate import Estimate, estimate
from nas_proxy.condensation.memory import check_divisible
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import few_classes
from nas_proxy.errors import ConfigError
from nas_proxy.pipeline.problem import choose_device
from nas_proxy.pipeline.settings import RunConfig
from nas_proxy.progress import SILENT, Progress
from nas_proxy.spaces.loading import load_space

CLASSES = 10


@dataclass(frozen=True)
class Foresight:
    """The estimate, and what reading the images takes at the speed of those that were read: seconds, number."""

    estimate: Estimate
    read_seconds: float
    images: int

    def as_json(self) -> dict[str, Any]:
        """Return the values as JSON."""
        return {"estimate": True, **asdict(self.estimate), "read_seconds": self.read_seconds, "images": self.images}

    def told(self) -> str:
        """Return it in words."""
        found = self.estimate
        memory = "" if found.memory_bytes is None else f"{found.memory_bytes / 1e9:.2g} GB of memory beside the program"
        groups = f", {found.classes_per_step} classes at a time" if found.classes_per_step < found.classes else ""
        return (
            f"Estimate from {found.measured_steps} steps on {found.measured_classes} of {found.classes} classes; "
            "nothing was written.\n"
            f"{found.steps:,} steps of {found.seconds_per_step:.2g} s: {_duration(found.seconds)} on {found.device}\n"
            f"{self.images:,} images to read: {_duration(self.read_seconds)}\n"
            f"{memory or 'memory is not known on this system'}{groups}"
        )


def foresee(config: RunConfig, progress: Progress = SILENT) -> Foresight:
    """Read as many images of a few classes as a step takes, take a few steps, and say what all of them would take.

    Raises ConfigError for a recipe that takes no steps, and whatever the data is not good for.
    """
    recipe = config.condense
    if recipe.method != "dm" or recipe.source is not None:
        raise ConfigError(["--dry-run estimates the steps of --method dm; other methods take none, so just run them"])
    source = open_source(config.dataset, image_size=config.image_size, say=progress.say)
    count = len(source.classes)
    check_divisible(recipe, count, config.classes_per_step)
    per_class = max(recipe.real_batch, recipe.images_per_class * recipe.formation**2)
    began = time.perf_counter()
    images = few_classes(source, seed=config.seed, limit=config.limit, classes=min(count, CLASSES), per_class=per_class)
    a_read = (time.perf_counter() - began) / len(images)
    total = sum(len(source.labels(part)) for part in ("train", "validation") if part in source.parts)
    found = estimate(
        images,
        recipe,
        config.seed,
        classes=count,
        device=choose_device(config.device),
        space=load_space(config.space, images.shape) if recipe.embed == "space" else None,
        classes_per_step=config.classes_per_step,
    )
    return Foresight(found, a_read * total, total)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {seconds:.2g} s"
    return f"about {seconds / 60:.2g} minutes" if seconds < 5400 else f"about {seconds / 3600:.2g} hours"
