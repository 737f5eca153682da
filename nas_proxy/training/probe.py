"""How long a step of a training takes: a few of them, on one batch, for a limited time."""

import itertools
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from nas_proxy.data.images import ImageSet
from nas_proxy.spaces.loading import Spec
from nas_proxy.spaces.space import Architecture
from nas_proxy.training.jobs import loaded
from nas_proxy.training.memory_limit import limited
from nas_proxy.training.train import Recipe, Watch, train

STEPS = 200


@dataclass(frozen=True)
class Pace:
    """Seconds of a step of `images` images, the median, and of a training without its steps; bytes that it needed."""

    step: float
    start: float
    images: int
    memory: int | None = None


@dataclass(frozen=True)
class Probe:
    """The pace of trainings of `architecture` on the images in `data`, all of them in each step; a kind of job.

    seconds: how long it steps, at least once. The rest as of any `nas_proxy.training.jobs.Work`.
    """

    space: Spec
    architecture: Architecture
    data: Path
    recipe: Recipe
    seconds: float
    device: str
    minutes: float | None = None
    megabytes: float | None = None

    def on(self, device: str) -> Self:
        """Return the same job on another device."""
        return replace(self, device=device)

    def perform(self) -> Pace:
        """Train for a step, which loads what PyTorch loads once, and then for `seconds`."""
        if self.megabytes is None:
            return self._paced()
        with limited(self.megabytes, self.device) as use:
            found = self._paced()
        return replace(found, memory=use.most)

    def _paced(self) -> Pace:
        data = ImageSet.load(self.data)
        space = loaded(self.space, data.shape)
        ticks: list[float] = []

        def ends(_: int, __: float) -> bool:
            ticks.append(time.perf_counter())
            return ticks[-1] - began > self.seconds

        def steps(count: int, watch: Watch | None = None) -> None:
            recipe = replace(self.recipe, epochs=count, batch_size=len(data))
            train(lambda: space.build(self.architecture, data.shape), data, data, recipe, 0, self.device, watch)

        began = time.perf_counter()
        steps(1)
        once = time.perf_counter() - began
        if once > self.seconds:
            return Pace(once, 0.0, len(data))
        began = time.perf_counter()
        steps(STEPS, Watch(frozenset(range(1, STEPS + 1)), ends, by="loss_sum"))
        if len(ticks) < 2:  # it diverged
            return Pace(once, 0.0, len(data))
        step = statistics.median(later - earlier for earlier, later in itertools.pairwise(ticks))
        return Pace(step, max(0.0, ticks[0] - began - step), len(data))
