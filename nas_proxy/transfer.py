"""To a GPU without waiting: many small tensors in one copy from pinned memory.

A copy from ordinary memory makes the host wait until the GPU has done what it was given before (CUDA Driver API, "API
synchronization behavior"), and each copy takes some microseconds, however small. In: tensors of the host, or a network.
Out: the same on a device. On the CPU nothing is copied. PyTorch's allocator of pinned memory keeps a block until the
copies out of it are done, so nothing here waits either.
"""

import itertools
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

# Bytes; what CUDA's libraries like best, and a multiple of every type's size.
ALIGNMENT = 256
_Network = TypeVar("_Network", bound=nn.Module)


def to_device(tensors: Sequence[Tensor], device: torch.device | str) -> list[Tensor]:
    """Return dense tensors of the host on a device, contiguous; on a GPU as views of one block."""
    device = torch.device(device)
    if device.type != "cuda":
        return [tensor.to(device) for tensor in tensors]
    sizes = [-(-tensor.nbytes // ALIGNMENT) * ALIGNMENT for tensor in tensors]
    starts = list(itertools.accumulate(sizes, initial=0))
    block = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=True)
    for start, tensor in zip(starts, tensors, strict=False):
        _part(block, start, tensor).copy_(tensor)
    moved = block.to(device, non_blocking=True)
    # `data` has a version of its own: a change of one in place is none of the others, which autograd may have kept.
    return [_part(moved, start, tensor).data for start, tensor in zip(starts, tensors, strict=False)]


def network_to(network: _Network, device: torch.device | str) -> _Network:
    """Return the network with its parameters and buffers on a device, as `network.to(device)` does."""
    device = torch.device(device)
    tensors = [*network.parameters(), *network.buffers()]
    if device.type != "cuda" or not all(map(_is_plain, network.modules())) or not all(map(_is_dense, tensors)):
        return network.to(device)
    moved = dict(zip(map(id, tensors), to_device([tensor.detach() for tensor in tensors], device), strict=True))
    for parameter in network.parameters():
        parameter.data = moved[id(parameter)]
    for module in network.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = moved[id(buffer)]
    return network


def _part(block: Tensor, start: int, like: Tensor) -> Tensor:
    return block[start : start + like.nbytes].view(like.dtype).view(like.shape)


def _is_plain(module: nn.Module) -> bool:
    """Whether moving its tensors is all that moving a module does; recurrent layers lay their weights out anew."""
    kind = type(module)
    return kind._apply is nn.Module._apply and kind.to is nn.Module.to


def _is_dense(tensor: Tensor) -> bool:
    lazy = nn.parameter.is_lazy(tensor)
    return not lazy and tensor.device.type == "cpu" and tensor.layout == torch.strided and not tensor.is_quantized
