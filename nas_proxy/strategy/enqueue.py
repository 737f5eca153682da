"""Known architectures that a search is to train first: from a file, by way of the settings, to architectures.

The file is a JSON list of architectures ({"depth": 3, "norm": "batch"}) or of keys, or a text file with a key a line
("depth=3,norm=batch", as trials.csv has them); blank lines and lines that begin with # are passed over. The settings
keep the entries themselves, as text, so that a run.toml repeats its run after the file has gone.
"""

import functools
import json
import re
import reprlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FixedTrial

from nas_proxy.errors import ConfigError, nearest
from nas_proxy.spaces.space import ENUMERABLE, Architecture, SearchSpace, Space, whole_of

# Shows a value, however long or deep.
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = _SHOWN.maxother = 80
REFUSED = "the search space refuses it"


def read_entries(path: Path) -> tuple[str, ...]:
    """Return the entries of a file, each a key or a JSON object. Raises ConfigError for a file that has none."""
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise ConfigError([f"the file {path} of --enqueue does not exist; give a JSON list or a key a line"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"the file {path} of --enqueue cannot be read ({error}); give UTF-8 text"]) from None
    entries = _from_json(path, text) if text.startswith("[") else _from_lines(text)
    if not entries:
        raise ConfigError([f"the file {path} of --enqueue names no architecture; give a JSON list or a key a line"])
    return tuple(entries)


def _from_lines(text: str) -> list[str]:
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _from_json(path: Path, text: str) -> list[str]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError([f"the file {path} of --enqueue is not JSON ({error}); mend it there"]) from None
    wrong = [entry for entry in found if not isinstance(entry, str | dict)]
    if wrong:
        raise ConfigError(
            [f"the file {path} of --enqueue lists {json.dumps(wrong[0])[:80]}; an entry is an object or a key"]
        )
    return [entry if isinstance(entry, str) else json.dumps(entry, ensure_ascii=False) for entry in found]


def architectures(space: SearchSpace, entries: Sequence[str]) -> list[Architecture]:
    """Return the architectures that the entries name. Raises ConfigError with a sentence for each that names none."""
    by_key = functools.cache(lambda: _by_key(space))
    found: list[Architecture] = []
    mistakes: list[str] = []
    for number, entry in enumerate(entries, 1):
        architecture, mistake = _of_entry(space, entry, by_key)
        if architecture is None:
            mistakes.append(f"--enqueue, entry {number} ({entry[:80]}): {mistake}")
        else:
            found.append(architecture)
    if mistakes:
        raise ConfigError(mistakes)
    return found


def _of_entry(
    space: SearchSpace, entry: str, by_key: Callable[[], Mapping[str, Architecture]]
) -> tuple[Architecture | None, str]:
    """Return an entry's architecture, or None and what is wrong with it."""
    mistake = ""
    if not (_has_names(space) and entry in by_key()):
        architecture, mistake = _read(space, entry)
        if architecture is not None:
            return architecture, ""
    known = by_key().get(entry)  # a name, or a key that cannot be taken apart, as where an option has a comma and an =
    if known is None:
        return None, mistake
    return (known, "") if space.suggest(FixedTrial(dict(known))) is not None else (None, REFUSED)


def _has_names(space: SearchSpace) -> bool:
    """Return whether the keys are names of the space's own."""
    whole = whole_of(space)
    return isinstance(whole, Space) and whole.name_of is not None


def _by_key(space: SearchSpace) -> Mapping[str, Architecture]:
    """Return all architectures of a space that can be counted, and of which this one may be a part, by key."""
    whole = whole_of(space)
    if not isinstance(whole, Space) or whole.choices.size > ENUMERABLE:
        return {}
    every = [*whole.sample(0)]
    return dict(zip(whole.keys(every), every, strict=True))


def _read(space: SearchSpace, entry: str) -> tuple[Architecture | None, str]:
    """Return the architecture whose values an entry gives, or None and what is wrong with it."""
    try:
        given: Mapping[str, Any] = json.loads(entry) if entry.startswith("{") else _parts(entry)
    except (ValueError, RecursionError) as error:
        return None, str(error)
    trial = _ReadingTrial(given, as_text=not entry.startswith("{"))
    try:
        architecture = space.suggest(trial)
    except _MistakeError:
        architecture = None
    if trial.mistake:
        return None, trial.mistake
    if unknown := [name for name in given if name not in trial.params]:
        return None, f"it sets {unknown[0]!r}{nearest(unknown[0], trial.params)}"
    if architecture is None:
        return None, REFUSED
    return architecture, ""


def _parts(key: str) -> dict[str, str]:
    # A comma that no name=value follows is part of an option, as in size=(16, 16).
    parts = [part.partition("=") for part in re.split(r",(?=[^,=]*=)", key)]
    bare = [name for name, equals, _ in parts if not equals]
    if bare:
        raise ValueError(f"{bare[0]!r} is no choice; write name=value, with commas between")
    return {name.strip(): value.strip() for name, _, value in parts}


class _MistakeError(Exception):
    """Ends a suggestion; the trial holds the sentence, since a user's function may swallow what is raised."""


class _ReadingTrial(FixedTrial):
    """A trial that takes every value from an entry; `mistake` says what is missing or not allowed."""

    def __init__(self, given: Mapping[str, Any], *, as_text: bool) -> None:
        super().__init__({})
        self._given = given
        self._as_text = as_text
        self.mistake = ""

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if self.mistake:
            raise _MistakeError
        if name not in self._given:
            return self._wrong(f"it lacks {name!r}, which is {_allowed(distribution)}")
        try:
            self._params[name] = self._value(self._given[name], distribution)
        except (ValueError, TypeError, OverflowError):
            return self._wrong(f"{name} is {_SHOWN.repr(self._given[name])}; it must be {_allowed(distribution)}")
        return super()._suggest(name, distribution)

    def _wrong(self, mistake: str) -> Any:
        self.mistake = mistake
        raise _MistakeError

    def _value(self, given: Any, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            for choice in distribution.choices:
                if str(choice) == given if self._as_text else choice == given and type(choice) is type(given):
                    return choice
            raise ValueError
        if not self._as_text and (isinstance(given, bool) or not isinstance(given, int | float)):
            raise TypeError
        value = int(given) if isinstance(distribution, IntDistribution) else float(given)
        if float(value) != float(given) or not distribution._contains(distribution.to_internal_repr(value)):
            raise ValueError
        return value


def _allowed(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(str, distribution.choices))}"
    return f"between {getattr(distribution, 'low', '?')} and {getattr(distribution, 'high', '?')}"
