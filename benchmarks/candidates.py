"""Time the training of candidates against the usual loop, alternating in one run.

24 architectures of the ConvNet space (widths 32 to 128, drawn with a fixed seed) are trained on 500 random images of
32×32×3 in 10 classes, 50 a step, all six augmentations. Baseline: a DataLoader, eager float32 as PyTorch comes, one
network after another with all threads, one operation drawn for each step (differentiable Siamese augmentation as
published, its parameters drawn for each image). Engine: what `nas_proxy search` does, one process a core, all busy.
With `--device cuda` the baseline's images stay on the GPU, as published, and `--workers` processes share it.

A candidate costs its start-up + 200 × a steady epoch. Start-up is what the first epoch of a network takes more than
a later one, with building it and scoring it on 500 images. For the engine it is measured as the difference between
trainings of one and of three epochs (41 on a GPU), and a process's seconds are divided by their number.

    python benchmarks/candidates.py
    python benchmarks/candidates.py --device cuda --workers 4

The last line on stdout is one JSON object. Ends within 8 minutes: rounds are left out when time runs short.
"""

import argparse
import functools
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from nas_proxy.data.images import ImageSet, from_raw
from nas_proxy.seeds import torch_generator
from nas_proxy.spaces.convnet import ConvNet
from nas_proxy.spaces.loading import load_space
from nas_proxy.spaces.space import Architecture
from nas_proxy.training.execution import choose
from nas_proxy.training.jobs import Job
from nas_proxy.training.train import Outcome, Recipe
from nas_proxy.training.worker_pool import ProcessExecutor
from outcome import show

CLASSES, SIZE, IMAGES, EPOCHS = 10, 32, 500, 200
WIDTHS = (32, 64, 128)
RECIPE = Recipe(epochs=EPOCHS, batch_size=50)
MOST_SECONDS = 440.0
# Epochs of the shorter and the longer training.
EPOCH_PAIR = {"cpu": (1, 3), "cuda": (1, 41)}
# Architectures after which baseline and engine change places.
TURN = 8


def proxy() -> ImageSet:
    raw = torch.randint(256, (IMAGES, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch_generator(0, "pixels"))
    labels = torch.arange(CLASSES).repeat_interleave(IMAGES // CLASSES)
    return from_raw(raw, labels, tuple(map(str, range(CLASSES))))


def architectures(data: ImageSet, count: int) -> list[Architecture]:
    sample = load_space("convnet", data.shape).sample(0)
    return list(islice((a for a in sample if a["width"] in WIDTHS), count))


def augmented(images: Tensor, operation: str) -> Tensor:
    """Apply one operation, its parameters drawn for each image, as the published code does."""
    n, device = len(images), images.device
    rand, randint = (functools.partial(draw, device=device) for draw in (torch.rand, torch.randint))
    if operation == "colour":
        images = images + (rand(n, 1, 1, 1) - 0.5)
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * (rand(n, 1, 1, 1) * 2) + grey
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * (rand(n, 1, 1, 1) + 0.5) + mean
    if operation == "crop":
        rows, columns = torch.meshgrid(
            torch.arange(SIZE, device=device), torch.arange(SIZE, device=device), indexing="ij"
        )
        y = (rows + randint(-4, 5, (n, 1, 1)) + 1).clamp(0, SIZE + 1)
        x = (columns + randint(-4, 5, (n, 1, 1)) + 1).clamp(0, SIZE + 1)
        padded = F.pad(images, (1, 1, 1, 1)).permute(0, 2, 3, 1).contiguous()
        return padded[torch.arange(n).view(n, 1, 1), y, x].permute(0, 3, 1, 2).contiguous()
    if operation == "cutout":
        half = SIZE // 4
        each = (torch.arange(count, device=device) for count in (n, 16, 16))
        batch, rows, columns = torch.meshgrid(*each, indexing="ij")
        y = (rows + randint(0, SIZE + 1, (n, 1, 1)) - half).clamp(0, SIZE - 1)
        x = (columns + randint(0, SIZE + 1, (n, 1, 1)) - half).clamp(0, SIZE - 1)
        mask = torch.ones(n, SIZE, SIZE, device=device)
        mask[batch, y, x] = 0
        return images * mask.unsqueeze(1)
    if operation == "flip":
        return torch.where(rand(n, 1, 1, 1) < 0.5, images.flip(3), images)
    theta = torch.zeros(n, 2, 3, device=device)
    if operation == "scale":
        theta[:, 0, 0], theta[:, 1, 1] = (rand(2, n) * (1.2 - 1 / 1.2) + 1 / 1.2).unbind()
    else:
        angle = (rand(n) - 0.5) * 2 * 15 * torch.pi / 180
        theta[:, 0, 0], theta[:, 0, 1] = angle.cos(), -angle.sin()
        theta[:, 1, 0], theta[:, 1, 1] = angle.sin(), angle.cos()
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)


def baseline(architecture: Architecture, data: ImageSet) -> tuple[float, float]:
    """Return the seconds of start-up and of a steady epoch of the usual loop, on the device of the images."""
    start = time.perf_counter()
    network: nn.Module = ConvNet(data.shape, **architecture).to(data.labels.device)  # type: ignore[arg-type]
    loader = DataLoader(TensorDataset(data.decode(), data.labels), batch_size=RECIPE.batch_size, shuffle=True)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    ends = []
    for _ in range(2):
        network.train()
        total = 0.0
        for images, labels in loader:
            operation = RECIPE.augmentation[int(torch.randint(len(RECIPE.augmentation), ()))]
            loss = F.cross_entropy(network(augmented(images, operation)), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += loss.item() * len(labels)
        ends.append(time.perf_counter())
    network.eval()
    right = 0
    with torch.no_grad():
        for images, labels in DataLoader(TensorDataset(data.decode(), data.labels), batch_size=256):
            right += int((network(images).argmax(1) == labels).sum())
    epoch = ends[1] - ends[0]
    return time.perf_counter() - start - 2 * epoch, epoch


def engine(
    pool: ProcessExecutor, jobs: Sequence[tuple[int, Architecture]], path: Path, device: str
) -> dict[int, tuple[float, float]]:
    """Return the seconds of start-up and of a steady epoch of each job, with all processes busy."""
    few, many = EPOCH_PAIR[device]

    def all_jobs() -> Iterator[tuple[tuple[int, int], Job]]:
        for index, architecture in jobs:
            for epochs in (few, many):
                recipe = Recipe(epochs=epochs, batch_size=RECIPE.batch_size)
                yield (index, epochs), Job("convnet", architecture, path, path, recipe, 0, device)

    seconds: dict[tuple[int, int], float] = {}
    for tag, result in pool.run(all_jobs()):
        assert isinstance(result, Outcome), result
        assert not result.note, result.note
        seconds[tag] = result.seconds
    epochs = {index: (seconds[index, many] - seconds[index, few]) / (many - few) for index, _ in jobs}
    return {index: (seconds[index, few] - few * epochs[index], epochs[index]) for index, _ in jobs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="architectures")
    parser.add_argument("--repeats", type=int, default=5, help="rounds at most, after one to warm up")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the baseline")
    parser.add_argument("--device", choices=tuple(EPOCH_PAIR), default="cpu")
    parser.add_argument("--workers", type=int, default=0, help="processes of the engine; 0 for one a core, 4 on a GPU")
    options = parser.parse_args()
    began = time.perf_counter()
    device = options.device
    workers = options.workers or (4 if device == "cuda" else os.cpu_count() or 1)
    torch.set_num_threads(options.threads)
    data = proxy()
    placed = data.to(device)
    chosen = architectures(data, options.count)
    # Like beside like, so that no core waits long for another at the end of a turn.
    order = sorted(range(len(chosen)), key=lambda i: str((chosen[i]["pooling"] != "none", chosen[i]["width"])))
    turns = [order[start : start + TURN] for start in range(0, len(order), TURN)]
    taken: dict[str, list[list[tuple[float, float]]]] = {way: [[] for _ in chosen] for way in ("baseline", "engine")}
    costs: dict[str, list[float]] = {"baseline": [], "engine": []}
    with tempfile.TemporaryDirectory() as folder, ProcessExecutor(workers) as pool:
        path = Path(folder) / "proxy.safetensors"
        data.save(path)
        small = [(index, {**chosen[0], "width": 32, "depth": 1}) for index in range(workers)]
        engine(pool, small, path, device)
        baseline(small[0][1], placed)
        longest = 0.0
        while len(costs["engine"]) < options.repeats and time.perf_counter() - began + longest < MOST_SECONDS:
            start = time.perf_counter()
            for turn in turns:
                for index in turn:
                    taken["baseline"][index].append(baseline(chosen[index], placed))
                for index, both in engine(pool, [(i, chosen[i]) for i in turn], path, device).items():
                    taken["engine"][index].append(both)
            for way, share in (("baseline", 1), ("engine", workers)):
                costs[way].append(sum(s[-1][0] + EPOCHS * s[-1][1] for s in taken[way]) / share)
            longest = max(longest, time.perf_counter() - start)
            print(
                f"round {len(costs['engine'])}: {costs['baseline'][-1]:.0f} s, {costs['engine'][-1]:.0f} s", flush=True
            )

    def median(way: str, part: int) -> float:
        """Return the sum over architectures of the medians of the start-ups (0) or epochs (1)."""
        return sum(statistics.median(seconds[part] for seconds in each) for each in taken[way])

    before, after = (median(w, 0) + EPOCHS * median(w, 1) for w in ("baseline", "engine"))
    after /= workers
    ratios = [a / b for a, b in zip(costs["baseline"], costs["engine"], strict=True)]
    each = [
        statistics.median(s + EPOCHS * e for s, e in a) / statistics.median(s + EPOCHS * e for s, e in b) * workers
        for a, b in zip(taken["baseline"], taken["engine"], strict=True)
    ]
    result = {
        "benchmark": "candidates",
        "ratio": round(before / after, 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "ratio_by_architecture": [round(f(each), 2) for f in (min, statistics.median, max)],
        "baseline_seconds": round(before / len(chosen), 2),
        "engine_seconds": round(after / len(chosen), 2),
        "baseline_start_up": round(median("baseline", 0) / len(chosen), 3),
        "engine_start_up": round(median("engine", 0) / len(chosen), 3),
        "n": len(chosen),
        "rounds": len(ratios),
        "baseline_threads": options.threads,
        "workers": workers,
        "precision": str(choose(RECIPE.precision, data.shape, torch.device(device)).precision).removeprefix("torch."),
    }
    show(result, device, ("torch",))


if __name__ == "__main__":
    main()
