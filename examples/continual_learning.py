"""Continual learning: how good a memory condensed images are, beside random and herded real images.

    python examples/continual_learning.py
    python examples/continual_learning.py --data cifar10 --steps 1000 --epochs 1000 --width 128 --out runs/continual10
    python examples/continual_learning.py --data cifar100 --steps 1000 --epochs 1000 --width 128 --out runs/continual100

Class-incremental learning: the classes come in as many tasks as `--tasks` says, in an order drawn by the seed. Of each
class that comes, 20 images (`--ipc`) are kept: chosen at random, by herding, or learnt by distribution matching from
that task's images alone. After each task a ConvNet is trained from scratch on the memory and scored on all classes seen
so far. That is GDumb (Prabhu, Torr & Dokania, ECCV 2020), as Zhao & Bilen (WACV 2023) use it for condensed sets.

On digits (the first command; n = 3 orders; AMD EPYC, 2 cores, 35 s with nothing else running; Python 3.11.7,
PyTorch 2.15.0) the memory with all ten classes in it gave random 92.5 % ± 1.0, herding
92.8 % ± 2.3, dm 93.3 % ± 2.0: three orders do not tell the three apart. CIFAR has not been measured. The whole curve
is in benchmarks/results/continual.json.

In: a data set as `nas-proxy run --dataset` takes it. Scores are of validation images, by which nothing is chosen; the
test images stay closed. Out: OUT/curve.html, a Plotly figure; OUT/scores.json, from which a run that was cut off goes
on; on stdout a table of mean ± standard deviation over the orders of classes, and as its last line one JSON object.
"""

import argparse
import json
import os
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

import nas_proxy
from nas_proxy import ConvNet, ImageSet

METHODS = ("random", "herding", "dm")
OPERATIONS = ("colour", "crop", "cutout", "scale", "rotate")
NOT_MIRRORED = ("digits", "mnist", "svhn")


def orders(classes: int, count: int, seed: int) -> list[list[int]]:
    """Return `count` random orders of the classes."""
    draws = torch.Generator().manual_seed(seed)
    return [torch.randperm(classes, generator=draws).tolist() for _ in range(count)]


def tasks_of(order: list[int], count: int) -> list[list[int]]:
    """Divide an order into `count` tasks, as equal as can be."""
    return [order[len(order) * k // count : len(order) * (k + 1) // count] for k in range(count)]


def memory(real: ImageSet, method: str, given: argparse.Namespace, seed: int) -> ImageSet:
    """Return the images that are kept of a task's classes."""
    operations = augmentation(given.data)
    if method != "dm":
        width, device = given.width, given.device
        return nas_proxy.select(real, given.ipc, method, seed, width=width, augmentation=operations, device=device)
    recipe = nas_proxy.Condensation(
        images_per_class=given.ipc, steps=given.steps, width=given.width, augmentation=operations
    )
    return nas_proxy.make_proxy(real, recipe, seed, device=given.device).images


def augmentation(data: str) -> tuple[str, ...]:
    """Return the operations of augmentation; digits are never mirrored."""
    return OPERATIONS if data in NOT_MIRRORED else (*OPERATIONS, "flip")


def accuracies(number: int, method: str, given: argparse.Namespace) -> list[float]:
    """Return the accuracy on all classes seen so far after each task of one order of the classes."""
    torch.set_num_threads(1)  # other orders have the other cores; threads of one small network wait for each other
    data = loaded(given)
    recipe = nas_proxy.Recipe(epochs=given.epochs, batch_size=given.batch, augmentation=augmentation(given.data))
    order = orders(len(data.train.classes), given.orders, given.seed)[number]
    kept, seen, found = [], [], []
    for place, task in enumerate(tasks_of(order, given.tasks)):
        seed = given.seed * 10_000 + number * 100 + place
        kept.append(memory(data.train.of_classes(task), method, given, seed))
        seen += task
        images, judges = nas_proxy.join(kept), data.validation.of_classes(seen)
        build = lambda: ConvNet(images.shape, depth=given.depth, width=given.width)  # noqa: B023, E731
        found.append(nas_proxy.train(build, images, judges, recipe, seed, given.device).score)
    return found


def loaded(given: argparse.Namespace) -> nas_proxy.Development:
    """Return the train and validation images."""
    return nas_proxy.load_data(given.data, seed=given.seed, limit=given.limit, image_size=given.image_size)


def measured(given: argparse.Namespace) -> dict[str, list[list[float]]]:
    """Return, for each method, the accuracies of each order of classes; OUT/scores.json holds what is done."""
    file = given.out / "scores.json"
    free = ("out", "orders", "methods", "processes")
    settings = {name: str(value) for name, value in vars(given).items() if name not in free}
    done = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"settings": settings, "scores": {}}
    if done["settings"] != settings:
        raise SystemExit(f"{file} has scores of other settings; give another --out, or delete it")
    names = {f"{method} {number}": (number, method) for number in range(given.orders) for method in given.methods}
    with ProcessPoolExecutor(given.processes, get_context("spawn")) as pool:
        jobs = {pool.submit(accuracies, *names[name], given): name for name in names if name not in done["scores"]}
        for job in as_completed(jobs):
            done["scores"][jobs[job]] = job.result()
            replaced = file.with_suffix(".part")
            replaced.write_text(json.dumps(done, indent=1), encoding="utf-8")
            os.replace(replaced, file)  # noqa: PTH105
    return {
        method: [done["scores"][f"{method} {number}"] for number in range(given.orders)] for method in given.methods
    }


def spread(values: list[float]) -> float:
    """Return the standard deviation over orders; 0 of one order."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def summary(scores: dict[str, list[list[float]]]) -> dict[str, dict[str, list[float]]]:
    """Return mean and standard deviation over the orders after each task."""
    return {
        method: {
            "mean": [round(statistics.fmean(after), 4) for after in zip(*rows, strict=True)],
            "std": [round(spread(list(after)), 4) for after in zip(*rows, strict=True)],
        }
        for method, rows in scores.items()
    }


def draw(found: dict[str, dict[str, list[float]]], classes: int, given: argparse.Namespace) -> Path:
    """Write the curve and return its file."""
    import plotly.graph_objects as go

    figure = go.Figure()
    seen = [classes * (k + 1) // given.tasks for k in range(given.tasks)]
    for method, values in found.items():
        figure.add_scatter(
            x=seen, y=values["mean"], error_y={"array": values["std"]}, name=method, mode="lines+markers"
        )
    title = (
        f"{given.data}: a memory of {given.ipc} images a class, mean ± standard deviation over {given.orders} orders"
    )
    figure.update_layout(
        title=title, template="plotly_white", xaxis_title="classes seen", yaxis_title="accuracy on the classes seen"
    )
    path: Path = given.out / "curve.html"
    figure.write_html(path, include_plotlyjs=True)
    return path


def options() -> argparse.Namespace:
    """Return what was asked for; the defaults suit digits."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="digits", help="digits, cifar10, cifar100, folder:DIR, …")
    parser.add_argument("--limit", type=int, help="at most so many images a class of the data")
    parser.add_argument("--image-size", type=int, help="resize images to a square of so many pixels")
    parser.add_argument("--methods", default=",".join(METHODS), help="with commas between")
    parser.add_argument("--ipc", type=int, default=20, help="images kept of each class")
    parser.add_argument("--tasks", type=int, default=5)
    parser.add_argument("--orders", type=int, default=3, help="random orders of the classes")
    parser.add_argument("--steps", type=int, default=200, help="of a condensation")
    parser.add_argument("--epochs", type=float, default=60, help="of a training on the memory")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--width", type=int, default=32, help="of the ConvNets")
    parser.add_argument("--depth", type=int, default=3, help="of the ConvNet that is trained on the memory")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="orders and methods at once; 1 on a GPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/continual"))
    given = parser.parse_args()
    given.methods = given.methods.split(",")
    if unknown := set(given.methods) - {*METHODS, "kcenter"}:
        parser.error(f"unknown methods {', '.join(sorted(unknown))}; known: {', '.join(METHODS)}, kcenter")
    return given


def main() -> None:
    """Measure, draw and say what came out."""
    given, start = options(), time.perf_counter()
    given.out.mkdir(parents=True, exist_ok=True)
    try:
        classes = len(loaded(given).train.classes)
        found = summary(measured(given))
    except nas_proxy.UserError as error:
        raise SystemExit(str(error)) from None
    for method, values in found.items():
        cells = (f"{mean:.1%} ± {std:.1%}" for mean, std in zip(values["mean"], values["std"], strict=True))
        print(f"{method:8}", *cells, sep="  ")
    print(f"Curve: {draw(found, classes, given)}")
    print(json.dumps(told(found, given, time.perf_counter() - start)))


def told(found: dict[str, Any], given: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Return the result as JSON: what was measured, how, on what."""
    from nas_proxy.environment import environment

    ours = {name: getattr(given, name) for name in ("data", "ipc", "tasks", "orders", "steps", "epochs", "width")}
    around = environment(given.device, 1)
    hardware = {name: around.pop(name) for name in ("cpu", "cores", "device", "platform")}
    return {
        "benchmark": "continual_learning",
        **ours,
        "accuracy": found,
        "n": given.orders,
        "seconds": round(seconds, 1),
        "hardware": hardware,
        "versions": {name: around[name] for name in ("nas_proxy", "python", "torch", "numpy")},
    }


if __name__ == "__main__":
    main()
