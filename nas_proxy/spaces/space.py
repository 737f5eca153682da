"""Search spaces as values: choices that compose, from which size, keys, sampling and suggestion are derived.

    choices = Choice("depth", (1, 2, 3)) & Choice("norm", ("none", "batch"))
    choices = Choice("depth", (1, 2)) & Branch("block", {"conv": Choice("kernel", (3, 5)), "pool": NOTHING})
    space = Space("mine", choices, build)      # build(architecture, shape) -> torch.nn.Module

An architecture is a plain dict from choice names to scalars that holds only the choices that are active, so
two dicts are the same architecture exactly when they are equal. A plain define-by-run function
`space(trial) -> nn.Module` is accepted too, see `nas_proxy.spaces.function_space`.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias
from weakref import WeakKeyDictionary

import optuna
from torch import nn

from nas_proxy.data.images import DataShape
from nas_proxy.errors import SpaceError
from nas_proxy.seeds import derive

Scalar: TypeAlias = str | int | float | bool | None
Architecture: TypeAlias = Mapping[str, Scalar]

# Below this many architectures the whole space is put in order once, which makes uniform draws exact.
ENUMERABLE = 200_000
# This many invalid or repeated draws in a row mean that a space without a known size is used up.
PATIENCE = 1_000


class Choices:
    """Something to be chosen: `size` possible outcomes, numbered from 0."""

    @property
    def size(self) -> int:
        """The number of distinct outcomes."""
        raise NotImplementedError

    def at(self, index: int) -> dict[str, Scalar]:
        """Return outcome number `index`, 0 <= index < size."""
        raise NotImplementedError

    def outcomes(self) -> Iterator[dict[str, Scalar]]:
        """Yield every outcome in the order of its number; much faster than `at` for each."""
        raise NotImplementedError

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Scalar]:
        """Let an Optuna trial choose."""
        raise NotImplementedError

    def __and__(self, other: "Choices") -> "Choices":
        return All((*_parts(self), *_parts(other)))


def _parts(choices: Choices) -> tuple[Choices, ...]:
    return choices.parts if isinstance(choices, All) else (choices,)


@dataclass(frozen=True)
class All(Choices):
    """All of `parts`, independently; usually written `a & b & c`."""

    parts: tuple[Choices, ...]

    @property
    def size(self) -> int:
        """The product of the parts' sizes."""
        total = 1
        for part in self.parts:
            total *= part.size
        return total

    def at(self, index: int) -> dict[str, Scalar]:
        """Mixed-radix digits of `index`, the last part changing fastest."""
        chosen: list[dict[str, Scalar]] = []
        for part in reversed(self.parts):
            index, digit = divmod(index, part.size)
            chosen.append(part.at(digit))
        return {name: value for outcome in reversed(chosen) for name, value in outcome.items()}

    def outcomes(self) -> Iterator[dict[str, Scalar]]:
        """Yield every combination, the last part changing fastest."""
        for chosen in itertools.product(*(list(part.outcomes()) for part in self.parts)):
            yield {name: value for outcome in chosen for name, value in outcome.items()}

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Scalar]:
        """Suggest the parts in order."""
        return {name: value for part in self.parts for name, value in part.suggest(trial).items()}


# A branch with no further choices.
NOTHING = All(())


@dataclass(frozen=True)
class Branch(Choices):
    """One of several options, each of which opens further choices."""

    name: str
    branches: Mapping[Scalar, Choices]

    def __post_init__(self) -> None:
        if not self.branches:
            raise SpaceError(f"the choice {self.name!r} has no options; give it at least one")

    @property
    def size(self) -> int:
        """The sum of the branches' sizes."""
        return sum(choices.size for choices in self.branches.values())

    def at(self, index: int) -> dict[str, Scalar]:
        """Outcomes of the first option come first."""
        for option, choices in self.branches.items():
            if index < choices.size:
                return {self.name: option, **choices.at(index)}
            index -= choices.size
        raise IndexError(index)

    def outcomes(self) -> Iterator[dict[str, Scalar]]:
        """Yield the outcomes of each option in turn."""
        for option, choices in self.branches.items():
            yield from ({self.name: option, **outcome} for outcome in choices.outcomes())

    def suggest(self, trial: optuna.trial.BaseTrial) -> dict[str, Scalar]:
        """Suggest the option as a categorical parameter, then what it opens."""
        option = trial.suggest_categorical(self.name, list(self.branches))
        return {self.name: option, **self.branches[option].suggest(trial)}


def Choice(name: str, options: tuple[Scalar, ...] | list[Scalar]) -> Branch:  # noqa: N802 (reads as a value)
    """One of `options` (None, bool, int, float or str), opening nothing further."""
    repeated = [option for i, option in enumerate(options) if option in tuple(options)[:i]]
    if repeated:
        raise SpaceError(f"the choice {name!r} lists {repeated[0]!r} twice; its options must differ")
    return Branch(name, dict.fromkeys(options, NOTHING))


def repeat(choices: Choices, times: int, prefix: str) -> Choices:
    """Return `choices` `times` over under the names "<prefix>0.…", "<prefix>1.…", and so on."""
    return All(tuple(_renamed(choices, f"{prefix}{i}.") for i in range(times)))


def _renamed(choices: Choices, prefix: str) -> Choices:
    if isinstance(choices, All):
        return All(tuple(_renamed(part, prefix) for part in choices.parts))
    assert isinstance(choices, Branch)
    return Branch(prefix + choices.name, {o: _renamed(c, prefix) for o, c in choices.branches.items()})


class SearchSpace(Protocol):
    """What condensation, search and ground truth need from a space."""

    @property
    def name(self) -> str:
        """A short name for folders and titles."""

    @property
    def size(self) -> int | None:
        """The number of architectures, or None where it is not known."""

    def key(self, architecture: Architecture) -> str:
        """Return the canonical name: equal keys are the same architecture."""

    def sample(self, seed: int) -> Iterator[Architecture]:
        """Yield distinct architectures in uniformly random order until the space is used up."""

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture | None:
        """Let an Optuna trial choose an architecture; None when it chose an invalid one."""

    def build(self, architecture: Architecture, shape: DataShape) -> nn.Module:
        """Return a freshly initialised network (n, channels, height, width) -> logits (n, classes)."""


def default_key(architecture: Architecture) -> str:
    """Return "name=value,…" in the order of choice."""
    return ",".join(f"{name}={value}" for name, value in architecture.items())


@dataclass(frozen=True, eq=False)
class Space:
    """A space made of choices.

    name: for folders and titles.
    choices: what can be chosen.
    build: (architecture, shape) -> network, a pure function but for the random initial weights.
    valid: leaves out architectures for which it returns False.
    name_of: an own canonical name; architectures that it maps to one name count as one.
    function_of: a text that is equal for architectures that compute the same function under different names. They
        stay apart, but accuracies published of each tell how far a training repeats itself.
    """

    name: str
    choices: Choices
    build: Callable[[Architecture, DataShape], nn.Module]
    valid: Callable[[Architecture], bool] | None = None
    name_of: Callable[[Architecture], str] | None = None
    function_of: Callable[[Architecture], str] | None = None

    @property
    def size(self) -> int | None:
        """The number of distinct valid architectures; None for a large space with `valid` or `name_of`."""
        if self.valid is None and self.name_of is None:
            return self.choices.size
        return len(_representatives(self)) if self.choices.size <= ENUMERABLE else None

    def key(self, architecture: Architecture) -> str:
        """Return the canonical name."""
        return (self.name_of or default_key)(architecture)

    def is_valid(self, architecture: Architecture) -> bool:
        """Whether `valid` accepts the architecture."""
        return self.valid is None or bool(self.valid(architecture))

    def sample(self, seed: int) -> Iterator[Architecture]:
        """Yield distinct valid architectures in uniformly random order.

        Exact up to 200,000 outcomes. Beyond, outcomes are drawn uniformly and repeats dropped; there, an own
        `name_of` that merges outcomes makes the merged architectures more likely to come early.
        """
        draw = random.Random(derive(seed, "sample", self.name))
        if self.choices.size <= ENUMERABLE:
            indices = list(_representatives(self))
            draw.shuffle(indices)
            yield from map(self.choices.at, indices)
        else:
            outcomes = (self.choices.at(draw.randrange(self.choices.size)) for _ in itertools.count())
            yield from distinct(outcomes, self.is_valid, self.key)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture | None:
        """Let an Optuna trial choose; None when `valid` refuses the choice."""
        architecture = self.choices.suggest(trial)
        return architecture if self.is_valid(architecture) else None


def _representatives(space: Space) -> tuple[int, ...] | range:
    """Return the first outcome of each distinct valid architecture, found once a space."""
    if space.valid is None and space.name_of is None:
        return range(space.choices.size)
    if space not in _found:
        first: dict[str, int] = {}
        for index, architecture in enumerate(space.choices.outcomes()):
            if space.is_valid(architecture):
                first.setdefault(space.key(architecture), index)
        _found[space] = tuple(first.values())
    return _found[space]


_found: "WeakKeyDictionary[Space, tuple[int, ...]]" = WeakKeyDictionary()


def distinct(
    outcomes: Iterator[Architecture],
    valid: Callable[[Architecture], bool],
    key: Callable[[Architecture], str],
) -> Iterator[Architecture]:
    """Yield the valid outcomes whose keys are new, until nothing new has come for a long time."""
    seen: set[str] = set()
    fruitless = 0
    for architecture in outcomes:
        name = key(architecture)
        if name in seen or not valid(architecture):
            fruitless += 1
            if fruitless >= PATIENCE:
                return
            continue
        fruitless = 0
        seen.add(name)
        yield architecture
