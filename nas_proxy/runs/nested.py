"""Nested mappings of settings, and the TOML files that hold them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_proxy import untrusted
from nas_proxy.data.catalogue import FORMS, PUBLISHED
from nas_proxy.errors import ConfigError
from nas_proxy.signals import own

# The truth tables of NATS-Bench, see `nas_proxy.ranking.nats_bench`, whose import takes a while.
NATS = "nats:"


def read_toml(file: Path) -> dict[str, Any]:
    """Return what a TOML file holds. Raises ConfigError where it cannot be read."""
    try:
        return untrusted.read_toml(file)
    except FileNotFoundError:
        raise ConfigError([f"the configuration {file} does not exist; give the run.toml of a run"]) from None
    except IsADirectoryError:
        raise ConfigError([f"the configuration {file} is a folder; give the run.toml in it"]) from None
    except OSError as error:
        raise ConfigError([f"the configuration {file} cannot be read ({error.strerror})"]) from None
    except ValueError as error:
        raise ConfigError([f"{file} is not a TOML file: {error}; mend it there"]) from None


def without_none(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values without None, and without the mappings that it leaves empty."""
    inner = {name: without_none(value) if isinstance(value, Mapping) else value for name, value in values.items()}
    return {name: value for name, value in inner.items() if value is not None and value != {}}


def listed(value: Any) -> Any:
    """Return nested values with lists in place of tuples, as TOML has them."""
    if isinstance(value, dict):
        return {name: listed(inner) for name, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested values of both; those `above` win."""
    both = dict(below)
    for name, value in above.items():
        inner = both.get(name)
        both[name] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return both


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return {"condense.steps": 20, …} of {"condense": {"steps": 20}, …}."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found


def anchored(values: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return settings with the user's paths in them absolute; relative ones start at `folder`."""
    found = dict(values)
    if isinstance(dataset := values.get("dataset"), str):
        found["dataset"] = _absolute_dataset(dataset, folder)
    if isinstance(space := values.get("space"), str):
        found["space"] = _absolute(space, folder)
    if isinstance(table := values.get("truth_table"), str) and table:
        kind = NATS if table.startswith(NATS) else ""
        found["truth_table"] = kind + _absolute_path(table.removeprefix(kind), folder)
    for name in ("signals", "combine"):
        if isinstance(given := values.get(name), list | tuple):
            found[name] = [_absolute_signal(one, folder) for one in given]
    if isinstance(inner := values.get("compare"), Mapping):
        found["compare"] = {
            name: [_absolute_signal(one, folder) for one in value]
            if name in ("signals", "combine") and isinstance(value, list | tuple)
            else value
            for name, value in inner.items()
        }
    recipe = values.get("condense")
    if isinstance(recipe, Mapping) and isinstance(source := recipe.get("source"), str) and source:
        found["condense"] = {**recipe, "source": _absolute_path(source, folder)}
    return found


def _absolute_signal(named: Any, folder: Path) -> Any:
    return own.absolute(named, lambda path: _absolute_path(path, folder)) if isinstance(named, str) else named


def _absolute_dataset(named: str, folder: Path) -> str:
    kind, colon, place = named.partition(":")
    if not named or named == "digits" or named in PUBLISHED:
        return named
    there = Path(_absolute_path(place if colon and kind in FORMS else named, folder))
    if kind == "hf" and not there.exists():  # the name of one in the library's cache
        return named
    if place and kind in FORMS:
        return f"{kind}:{there}"
    return str(there) if Path(str(there).partition(":group=")[0]).exists() else named


def _absolute(named: str, folder: Path) -> str:
    file = re.fullmatch(r"(.+\.py)(:[^:]*=[^:]*)?", named)  # a space's parameters come after a colon
    return _absolute_path(file[1], folder) + (file[2] or "") if file else named


def _absolute_path(path: str, folder: Path) -> str:
    # Not Path.resolve: a link is the name that the user chose, and may come to point elsewhere.
    return os.path.abspath(folder / os.path.expanduser(path))  # noqa: PTH100, PTH111
