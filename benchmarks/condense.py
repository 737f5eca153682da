"""Time a step of condensation against the published algorithm, alternating in one process.

Baseline: distribution matching as Zhao & Bilen's code computes it: a loop over classes, float32, group norm with one
channel a group, all of the network's layers as PyTorch calls, each class augmented by itself. Engine: what
`nas_proxy.make_proxy` does in a step, compiled as in a long run. Both work on 32×32×3 images of 10 classes, 256 real
images a class, a new ConvNet of three blocks of 128 channels in each step, all six augmentations.

    python benchmarks/condense.py --ipc 10 --repeats 7

The last line on stdout is one JSON object, which also has what a step cannot be faster than (`floors.py`).
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from floors import floors
from nas_proxy.condensation import step as condensation
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.embedding import Embedding, Engine, open_engine
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet, from_raw
from nas_proxy.seeds import torch_generator
from outcome import show

CLASSES, SIZE, REAL, WIDTH, DEPTH = 10, 32, 256, 128, 3
STORED = 500  # real images a class


def baseline_network() -> nn.Module:
    layers: list[nn.Module] = []
    for channels in (3, WIDTH, WIDTH):
        layers += [
            nn.Conv2d(channels, WIDTH, 3, padding=1),
            nn.GroupNorm(WIDTH, WIDTH),
            nn.ReLU(inplace=True),
            nn.AvgPool2d(2),
        ]
    return nn.Sequential(*layers, nn.Flatten()).requires_grad_(False)


def baseline_augmentation(images: Tensor, name: str, draws: torch.Generator) -> Tensor:
    """Apply one operation with the same parameters to all images of a class: (n, 3, 32, 32)."""
    u = torch.rand(4, generator=draws).tolist()
    if name == "colour":
        images = images + (u[0] - 0.5)
        grey = images.mean(1, keepdim=True)
        images = (images - grey) * (2 * u[1]) + grey
        mean = images.mean((1, 2, 3), keepdim=True)
        return (images - mean) * (u[2] + 0.5) + mean
    if name == "crop":
        top, left = int(u[0] * 9), int(u[1] * 9)
        return F.pad(images, (4, 4, 4, 4))[:, :, top : top + SIZE, left : left + SIZE].contiguous()
    if name == "cutout":
        mask = torch.ones(len(images), SIZE, SIZE, device=images.device)
        top, left = int(u[0] * 33) - 8, int(u[1] * 33) - 8
        mask[:, max(top, 0) : top + 16, max(left, 0) : left + 16] = 0
        return images * mask.unsqueeze(1)
    if name == "flip":
        return images.flip(3) if u[0] < 0.5 else images
    if name == "scale":
        theta = torch.diag(torch.tensor([1 / 1.2 + u[0] * (1.2 - 1 / 1.2), 1 / 1.2 + u[1] * (1.2 - 1 / 1.2)]))
    else:
        angle = torch.tensor((u[0] - 0.5) * 2 * 15 * torch.pi / 180)
        theta = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()]).view(2, 2)
    theta = F.pad(theta, (0, 1)).expand(len(images), 2, 3).to(images.device)
    return F.grid_sample(images, F.affine_grid(theta, list(images.shape), align_corners=False), align_corners=False)


def baseline(real: Tensor, synthetic: Tensor, ipc: int, recipe: Condensation) -> Callable[[int], None]:
    """Return a step of the published algorithm on float images, sorted by class."""
    optimiser = torch.optim.SGD([synthetic], lr=recipe.learning_rate, momentum=recipe.momentum)

    def step(index: int) -> None:
        draws = torch_generator(index, "baseline")
        torch.manual_seed(index)
        network = baseline_network().to(real.device)
        loss = torch.zeros((), device=real.device)
        for c in range(CLASSES):
            chosen = c * STORED + torch.randperm(STORED, generator=draws)[:REAL]
            name = recipe.augmentation[int(torch.randint(len(recipe.augmentation), (), generator=draws))]
            state = draws.get_state()
            a = baseline_augmentation(real[chosen.to(real.device)], name, draws)
            draws.set_state(state)
            b = baseline_augmentation(synthetic[c * ipc : (c + 1) * ipc], name, draws)
            target = network(a).detach()
            loss = loss + (target.mean(0) - network(b).mean(0)).square().sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        loss.item()

    return step


def engine_step(data: ImageSet, ipc: int, recipe: Condensation, engine: Engine) -> Callable[[int], None]:
    """Return a step of `nas_proxy.make_proxy`."""
    task = condensation.Task(data, condensation.members_of(data), recipe, 0, data.images.device, ALONE)
    state = condensation.initial(task)
    networks = condensation.convnets(task, engine)

    def step(index: int) -> None:
        state.step = index
        float(condensation.take_step(state, task, networks))

    return step


def timed(step: Callable[[int], None], index: int, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step(index)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ipc", type=int, default=10, help="synthetic images a class (10 or 50)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default=Condensation().precision)
    parser.add_argument("--eager", action="store_true", help="time the engine without compilation")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    name = ("cuda" if torch.cuda.is_available() else "cpu") if options.device == "auto" else options.device
    device = torch.device(name)
    recipe = Condensation(images_per_class=options.ipc, width=WIDTH, depth=DEPTH, precision=options.precision)
    labels = torch.arange(CLASSES).repeat_interleave(STORED)
    raw = torch.randint(0, 256, (len(labels), 3, SIZE, SIZE), dtype=torch.uint8, generator=torch_generator(0, "pixels"))
    data = from_raw(raw, labels, tuple(map(str, range(CLASSES)))).to(device)

    start = time.perf_counter()
    engine = open_engine(
        Embedding(data.shape, WIDTH, DEPTH, recipe.precision),
        device,
        real=CLASSES * REAL,
        synthetic=CLASSES * options.ipc,
        steps=1 if options.eager else 10**9,
        say=print,
    )
    compile_seconds = time.perf_counter() - start
    synthetic = data.decode(torch.arange(CLASSES * options.ipc, device=device)).requires_grad_()
    steps = {
        "baseline": baseline(data.decode(), synthetic, options.ipc, recipe),
        "engine": engine_step(data, options.ipc, recipe, engine),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for index in range(options.repeats + 1):
        for way, step in steps.items():
            taken = timed(step, index, device)
            if index > 0:  # the first is the warm-up
                seconds[way].append(taken)
                print(f"{way} {index}: {taken:.3f} s", flush=True)
    medians = {way: statistics.median(values) for way, values in seconds.items()}
    ratios = [a / b for a, b in zip(seconds["baseline"], seconds["engine"], strict=True)]
    result = {
        "benchmark": "condense",
        "ipc": options.ipc,
        "baseline_seconds": round(medians["baseline"], 4),
        "engine_seconds": round(medians["engine"], 4),
        "ratio": round(medians["baseline"] / medians["engine"], 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "baseline_range": [round(f(seconds["baseline"]), 4) for f in (min, max)],
        "engine_range": [round(f(seconds["engine"]), 4) for f in (min, max)],
        "n": options.repeats,
        "precision": recipe.precision,
        "compiled": engine.compiled,
        "compile_seconds": round(compile_seconds, 1),
        "floors": floors(engine.embedding, CLASSES * REAL, CLASSES * options.ipc, device, engine.computed),
    }
    show(result, name, ("torch",), threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
