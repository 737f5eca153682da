"""How the arithmetic of a training is done: in which precision, which memory format, whose layers, how many launches.

`PLAIN` is PyTorch as it comes, in float32; it is the reference, and what every network is trained in when it does
not take anything else. On a GPU a step is recorded as a CUDA graph (`nas_proxy.training.cuda_graph`). On a device that
is seen to be faster in bfloat16, images of 16×16 pixels and more are trained in it (weights, sums and losses stay in
float32), and everywhere channels last: up to three times as fast on a CPU, the same to rounding. Below that a step is
all overhead and nothing is gained. The choice depends on the recipe, the size of the images and the device alone, so
the same seed gives the same result there: processors are far to either side of where it changes.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from nas_proxy.data.images import DataShape
from nas_proxy.hardware import has_bfloat16
from nas_proxy.training.channels_last import ChannelsLast
from nas_proxy.training.cuda_graph import NotRecordableError, RecordingError
from nas_proxy.untrusted import safe, said

PRECISIONS = ("auto", "float32", "bfloat16")
# Pixels of an image below which a step's time is calls rather than arithmetic.
SMALL_IMAGE = 16 * 16
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class ExecutionMode:
    """How steps are computed.

    precision: of convolutions, products and maps. channels_last: of maps and weights; see
    `nas_proxy.training.channels_last`. recorded: whether steps are recorded and replayed.
    """

    precision: torch.dtype = torch.float32
    channels_last: bool = False
    recorded: bool = False

    def placed(self, network: nn.Module) -> nn.Module:
        """Return the network with its weights in this mode's memory format."""
        return network.to(memory_format=torch.channels_last) if self.channels_last else network

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return the network's output for images (n, c, h, w); floating-point ones in float32."""
        with self._context(images.device):
            if self.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            output: Tensor = network(images)
        return output.float() if isinstance(output, Tensor) and output.dtype == torch.bfloat16 else output

    @contextlib.contextmanager
    def _context(self, device: torch.device) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            if self.precision != torch.float32:
                stack.enter_context(torch.autocast(device.type, dtype=self.precision))
            if self.channels_last:
                stack.enter_context(ChannelsLast(device.type))
            yield


PLAIN = ExecutionMode()


def choose(precision: str, shape: DataShape, device: torch.device) -> ExecutionMode:
    """Return the fastest mode for images of `shape` on a device.

    precision: "auto" for bfloat16 where that is faster and the images are not small; or the type itself.
    """
    small, recorded = shape.height * shape.width < SMALL_IMAGE, device.type == "cuda"
    if precision == "auto":
        precision = "bfloat16" if has_bfloat16(device) and not small else "float32"
    if precision == "bfloat16":
        return ExecutionMode(torch.bfloat16, channels_last=not small, recorded=recorded)
    return ExecutionMode(channels_last=not small, recorded=recorded)


def attempt(work: Callable[[ExecutionMode], _Result], mode: ExecutionMode) -> tuple[_Result, str]:
    """Return what `work` returns in `mode`, and "".

    Where that raises, `work` is done in simpler modes, see `simpler`, and what is lost and why comes with its result. A
    network that is at fault itself raises there again. Lack of memory is raised at once, and so is an error of the GPU,
    after which nothing works there.
    """
    reason, unrecorded = "", False
    for tried in [mode, *simpler(mode)]:
        if unrecorded and tried.recorded:
            continue
        try:
            return work(tried), reason and _lost(mode, tried, reason)
        except (torch.OutOfMemoryError, torch.AcceleratorError, RecordingError, MemoryError):
            raise
        except Exception as error:
            if tried == PLAIN:
                raise
            # What a step does when it must not wait says nothing about its arithmetic.
            unrecorded = unrecorded or isinstance(error, NotRecordableError)
            if not reason:
                reason = (said(error) or safe(type(error).__name__)).splitlines()[0]
    raise AssertionError("the plain mode returns or raises")


def simpler(mode: ExecutionMode) -> list[ExecutionMode]:
    """Return the modes that lack one property of `mode`, the cheapest loss first, and then the one that lacks all."""
    lacking = [
        replace(mode, channels_last=False),
        replace(mode, recorded=False),
        replace(mode, precision=torch.float32),
        PLAIN,
    ]
    return [other for other in dict.fromkeys(lacking) if other != mode]


def without_recording(mode: ExecutionMode, reason: str) -> tuple[ExecutionMode, str]:
    """Return the mode without recording, and what a user should know of it."""
    other = replace(mode, recorded=False)
    return other, _lost(mode, other, reason) if other != mode else ""


def _lost(mode: ExecutionMode, used: ExecutionMode, reason: str) -> str:
    """Return what `used` lacks of `mode`, in words."""
    lost = [
        name
        for name, is_lost in (
            ("channels last", mode.channels_last and not used.channels_last),
            (f"in {str(mode.precision).removeprefix('torch.')}", mode.precision != used.precision),
            ("as a recorded CUDA graph", mode.recorded and not used.recorded),
        )
        if is_lost
    ]
    return f"a network cannot be trained {' or '.join(lost)} here ({reason}); it is trained without, more slowly"
