"""The rows of a table of small ConvNets: everything that is measured of one architecture, a line of JSON each.

`convnet_table.py` trains them and makes the table. Rows are appended one by one; what a kill cut short is cut off.
"""

import functools
import gzip
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nas_proxy.data.images import ImageSet
from nas_proxy.data.sources import Source
from nas_proxy.data.splits import Development, development, held_out_test, random_subset
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.space import Architecture
from nas_proxy.training.execution import choose
from nas_proxy.training.train import Recipe, accuracy, fit_in
from small_convnets import space

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PER_CLASS = (10, 50)
T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """What a row depends on: rows of another setting do not belong into the same table.

    seed: of the split, the order of the architectures and all training. epochs: of full training. passes: images passed
    through the network in each of the short trainings. limit: at most so many images a class; None for all.
    """

    dataset: str = "fashion-mnist"
    seed: int = 0
    epochs: float = 2
    passes: int = 6000
    limit: int | None = None

    @property
    def full(self) -> Recipe:
        """The product's recipe, but for the epochs."""
        return Recipe(epochs=self.epochs)

    def short(self, images: int) -> Recipe:
        """The product's recipe in so many image passes on a set of so many images."""
        return Recipe(epochs=self.passes / images)


@dataclass(frozen=True)
class Images:
    """The parts of the data; `random` holds so many random training images a class."""

    development: Development
    test: ImageSet
    random: dict[int, ImageSet]


def unpack(folder: Path, cache: Path) -> Path:
    """Put the IDX files of `folder` where `open_source` looks for those of Fashion-MNIST, and return `cache`."""
    raw = cache / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        packed = folder / f"{name}.gz"
        content = gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
        (raw / name).write_bytes(content)
    return cache


def load(source: Source, setting: Setting) -> Images:
    """Read all parts; the random images are those of a run's first draw."""
    parts = development(source, seed=setting.seed, limit=setting.limit)
    drawn = {n: random_subset(parts.train, n, torch_generator(setting.seed, "random", 0)) for n in PER_CLASS}
    return Images(parts, held_out_test(source, parts, seed=setting.seed, limit=setting.limit), drawn)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Return what `work` returns, and the processor's seconds it took."""
    start = time.process_time()
    return work(), round(time.process_time() - start, 4)


def row_of(architecture: Architecture, images: Images, setting: Setting) -> dict[str, Any]:
    """Return all that is measured of one architecture, seconds in seconds of the processor, accuracies as shares."""
    shape, key = images.development.train.shape, space.key(architecture)
    build = functools.partial(space.build, architecture, shape)
    train, validation = images.development.train, images.development.validation
    size, seconds = timed(lambda: measure(space, architecture, shape))
    wall = time.perf_counter()
    row: dict[str, Any] = {"key": key, "seed": setting.seed, "architecture": dict(architecture)}
    row["zero_cost"] = {
        "params": {"value": size.params, "seconds": seconds},
        "flops": {"value": size.flops, "seconds": seconds},
        **untrained(build, images, derive(setting.seed, "signals", key)),
    }
    for per_class, few in images.random.items():
        row[f"random{per_class}"] = trained(build, few, validation, setting.short(len(few)), seed_of(setting, key))
    early = setting.short(len(train))
    row["early_stop"] = trained(build, train, validation, early, seed_of(setting, key))
    row["full"] = trained(build, train, validation, setting.full, seed_of(setting, key), images.test)
    return {**row, "wall_seconds": round(time.perf_counter() - wall, 2)}


def seed_of(setting: Setting, key: str) -> int:
    return derive(setting.seed, "table", key)


def untrained(build: Callable[[], nn.Module], images: Images, seed: int) -> dict[str, Any]:
    """Return the scores of the network before training; of AZ-NAS the traits, whose ranks among all make its score."""
    shown = zero_cost.some_images(images.development.train, seed=0)
    found: dict[str, Any] = {}
    for name in zero_cost.SCORES:
        score, seconds = timed(lambda name=name: zero_cost.score(name, build, shown, seed))
        found[name] = {"value": number(score.value), "seconds": seconds, "reason": score.reason}
    start, traits, reason = time.process_time(), None, None
    try:
        traits = [number(trait) for trait in zero_cost.drawn(az_nas.traits, build, shown, seed)]
    except zero_cost.NoScoreError as error:
        reason = str(error)
    found["az_nas"] = {"traits": traits, "seconds": round(time.process_time() - start, 4), "reason": reason}
    return found


def trained(
    build: Callable[[], nn.Module],
    data: ImageSet,
    validation: ImageSet,
    recipe: Recipe,
    seed: int,
    test: ImageSet | None = None,
) -> dict[str, Any]:
    """Train as the product does; return the curve, and the seconds of training apart from those of scoring.

    `curve` has, for each epoch (of a training with test images, else for the last one alone), the mean training loss,
    the accuracy on validation (null where a logit is not finite) and the seconds of training up to there.
    """
    way = choose(recipe.precision, data.shape, torch.device("cpu"))
    scoring, curve = 0.0, []
    start = time.process_time()

    def after(network: nn.Module, losses: Sequence[float]) -> bool:
        nonlocal scoring
        if test is not None or len(losses) == math.ceil(recipe.epochs):
            spent = time.process_time() - start - scoring
            found, took = timed(lambda: accuracy(network, validation, way))
            network.train()
            scoring += took
            curve.append(
                {"epoch": len(losses), "loss": number(losses[-1]), "validation": found, "seconds": round(spent, 3)}
            )
        return False

    fitted = fit_in(way, build, data, recipe, seed, after)
    seconds = time.process_time() - start - scoring
    row = {
        "losses": [number(loss) for loss in fitted.losses],
        "validation": curve[-1]["validation"] if curve else None,
        "seconds": round(seconds, 3),
        "validation_seconds": round(scoring / max(1, len(curve)), 3),
        "image_passes": fitted.image_passes,
    }
    if test is None:
        return row
    found, took = timed(lambda: accuracy(fitted.network, test, way))
    return {**row, "test": found, "test_seconds": took, "curve": curve}


def number(value: float) -> float | None:
    """Return a number to float32's seven digits; None for one that is not finite, which JSON does not know."""
    return float(f"{value:.7g}") if math.isfinite(value) else None


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the finished rows; a last line that a kill cut short is none."""
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    return [json.loads(line) for line in lines[:-1]]


def append(path: Path, row: dict[str, Any]) -> None:
    """Write a row with one call to the end of the file, after cutting off what a kill left of another."""
    line = (json.dumps(row, allow_nan=False) + "\n").encode()
    with path.open("ab") as file:
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def mend(path: Path) -> None:
    """Cut off a last line that a kill left unfinished."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def train_all(
    path: Path, source: Source, setting: Setting, most: int | None = None, part: tuple[int, int] = (1, 1)
) -> int:
    """Train what has no row yet, at most so many; return how many were trained. Raises ValueError for other rows.

    part: (k, n) for the k-th of every n architectures alone, so that n processes can fill one file at once.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    mend(path)
    rows = read_rows(path)
    if rows and rows[0] != header(setting):
        raise ValueError(f"{path} has rows of another setting, {rows[0]}; name another file, or give {header(setting)}")
    if not rows:
        append(path, header(setting))
    done = {row["key"] for row in rows[1:]}
    ours = list(space.sample(setting.seed))[part[0] - 1 :: part[1]]
    left = [a for a in ours if space.key(a) not in done][:most]
    if not left:
        return 0
    images = load(source, setting)
    row_of(left[0], images, replace(setting, epochs=setting.epochs / 100))  # what is slow once is slow here
    for count, architecture in enumerate(left, 1):
        row = row_of(architecture, images, setting)
        append(path, row)
        full = row["full"]
        print(f"{count}/{len(left)} {row['key']}: test {full['test']}, {full['seconds']} s", flush=True)
    return len(left)


def header(setting: Setting) -> dict[str, Any]:
    """Return the first line of a file of rows."""
    return {"setting": asdict(setting), "versions": {"torch": torch.__version__}}
