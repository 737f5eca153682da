"""What a network costs before it is trained: parameters and floating point operations."""

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_proxy.data.images import DataShape
from nas_proxy.deadline import SECONDS, deadline
from nas_proxy.spaces.space import Architecture, SearchSpace


@dataclass(frozen=True)
class Size:
    """Trainable parameters, and FLOPs of one image's forward pass.

    flops counts 2 × the multiply-adds of convolutions and matrix products, as `torch.utils.flop_counter` does;
    norms, activations and pooling are not counted.
    """

    params: int
    flops: int


# Of an architecture that cannot be measured; its training gives the reason.
UNMEASURED = Size(0, 0)


def measure(space: SearchSpace, architecture: Architecture, shape: DataShape, seconds: float = SECONDS) -> Size:
    """Build the network on the meta device, where nothing is computed, or on the CPU where that fails.

    Raises what the network raises, and TimeoutError when it takes longer than `seconds`, see `nas_proxy.deadline`.
    """
    with deadline(seconds):
        try:
            with torch.device("meta"):
                return _measured(space.build(architecture, shape), shape, torch.device("meta"))
        except (NotImplementedError, RuntimeError):
            return _measured(space.build(architecture, shape), shape, torch.device("cpu"))


def _measured(network: nn.Module, shape: DataShape, device: torch.device) -> Size:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        network.eval()(torch.zeros(1, shape.channels, shape.height, shape.width, device=device))
    params = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Size(params, int(counter.get_total_flops()))
