"""How long a network takes to answer: median milliseconds of a forward pass, measured.

In: a network of a space, the shape of its images, a device. Out: the median and the quartiles over repeated passes.
A measurement is noisy: it holds for the machine it was made on, differs by some per cent each time, and more on a
machine that is busy. So it is made once for each architecture and kept (`nas_proxy.pipeline.latencies`).
"""

import time
from collections.abc import Callable

import torch

from nas_proxy.data.shape import DataShape
from nas_proxy.spaces.measured import Latency
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.threads import one_thread

# Seconds of measuring, and how many passes that may be.
SECONDS = 0.2
FEWEST, MOST = 10, 10_000


def measure_latency(
    space: SearchSpace,
    architecture: Architecture,
    shape: DataShape,
    device: str = "cpu",
    batch: int = 1,
    seconds: float = SECONDS,
) -> Latency:
    """Time an untrained network in evaluation mode on `batch` images, in float32, on one thread.

    Passes go on for `seconds`, and for ten of them at least, after a quarter of that to warm up. On a GPU each waits
    for the device. Raises what the network raises.
    """
    on_gpu = device.startswith("cuda")
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.manual_seed(0)
        network = space.build(architecture, shape).to(device).eval()
        images = torch.randn(batch, *shape[:3], device=device)

    def once() -> None:
        network(images)
        if on_gpu:
            torch.cuda.synchronize(device)

    with torch.inference_mode(), one_thread():
        return timed_passes(once, seconds)


def timed_passes(once: Callable[[], object], seconds: float = SECONDS) -> Latency:
    """Return the latency of what `once` does, over and over for `seconds`, and for a quarter of that to warm up."""

    def timed() -> float:
        start = time.perf_counter()
        once()
        return time.perf_counter() - start

    _repeated(timed, seconds / 4)
    passes = _repeated(timed, seconds)
    times = 1000 * torch.tensor(passes, dtype=torch.float64)
    low, middle, high = (round(float(times.quantile(q)), 6) for q in (0.25, 0.5, 0.75))
    return Latency(middle, low, high, repeats=len(passes))


def _repeated(once: Callable[[], float], seconds: float) -> list[float]:
    found: list[float] = []
    while len(found) < FEWEST or (sum(found) < seconds and len(found) < MOST):
        found.append(once())
    return found
