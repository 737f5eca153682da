"""The loss of distribution matching and its gradient for one embedding network.

In: images in blocks, one block a class, and a network; out: ‖mean feature of real class c − mean feature of
synthetic class c‖² for each class c, and the gradient of their sum with respect to the synthetic images.

Images go through the network in parts, and of a part's features only the sums by class are kept, so memory does not
grow with the number of images, but for what the gradient of the synthetic ones needs; `lean` goes without that too. On
the CPU each part is computed by one thread: threads never wait for each other inside a layer, which is what makes
PyTorch's own threads several times slower on a machine that others use as well, and results do not depend on their
number.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.transfer import to_device

# All images in blocks, or what fetches those at some rows of them.
Images = Tensor | Callable[[slice | Tensor], Tensor]
Item = TypeVar("Item")
Result = TypeVar("Result")
# Σ_j Var(feature j) within a class of the paper's ConvNet on CIFAR-10 (246 to 266 in ten networks of width 32 and
# 128, without augmentation): what `normalised` losses are scaled to.
PAPER_SPREAD = 256.0


def _itself(value: Tensor) -> Tensor:
    return value


@dataclass(frozen=True)
class Network:
    """An embedding network, drawn for one step.

    embed: images (n, c, h, w) to features (n, d).
    rows: images a part, at most.
    joint: where an image's features depend on the other images of its part, as with batch norm: how many images of
        a class are in a part, on average. Parts then differ by one image, or as many as there are classes if those
        are equal, and have images of all classes that have as many images as there are parts.
    normalised: whether the loss is divided by the spread of the real images' features, because networks of this
        family differ in the number and the scale of their features.
    total: sums a number over all processes that share the classes.
    parallel: whether parts may be computed at the same time.
    """

    embed: Callable[[Tensor], Tensor]
    rows: int
    joint: int | None = None
    normalised: bool = False
    total: Callable[[Tensor], Tensor] = _itself
    parallel: bool = True

    def map(self, function: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> list[Result]:
        """Return the function of each item; on the CPU, one item a thread."""
        return spread(function, items, device) if self.parallel else [function(item) for item in items]


@dataclass(frozen=True)
class Part:
    """Images that are embedded together: those at `rows`, and `blank` further ones that make parts equally large.

    at: the rows on the host. blocks: the classes that they belong to. shares: (blocks, images), 1 ÷ size of the class
    for its images, else 0.
    """

    rows: slice | Tensor
    at: slice | Tensor
    blank: int
    blocks: slice
    shares: Tensor

    def of(self, images: Images) -> Tensor:
        """Return the part's images (n, c, h, w), channels last."""
        chosen = images[self.rows] if isinstance(images, Tensor) else images(self.at)
        padded = F.pad(chosen, (0, 0, 0, 0, 0, 0, 0, self.blank)) if self.blank else chosen
        return padded.contiguous(memory_format=torch.channels_last)


@functools.lru_cache(maxsize=16)
def parts(
    sizes: tuple[int, ...], rows: int, joint: int | None, device: torch.device, dtype: torch.dtype
) -> tuple[Part, ...]:
    """Divide blocks of `sizes` images into equal parts of at most `rows`, or into `joint` parts of all blocks.

    Blocks with fewer images than there are parts have one in as many parts as they can.
    """
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    found = []
    if joint is None:
        each = -(-len(owner) // -(-len(owner) // rows))
        chosen: list[slice | Tensor] = [slice(i, min(i + each, len(owner))) for i in range(0, len(owner), each)]
    else:
        each = 0
        # Each block goes on where the one before it ended, or parts would differ in size by all small blocks.
        equal = len(set(sizes)) == 1
        place = torch.cat([torch.arange(size) for size in sizes]) if equal else torch.arange(len(owner))
        chosen = [torch.nonzero(place % joint == number).flatten() for number in range(joint)]
    for some in chosen:
        owners = owner[some]
        blocks = slice(int(owners[0]), int(owners[-1]) + 1) if len(owners) else slice(0, 0)
        blank = max(0, each - len(owners))
        share = 1 / torch.tensor(sizes[blocks], dtype=torch.float64)
        members = owners - blocks.start == torch.arange(len(share)).view(-1, 1)
        (shares,) = to_device([F.pad(members * share.view(-1, 1), (0, blank)).to(dtype)], device)
        places = some if isinstance(some, slice) else to_device([some], device)[0]
        found.append(Part(places, some, blank, blocks, shares))
    return tuple(found)


def loss_and_gradient(
    network: Network,
    real: Images,
    real_sizes: Sequence[int],
    synthetic: Tensor,
    sizes: Sequence[int],
    *,
    lean: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return ‖mean feature of real class c − mean feature of synthetic class c‖² for each c, and their sum's gradient.

    real, synthetic: (n, c, h, w), already augmented, in blocks of `real_sizes` and `sizes` images, one a class.
    lean: compute each part twice and keep nothing between, which takes the memory of one part for each thread.
    The gradient is with respect to `synthetic`. If the network is `normalised`, both are divided by the summed
    variance of the real features within classes, and multiplied by that of the paper's network.
    """
    device = synthetic.device
    target, scale = _target(network, real, real_sizes, synthetic)
    own = parts(tuple(sizes), network.rows, _joint(network, sizes), device, target.dtype)

    def forward(part: Part) -> tuple[Part, Tensor, Tensor]:
        images = part.of(synthetic).detach().requires_grad_()
        return part, network.embed(images), images

    def pulled_back(link: tuple[Part, Tensor, Tensor]) -> Tensor:
        part, output, images = link
        if not output.requires_grad:  # the network does not look at its input
            return torch.zeros_like(images)
        slope = part.shares.T @ difference[part.blocks] * (2 * scale)
        return torch.autograd.grad(output, images, slope)[0]

    found = torch.zeros_like(target)
    if lean:

        def summed(part: Part) -> Tensor:
            with torch.no_grad():
                return part.shares @ network.embed(part.of(synthetic))

        for part, mean in zip(own, network.map(summed, own, device), strict=True):
            found[part.blocks] += mean
        difference = found - target
        slopes = network.map(lambda part: pulled_back(forward(part)), own, device)
    else:
        links = network.map(forward, own, device)
        for part, output, _ in links:
            found[part.blocks] += part.shares @ output.detach()
        difference = found - target
        slopes = network.map(pulled_back, links, device)
    gradient = torch.empty_like(synthetic)
    for part, slope in zip(own, slopes, strict=True):
        gradient[part.rows] = slope[: len(slope) - part.blank]
    return difference.square().sum(1) * scale, gradient


def _joint(network: Network, sizes: Sequence[int]) -> int | None:
    """Return the number of joint parts, the same for all processes that share the classes."""
    if network.joint is None:
        return None
    images, classes = network.total(torch.tensor([sum(sizes), len(sizes)], dtype=torch.float64)).tolist()
    return -(-int(images) // (int(classes) * network.joint))


def _target(network: Network, real: Images, sizes: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the real mean features (classes, d), and the factor of the loss; type and device are those of `like`."""

    def of_part(part: Part) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = network.embed(part.of(real))
            shares = part.shares.to(features.dtype)
            squares = (shares.sum(0) * features.square().sum(1)).sum() if network.normalised else features.new_zeros(())
            return shares @ features, squares

    dtype = torch.promote_types(like.dtype, torch.float32)
    own = parts(tuple(sizes), network.rows, _joint(network, sizes), like.device, dtype)
    sums = network.map(of_part, own, like.device)
    target = sums[0][0].new_zeros(len(sizes), sums[0][0].shape[1])
    for part, (mean, _) in zip(own, sums, strict=True):
        target[part.blocks] += mean
    if not network.normalised:
        return target, target.new_ones(())
    within = torch.stack([squares for _, squares in sums]).sum() - target.square().sum()
    summed = network.total(torch.stack([within, within.new_tensor(len(sizes))]))
    variance = summed[0] / summed[1]
    # A network whose features are all the same says nothing about images.
    return target, torch.where(variance > 0, PAPER_SPREAD / variance, 0.0)


def spread(function: Callable[[Item], Result], items: Iterable[Item], device: torch.device) -> list[Result]:
    """Return the function of each item; on the CPU, one item a thread."""
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        return [function(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        # A thread's setting is also the default of threads that start later.
        torch.set_num_threads(threads)
