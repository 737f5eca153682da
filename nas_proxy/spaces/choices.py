"""Choices that compose: from them follow size, keys, sampling and suggestion.

    choices = Choice("depth", (1, 2, 3)) & Choice("norm", ("none", "batch"))
    choices = Choice("depth", (1, 2)) & Branch("block", {"conv": Choice("kernel", (3, 5)), "pool": NOTHING})

An outcome is a plain dict from names to labels, see `nas_proxy.spaces.labels`, that holds only the choices that are
active. What a user's functions see of it, `given`, has the options themselves and the names that the user chose.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nas_proxy.errors import SpaceError
from nas_proxy.spaces.labels import Scalar, label, labels

if TYPE_CHECKING:
    import optuna

# Optuna's databases hold names of parameters of up to so many characters.
LONGEST_NAME = 512
# Options that are equal have equal hashes: these and no user's class are certain to.
PLAIN = (bool, int, float, str, type(None))


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

    def __and__(self, other: Choices) -> Choices:
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
    """One of several options, each of which opens further choices.

    branches: what each option opens; by label once it is made. options: what the labels stand for, in their order.
    called: the user's name of the choice, where `name` had to be another one to be told from its like.
    """

    name: str
    branches: Mapping[Any, Choices]
    options: tuple[Any, ...] = ()
    called: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise SpaceError(f"a choice is called {self.name!r}; its name must be text, such as 'depth'")
        if len(self.name) > LONGEST_NAME or not self.name.isprintable():
            raise SpaceError(
                f"a choice is called {self.name[:40]!r}…; its name must be printable and have at most "
                f"{LONGEST_NAME} characters"
            )
        if not self.branches:
            raise SpaceError(f"the choice {self.name!r} has no options; give it at least one")
        for option, opened in self.branches.items():
            if not isinstance(opened, Choices):
                raise SpaceError(
                    f"the option {option!r} of {self.name!r} opens an object of type {type(opened).__name__}; "
                    "give it choices, or NOTHING"
                )
        if not self.options:
            options = tuple(self.branches)
            object.__setattr__(self, "options", options)
            object.__setattr__(self, "branches", dict(zip(labels(options), self.branches.values(), strict=True)))

    @property
    def plain(self) -> bool:
        """Whether every option is its own label."""
        return all(type(o) is type(known) and o == known for o, known in zip(self.options, self.branches, strict=True))

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


def Choice(name: str, options: Iterable[Any]) -> Branch:  # noqa: N802 (reads as a value)
    """One of `options`, opening nothing further: values, or any objects, such as classes and tuples.

    A set has another order in every process, so its options are put in order.
    """
    if isinstance(options, str | bytes) or not isinstance(options, Iterable):
        raise SpaceError(f"the choice {name!r} has the options {options!r}; give a tuple or list of them")
    given = sorted(options, key=_in_order) if isinstance(options, set | frozenset) else list(options)
    for option in _twice(given):
        raise SpaceError(f"the choice {name!r} lists {option!r} twice; its options must differ")
    return Branch(name, dict.fromkeys(labels(given), NOTHING), tuple(given))


def _twice(options: Iterable[Any]) -> Iterator[Any]:
    """Yield the options that equal one before them; of many numbers and words in no more time than it takes to read."""
    plain, others = set[Any](), list[Any]()
    for option in options:
        is_plain = type(option) in PLAIN
        before = others if is_plain else itertools.chain(plain, others)
        if (is_plain and option in plain) or any(same(option, one) for one in before):
            yield option
        if is_plain:
            plain.add(option)
        else:
            others.append(option)


def same(one: Any, other: Any) -> bool:
    """Whether `==` holds two options for equal; what cannot be compared is another one."""
    if one is other:
        return True
    try:
        return bool(one == other)
    except Exception:  # noqa: BLE001 (an array has no truth, and a user's class may do anything)
        return False


def _in_order(option: object) -> tuple[bool, float, str]:
    number = isinstance(option, int | float)
    return not number, float(option) if number else 0.0, str(label(option))  # type: ignore[arg-type]


def repeat(choices: Choices, times: int, prefix: str) -> Choices:
    """Return `choices` `times` over under the names "<prefix>0.…", "<prefix>1.…", and so on."""
    return All(tuple(_renamed(choices, f"{prefix}{i}.") for i in range(times)))


def _renamed(choices: Choices, prefix: str) -> Choices:
    if isinstance(choices, All):
        return All(tuple(_renamed(part, prefix) for part in choices.parts))
    assert isinstance(choices, Branch)
    opened = {option: _renamed(below, prefix) for option, below in choices.branches.items()}
    return replace(choices, name=prefix + choices.name, branches=opened)


def names(choices: Choices) -> set[str]:
    """Return the names of all choices in `choices`. Raises SpaceError for two of one name that can both be made."""
    found: set[str] = set()
    if isinstance(choices, All):
        for part in choices.parts:
            below = names(part)
            _once(found & below)
            found |= below
    elif isinstance(choices, Branch):
        for part in choices.branches.values():
            found |= names(part)
        _once(found & {choices.name})
        found.add(choices.name)
    return found


def _once(repeated: set[str]) -> None:
    if repeated:
        raise SpaceError(
            f"the name {min(repeated)!r} is used for two choices that can both be made; give each a name of its own"
        )


def told_apart(choices: Choices) -> Choices:
    """Return `choices` with one set of options for each name, as Optuna's studies want it.

    Choices of one name in several branches keep it where their options are the same; else the branch is put before it.
    """
    known: dict[str, set[tuple[tuple[type, Scalar], ...]]] = {}
    for branch in branches(choices):
        known.setdefault(branch.name, set()).add(tuple((type(option), option) for option in branch.branches))
    shared = {name for name, options in known.items() if len(options) > 1}
    return _told_apart(choices, shared, set(known), "") if shared else choices


def _told_apart(choices: Choices, shared: set[str], taken: set[str], path: str) -> Choices:
    if isinstance(choices, All):
        return All(tuple(_told_apart(part, shared, taken, path) for part in choices.parts))
    assert isinstance(choices, Branch)
    opened = {
        option: _told_apart(below, shared, taken, f"{path}{choices.name}.{option}.")
        for option, below in choices.branches.items()
    }
    if choices.name not in shared:
        return replace(choices, branches=opened)
    name = path + choices.name
    while name in taken:
        name += "'"
    taken.add(name)
    return replace(choices, name=name, branches=opened, called=choices.called or choices.name)


def branches(choices: Choices) -> Iterator[Branch]:
    """Yield every choice in `choices`, also those that other options open."""
    below = choices.parts if isinstance(choices, All) else ()
    if isinstance(choices, Branch):
        yield choices
        below = tuple(choices.branches.values())
    for part in below:
        yield from branches(part)


def all_plain(choices: Choices) -> bool:
    """Whether an outcome is what the user's functions are to see."""
    return all(branch.plain and not branch.called for branch in branches(choices))


def chosen(choices: Choices, architecture: Mapping[str, Any]) -> Iterator[tuple[Branch, Scalar]]:
    """Yield each active choice and its label, for an architecture in either form. Raises SpaceError if it lacks one."""
    if isinstance(choices, All):
        for part in choices.parts:
            yield from chosen(part, architecture)
    elif isinstance(choices, Branch):
        option = _option(choices, architecture)
        yield choices, option
        yield from chosen(choices.branches[option], architecture)


def _option(branch: Branch, architecture: Mapping[str, Any]) -> Scalar:
    for name in (branch.name, branch.called):
        if name in architecture:
            value = architecture[name]
            options: list[Scalar] = list(branch.branches)
            alike = [o for o in options if type(o) is type(value) and o == value]
            alike += [o for o, own in zip(options, branch.options, strict=True) if same(own, value)]
            if alike:
                return alike[0]
            raise SpaceError(f"{name!r} is {value!r}, which is none of its options: {', '.join(map(str, options))}")
    raise SpaceError(f"the architecture lacks {branch.name!r}, one of: {', '.join(map(str, branch.branches))}")


def given(choices: Choices, architecture: Mapping[str, Any]) -> dict[str, Any]:
    """Return an architecture as the user's functions see it: the user's names and the options themselves."""
    return {
        branch.called or branch.name: dict(zip(branch.branches, branch.options, strict=True))[option]
        for branch, option in chosen(choices, architecture)
    }


def stored(choices: Choices, architecture: Mapping[str, Any]) -> dict[str, Scalar]:
    """Return an architecture as it is stored: names that are told apart, and labels."""
    return {branch.name: option for branch, option in chosen(choices, architecture)}
