"""Search spaces as values: choices, how a network is built of them, and what follows from the two.

    choices = Choice("depth", (1, 2)) & Branch("block", {"conv": Choice("kernel", (3, 5)), "pool": NOTHING})
    space = Space("mine", choices, build)      # build(architecture, shape) -> torch.nn.Module

An architecture is a plain dict from choice names to labels (values that JSON holds) that holds only the choices that
are active, so two dicts are the same architecture exactly when they are equal. The user's functions get the options
themselves under the user's names. A plain define-by-run function `space(trial) -> nn.Module` is accepted too, see
`nas_proxy.spaces.function_space`.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from nas_proxy.data.shape import DataShape
from nas_proxy.errors import SpaceError
from nas_proxy.seeds import derive, drawn_alike
from nas_proxy.spaces.choices import (
    NOTHING,
    All,
    Branch,
    Choice,
    Choices,
    all_plain,
    given,
    names,
    repeat,
    stored,
    told_apart,
)
from nas_proxy.spaces.labels import Scalar
from nas_proxy.spaces.networks import ready

if TYPE_CHECKING:
    import optuna
    from torch import nn

__all__ = ["NOTHING", "All", "Architecture", "Branch", "Choice", "Choices", "Scalar", "SearchSpace", "Space", "repeat"]

Architecture: TypeAlias = Mapping[str, Scalar]

# Below this many architectures the whole space is put in order once, which makes uniform draws exact.
ENUMERABLE = 200_000
# This many invalid or repeated draws in a row mean that a space without a known size is used up.
PATIENCE = 1_000
# Architectures that a function is asked about together.
TOGETHER = 1_000
Item = TypeVar("Item")


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


def whole_of(space: SearchSpace) -> SearchSpace:
    """Return the space that a part is of, as limits and truth tables leave parts; any other as it is."""
    while (whole := getattr(space, "whole", None)) is not None:
        space = whole
    return space


def default_key(architecture: Architecture) -> str:
    """Return "name=value,…" in the order of choice."""
    return ",".join(f"{name}={value}" for name, value in architecture.items())


def _no_build(*_: object) -> Any:
    raise SpaceError("the space has no function that builds a network; give one as the third argument of Space")


@dataclass(frozen=True)
class _OfOptions:
    """A user's function of an architecture, for architectures as they are stored."""

    own: Callable[..., Any]
    choices: Choices

    def __call__(self, architecture: Architecture) -> Any:
        return self.own(given(self.choices, architecture))


@dataclass(frozen=True)
class _Build:
    """A user's `build`: given the options, alike whenever PyTorch's generator is, and its network made ready."""

    own: Callable[..., Any]
    choices: Choices
    plain: bool

    def __call__(self, architecture: Architecture, shape: DataShape) -> Any:
        # A dict of its own, from which it may take what it needs.
        options = dict(architecture) if self.plain else given(self.choices, architecture)
        with drawn_alike():
            return ready(self.own(options, shape), shape)


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

    Raises SpaceError where one name stands for two choices that can both be made. Names that branches share stay
    apart in what is stored; the functions above are given an architecture under the user's names, with the options
    themselves. The network is made ready, see `nas_proxy.spaces.networks`.
    """

    name: str
    choices: Choices
    build: Callable[[Architecture, DataShape], nn.Module]
    valid: Callable[[Architecture], bool] | None = None
    name_of: Callable[[Architecture], str] | None = None
    function_of: Callable[[Architecture], str] | None = None
    _plain: bool = field(default=True, init=False, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise SpaceError(f"a space is called {self.name!r}; its name must be printable text, such as 'mine'")
        if not isinstance(self.choices, Choices):
            raise SpaceError(
                f"the choices of the space {self.name!r} are a {type(self.choices).__name__}; "
                "make them with Choice and Branch, and join them with &"
            )
        names(self.choices)
        choices = told_apart(self.choices)
        names(choices)
        plain = all_plain(choices)
        found: dict[str, object] = {"choices": choices, "_plain": plain}
        for name in ("build", "valid", "name_of", "function_of"):
            own: Callable[..., Any] | None = self.own(name)
            if own is None and name != "build":
                continue
            if own is None:
                own = _no_build  # a space that is counted and sampled alone
            if not callable(own):
                raise SpaceError(f"{name} of the space {self.name!r} is a {type(own).__name__}; it must be a function")
            if name == "build":
                found[name] = _Build(own, choices, plain)
            else:
                found[name] = own if plain else _OfOptions(own, choices)
        for name, value in found.items():
            object.__setattr__(self, name, value)

    def own(self, name: str) -> Callable[..., Any] | None:
        """Return the user's own function, "build", "valid", "name_of" or "function_of"."""
        function = getattr(self, name)
        return function.own if isinstance(function, _OfOptions | _Build) else function

    @property
    def size(self) -> int | None:
        """The number of distinct valid architectures; None for a large space with `valid` or `name_of`."""
        if self.valid is None and self.name_of is None:
            return self.choices.size
        return len(_representatives(self)) if self.choices.size <= ENUMERABLE else None

    def key(self, architecture: Architecture) -> str:
        """Return the canonical name."""
        return self.keys([architecture])[0]

    def keys(self, architectures: Sequence[Architecture]) -> Sequence[str]:
        """Return the canonical names of several."""
        if self.name_of is not None:
            return _each(self.name_of, architectures)
        return [default_key(a if self._plain else stored(self.choices, a)) for a in architectures]

    def is_valid(self, architecture: Architecture) -> bool:
        """Whether `valid` accepts the architecture."""
        return self.are_valid([architecture])[0]

    def are_valid(self, architectures: Sequence[Architecture]) -> Sequence[bool]:
        """Whether `valid` accepts each of several."""
        return [True] * len(architectures) if self.valid is None else list(map(bool, _each(self.valid, architectures)))

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


def _each(function: Callable[[Architecture], Any], architectures: Sequence[Architecture]) -> Sequence[Any]:
    """Return what a function says of each; one that is elsewhere is asked for all at once."""
    together: Callable[..., Sequence[Any]] | None = getattr(function, "each", None)
    return [function(a) for a in architectures] if together is None else together(architectures)


def chunks(items: Iterable[Item], most: int) -> Iterator[list[Item]]:
    """Yield lists of up to `most` items."""
    iterator = iter(items)
    while some := list(itertools.islice(iterator, most)):
        yield some


def _representatives(space: Space) -> tuple[int, ...] | range:
    """Return the first outcome of each distinct valid architecture, found once a space."""
    if space.valid is None and space.name_of is None:
        return range(space.choices.size)
    if space not in _found:
        first: dict[str, int] = {}
        for some in chunks(enumerate(space.choices.outcomes()), TOGETHER):
            valid = list(itertools.compress(some, space.are_valid([architecture for _, architecture in some])))
            for (index, _), key in zip(valid, space.keys([architecture for _, architecture in valid]), strict=True):
                first.setdefault(key, index)
        _found[space] = tuple(first.values())
    return _found[space]


_found: WeakKeyDictionary[Space, tuple[int, ...]] = WeakKeyDictionary()


def distinct(
    outcomes: Iterator[Architecture],
    valid: Callable[[Architecture], bool],
    key: Callable[[Architecture], str],
) -> Iterator[Architecture]:
    """Yield the valid outcomes whose keys are new, until nothing new has come for a long time."""
    seen: set[str] = set()
    fruitless = 0
    for architecture in outcomes:
        name = key(architecture) if valid(architecture) else None  # a name may be of valid ones alone
        if name is None or name in seen:
            fruitless += 1
            if fruitless >= PATIENCE:
                return
            continue
        fruitless = 0
        seen.add(name)
        yield architecture
