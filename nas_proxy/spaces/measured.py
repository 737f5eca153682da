"""What is measured of a network before it is trained, as numbers; no module of PyTorch's is needed to read them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """Trainable parameters, and FLOPs of one image's forward pass.

    flops counts 2 × the multiply-adds of convolutions and matrix products, as `torch.utils.flop_counter` does;
    norms, activations and pooling are not counted.
    """

    params: int
    flops: int


# Of an architecture that cannot be measured.
UNMEASURED = Size(0, 0)


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: the median `ms` of `repeats` passes, and their quartiles."""

    ms: float
    low: float
    high: float
    repeats: int
