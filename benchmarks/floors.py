"""What a step of condensation, or a training, cannot be faster than on a device, by rates measured in this process.

Arithmetic: the multiply-adds of the convolutions as they are written (real images forward, synthetic images forward
and backward to their pixels), at the rate of this network's own second convolution, or of a large matrix product where
that is faster. Bytes: every convolution reads its input and writes its output once, at the rate of copying a large
tensor. Both are floors of a direct method, layer after layer; neither counts normalisation, pooling or augmentation.

A training's: each convolution and linear layer forward and backward, the first one without the gradient of the images.
"""

import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_proxy.condensation.embedding import Embedding
from nas_proxy.data.shape import DataShape


def floors(
    embedding: Embedding, real: int, synthetic: int, device: torch.device, computed: torch.dtype
) -> dict[str, float]:
    """Return the seconds of both floors and the rates they rest on, for `real` and `synthetic` images a step."""
    arithmetic = 2 * (real + 2 * synthetic) * embedding.multiply_adds
    moved = (real + 2 * synthetic) * _elements(embedding) * computed.itemsize
    flops, copied = (
        max(_convolution_rate(embedding, device, computed), _product_rate(device, computed)),
        _copy_rate(device),
    )
    return {
        "arithmetic_seconds": round(arithmetic / flops, 5),
        "bytes_seconds": round(moved / copied, 5),
        "gflop": round(arithmetic / 1e9, 1),
        "gflop_per_second": round(flops / 1e9, 1),
        "gigabytes": round(moved / 1e9, 3),
        "gigabytes_per_second": round(copied / 1e9, 1),
    }


def training_floors(
    networks: Sequence[nn.Module],
    width_of: Sequence[int],
    shape: DataShape,
    passes: int,
    *,
    device: torch.device,
    computed: torch.dtype,
) -> dict[str, float]:
    """Return the seconds of both floors of training each network for so many image passes, summed, with all threads.

    width_of: the channels of each network, by whose convolution its arithmetic is timed.
    """
    rates = {width: _convolution_rate(Embedding(shape, width, 2), device, computed) for width in set(width_of)}
    copied = _copy_rate(device)
    arithmetic = moved = 0.0
    for network, width in zip(networks, width_of, strict=True):
        work, elements = _work(network, shape)
        arithmetic += passes * work / rates[width]
        moved += passes * elements * computed.itemsize / copied
    return {
        "arithmetic_seconds": round(arithmetic, 4),
        "bytes_seconds": round(moved, 4),
        **{f"gflop_per_second_at_{width}": round(rate / 1e9, 1) for width, rate in sorted(rates.items())},
    }


def _work(network: nn.Module, shape: DataShape) -> tuple[float, float]:
    """Return the operations of a training step for one image, and the elements that its layers read and write.

    A layer reads its input and writes its output; backward it reads the output's gradient twice and the input once, and
    writes the input's gradient.
    """
    operations, elements, first = 0.0, 0.0, True

    def count(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal operations, elements, first
        work = 2 * output.numel() * layer.weight[0].numel()  # type: ignore[union-attr, index, operator]
        operations += work * (2 if first else 3)
        elements += inputs[0].numel() * (2 if first else 3) + output.numel() * 3
        first = False

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        network.eval()(torch.zeros(1, shape.channels, shape.height, shape.width))
    for handle in handles:
        handle.remove()
    return operations, elements


def _elements(embedding: Embedding) -> int:
    """Elements that the convolutions read and write for one image."""
    total, channels = 0, embedding.shape.channels
    for block in range(embedding.depth):
        total += (channels + embedding.width) * (embedding.shape.height >> block) * (embedding.shape.width >> block)
        channels = embedding.width
    return total


def _convolution_rate(embedding: Embedding, device: torch.device, computed: torch.dtype) -> float:
    number = 64 if device.type == "cpu" else 2048
    width, height, across = embedding.width, embedding.shape.height // 2, embedding.shape.width // 2
    maps = torch.rand(number, width, height, across, device=device).to(computed).to(memory_format=torch.channels_last)
    weight = torch.rand(width, width, 3, 3, device=device).to(computed).to(memory_format=torch.channels_last)
    flops = 2 * 9 * width * width * height * across * number
    return flops / _best(lambda: F.conv2d(maps, weight, padding=1), device)


def _product_rate(device: torch.device, computed: torch.dtype) -> float:
    size = 1024 if device.type == "cpu" else 8192
    a, b = (torch.rand(size, size, device=device).to(computed) for _ in range(2))
    return 2 * size**3 / _best(lambda: a @ b, device)


def _copy_rate(device: torch.device) -> float:
    source = torch.zeros(1 << (28 if device.type == "cpu" else 31), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _best(lambda: target.copy_(source), device)


def _best(work: Callable[[], object], device: torch.device, repeats: int = 20) -> float:
    """Return the shortest time of some calls: a floor wants the device at its best."""
    shortest = float("inf")
    for _ in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - start)
    return shortest
