"""A define-by-run function `space(trial) -> nn.Module` as a search space.

The function may take the data's shape as second argument: `space(trial, shape)`. To learn what it suggests it is run,
in a process apart, on PyTorch's meta device, where building a network allocates nothing, and on the CPU where that
fails, as where a value of a tensor is read. What is stored of its suggestions are labels, see
`nas_proxy.spaces.labels`.
"""

import inspect
import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import BaseTrial, FixedTrial
from torch import nn

from nas_proxy.data.shape import DataShape
from nas_proxy.seeds import derive, drawn_alike
from nas_proxy.spaces.function_apart import Ended, FunctionApart
from nas_proxy.spaces.networks import ready
from nas_proxy.spaces.space import PATIENCE, Architecture, default_key, distinct
from nas_proxy.spaces.suggesting import SuggestingTrial

# Draws that show how many options a path through the function offers, before the first one is accepted.
PILOT = 64
# Draws in a row that show no name and no options that were not seen before: then all are taken to be known.
NOTHING_NEW = 24


class _DrawingTrial(FixedTrial):
    """An Optuna trial that draws as Optuna does at random and multiplies up how many options it had."""

    def __init__(self, draw: random.Random) -> None:
        super().__init__({})
        self._draw = draw
        self.options = 1.0

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name not in self._params:
            self._params[name], options = _drawn(distribution, self._draw)
            self.options *= options
        return super()._suggest(name, distribution)


def _drawn(distribution: BaseDistribution, draw: random.Random) -> tuple[Any, int]:
    """Return a draw and the number of values it came from (1 for a continuous range)."""
    if isinstance(distribution, CategoricalDistribution):
        return draw.choice(distribution.choices), len(distribution.choices)
    if isinstance(distribution, IntDistribution):
        values = range(distribution.low, distribution.high + 1, distribution.step or 1)
        if not distribution.log:
            return draw.choice(values), len(values)
        low, high = math.log(distribution.low - 0.5), math.log(distribution.high + 0.5)
        drawn = round(math.exp(draw.uniform(low, high)))
        return min(max(drawn, distribution.low), distribution.high), len(values)
    assert isinstance(distribution, FloatDistribution)
    if distribution.step:
        steps = round((distribution.high - distribution.low) / distribution.step)
        # Rounding may carry the last step over the end.
        return min(distribution.low + distribution.step * draw.randint(0, steps), distribution.high), steps + 1
    if distribution.log:
        drawn_float = math.exp(draw.uniform(math.log(distribution.low), math.log(distribution.high)))
        return min(max(drawn_float, distribution.low), distribution.high), 1
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

        Ranges are drawn as Optuna draws them: on a logarithmic scale by the logarithm, whole numbers too.
        A function that suggests more after one option than after another would, drawn as it stands, favour the
        short paths. A draw is therefore kept with probability (options on its path) ÷ (most options seen).
        """
        draw = random.Random(derive(seed, "sample", self.name))
        yield from distinct(self._uniform(draw), lambda _: True, self.key)

    def _uniform(self, draw: random.Random) -> Iterator[Architecture]:
        most = max(self._path(draw).options for _ in range(PILOT))
        pruned = 0
        while pruned < PATIENCE:
            path = self._path(draw)
            pruned = pruned + 1 if path.pruned else 0
            if not path.pruned and path.options >= draw.random() * most:
                most = max(most, path.options)
                yield path.architecture

    def few(self, most: int) -> Iterator[Architecture]:
        """Yield the distinct ones of `most` architectures as they are suggested, which is not uniform."""
        draw, seen = random.Random(derive(0, "few", self.name)), set()
        for path in (self._path(draw) for _ in range(most)):
            if not path.pruned and (key := self.key(path.architecture)) not in seen:
                seen.add(key)
                yield path.architecture

    def _path(self, draw: random.Random) -> "_Path":
        inner = _DrawingTrial(draw)
        allowed = self._run(SuggestingTrial(inner, self._known))
        return _Path(dict(inner.params), inner.options, pruned=not allowed)

    @cached_property
    def _known(self) -> Mapping[str, str | None]:
        """The kind of parameter that is suggested under each name, None for a name of several kinds.

        Found by draws that are the same in every process, so that the names in what is stored are too.
        """
        found: dict[str, str | None] = {}
        draw, without = random.Random(derive(0, "names", self.name)), 0
        while without < NOTHING_NEW:
            before, trial = dict(found), SuggestingTrial(_DrawingTrial(draw))
            self._run(trial)
            for name, kind in trial.kinds:
                found[name] = kind if found.get(name, kind) == kind else None
            without = without + 1 if found == before else 0
        return found

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture | None:
        """Let an Optuna trial choose; None when the function prunes what it chose."""
        return dict(trial.params) if self._run(SuggestingTrial(trial, self._known)) else None

    def build(self, architecture: Architecture, shape: DataShape) -> nn.Module:
        """Run the function again with the architecture's values."""
        trial = SuggestingTrial(FixedTrial(dict(architecture)), architecture=architecture)
        with drawn_alike():
            network: nn.Module = ready(_called(self.function, trial, shape), shape)
        return network

    def _run(self, trial: SuggestingTrial) -> bool:
        """Let the function suggest; return whether it prunes nothing of it.

        What it suggested before it raised, or ended its process, is an architecture that fails when it is trained, and
        says why. What the trial raised, as where a parameter is missing, is raised.
        """
        for device in ("meta", ""):
            trial.kinds.clear()
            ended = self._apart.ended(trial, device)
            if ended is Ended.PRUNED:
                return False
            if trial.raised is not None:  # the function may have caught it
                raise trial.raised
            if ended is Ended.ALLOWED:
                return True
            # not on the meta device, which has no values; or the network cannot be built
        return True

    @cached_property
    def _apart(self) -> FunctionApart:
        function, shape = self.function, self.shape  # and not this object, which would never be let go of
        return FunctionApart(self.name, lambda trial: _called(function, trial, shape))


@dataclass(frozen=True)
class _Path:
    """What a function suggested, out of how many options, and whether it pruned that."""

    architecture: Architecture
    options: float
    pruned: bool


def _called(function: Callable[..., nn.Module], trial: BaseTrial, shape: DataShape) -> nn.Module:
    return function(trial, shape) if _takes_shape(function) else function(trial)


def _takes_shape(function: Callable[..., nn.Module]) -> bool:
    """Whether the second argument is the shape: one that must be given, or that is called so."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    taken = [p for p in inspect.signature(function).parameters.values() if p.kind in positional]
    return len(taken) >= 2 and (taken[1].default is inspect.Parameter.empty or taken[1].name == "shape")
