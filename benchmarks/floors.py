"""What a step of condensation cannot be faster than on a device, from rates measured in the same process.

Arithmetic: the multiply-adds of the convolutions as they are written (real images forward, synthetic images forward
and backward to their pixels), at the rate of this network's own second convolution, or of a large matrix product where
that is faster. Bytes: every convolution reads its input and writes its output once, at the rate of copying a large
tensor. Both are floors of a direct method, layer after layer; neither counts normalisation, pooling or augmentation.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from nas_proxy.condensation.embedding import Embedding


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
