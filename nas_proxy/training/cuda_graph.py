"""A training's steps on a GPU as one CUDA graph: recorded once, then replayed with a single launch each.

A step of a small network is hundreds of kernels of a few microseconds, and launching them is what takes the time. In:
a step, a function of tensors. Out: the same step, which copies its arguments to fixed places and replays the graph.
Source: "whole-network capture" in PyTorch's notes on CUDA graphs.

What Python does in a step, it does once: a network that chooses by Python's own random numbers chooses once. A network
that waits for the device in its forward pass cannot be recorded, and raises.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

# Steps before the recording, in which libraries choose their algorithms and allocate what they keep.
WARM_UP = 3

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


class CudaGraphStep:
    """`step`, recorded at its first call. Arguments have the shapes and the device of that call for ever.

    step: images, labels and learning rate to the loss.
    state: gives the tensors that a step changes in place. What warming up did to them is undone: tensors that were
        there before have their values back, new ones (momentum) are zero. So are random numbers.

    On the CPU, which has no graphs, the step is called where it would be replayed.
    """

    def __init__(self, step: Step, state: Callable[[], Iterable[Tensor]]) -> None:
        self._step = step
        self._state = state
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
        before = {id(tensor): tensor.detach().clone() for tensor in self._state()}
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _aside(device):
            for _ in range(WARM_UP):
                self._step(*self._held)
        with torch.no_grad():
            for tensor in self._state():
                if id(tensor) in before:
                    tensor.copy_(before[id(tensor)])
                else:
                    tensor.zero_()

    def _recorded(self) -> tuple[Callable[[], None], Tensor]:
        if self._held[0].device.type != "cuda":
            loss = torch.zeros_like(self._held[2])

            def replay() -> None:
                loss.copy_(self._step(*self._held))

            return replay, loss
        graph = torch.cuda.CUDAGraph()
        # Only what this thread does to the device would spoil the recording.
        with torch.cuda.device(self._held[0].device), torch.cuda.graph(graph, capture_error_mode="thread_local"):
            loss = self._step(*self._held)
        return graph.replay, loss


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
