"""Scores of untrained networks as jobs for workers: many at once, and what goes wrong with one spoils no other.

In: names, paths and a seed, as of every job. Out: a `Score`, and for AZ-NAS the traits of which a rank is made. A score
of the user's own is a function of an untrained network and a few training images.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from torch import Tensor

from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.names import SIZES
from nas_proxy.seeds import derive
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.signals.own import check_unchanged, function, is_own, moved
from nas_proxy.signals.zero_cost import Score
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.loading import Spec
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.training.jobs import loaded

AZ_NAS = "az_nas"


@dataclass(frozen=True)
class Scored:
    """A score; for AZ-NAS its value is 0 and the row of `traits` (with FLOPs) is what `az_nas.assembled` takes."""

    score: Score
    traits: tuple[float, ...] = ()

    def shared(self, share: float) -> "Scored":
        """Return it with that share of the seconds, for a GPU that it had with others."""
        return replace(self, score=replace(self.score, seconds=share * self.score.seconds))


@dataclass(frozen=True)
class ScoreJob:
    """The score `name` of `architecture` of the space `space`, for images of the file `data` drawn by `seed`.

    device, minutes, megabytes: as of any `nas_proxy.training.jobs.Work`; a limit on memory is not kept. file, code:
    where the score is a user's function, its file, which travels to other machines, and the code that is meant, see
    `nas_proxy.signals.own.fingerprint`.
    """

    name: str
    space: Spec
    architecture: Architecture
    data: Path
    seed: int
    device: str
    minutes: float | None = None
    megabytes: float | None = None
    file: Path | None = None
    code: str = ""

    def on(self, device: str) -> Self:
        """Return the same score on another device."""
        return replace(self, device=device)

    def perform(self) -> Scored:
        """Compute it; a network without a score has the reason in its place.

        Raises CodeChangedError where the file of the space or of the score is not the one that is meant.
        """
        name = self.name
        if self.file is not None:
            check_unchanged(name, self.code, self.file)
            name = moved(name, self.file)
        images, shape = _images(self.data, self.data.stat().st_mtime_ns, self.seed, self.device)
        return scored(name, loaded(self.space, shape), self.architecture, shape, images, self.seed)


def scored(
    name: str, space: SearchSpace, architecture: Architecture, shape: DataShape, images: Tensor, seed: int
) -> Scored:
    """Return a score of an architecture; all scores of it start from the same initial weights."""
    build = functools.partial(space.build, architecture, shape)
    own = derive(seed, "signals", space.key(architecture))
    if name in SIZES:
        return Scored(zero_cost.attempted(lambda: float(getattr(measure(space, architecture, shape), name))))
    if is_own(name):
        return Scored(zero_cost.attempted(lambda: zero_cost.drawn(_function(name), build, images, own)))
    if name != AZ_NAS:
        return Scored(zero_cost.score(name, build, images, own))
    row: tuple[float, ...] = ()

    def traits() -> float:
        nonlocal row
        row = (*zero_cost.drawn(az_nas.traits, build, images, own), measure(space, architecture, shape).flops)
        return 0.0

    return Scored(zero_cost.attempted(traits), row)


def _function(name: str) -> Callable[..., float]:
    score = function(name)
    # Images of its own: what a function does to them, gradients too, is nothing that later ones see.
    return lambda network, images: float(score(network, images.detach().clone()))


@functools.lru_cache(maxsize=2)
def _images(path: Path, written: int, seed: int, device: str) -> tuple[Tensor, DataShape]:
    del written  # a file that is written again is another file
    data = ImageSet.load(path)
    return zero_cost.some_images(data, seed, device), data.shape
