"""What a network is made of, to be drawn: an architecture in; its blocks in the order of computation out.

A block is a convolution or linear layer with what follows it and has no weights of its own (normalisation, activation,
pooling), or a module of the user's that holds others, such as a residual block, by its class's name. The network and
what only strings modules together (`Sequential`) are taken apart. Nothing is computed: it is built on the meta device,
where that works. Whatever its code does, it does to a process of its own.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from nas_proxy.data.shape import DataShape
from nas_proxy.errors import RAISED
from nas_proxy.spaces.apart import Complaint, apart
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.time_limit import SECONDS, deadline

STRUNG = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
MOST = 24
"""Blocks that are told of; a deeper network is told of by its first ones and its last."""
UNSEEN = (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d)
NAMES = {
    nn.Linear: "linear",
    nn.ReLU: "ReLU",
    nn.LeakyReLU: "leaky ReLU",
    nn.LayerNorm: "layer norm",
    nn.BatchNorm2d: "batch norm",
    nn.MaxPool2d: "max pooling",
    nn.AvgPool2d: "average pooling",
    nn.AdaptiveAvgPool2d: "global average pooling",
}


@dataclass(frozen=True)
class Block:
    """layers: in words. shape: of what comes out for one image, (channels, height, width) or (features,).

    params: trainable parameters. skipped: how many blocks before this one are not told of.
    """

    layers: tuple[str, ...]
    shape: tuple[int, ...]
    params: int
    skipped: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def blocks_of(
    space: SearchSpace, architecture: Architecture, shape: DataShape, seconds: float = SECONDS
) -> tuple[Block, ...]:
    """Return the blocks of an architecture's network; none where they cannot be told within `seconds`."""
    found = apart(lambda: [block.as_json() for block in _told(space, architecture, shape, seconds)], seconds)
    return () if isinstance(found, Complaint) else tuple(map(_from_json, found))


def _told(space: SearchSpace, architecture: Architecture, shape: DataShape, seconds: float) -> tuple[Block, ...]:
    with deadline(seconds):
        try:
            with torch.device("meta"):
                return _cut(_blocks(space.build(architecture, shape), shape, "meta"))
        except TimeoutError:
            raise
        except RAISED:  # of tensors without values; what is the network's own, it raises on the CPU too
            return _cut(_blocks(space.build(architecture, shape), shape, "cpu"))


def _from_json(told: Mapping[str, Any]) -> Block:
    return Block(tuple(told["layers"]), tuple(told["shape"]), told["params"], told["skipped"])


def _cut(blocks: tuple[Block, ...]) -> tuple[Block, ...]:
    if len(blocks) <= MOST:
        return blocks
    return (*blocks[: MOST - 1], replace(blocks[-1], skipped=len(blocks) - MOST))


def _blocks(network: nn.Module, shape: DataShape, device: str) -> tuple[Block, ...]:
    called: list[tuple[nn.Module, tuple[int, ...]]] = []

    def note(module: nn.Module, _: Any, out: Any) -> None:
        if isinstance(out, Tensor):
            called.append((module, tuple(out.shape[1:])))

    for part in dict.fromkeys(_parts(network)):
        part.register_forward_hook(note)
    with torch.no_grad():
        network.eval()(torch.zeros(1, shape.channels, shape.height, shape.width, device=device))
    found: list[Block] = []
    counted: set[int] = set()
    for module, out in called:
        own = [p for p in module.parameters() if p.requires_grad and id(p) not in counted]
        counted |= {id(p) for p in own}
        params, words = sum(p.numel() for p in own), () if isinstance(module, UNSEEN) else (_words(module),)
        if found and _follows(module):
            last = found[-1]
            found[-1] = Block((*last.layers, *words), out, last.params + params)
        elif words:
            found.append(Block(words, out, params))
    return tuple(found)


def _parts(module: nn.Module, top: bool = True) -> Iterator[nn.Module]:
    """Yield what a network is taken apart into: an only child is the network itself, in a wrapper."""
    children = list(module.children())
    if children and (top or isinstance(module, STRUNG)):
        for child in children:
            yield from _parts(child, top=top and len(children) == 1)
    else:
        yield module


def _follows(module: nn.Module) -> bool:
    """Whether a module belongs to the block before it."""
    if list(module.children()):
        return False
    return "Norm" in type(module).__name__ or all(p.dim() < 2 for p in module.parameters())


def _words(module: nn.Module) -> str:
    if isinstance(module, nn.Conv2d):
        side, other = module.kernel_size
        kind = (
            "conv" if module.groups == 1 else "depthwise conv" if module.groups == module.in_channels else "group conv"
        )
        return f"{kind} {side}×{other}" + (f", stride {module.stride[0]}" if module.stride[0] != 1 else "")
    if isinstance(module, nn.GroupNorm):
        return "instance norm" if module.num_groups == module.num_channels else "group norm"
    return next((name for kind, name in NAMES.items() if isinstance(module, kind)), type(module).__name__)
