"""Signals that are computed and not trained: architectures in, a score of each by each signal out, higher for better.

Parameters and FLOPs, and the scores of untrained networks (`zero_cost.py`). An architecture without a score
keeps its place in the ranking, so that all signals are judged on the same architectures: it counts as the lowest,
as it would for whoever chose by that signal, and the signal's row says how many there are and why. One signal,
AZ-NAS (`az_nas.py`), ranks architectures among each other, so its scores hold for those it was computed with.
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.ranking.names import SIZES
from nas_proxy.seeds import derive
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.signals.zero_cost import Score
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.space import Architecture, SearchSpace

AZ_NAS = "az_nas"


@dataclass(frozen=True)
class Column:
    """A score of every architecture, in their order, by one signal that sees so many `images` of the data.

    relative: whether a score is a rank among these architectures, and another one among others.
    """

    scores: tuple[Score, ...]
    images: int = 0
    relative: bool = False

    @property
    def values(self) -> list[float]:
        """The scores; NaN where there is none."""
        return [score.value for score in self.scores]

    @property
    def seconds(self) -> float:
        """What all scores took, building the networks included."""
        return sum(score.seconds for score in self.scores)

    @property
    def image_passes(self) -> int:
        """Images of the data passed through networks, counted with repetition."""
        return self.images * len(self.scores)

    @property
    def missing(self) -> int:
        """How many architectures have no score."""
        return sum(math.isnan(value) for value in self.values)

    def ranked(self) -> list[float]:
        """Return the scores with a finite one, below all others, in place of each that is missing."""
        finite = [value for value in self.values if not math.isnan(value)]
        lowest = float(np.nextafter(min(finite, default=0.0), -math.inf))
        return [lowest if math.isnan(value) else value for value in self.values]

    def note(self) -> str | None:
        """Return what a reader should know of the scores: what they depend on, which are missing; None for nothing."""
        among = f"a score is a rank among these {len(self.scores)} architectures" if self.relative else None
        return "; ".join(filter(None, [among, self._lacking()])) or None

    def _lacking(self) -> str | None:
        """Return how many architectures have no score and the most frequent reason; None where all have one."""
        reasons = Counter(score.reason for score in self.scores if score.reason is not None)
        if not reasons:
            return None
        (reason, _), *others = reasons.most_common()
        more = f", and {len(others)} more reason{'s' if len(others) > 1 else ''}" if others else ""
        return f"{self.missing} of {len(self.scores)} have no score and count as the lowest ({reason}{more})"


def computed(
    names: Sequence[str],
    space: SearchSpace,
    architectures: Sequence[Architecture],
    data: ImageSet,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, Column]:
    """Return a column for each of `names`, of `ranking.names.ZERO_COST`.

    data: training images, of which the scores see a few drawn by the seed. All scores of an architecture start from
    the same initial weights. progress: told how many scores are done.
    """
    images = zero_cost.some_images(data, seed, device)
    columns: dict[str, Column] = {}
    for name in names:
        told = functools.partial(_told, progress, len(columns) * len(architectures))
        scored = _among_each_other if name == AZ_NAS else functools.partial(_one_by_one, name)
        scores = scored(space, architectures, data.shape, images, seed, told)
        columns[name] = Column(tuple(scores), len(images) if name in zero_cost.NEED_IMAGES else 0, name == AZ_NAS)
    return columns


def _one_by_one(
    name: str,
    space: SearchSpace,
    architectures: Sequence[Architecture],
    shape: DataShape,
    images: torch.Tensor,
    seed: int,
    told: Callable[[int], None],
) -> list[Score]:
    scores: list[Score] = []
    for architecture in architectures:
        build = functools.partial(space.build, architecture, shape)
        if name in SIZES:
            scores.append(zero_cost.attempted(functools.partial(_size, name, space, architecture, shape)))
        else:
            scores.append(zero_cost.score(name, build, images, _seed(seed, space, architecture)))
        told(len(scores))
    return scores


def _among_each_other(
    space: SearchSpace,
    architectures: Sequence[Architecture],
    shape: DataShape,
    images: torch.Tensor,
    seed: int,
    told: Callable[[int], None],
) -> list[Score]:
    """Return the scores of AZ-NAS, among the architectures that have its traits."""
    rows: list[tuple[float, ...]] = []
    scores: list[Score] = []

    def place(architecture: Architecture) -> float:
        build = functools.partial(space.build, architecture, shape)
        traits = zero_cost.drawn(az_nas.traits, build, images, _seed(seed, space, architecture))
        rows.append((*traits, measure(space, architecture, shape).flops))
        return len(rows) - 1

    for architecture in architectures:
        scores.append(zero_cost.attempted(functools.partial(place, architecture)))
        told(len(scores))
    values = az_nas.assembled(rows)
    return [score if score.reason else replace(score, value=values[int(score.value)]) for score in scores]


def _size(name: str, space: SearchSpace, architecture: Architecture, shape: DataShape) -> float:
    return float(getattr(measure(space, architecture, shape), name))


def _told(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)


def _seed(seed: int, space: SearchSpace, architecture: Architecture) -> int:
    return derive(seed, "signals", space.key(architecture))
