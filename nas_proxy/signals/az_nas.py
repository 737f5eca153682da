"""AZ-NAS: four traits of an untrained network, and one score from the ranks of many networks by each of them.

Lee & Ham, "AZ-NAS: Assembling Zero-Cost Proxies for Network Architecture Search", CVPR 2024 (arXiv:2403.19232).
In: a network and the shape of its images. Out: how expressive, progressive and trainable its blocks are; with the
network's FLOPs, the fourth trait, `assembled` makes one number for each of a set of networks.
Guarantees: higher is better throughout. As published, inputs are 64 images of noise and weights are drawn anew (He et
al., 2015), so neither images nor a space's own initial weights matter. **A score is a rank among the networks it was
computed with**: with other networks beside it, it is another number, and two networks may even change their order.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from nas_proxy.signals.zero_cost import NORMS, NoScoreError, as_in_training

NOISE = 64  # images, as published for NAS-Bench-201
LEAST_BLOCKS = 2  # progress and training are about a block and the next one
INVERSE = 1e-6  # as published: keeps 1 / σ finite where a block passes nothing back


class Traits(NamedTuple):
    """What AZ-NAS sees of a network; -inf where it is as bad as can be, and never NaN."""

    expressivity: float
    progressivity: float
    trainability: float


def traits(network: nn.Module, images: Tensor) -> Traits:
    """Return the traits of a network, whose weights are overwritten; of images (n, c, h, w) the size counts alone.

    With x_l the output of block l (see `Blocks`) and p the eigenvalues of the covariance of its channels over images
    and pixels, divided by their sum:
    expressivity is the sum over blocks of s_l = -Σ p log p, which is greatest where no direction dominates;
    progressivity the least s_l - s_(l-1);
    trainability the mean over blocks of -σ_l - 1 / σ_l + 2, greatest where gradients neither grow nor vanish: σ_l is
    the largest singular value of block l's Jacobian, estimated as mean(g_in g_outᵀ) over images and pixels, where
    g_out has random signs and g_in is the gradient that the block makes of it.
    As published, a block whose output is constant, or which hands its input through, has the worst trait.
    Batch norm takes the statistics of the batch. Raises NoScoreError for a network of fewer than two blocks.
    """
    _initialise(network)
    blocks = Blocks(as_in_training(network))
    # Drawn on the CPU, here and below, so that a GPU gives the same scores to rounding.
    noise = torch.randn(NOISE, *images.shape[1:]).to(images.device)
    maps = blocks.outputs(noise.requires_grad_())
    if len(maps) < LEAST_BLOCKS:
        raise NoScoreError(f"it has {len(maps)} of the {LEAST_BLOCKS} blocks with feature maps that AZ-NAS needs")
    entropies = [entropy(found.detach()) for found in maps]
    steps = [_difference(after, before) for before, after in itertools.pairwise(entropies)]
    return Traits(sum(entropies), min(steps), _trainability(maps))


def assembled(rows: Sequence[Sequence[float]]) -> list[float]:
    """Return the score of each of m networks from its row of traits: the sum over traits of log(rank / m).

    The best of m has rank m, ties share their mean rank. The logarithm makes one low rank weigh more than several
    high ones can make up for.
    """
    columns = zip(*rows, strict=True)
    logs = [[math.log(rank / len(rows)) for rank in stats.rankdata(column)] for column in columns]
    return [sum(each) for each in zip(*logs, strict=True)]


class Blocks:
    """Reads the maps at which one block of a network ends and the next begins, while it computes.

    A network, and each `Sequential` or list of modules in it, is taken apart. What is in there is a block: a module
    made of others (a cell, a residual block) by itself; a convolution together with the simple modules that follow
    it (norm, activation, pooling). Maps of a single pixel are no features, nor is anything without maps.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._maps: list[Tensor] = []
        self._images = 0
        self._open = False  # whether simple modules still belong to the last block
        for part in _parts(network):
            part.register_forward_hook(self._after)

    def outputs(self, images: Tensor) -> list[Tensor]:
        """Return the outputs (n, channels, h, w) of the blocks for images, in the order of computation."""
        self._maps, self._images, self._open = [], len(images), False
        self._network(images)
        return self._maps

    def _after(self, module: nn.Module, inputs: tuple[Any, ...], output: object) -> object:
        del inputs
        begins = _is_composite(module) or _has_weights(module)
        if not (isinstance(output, Tensor) and output.dim() == 4 and len(output) == self._images):
            self._open = False
            return None
        if output.shape[2:] == (1, 1) or not (begins or self._open):
            return None
        if not begins:
            self._maps.pop()
        self._maps.append(output)
        self._open = not _is_composite(module)
        # What follows may work in place, and must not change what is kept.
        return output.clone()


def _parts(module: nn.Module) -> list[nn.Module]:
    """Return the modules of which a network is a sequence."""
    found: list[nn.Module] = []
    for child in module.children():
        found += _parts(child) if isinstance(child, nn.Sequential | nn.ModuleList) else [child]
    return found


def _is_composite(module: nn.Module) -> bool:
    return any(True for _ in module.children())


def _has_weights(module: nn.Module) -> bool:
    """Whether a simple module mixes channels or pixels, as no norm and no activation does."""
    return not isinstance(module, NORMS) and any(p.dim() > 1 for p in module.parameters())


def _initialise(network: nn.Module) -> None:
    for module in network.modules():
        mixes = isinstance(module, nn.modules.conv._ConvNd | nn.Linear)
        if not mixes and not isinstance(module, NORMS):
            continue
        own = dict(module.named_parameters(recurse=False))
        if "weight" in own and mixes:
            fresh = torch.empty_like(own["weight"], device="cpu", requires_grad=False)
            own["weight"].data.copy_(nn.init.kaiming_normal_(fresh))
        elif "weight" in own:
            nn.init.ones_(own["weight"])
        if "bias" in own:
            nn.init.zeros_(own["bias"])


def _rows(maps: Tensor) -> Tensor:
    """(n, c, h, w) -> (n * h * w, c), in float64."""
    return maps.movedim(1, -1).flatten(0, -2).double()


def entropy(maps: Tensor) -> float:
    """Return the entropy of the directions in which the channels vary; -inf where nothing does."""
    rows = _rows(maps)
    rows = rows - rows.mean(0)
    values = torch.linalg.eigvalsh(rows.T @ rows / len(rows)).clamp_min(0)
    total = values.sum()
    if not bool(total > 0):  # a NaN is as bad
        return -math.inf
    return float(torch.special.entr(values / total).sum())


def _difference(after: float, before: float) -> float:
    return -math.inf if math.isinf(before) else after - before


def _trainability(maps: list[Tensor]) -> float:
    """Return the mean over all blocks but the first; those that do not see the block before them are left out."""
    found = []
    for before, after in itertools.pairwise(maps):
        signs = torch.randint_like(torch.empty_like(after, device="cpu", requires_grad=False), 2) * 2 - 1
        signs = signs.to(after.device)
        (gradient,) = torch.autograd.grad(after, before, signs, retain_graph=True, allow_unused=True)
        if gradient is not None:
            found.append(_passed_back(gradient, signs))
    if not found:
        raise NoScoreError("none of its blocks depends on the block before it")
    return sum(found) / len(found)


def _passed_back(gradient: Tensor, signs: Tensor) -> float:
    if gradient.shape == signs.shape and torch.equal(gradient, signs):
        return -math.inf
    gradient = _beside(gradient, signs.shape)
    jacobian = _rows(gradient).T @ _rows(signs) / signs[:, 0].numel()
    if not bool(jacobian.isfinite().all()):
        return -math.inf
    sigma = float(torch.linalg.matrix_norm(jacobian, 2))
    return -sigma - 1 / (sigma + INVERSE) + 2


def _beside(gradient: Tensor, shape: torch.Size) -> Tensor:
    """Give a gradient (n, c, h, w) the pixels of `shape`: where those are fewer, several pixels become channels.

    Where their number does not divide, as after a convolution without padding, the border is cut or zeros follow it.
    """
    (high, wide), (h, w) = gradient.shape[2:], shape[2:]
    strides = max(1, round(high / h)), max(1, round(wide / w))
    surplus = high - h * strides[0], wide - w * strides[1]
    top, left = max(0, surplus[0] // 2), max(0, surplus[1] // 2)
    gradient = F.pad(gradient, (-left, left - surplus[1], -top, top - surplus[0]))
    if strides == (1, 1):
        return gradient
    parts = F.unfold(gradient, kernel_size=strides, stride=strides)
    return parts.reshape(*parts.shape[:2], *shape[2:])
