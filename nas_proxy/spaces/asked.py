"""A user's `valid`, `name_of` and `function_of` in a process kept apart: they are asked from a run's begin to its end.

In: a space of a user's. Out: the same space, whose functions of an architecture answer from there. Guarantees: whatever
they do to their process ends in a SpaceError with a sentence.
"""

import contextlib
import copy
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from nas_proxy import time_limit
from nas_proxy.errors import SpaceError
from nas_proxy.spaces.apart import Kept, Link, last_call, reason_of
from nas_proxy.spaces.space import Architecture, SearchSpace, Space, default_key

FUNCTIONS = {"valid": bool, "name_of": str, "function_of": str}
# Seconds after which an answer is given for those that are done, and answers that are kept.
PAUSE, KEPT = 1.0, 20_000


def asked_apart(space: SearchSpace) -> SearchSpace:
    """Return the space with its functions apart; one that has none, or is itself a function, as it is."""
    if not isinstance(space, Space) or all(getattr(space, name) is None for name in FUNCTIONS):
        return space
    found = copy.copy(space)
    for name, kind in FUNCTIONS.items():
        if (function := getattr(space, name)) is not None:
            object.__setattr__(found, name, Asked(space.name, name, kind, function))
    return found


class Asked:
    """`function`, called `name` in the space `space`: an architecture as it is stored -> an object of `kind`."""

    def __init__(self, space: str, name: str, kind: type, function: Callable[[Architecture], Any]) -> None:
        self._space, self._name, self._kind, self._function = space, name, kind, function
        self._known: dict[tuple[Any, ...], Any] = {}
        self._process = Kept()
        self._one_at_a_time = threading.Lock()

    def __call__(self, architecture: Architecture) -> Any:
        """Return the answer for one. Raises SpaceError where the function gives none."""
        place = (*architecture.items(),)
        if place not in self._known:
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[place] = self.each([architecture])[0]
        return self._known[place]

    def each(self, architectures: Sequence[Architecture]) -> Sequence[Any]:
        """Return the answers for several. Raises SpaceError where the function gives none."""
        if not self._process.ours:  # a copy of the process that asks, itself apart
            return [self._function(architecture) for architecture in architectures]
        found: list[Any] = []
        with self._one_at_a_time:
            while len(found) < len(architectures):
                found += self._asked([dict(architecture) for architecture in architectures[len(found) :]])
        return found

    def _asked(self, architectures: Sequence[dict[str, Any]]) -> list[Any]:
        """Return the answers for the first, as many as are given in some time."""
        if (child := self._process.child(self._serve)) is None:
            answers = _answers(self._function, self._kind, architectures)
        else:
            child.say(architectures)
            answers = child.hear(time_limit.SECONDS)
        found: list[Any] = answers.get("found", [])
        if (complaint := answers.get("complaint")) is None:
            return found
        self._process.end()
        rest = architectures[len(found) :]
        by_itself = isinstance(complaint, str)  # and not what became of its process, for whichever of the rest
        asked = f" for {default_key(rest[0])!r}" if by_itself or len(rest) == 1 else ""
        raise SpaceError(
            f"`{self._name}` of the space {self._space!r} {complaint if by_itself else complaint['text']}{asked}"
        )

    def _serve(self, link: Link) -> None:
        with contextlib.suppress(EOFError):
            while True:
                architectures = link.hear()
                last_call(time_limit.SECONDS)
                answers = _answers(self._function, self._kind, architectures)
                last_call(0)
                link.say(answers)


def _answers(function: Callable[[Architecture], Any], kind: type, architectures: Iterable[Architecture]) -> Any:
    """Return what the function says of as many as it can in some time, and what it raises then."""
    found: list[Any] = []
    until = time.monotonic() + PAUSE
    for architecture in architectures:
        try:
            answer = function(architecture)
        except BaseException as error:  # noqa: BLE001 (the user's code may raise what it likes)
            return {"found": found, "complaint": f"raises {reason_of(error)}"}
        if kind is str and not isinstance(answer, str):
            return {"found": found, "complaint": f"returns {answer!r:.80}, which is not text,"}
        found.append(kind(answer))
        if time.monotonic() > until:
            break
    return {"found": found}
