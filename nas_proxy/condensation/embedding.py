"""The paper's embedding networks, made fast: ConvNets of random weights that are never trained.

The ConvNet of dataset condensation without what cannot matter in a network that is never trained: instance norm
removes the convolutions' biases, and its own scale and shift are still 1 and 0. Weights are inputs of one function,
so a fresh network a step needs no second compilation. Images go through it a few at a time, so that the maps of one
layer stay in the processor's cache, and the same number each time, so that shapes are fixed.

Whether that function is compiled depends on the work ahead alone, never on a clock, so a run that is cut off goes on
with the same arithmetic. On a GPU nothing here waits for the device.
"""

import contextlib
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.condensation.matching import Network, loss_and_gradient
from nas_proxy.data.images import DataShape
from nas_proxy.hardware import has_bfloat16
from nas_proxy.transfer import to_device

PRECISIONS = ("float32", "bfloat16")
# As in PyTorch's normalisation layers.
EPSILON = 1e-5
# Multiply-adds of a whole condensation above which a compilation (10 to 60 seconds) saves more than it takes:
# an eager step does some 3e10 a second on two cores, and 1e13 on a GPU.
COMPILE_ABOVE = {"cpu": 1e13, "cuda": 1e15}
# Bytes of the largest map of one part; for the CPU about a core's cache, on a GPU also no more than a share of its
# memory, since a part that is not compiled takes some seven maps in float32.
PART_BYTES = {"cpu": 2 << 20, "cuda": 1 << 30}
SHARE_OF_CARD = 1 / 64

Say = Callable[[str], None]
Embed = Callable[[Tensor, Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Embedding:
    """A family of random networks: `depth` blocks of convolution, instance norm, ReLU and pooling by two.

    precision: "bfloat16" rounds the input, the weights and the output of each convolution to bfloat16, on every
        machine; sums, normalisation and features stay in float32.
    every_block: features are the maps of all blocks, weighted so that each block counts as much as the last; or
        those of the last alone.
    """

    shape: DataShape
    width: int
    depth: int
    precision: str = "float32"
    every_block: bool = False

    def weights(self, generator: torch.Generator) -> list[Tensor]:
        """Return freshly drawn weights (width, channels, 3, 3), by PyTorch's rule for a convolution."""
        drawn = []
        channels = self.shape.channels
        for _ in range(self.depth):
            bound = 1 / math.sqrt(9 * channels)
            weight = torch.empty(self.width, channels, 3, 3).uniform_(-bound, bound, generator=generator)
            drawn.append(weight)
            channels = self.width
        return drawn

    @property
    def features(self) -> int:
        """What the squared distance of two images grows with: the features of the last block, times the blocks."""
        last = self.width * (self.shape.height >> self.depth) * (self.shape.width >> self.depth)
        return last * self.depth if self.every_block else last

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the convolutions for one image."""
        total, channels = 0, self.shape.channels
        for block in range(self.depth):
            total += 9 * channels * self.width * (self.shape.height >> block) * (self.shape.width >> block)
            channels = self.width
        return total


@dataclass(frozen=True)
class Engine:
    """How an embedding is computed on a device: in which type, how many images a part, compiled or not."""

    embedding: Embedding
    device: torch.device
    computed: torch.dtype
    rows: int
    embed: Embed
    compiled: bool

    def place(self, weights: Sequence[Tensor]) -> list[Tensor]:
        """Return weights as `network` wants them: rounded, on the device, channels last."""
        rounded = _rounded(self.embedding.precision)
        return [
            w.to(self.computed).to(memory_format=torch.channels_last)
            for w in to_device([w.to(rounded) for w in weights], self.device)
        ]

    def network(self, weights: Sequence[Tensor]) -> Network:
        """Return the network with these weights, as `place` returns them."""
        return Network(lambda images: self.embed(images, weights), self.rows)

    def draw(self, generator: torch.Generator) -> Network:
        """Return a network with fresh weights."""
        return self.network(self.place(self.embedding.weights(generator)))


def open_engine(
    embedding: Embedding,
    device: torch.device | str,
    *,
    real: int,
    synthetic: int,
    steps: int,
    others: Sequence[tuple[int, int]] = (),
    say: Say = lambda text: None,
) -> Engine:
    """Return the fastest engine for `steps` steps with so many real and synthetic images each.

    others: further numbers of real and synthetic images that come, which are compiled at the start as well.
    Without a working compiler it computes the same uncompiled, to rounding, and tells so through `say`.
    """
    device = torch.device(device)
    rounded = _rounded(embedding.precision)
    computed = rounded if rounded != torch.bfloat16 or has_bfloat16(device) else torch.float32
    largest = embedding.shape.height * embedding.shape.width * embedding.width * rounded.itemsize
    map_bytes = PART_BYTES.get(device.type, PART_BYTES["cpu"])
    if device.type == "cuda":  # by what the card has, not by what is free, so that a resumed run has the same parts
        map_bytes = min(map_bytes, int(SHARE_OF_CARD * torch.cuda.get_device_properties(device).total_memory))
    every_block = embedding.every_block

    def embed(images: Tensor, weights: Sequence[Tensor]) -> Tensor:
        return features(images, weights, rounded, computed, every_block)

    eager = Engine(embedding, device, computed, max(1, map_bytes // largest), embed, compiled=False)
    if not compiles(embedding, device, real=real, synthetic=synthetic, steps=steps):
        return eager
    return _compiled(eager, [(real, synthetic), *others], say)


def compiles(embedding: Embedding, device: torch.device, *, real: int, synthetic: int, steps: int) -> bool:
    """Return whether so much work is worth a compilation, with arguments as of `open_engine`."""
    work = steps * (real + 3 * synthetic) * embedding.multiply_adds
    return work >= COMPILE_ABOVE.get(device.type, math.inf)


def _compiled(eager: Engine, sizes: Sequence[tuple[int, int]], say: Say) -> Engine:
    # PyTorch keeps a few compilations for each code object, so each engine gets a code object of its own.
    own = FunctionType(eager.embed.__code__.replace(), globals(), "embed", None, eager.embed.__closure__)
    compiled = torch.compile(own, dynamic=False, fullgraph=True)
    engine = Engine(eager.embedding, eager.device, eager.computed, eager.rows, compiled, compiled=True)
    shape = eager.embedding.shape
    threads = torch.get_num_threads()
    try:
        # Compiled for one thread; see `matching.spread`.
        torch.set_num_threads(1)
        with warnings.catch_warnings(), _quiet_about_cuda():
            warnings.simplefilter("ignore")
            for real, synthetic in sizes:
                blank = (torch.zeros(n, *shape[:3], device=eager.device) for n in (real, synthetic))
                loss_and_gradient(
                    engine.draw(torch.Generator().manual_seed(0)), next(blank), [real], next(blank), [synthetic]
                )
    except (RuntimeError, OSError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"torch.compile does not work here ({reason}); condensing goes on without it, more slowly")
        return eager
    finally:
        torch.set_num_threads(threads)
    return engine


@contextlib.contextmanager
def _quiet_about_cuda() -> Iterator[None]:
    """A compilation looks for CUDA's compiler, and PyTorch logs that a machine without a GPU has it in vain."""
    logger = logging.getLogger("torch.utils.cpp_extension")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def features(
    images: Tensor,
    weights: Sequence[Tensor],
    rounded: torch.dtype,
    computed: torch.dtype,
    every_block: bool = False,
) -> Tensor:
    """Return the features (n, d) of images (n, c, h, w).

    rounded: the type to which the input and output of convolutions are rounded. computed: the type in which the
    convolutions are computed, at least as wide.
    """
    maps = images
    blocks = []
    for weight in weights:
        maps = F.conv2d(maps.to(rounded).to(computed), weight, padding=1).to(rounded)
        maps = maps.to(torch.promote_types(rounded, torch.float32))
        # Written out, so that a compiler can fuse it with what follows.
        centred = maps - maps.mean((2, 3), keepdim=True)
        variance = centred.square().mean((2, 3), keepdim=True)
        maps = F.avg_pool2d(F.relu(centred * (variance + EPSILON).rsqrt()), 2)
        blocks.append(maps)
    return alike([block.flatten(1) for block in blocks]) if every_block else maps.flatten(1)


def alike(blocks: Sequence[Tensor]) -> Tensor:
    """Return features (n, d_b) of several blocks side by side, each scaled to count as much as the last."""
    last = blocks[-1].shape[1]
    return torch.cat([block * math.sqrt(last / block.shape[1]) for block in blocks], 1)


def _rounded(precision: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[precision]
