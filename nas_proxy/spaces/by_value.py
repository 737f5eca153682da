"""A space that is given itself, from a notebook's cell or a script, as something that worker processes can be sent.

In: a `Space`, or a function of a trial. Out: its name, the digits of its code, and itself as bytes (cloudpickle, as
joblib and Ray send functions). Guarantees: the bytes go to processes of the run alone and are never written to a file,
so what a folder holds runs no code; a run's settings name the space "given:NAME", and whoever goes on with the run
gives the space again, which the digits tell from another one.
"""

import contextlib
import importlib.util
import os
import pickle
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nas_proxy.errors import SpaceError
from nas_proxy.spaces.choices import Branch, Choices, branches
from nas_proxy.spaces.fingerprint import Walk, fingerprint
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.space import Space

GIVEN = "given:"
# What is sent with every job.
MOST_BYTES = 16_000_000
FUNCTIONS = ("build", "valid", "name_of", "function_of")


@dataclass(frozen=True)
class SpaceByValue:
    """A space as it is sent.

    name: "given:NAME", as in the settings. digest: of its code. code: the space, or the function, itself, pickled.
    places: where modules are imported from in the process that gives it.
    """

    name: str
    digest: str
    code: bytes
    places: tuple[str, ...]

    def unpacked(self) -> Any:
        """Return the space, or the function. Raises SpaceError where something that it needs is not here."""
        sys.path += [place for place in self.places if place not in sys.path]
        try:
            return pickle.loads(self.code)
        except Exception as error:  # noqa: BLE001 (imports of the user's are executed here)
            raise SpaceError(
                f"the space {self.name.removeprefix(GIVEN)!r} arrives in a worker process without what it needs "
                f"({type(error).__name__}: {error}); {_INSTEAD}"
            ) from None


_INSTEAD = "write it into a Python file, with all that it needs, and give the path of the file as the space"


def by_value(space: object) -> SpaceByValue:
    """Return a `Space`, or a function of a trial, as it is sent. Raises SpaceError where it cannot be."""
    import cloudpickle

    own = space.function if isinstance(space, FunctionSpace) else space
    called = str(getattr(own, "name", None) or getattr(own, "__name__", "space"))
    name = GIVEN + (re.sub(r"[^\w-]", "_", called).strip("_") or "space")
    try:
        with _sent_whole(own):
            code = cloudpickle.dumps(own)
    except Exception as error:  # noqa: BLE001 (objects of the user's say themselves how they are pickled)
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        raise SpaceError(f"the space {called!r} cannot be sent to worker processes ({reason}); {_INSTEAD}") from None
    if len(code) > MOST_BYTES:
        raise SpaceError(
            f"the space {called!r} holds {len(code) / 1e6:.0f} MB, which every worker would be sent with every "
            f"training ({MOST_BYTES / 1e6:.0f} MB at most); load what is large inside the function that builds"
        )
    places = tuple(os.path.abspath(place or ".") for place in sys.path)  # noqa: PTH100 (of zip files too)
    return SpaceByValue(name, digest_of(own), code, places)


@contextlib.contextmanager
def _sent_whole(space: object) -> Iterator[None]:
    """In the block, modules of the user's that no other process can import are sent as what they hold."""
    import cloudpickle

    walk = Walk()
    walk.add(space if not isinstance(space, Space) else [*_functions(space), _options(space.choices)])
    found = [sys.modules[name] for name in walk.modules if name != "__main__" and name in sys.modules]
    whole = [module for module in found if not _can_be_imported(module.__name__)]
    known = cloudpickle.list_registry_pickle_by_value()
    new = [module for module in whole if module.__name__ not in known]
    for module in new:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in new:
            cloudpickle.unregister_pickle_by_value(module)


def _can_be_imported(name: str) -> bool:
    """Whether a process that starts with this one's `sys.path` finds the module."""
    from importlib.machinery import PathFinder

    try:
        parent = importlib.util.find_spec(name.rpartition(".")[0]) if "." in name else None
        return PathFinder.find_spec(name, None if parent is None else parent.submodule_search_locations) is not None
    except (ImportError, ValueError, AttributeError):
        return False


def digest_of(space: object) -> str:
    """Return 16 hexadecimal digits of a space's name, choices, options and functions, or of a function of a trial."""
    if not isinstance(space, Space):
        return fingerprint(space)
    return fingerprint(space.name, _told(space.choices), _options(space.choices), *_functions(space))


def _functions(space: Space) -> list[object]:
    return [space.own(name) for name in FUNCTIONS]


def _told(choices: Choices) -> Any:
    """Return choices as lists of their names and labels."""
    if isinstance(choices, Branch):
        return [choices.name, choices.called, [[label, _told(below)] for label, below in choices.branches.items()]]
    return [_told(part) for part in getattr(choices, "parts", ())]


def _options(choices: Choices) -> list[object]:
    return [option for branch in branches(choices) for option in branch.options]
