"""What a network costs before it is trained: parameters and floating point operations.

`measure` runs the network in this process; `Sizes`, for what a user's code may do to it, in one apart.
"""

import contextlib
import functools
import itertools
from collections.abc import Mapping
from dataclasses import astuple
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_proxy.data.shape import DataShape
from nas_proxy.errors import RAISED
from nas_proxy.libraries import Libraries
from nas_proxy.process_state import restored
from nas_proxy.spaces.apart import GRACE, Child, Complaint, Kept, Link, answer, apart, last_call, serving
from nas_proxy.spaces.measured import Size
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.time_limit import SECONDS, deadline

# Architectures that a process measures before it makes room for another: what their code leaves there adds up.
EACH = 200


def measure(space: SearchSpace, architecture: Architecture, shape: DataShape, seconds: float = SECONDS) -> Size:
    """Build the network on the meta device, where nothing is computed, or on the CPU where that fails.

    Raises what the network raises, and TimeoutError when it takes longer than `seconds`, see `nas_proxy.time_limit`.
    """
    with deadline(seconds):
        try:
            with torch.device("meta"):
                return _measured(space.build(architecture, shape), shape, torch.device("meta"))
        except TimeoutError:
            raise
        except RAISED:  # whatever comes of tensors without values; what is the network's own comes again
            return _measured(space.build(architecture, shape), shape, torch.device("cpu"))


def measured_apart(
    space: SearchSpace, architecture: Architecture, shape: DataShape, seconds: float = SECONDS
) -> Size | Complaint:
    """Return what `measure` does in a process of its own, or what went wrong there."""
    _warm_up()
    found = apart(lambda: [*astuple(measure(space, architecture, shape, seconds))], seconds)
    return found if isinstance(found, Complaint) else Size(*found)


def _told(found: Size | Complaint) -> dict[str, Any]:
    return {"complaint": vars(found)} if isinstance(found, Complaint) else {"result": [*astuple(found)]}


def _size_in(told: Mapping[str, Any]) -> Size | Complaint:
    return Complaint(**told["complaint"]) if "complaint" in told else Size(*told["result"])


class Sizes:
    """The sizes of the architectures of `space`, each measured once, apart, for at most `seconds`.

    They are measured one after another in a copy of a process that is itself kept apart from the first on: copying this
    one would take the longer the more it has come to hold, as a command does with thousands of trainings. The copy puts
    back what an architecture changes there, and makes room for another where it cannot, or after `EACH` of them.
    """

    def __init__(self, space: SearchSpace, shape: DataShape, seconds: float = SECONDS) -> None:
        self._space = space
        self._shape = shape
        self._seconds = seconds
        self._known: dict[str, Size | Complaint] = {}
        self._process = Kept()
        self._copy: Child | None = None  # of that process

    def of(self, architecture: Architecture) -> Size | None:
        """Return the size of an architecture, None where its network cannot be built or run."""
        found = self.found(architecture)
        return None if isinstance(found, Complaint) else found

    def found(self, architecture: Architecture) -> Size | Complaint:
        """Return the size of an architecture, or why it has none."""
        key = self._space.key(architecture)
        if key not in self._known:
            self._known[key] = self._measured(architecture)
        return self._known[key]

    def _measured(self, architecture: Architecture) -> Size | Complaint:
        _warm_up()
        if (child := self._process.child(self._serve)) is not None:
            child.say(dict(architecture))
            told = child.hear(self._seconds + GRACE)
            if "found" in told:
                return _size_in(told["found"])
            self._process.end()  # that process itself is gone, which nothing of a user's has seen
        return measured_apart(self._space, architecture, self._shape, self._seconds)

    def _serve(self, link: Link) -> None:
        """Be the process that is kept: have another one measure, which may come to harm."""
        pristine = Libraries()
        with contextlib.suppress(EOFError):
            while True:
                architecture = link.hear()
                self._copy = self._copy or serving(lambda copied: self._measure_each(copied, pristine))
                if self._copy is None:
                    link.say({"found": _told(measured_apart(self._space, architecture, self._shape, self._seconds))})
                    continue
                self._copy.say(architecture)
                found = self._copy.hear(self._seconds)
                if found.pop("last", True):
                    self._copy.end()
                    self._copy = None
                link.say({"found": found})

    def _measure_each(self, link: Link, pristine: Libraries) -> None:
        """Be the copy."""
        with contextlib.suppress(EOFError):
            for number in itertools.count(1):
                architecture = link.hear()
                last_call(self._seconds)
                with restored() as state:
                    found = answer(functools.partial(self._counted, architecture))
                last = number == EACH or bool(state.left_behind() or pristine.changed())
                last_call(0)
                link.say({**found, "last": last})

    def _counted(self, architecture: Architecture) -> list[int]:
        return [*astuple(measure(self._space, architecture, self._shape, self._seconds))]

    def close(self) -> None:
        """End the process that is kept."""
        self._process.end()

    def hanging(self, architecture: Architecture) -> str | None:
        """Return in words that an architecture has no size because it took too long; it would when it is trained."""
        found = self.found(architecture)
        return found.text if isinstance(found, Complaint) and found.late else None


@functools.cache
def _warm_up() -> None:
    """Let PyTorch load what counting takes, of a network of ours: copies of this process would each load it anew."""
    with torch.device("meta"):
        _measured(
            nn.Sequential(nn.Conv2d(1, 1, 1), nn.Flatten(), nn.Linear(1, 1)),
            DataShape(1, 1, 1, 1),
            torch.device("meta"),
        )


def _measured(network: nn.Module, shape: DataShape, device: torch.device) -> Size:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.zeros(1, shape.channels, shape.height, shape.width, device=device))
    params = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Size(params, int(counter.get_total_flops()))
