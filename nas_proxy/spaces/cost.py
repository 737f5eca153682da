"""What a network costs before it is trained: parameters and floating point operations.

`measure` runs the network in this process; `Sizes`, for what a user's code may do to it, in one apart.
"""

import contextlib
import functools
import os

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_proxy.data.shape import DataShape
from nas_proxy.errors import RAISED
from nas_proxy.spaces.apart import GRACE, Child, Complaint, Link, apart, serving
from nas_proxy.spaces.measured import Size
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.time_limit import SECONDS, deadline


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

    def count() -> tuple[int, int]:
        size = measure(space, architecture, shape, seconds)
        return size.params, size.flops

    found = apart(count, seconds)
    return found if isinstance(found, Complaint) else Size(*found)


class Sizes:
    """The sizes of the architectures of `space`, each measured once, apart, for at most `seconds`.

    Each is measured in a copy of a process that is itself kept apart from the first on: copying this one would take the
    longer the more it has come to hold, as a command does with thousands of trainings.
    """

    def __init__(self, space: SearchSpace, shape: DataShape, seconds: float = SECONDS) -> None:
        self._space = space
        self._shape = shape
        self._seconds = seconds
        self._known: dict[str, Size | Complaint] = {}
        self._child: Child | None = None
        self._owner = os.getpid()

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
        if self._owner == os.getpid():  # and not a copy of the process that has the link
            _warm_up()
            self._child = self._child or serving(self._serve)
        if self._owner == os.getpid() and self._child is not None:
            self._child.say(dict(architecture))
            told = self._child.hear(self._seconds + GRACE)
            if "size" in told:
                return Size(*told["size"])
            if "reason" in told:
                return Complaint(**told["reason"])
            self.close()  # that process itself is gone, which nothing of a user's has seen
        return measured_apart(self._space, architecture, self._shape, self._seconds)

    def _serve(self, link: Link) -> None:
        with contextlib.suppress(EOFError):
            while True:
                found = measured_apart(self._space, link.hear(), self._shape, self._seconds)
                if isinstance(found, Complaint):
                    link.say({"reason": vars(found)})
                else:
                    link.say({"size": [found.params, found.flops]})

    def close(self) -> None:
        """End the process that is kept."""
        if self._child is not None and self._owner == os.getpid():
            self._child.end()
        self._child = None

    def __del__(self) -> None:
        try:  # noqa: SIM105 (the interpreter may be ending, and `contextlib` be gone)
            self.close()
        except Exception:  # noqa: BLE001
            pass

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
