"""A define-by-run function `space(trial) -> nn.Module` as a search space.

The function may take the data's shape as second argument: `space(trial, shape)`. To learn what it suggests it
is run on PyTorch's meta device, where building a network allocates nothing.
"""

import contextlib
import inspect
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import optuna
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import FixedTrial
from torch import nn

from nas_proxy.data.images import DataShape
from nas_proxy.seeds import derive
from nas_proxy.spaces.space import Architecture, Scalar, default_key, distinct

# Draws that show how many options a path through the function offers, before the first one is accepted.
PILOT = 64


class _DrawingTrial(FixedTrial):
    """An Optuna trial that draws uniformly and multiplies up how many options it had."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__({})
        self._draw = draw
        self.options = 1.0

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            self._params[name], options = _drawn(distribution, self._draw)
            self.options *= options
        return super()._suggest(name, distribution)


def _drawn(distribution: BaseDistribution, draw: random.Random) -> tuple[Scalar, int]:
    """Return a uniform draw and the number of values it came from (1 for a continuous range)."""
    if isinstance(distribution, CategoricalDistribution):
        return draw.choice(distribution.choices), len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step or 1)
        return draw.choice(values), len(values)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step:
        steps = round((distribution.high - distribution.low) / distribution.step)
        return distribution.low + distribution.step * draw.randint(0, steps), steps + 1
    return draw.uniform(distribution.low, distribution.high), 1


@dataclass(frozen=True, eq=False)
class FunctionSpace:
    """A search space given by a function of an Optuna trial.

    function: suggests parameters and returns the network.
    shape: the shape of the data, for functions that take it as a second argument.
    """

    name: str
    function: Callable[..., nn.Module]
    shape: DataShape

    @property
    def size(self) -> int | None:
        """Unknown: what a function can suggest is only seen by running it."""
        return None

    def key(self, architecture: Architecture) -> str:
        """Return "name=value,…" in the order of suggestion."""
        return default_key(architecture)

    def sample(self, seed: int) -> Iterator[Architecture]:
        """Yield distinct architectures in random order, each equally likely wherever choices are discrete.

        A function that suggests more after one option than after another would, drawn as it stands, favour the
        short paths. A draw is therefore kept with probability (options on its path) ÷ (most options seen).
        """
        draw = random.Random(derive(seed, "sample", self.name))
        yield from distinct(self._uniform(draw), lambda _: True, self.key)

    def _uniform(self, draw: random.Random) -> Iterator[Architecture]:
        most = max(self._path(draw).options for _ in range(PILOT))
        while True:
            trial = self._path(draw)
            if trial.options >= draw.random() * most:
                most = max(most, trial.options)
                yield dict(trial.params)

    def _path(self, draw: random.Random) -> _DrawingTrial:
        trial = _DrawingTrial(draw)
        # What the function suggested before it raised is an architecture that fails when it is trained.
        with contextlib.suppress(Exception):
            self._call(trial, self.shape, on_meta=True)
        return trial

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture:
        """Let an Optuna trial choose."""
        with contextlib.suppress(Exception):
            self._call(trial, self.shape, on_meta=True)
        return dict(trial.params)

    def build(self, architecture: Architecture, shape: DataShape) -> nn.Module:
        """Run the function again with the architecture's values."""
        return self._call(FixedTrial(dict(architecture)), shape, on_meta=False)

    def _call(self, trial: optuna.trial.BaseTrial, shape: DataShape, *, on_meta: bool) -> nn.Module:
        arguments = (trial, shape) if _takes_shape(self.function) else (trial,)
        if not on_meta:
            return self.function(*arguments)
        with torch.device("meta"):
            return self.function(*arguments)


def _takes_shape(function: Callable[..., nn.Module]) -> bool:
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional for p in inspect.signature(function).parameters.values()) >= 2
