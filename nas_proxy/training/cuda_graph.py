"""A training's steps on a GPU as one CUDA graph: recorded once, then replayed with a single launch each.

A step of a small network is hundreds of kernels of a few microseconds, and launching them is what takes the time. In:
a step, a function of tensors. Out: the same step, which copies its arguments to fixed places and replays the graph.
Source: "whole-network capture" in PyTorch's notes on CUDA graphs.

What Python does in a step, it does once: a network that chooses by Python's own random numbers chooses once. A network
that waits for the device in its forward pass, or replaces a buffer there, which a replay would not do, cannot be
recorded. That is found before the recording, in a step in which PyTorch refuses to wait (`NotRecordableError`), because
a recording that breaks off leaves its memory pool, its stream and the random generator unusable in this process
(`RecordingError`): the work is then for another process.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

# Steps before the recording, in which libraries choose their algorithms and allocate what they keep.
WARM_UP = 3


class NotRecordableError(RuntimeError):
    """The step waits for the device or replaces its tensors, so it cannot be recorded; nothing has been."""


class RecordingError(RuntimeError):
    """The recording broke off; this process must not use the device any more."""


Step = Callable[[Tensor, Tensor, Tensor], Tensor]


class CudaGraphStep:
    """`step`, recorded at its first call. Arguments have the shapes and the device of that call for ever.

    step: images, labels and learning rate to the loss.
    state: gives the network's tensors, some of which a step changes in place. What warming up did to those that were
        there before is undone, and so are random numbers; what the network made in its first pass stays as it is.
    momentum: gives the tensors that the optimiser has made in its steps, which begin as zeros.

    On the CPU, which has no graphs, the step is called where it would be replayed.
    """

    def __init__(
        self, step: Step, state: Callable[[], Iterable[Tensor]], momentum: Callable[[], Iterable[Tensor]] = tuple
    ) -> None:
        self._step = step
        self._state = state
        self._momentum = momentum
        self._held: tuple[Tensor, ...] = ()

    def __call__(self, *given: Tensor) -> Tensor:
        """Take one step and return its loss, a tensor of its own. Nothing waits for the device."""
        if not self._held:
            self._held = tuple(tensor.clone() for tensor in given)
            self._warm_up()
            self._replay, self._loss = self._recorded()
        for place, tensor in zip(self._held, given, strict=True):
            place.copy_(tensor)
        self._replay()
        return self._loss.clone()

    def _warm_up(self) -> None:
        device = self._held[0].device
        before = [(tensor, tensor.detach().clone()) for tensor in self._state()]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _aside(device):
            for _ in range(WARM_UP - 1):
                self._step(*self._held)
            settled = list(self._state())
            with _refusing_to_wait(device):
                self._step(*self._held)
        if {id(tensor) for tensor in settled} - {id(tensor) for tensor in self._state()}:
            raise NotRecordableError("a step puts another tensor in the place of a parameter or buffer")
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)
            for tensor in self._momentum():
                tensor.zero_()

    def _recorded(self) -> tuple[Callable[[], None], Tensor]:
        if self._held[0].device.type != "cuda":
            loss = torch.zeros_like(self._held[2])

            def replay() -> None:
                loss.copy_(self._step(*self._held))

            return replay, loss
        device = self._held[0].device
        graph = torch.cuda.CUDAGraph()
        # A stream of this device: PyTorch's own belongs to the device of the first recording in the process, and what
        # is done on another one is then not recorded. Only what this thread does would spoil the recording.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        try:
            with torch.cuda.device(device), torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                loss = self._step(*self._held)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            raise RecordingError(_first_line(error.__context__ or error)) from error
        return graph.replay, loss


@contextlib.contextmanager
def _refusing_to_wait(device: torch.device) -> Iterator[None]:
    """Raise NotRecordableError where the host waits for a GPU in the block."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    except RuntimeError as error:
        if "synchronizing CUDA operation" not in str(error):
            raise
        raise NotRecordableError(_first_line(error)) from error
    finally:
        torch.cuda.set_sync_debug_mode(before)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextlib.contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """Work on another stream, as what comes before a recording must."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.device(device), torch.cuda.stream(stream):
        yield
    torch.cuda.current_stream(device).wait_stream(stream)
