"""Signals that are computed and not trained: architectures in, a score of each by each signal out, higher for better.

Parameters and FLOPs, and the scores of untrained networks (`zero_cost.py`). An architecture without a score
keeps its place in the ranking, so that all signals are judged on the same architectures: it counts as the lowest,
as it would for whoever chose by that signal, and the signal's row says how many there are and why. One signal,
AZ-NAS (`az_nas.py`), ranks architectures among each other, so its scores hold for those it was computed with.
"""

import contextlib
import functools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.names import SIZES
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.signals.score_job import AZ_NAS, Scored, ScoreJob, scored
from nas_proxy.signals.zero_cost import Score
from nas_proxy.spaces.apart import Complaint
from nas_proxy.spaces.cost import Sizes
from nas_proxy.spaces.loading import Spec
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.training.executor import Executor
from nas_proxy.training.jobs import Failure


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
    workers: "Workers | None" = None,
) -> dict[str, Column]:
    """Return a column for each of `names`, of `nas_proxy.names.ZERO_COST`.

    data: training images, of which the scores see a few drawn by the seed. All scores of an architecture start from
    the same initial weights. progress: told how many scores are done. workers: what computes them elsewhere, several at
    a time, so that what a network does to its process is done to a worker's; None for this process, for networks that
    are known. Sizes are counted in processes apart.
    """
    columns: dict[str, Column] = {}
    images = zero_cost.some_images(data, seed, device) if workers is None else None
    count = min(len(data), zero_cost.IMAGES)
    for name in names:
        told = functools.partial(_told, progress, len(columns) * len(architectures))
        if name in SIZES:
            found = _sizes(name, space, architectures, data.shape, told)
        elif workers is not None:
            found = workers.scored(name, architectures, seed, str(device), told)
        else:
            found = []
            for architecture in architectures:
                assert images is not None
                found.append(scored(name, space, architecture, data.shape, images, seed))
                told(len(found))
        scores = _ranked(found) if name == AZ_NAS else [one.score for one in found]
        columns[name] = Column(tuple(scores), count if name in zero_cost.NEED_IMAGES else 0, name == AZ_NAS)
    return columns


@dataclass(frozen=True)
class Workers:
    """What computes scores elsewhere: an executor, and what its jobs need: the space's name and the training images.

    minutes: that a score may take.
    """

    executor: Executor
    space: Spec
    data: Path
    minutes: float | None = None

    def scored(
        self, name: str, architectures: Sequence[Architecture], seed: int, device: str, told: Callable[[int], None]
    ) -> list[Scored]:
        """Return the scores in the order of `architectures`; a job that failed is a score with its reason."""
        job = functools.partial(ScoreJob, name, self.space, data=self.data, seed=seed, device=device)
        jobs = ((number, job(a, minutes=self.minutes)) for number, a in enumerate(architectures))
        found: dict[int, Scored] = {}
        for number, result in self.executor.run(jobs):
            found[number] = (
                Scored(Score(math.nan, result.seconds, result.reason)) if isinstance(result, Failure) else result
            )
            told(len(found))
        return [found[number] for number in range(len(architectures))]


def _sizes(
    name: str,
    space: SearchSpace,
    architectures: Sequence[Architecture],
    shape: DataShape,
    told: Callable[[int], None],
) -> list[Scored]:
    found: list[Scored] = []
    # Of this signal alone, so that its seconds are what it takes.
    with contextlib.closing(Sizes(space, shape)) as sizes:
        for architecture in architectures:
            found.append(Scored(zero_cost.attempted(functools.partial(_size, name, sizes, architecture))))
            told(len(found))
    return found


def _ranked(found: Sequence[Scored]) -> list[Score]:
    """Return the scores of AZ-NAS, among the architectures that have its traits."""
    values = iter(az_nas.assembled([one.traits for one in found if one.score.reason is None]))
    return [one.score if one.score.reason else replace(one.score, value=next(values)) for one in found]


def _size(name: str, sizes: Sizes, architecture: Architecture) -> float:
    found = sizes.found(architecture)
    if isinstance(found, Complaint):
        raise zero_cost.NoScoreError(found.text)
    return float(getattr(found, name))


def _told(progress: Callable[[int], None], before: int, done: int) -> None:
    progress(before + done)
