"""One step of distribution matching, made fast: embedding networks, Siamese augmentation, loss and gradient.

In: images in blocks, one block a class; out: Σ_c ‖mean feature of real class c − mean feature of synthetic class c‖²
and its gradient with respect to the synthetic images.

The embedding is the ConvNet of dataset condensation without what cannot matter in a network that is never trained:
instance norm removes the convolutions' biases, and its own scale and shift are still 1 and 0. Weights are inputs of
one function, so a fresh network a step needs no second compilation. Images go through it a few at a time, so that
the maps of one layer stay in the processor's cache, and the same number each time, so that shapes are fixed. Each
such part is computed by one thread: threads never wait for each other inside a layer, which is what makes PyTorch's
own threads several times slower on a machine that others use as well, and results do not depend on their number.

Whether that function is compiled depends on the work ahead alone, never on a clock, so a run that is cut off goes on
with the same arithmetic. On a GPU nothing here waits for the device.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import FunctionType
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy import augment
from nas_proxy.images import DataShape

PRECISIONS = ("float32", "bfloat16")
# As in PyTorch's normalisation layers.
EPSILON = 1e-5
# Multiply-adds of a whole condensation above which a compilation (10 to 60 seconds) saves more than it takes:
# an eager step does some 3e10 a second on two cores, and 1e13 on a GPU.
COMPILE_ABOVE = {"cpu": 1e13, "cuda": 1e15}
# Bytes of the largest map of one part; for the CPU about a core's cache.
PART_BYTES = {"cpu": 2 << 20, "cuda": 1 << 30}

Say = Callable[[str], None]
Embed = Callable[[Tensor, Sequence[Tensor]], Tensor]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Embedding:
    """A family of random networks: `depth` blocks of convolution, instance norm, ReLU and pooling by two.

    precision: "bfloat16" rounds the input, the weights and the output of each convolution to bfloat16, on every
        machine; sums, normalisation and features stay in float32.
    """

    shape: DataShape
    width: int
    depth: int
    precision: str = "float32"

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
        """Features of an image."""
        return self.width * (self.shape.height >> self.depth) * (self.shape.width >> self.depth)

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
        """Return weights as `features` wants them: rounded, on the device, channels last."""
        rounded = _rounded(self.embedding.precision)
        return [
            w.to(rounded).to(self.computed).to(self.device, memory_format=torch.channels_last, non_blocking=True)
            for w in weights
        ]

    def parts(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return images (n, c, h, w) in equal parts, the last filled up with zeros."""
        count = -(-len(images) // self.rows)
        rows = -(-len(images) // count)
        padding = count * rows - len(images)
        padded = F.pad(images, (0, 0, 0, 0, 0, 0, 0, padding)) if padding else images
        return torch.split(padded.contiguous(memory_format=torch.channels_last), rows)

    def features(self, images: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """Return the features (n, d), float32, of images (n, c, h, w), without a graph."""

        def of_part(part: Tensor) -> Tensor:
            with torch.no_grad():
                return self.embed(part, weights)

        return torch.cat(self.map(of_part, self.parts(images)))[: len(images)]

    def map(self, function: Callable[[Item], Tensor], items: Iterable[Item]) -> list[Tensor]:
        """Return the function of each item; on the CPU, one item a thread."""
        threads = torch.get_num_threads()
        if self.device.type != "cpu" or threads == 1:
            return [function(item) for item in items]
        try:
            with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return list(pool.map(function, items))
        finally:
            # A thread's setting is also the default of threads that start later.
            torch.set_num_threads(threads)


def open_engine(
    embedding: Embedding,
    device: torch.device | str,
    *,
    real: int,
    synthetic: int,
    steps: int,
    say: Say = lambda text: None,
) -> Engine:
    """Return the fastest engine for `steps` steps with so many real and synthetic images each.

    Without a working compiler it computes the same uncompiled, to rounding, and tells so through `say`.
    """
    device = torch.device(device)
    rounded = _rounded(embedding.precision)
    computed = rounded if rounded != torch.bfloat16 or has_bfloat16(device) else torch.float32
    largest = embedding.shape.height * embedding.shape.width * embedding.width * rounded.itemsize
    room = PART_BYTES.get(device.type, PART_BYTES["cpu"])

    def embed(images: Tensor, weights: Sequence[Tensor]) -> Tensor:
        return features(images, weights, rounded, computed)

    eager = Engine(embedding, device, computed, max(1, room // largest), embed, compiled=False)
    work = steps * (real + 3 * synthetic) * embedding.multiply_adds
    if work < COMPILE_ABOVE.get(device.type, math.inf):
        return eager
    return _compiled(eager, real, synthetic, say)


def _compiled(eager: Engine, real: int, synthetic: int, say: Say) -> Engine:
    # PyTorch keeps a few compilations for each code object, so each engine gets a code object of its own.
    own = FunctionType(eager.embed.__code__.replace(), globals(), "embed", None, eager.embed.__closure__)
    compiled = torch.compile(own, dynamic=False, fullgraph=True)
    engine = Engine(eager.embedding, eager.device, eager.computed, eager.rows, compiled, compiled=True)
    shape = eager.embedding.shape
    threads = torch.get_num_threads()
    try:
        # Compiled for one thread; see `Engine.map`.
        torch.set_num_threads(1)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weights = engine.place(eager.embedding.weights(torch.Generator().manual_seed(0)))
            engine.features(torch.zeros(real, *shape[:3], device=eager.device), weights)
            images = torch.zeros(synthetic, *shape[:3], device=eager.device)
            loss_and_gradient(engine, weights, images, [synthetic], images, [synthetic])
    except (RuntimeError, OSError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        say(f"torch.compile does not work here ({reason}); condensing goes on without it, more slowly")
        return eager
    finally:
        torch.set_num_threads(threads)
    return engine


def features(images: Tensor, weights: Sequence[Tensor], rounded: torch.dtype, computed: torch.dtype) -> Tensor:
    """Return the features (n, d) of images (n, c, h, w).

    rounded: the type to which the input and output of convolutions are rounded. computed: the type in which the
    convolutions are computed, at least as wide.
    """
    maps = images
    for weight in weights:
        maps = F.conv2d(maps.to(rounded).to(computed), weight, padding=1).to(rounded)
        maps = maps.to(torch.promote_types(rounded, torch.float32))
        # Written out, so that a compiler can fuse it with what follows.
        centred = maps - maps.mean((2, 3), keepdim=True)
        variance = centred.square().mean((2, 3), keepdim=True)
        maps = F.avg_pool2d(F.relu(centred * (variance + EPSILON).rsqrt()), 2)
    return maps.flatten(1)


def loss_and_gradient(
    engine: Engine,
    weights: Sequence[Tensor],
    real: Tensor,
    real_sizes: Sequence[int],
    synthetic: Tensor,
    sizes: Sequence[int],
) -> tuple[Tensor, Tensor]:
    """Return Σ_c ‖mean feature of real class c − mean feature of synthetic class c‖² and its gradient.

    real, synthetic: (n, c, h, w), already augmented, in blocks of `real_sizes` and `sizes` images, one a class.
    The gradient is with respect to `synthetic`.
    """
    target = _block_means(engine.features(real, weights), real_sizes)
    inputs = [part.detach().requires_grad_() for part in engine.parts(synthetic)]
    outputs = engine.map(lambda part: engine.embed(part, weights), inputs)
    found = torch.cat([output.detach() for output in outputs]).requires_grad_()
    loss = (target - _block_means(found[: len(synthetic)], sizes)).square().sum()
    (slope,) = torch.autograd.grad(loss, found)
    slopes = torch.split(slope, len(inputs[0]))
    chain = zip(outputs, inputs, slopes, strict=True)
    gradients = engine.map(lambda link: torch.autograd.grad(*link)[0], chain)
    return loss.detach(), torch.cat(gradients)[: len(synthetic)]


def _block_means(features: Tensor, sizes: Sequence[int]) -> Tensor:
    return torch.stack([block.mean(0) for block in torch.split(features, list(sizes))])


def augmented(images: Tensor, name: str, draws: augment.Draws, row: int) -> Tensor:
    """Augment images (n, c, h, w) of one class by the operation `name` with one row of parameters.

    draws: on the CPU. The same as `augment.apply` to rounding, at a fraction of its cost, because only that one
    operation touches the images and its parameters are known.
    """
    _, _, height, width = images.shape
    if name == "crop":
        down, right = draws.shift[row].tolist()
        return F.pad(images, (-right, right, -down, down))
    if name == "cutout":
        return images * _outside(draws.hole[row], height, width).to(images)
    if name == "colour":
        return _coloured(images, *(float(v[row]) for v in (draws.brightness, draws.saturation, draws.contrast)))
    if name == "flip":
        return images.flip(3) if draws.affine[row, 0, 0] < 0 else images
    grid = F.affine_grid(draws.affine[row : row + 1].to(images.dtype), [1, 1, height, width], align_corners=False)
    return F.grid_sample(images, grid.to(images.device).expand(len(images), -1, -1, -1), align_corners=False)


def _outside(hole: Tensor, height: int, width: int) -> Tensor:
    """Return 0 inside the square that is cut out and 1 elsewhere: (height, width)."""
    ends = hole + augment.cutout_size(height, width)
    (top, left), (bottom, right) = hole.clamp_min(0).tolist(), ends.clamp_min(0).tolist()
    mask = torch.ones(height, width)
    mask[top:bottom, left:right] = 0
    return mask


def _coloured(images: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    images = images + brightness
    images = torch.lerp(images.mean(1, keepdim=True), images, saturation)
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast)


def has_bfloat16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 faster than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("avx512_bf16", "amx_bf16"))


def _rounded(precision: str) -> torch.dtype:
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}[precision]
