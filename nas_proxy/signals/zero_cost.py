"""Scores of untrained networks: a freshly initialised network and a few images in, a number out, higher for better.

What goes in is spoilt: a score may change the network's weights, so each gets a network of its own from `score`,
with the same initial weights for the same seed. Every number that comes out is finite. A network for which a score
is not defined, or that raises, has a reason in its place and never ends a run.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from nas_proxy.data.images import ImageSet
from nas_proxy.errors import RAISED
from nas_proxy.seeds import derive, seeded, torch_generator
from nas_proxy.untrusted import in_a_line

IMAGES = 64
"""Training images that a score sees, as in Abdelfattah et al., ICLR 2021."""

JITTER = 1e-5  # the k of the published correlation score: it keeps the logarithm of a zero eigenvalue finite
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.LocalResponseNorm)
RECTIFIERS = frozenset(
    {"relu", "relu_", "relu6", "hardtanh", "hardtanh_", "leaky_relu", "leaky_relu_", "_prelu_kernel"}
)

T = TypeVar("T")


class NoScoreError(Exception):
    """The score is not defined for this network; the message is the reason."""


@dataclass(frozen=True)
class Score:
    """A finite score, or NaN and the reason why there is none, and the seconds it took, building included."""

    value: float
    seconds: float
    reason: str | None = None


def attempted(compute: Callable[[], float]) -> Score:
    """Return a number as a score, or why there is none: whatever `compute` raises, or that it is not finite."""
    start = time.perf_counter()
    value, reason = math.nan, None
    try:
        value = compute()
    except NoScoreError as error:
        reason = str(error)
    except RAISED as error:
        reason = in_a_line(error)
    if reason is None and not math.isfinite(value):
        value, reason = math.nan, "it leaves the range of float64"
    return Score(value, time.perf_counter() - start, reason)


def score(name: str, build: Callable[[], nn.Module], images: Tensor, seed: int) -> Score:
    """Build a network and score it by one of `SCORES` on images (n, c, h, w), on the device where those are.

    The initial weights come from `seed`; PyTorch's global generator is left as it was.
    """
    return attempted(lambda: drawn(SCORES[name], build, images, seed))


def drawn(use: Callable[[nn.Module, Tensor], T], build: Callable[[], nn.Module], images: Tensor, seed: int) -> T:
    """Build a network on the device of `images` and use it with them; all that is random comes from `seed`."""
    with seeded(derive(seed, "network"), images.device):
        return use(build().to(images.device), images)


def some_images(data: ImageSet, seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Return `IMAGES` images drawn by the seed, all where there are fewer, as networks see them: float32."""
    drawn = torch.randperm(len(data), generator=torch_generator(seed, "signals", "images"))[:IMAGES]
    return data.select(drawn).to(device).decode()


def synflow(network: nn.Module, images: Tensor) -> float:
    """Return log(1 + the synaptic flow): the sum over all weights w of |w| ∂R/∂|w|, where R sums all paths' products.

    Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow", NeurIPS 2020;
    summed over the network by Abdelfattah et al., "Zero-Cost Proxies for Lightweight NAS", ICLR 2021. R is the sum of
    the outputs for one image of ones, with absolute weights and without biases and norms, in float64. The logarithm
    changes no ranking and keeps the number readable: flows differ by tens of orders of magnitude. `images` gives
    only the shape. Activations stay; those that are no rectifiers bend the flow.
    """
    network = network.eval().double()
    for module in network.modules():
        if isinstance(module, NORMS):
            module.register_forward_hook(_skipped)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.zero_() if name.endswith("bias") else parameter.abs_()
    weights = [p for name, p in network.named_parameters() if p.requires_grad and not name.endswith("bias")]
    if not weights:
        raise NoScoreError("it has no weights")
    flow = network(torch.ones_like(images[:1], dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, weights, allow_unused=True)
    pairs = zip(weights, gradients, strict=True)
    return math.log1p(sum(float((w.detach() * g).sum()) for w, g in pairs if g is not None))


def jacob_cov(network: nn.Module, images: Tensor) -> float:
    """Return how little the gradients of the outputs by the images correlate between images.

    Mellor et al., "Neural Architecture Search without Training", 2020 (arXiv:2006.04647v1): with the eigenvalues v of
    the correlation matrix (n, n) of the images' gradients, minus the sum of log(v + k) + 1 / (v + k), k = 1e-5. As
    published, batch norm takes the statistics of the images. Raises NoScoreError where a gradient is constant.
    """
    inputs = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(as_in_training(network)(inputs).sum(), inputs)
    rows = gradient.flatten(1).double().cpu()
    rows = rows - rows.mean(1, keepdim=True)
    lengths = rows.norm(dim=1, keepdim=True)
    if not bool(lengths.isfinite().all()):
        raise NoScoreError("a gradient is not finite")
    if float(lengths.min()) == 0:
        raise NoScoreError("its outputs do not depend on the images")
    rows = rows / lengths
    v = torch.linalg.eigvalsh(rows @ rows.T).clamp_min(0) + JITTER
    return -float((v.log() + 1 / v).sum())


def naswot(network: nn.Module, images: Tensor) -> float:
    """Return the log-determinant of the kernel (n, n) that counts the rectifiers on which two images agree.

    Mellor et al., "Neural Architecture Search without Training", ICML 2021: an image's code has a bit for every
    rectified unit, set where its input is positive; the kernel is the number of units less the Hamming distance. As
    published, batch norm takes the statistics of the images. ReLU, ReLU6, leaky and parametric ReLU are rectifiers,
    as modules or functions. Raises NoScoreError where there are none, and where images share a code.
    """
    codes = _Codes(images)
    with torch.no_grad(), codes:
        as_in_training(network)(images)
    if codes.units == 0:
        raise NoScoreError("it has no rectifiers (ReLU)")
    eigenvalues = torch.linalg.eigvalsh(codes.kernel.cpu())
    # Below this, a zero eigenvalue cannot be told from the rounding of the others.
    if float(eigenvalues[0]) <= len(images) * torch.finfo(torch.float64).eps * float(eigenvalues[-1]):
        raise NoScoreError("its rectifiers do not tell the images apart")
    return float(eigenvalues.log().sum())


NEED_IMAGES = frozenset({"jacob_cov", "naswot"})
SCORES: dict[str, Callable[[nn.Module, Tensor], float]] = {
    "synflow": synflow,
    "jacob_cov": jacob_cov,
    "naswot": naswot,
}


def _skipped(module: nn.Module, inputs: tuple[Any, ...], output: object) -> Any:
    """Return, as a forward hook, what went in: the module is no part of the network."""
    del module, output
    return inputs[0]


def as_in_training(network: nn.Module) -> nn.Module:
    """Return the network with batch statistics, and without dropout, which would score its own luck."""
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    return network


class _Codes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up, while a network works on n images, on how many rectified units each two images agree."""

    def __init__(self, images: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.n, self.units = len(images), 0
        self.kernel = torch.zeros(self.n, self.n, dtype=torch.float64, device=images.device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        # Before the call, which may work in place.
        if _rectifies(func.overloadpacket.__name__, args) and args[0].shape[:1] == (self.n,):
            code = (args[0].flatten(1) > 0).float()
            self.units += code.shape[1]
            # Counts below 2**24 are exact in float32.
            self.kernel += (code @ code.T + (1 - code) @ (1 - code).T).double()
        return func(*args, **(kwargs or {}))


def _rectifies(operation: str, args: tuple[Any, ...]) -> bool:
    """Whether an operation bends at zero; ReLU6 is a `hardtanh` from 0 to 6, and most others do not."""
    return operation in RECTIFIERS and (not operation.startswith("hardtanh") or args[1:2] == (0.0,))
