"""Train every one of 96 small ConvNets on a data set once, and keep beside it what cheaper signals say of it.

    python benchmarks/convnet_table.py train --idx FOLDER --rows rows.jsonl
    python benchmarks/convnet_table.py train --dataset folder:cifar10 --limit 500 --epochs 10 --rows rows.jsonl
    python benchmarks/convnet_table.py table --rows rows.jsonl --out benchmarks/results/fashion-convnets-cpu

`train` appends a line of JSON for each finished architecture and goes on where it ended, whether it was killed or not.
FOLDER holds the four IDX files of Fashion-MNIST (Xiao, Rasul & Vollgraf, arXiv:1708.07747), packed by gzip or not, as
Debian's package dataset-fashion-mnist installs them. The architectures (`small_convnets.py`) come in a uniformly random
order, so what is finished is a uniform sample of them at any time. `table` writes OUT.json, a summary, and
OUT.csv, the accuracies, seconds and signals by architecture; it can be made of unfinished rows, and says of how many.

Of each architecture: the accuracy on the test images after a full training (the product's recipe but for the epochs;
of Fashion-MNIST 55,000 images, 5,000 for validation and 10,000 for test); the training loss and the accuracy on the
validation images after each epoch of it; trainings
on 10 and on 50 random images a class, and on all images, of 6,000 image passes each; scores of untrained networks.
Only the truth has seen test images.

All seconds are those of the processor (`time.process_time`) on one thread: on a machine with other work the clock on
the wall would measure that. The last line on stdout is one JSON object.
"""

import argparse
import csv
import functools
import gzip
import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy import stats
from torch import nn

from nas_proxy.data.images import ImageSet
from nas_proxy.data.sources import Source, open_source
from nas_proxy.data.splits import Development, development, held_out_test, random_subset
from nas_proxy.environment import environment
from nas_proxy.files import write_json, write_text
from nas_proxy.ranking.intervals import bootstrap_interval, spearman
from nas_proxy.seeds import derive, numpy_generator, torch_generator
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.space import Architecture
from nas_proxy.training.execution import choose
from nas_proxy.training.train import Recipe, accuracy, fit_in
from small_convnets import space

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
PER_CLASS = (10, 50)
VOTE = ("naswot", "synflow", "flops", "jacob_cov")
CHANCE = 0.1
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


def train_all(path: Path, source: Source, setting: Setting, most: int | None = None) -> int:
    """Train what has no row yet, at most so many; return how many were trained. Raises ValueError for other rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mend(path)
    rows = read_rows(path)
    if rows and rows[0] != header(setting):
        raise ValueError(f"{path} has rows of another setting, {rows[0]}; name another file, or give {header(setting)}")
    if not rows:
        append(path, header(setting))
    done = {row["key"] for row in rows[1:]}
    left = [a for a in space.sample(setting.seed) if space.key(a) not in done][:most]
    if not left:
        return 0
    images = load(source, setting)
    row_of(left[0], images, replace(setting, epochs=setting.epochs / 100))  # what is slow once is slow here
    for count, architecture in enumerate(left, 1):
        row = row_of(architecture, images, setting)
        append(path, row)
        full = row["full"]
        print(f"{len(done) + count}/{space.size} {row['key']}: test {full['test']}, {full['seconds']} s", flush=True)
    return len(left)


def header(setting: Setting) -> dict[str, Any]:
    """Return the first line of a file of rows."""
    return {"setting": asdict(setting), "versions": {"torch": torch.__version__}}


def assembled(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the score of AZ-NAS of each row among all rows; NaN where a network has none."""
    found = [[*row["zero_cost"]["az_nas"]["traits"], row["zero_cost"]["flops"]["value"]] for row in rows if known(row)]
    scores = iter(az_nas.assembled([[-math.inf if t is None else t for t in traits] for traits in found]))
    return [next(scores) if known(row) else math.nan for row in rows]


def known(row: dict[str, Any]) -> bool:
    """Whether AZ-NAS could score the network."""
    return row["zero_cost"]["az_nas"]["traits"] is not None


def loss_sum(losses: Iterable[float | None]) -> float:
    """Return the negated sum of the losses; NaN for a training that diverged."""
    return -sum(math.nan if loss is None else loss for loss in losses)


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[float], float]]:
    """Return the scores of the rows by each signal, NaN where there is none, and the seconds of the signal for all."""
    found: dict[str, tuple[list[float], float]] = {}
    for name in ("params", "flops", *zero_cost.SCORES):
        cells = [row["zero_cost"][name] for row in rows]
        found[name] = ([_nan(cell["value"]) for cell in cells], sum(cell["seconds"] for cell in cells))
    found["az_nas"] = (assembled(rows), sum(row["zero_cost"]["az_nas"]["seconds"] for row in rows))
    voters = [found[name] for name in VOTE]
    ranks = np.mean([stats.rankdata(lowest(values)) for values, _ in voters], axis=0)
    found["vote"] = (ranks.tolist(), sum(seconds for _, seconds in voters))
    for name in (*(f"random{n}" for n in PER_CLASS), "early_stop"):
        short = [row[name] for row in rows]
        seconds = sum(one["seconds"] for one in short)
        scored = sum(one["validation_seconds"] for one in short)
        found[name] = ([_nan(one["validation"]) for one in short], seconds + scored)
        found[f"{name}:loss_sum"] = ([loss_sum(one["losses"]) for one in short], seconds)
    for epoch in range(1, max(len(row["full"]["curve"]) for row in rows) + 1):
        looks = [row["full"]["curve"][epoch - 1] if epoch <= len(row["full"]["curve"]) else None for row in rows]
        seconds = sum(look["seconds"] for look in looks if look)
        scored = sum(row["full"]["validation_seconds"] for row, look in zip(rows, looks, strict=True) if look)
        found[f"epoch{epoch}"] = ([_nan(look and look["validation"]) for look in looks], seconds + scored)
        sums = [
            loss_sum(row["full"]["losses"][:epoch]) if look else math.nan for row, look in zip(rows, looks, strict=True)
        ]
        found[f"epoch{epoch}:loss_sum"] = (sums, seconds)
    return found


def lowest(values: Sequence[float]) -> list[float]:
    """Return the scores with a finite one, below all others, in place of each that is missing, as the product does."""
    least = float(np.nextafter(min((v for v in values if not math.isnan(v)), default=0.0), -math.inf))
    return [least if math.isnan(v) else v for v in values]


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def truth_of(row: dict[str, Any]) -> float:
    """Return the accuracy of the full training on test; that of chance where it diverged."""
    return CHANCE if row["full"]["test"] is None else row["full"]["test"]


def correlation(values: Sequence[float], truth: Sequence[float]) -> dict[str, Any]:
    """Return Spearman's rho with a 95 % interval (BCa bootstrap over architectures)."""
    scores, true = np.array(lowest(values)), np.array(truth)
    draws = numpy_generator(0, "fashion_table")  # as the kept results were drawn
    found = bootstrap_interval(lambda counts: spearman(scores, true, counts), len(true), draws)
    rounded = [None if v is None else round(v, 3) for v in (found.value, found.low, found.high)]
    return {"spearman": rounded[0], "low": rounded[1], "high": rounded[2], "n": len(true), "reason": found.reason}


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Return the median, the quartiles and the extremes."""
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    names = ("min", "quarter", "median", "three_quarters", "max")
    return {name: round(float(q), digits) for name, q in zip(names, quantiles, strict=True)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the rows say together: spreads, and each signal's correlation with the truth and cost."""
    truth = [truth_of(row) for row in rows]
    seconds = [row["full"]["seconds"] for row in rows]
    signals = {
        name: {
            **correlation(values, truth),
            "missing": sum(map(math.isnan, values)),
            "seconds": round(cost, 2),
            "share_of_full": round(cost / sum(seconds), 5),
        }
        for name, (values, cost) in columns(rows).items()
    }
    best = max(range(len(rows)), key=truth.__getitem__)
    return {
        "rows": len(rows),
        "of": space.size,
        "test_accuracy": spread(truth, 4),
        "diverged": sum(row["full"]["test"] is None for row in rows),
        "at_chance": sum(accuracy_ <= CHANCE + 0.01 for accuracy_ in truth),
        "full_seconds": {**spread(seconds, 2), "sum": round(sum(seconds), 1)},
        "wall_seconds": round(sum(row["wall_seconds"] for row in rows), 1),
        "best": {"key": rows[best]["key"], "test": truth[best]},
        "signals": signals,
    }


def write_table(rows_file: Path, out: Path) -> dict[str, Any]:
    """Write OUT.json and OUT.csv, and return the summary."""
    first, *rows = read_rows(rows_file)
    if not rows:
        raise ValueError(f"{rows_file} has no finished architecture yet; let `train` run longer")
    found = {"benchmark": "convnet_table", **first, **summary(rows)}
    facts = environment("cpu", 1)
    found["hardware"] = {"device": "cpu", "cpu": facts["cpu"], "threads": 1}
    found["seconds_are"] = "of the processor, one thread; wall_seconds are the clock's, on a machine with other work"
    write_json(Path(f"{out}.json"), found)
    signals = columns(rows)
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["key", "test_acc", "validation_acc", "seconds", *signals])
    for number_, row in enumerate(rows):
        cells = [values[number_] for values, _ in signals.values()]
        full = row["full"]
        writer.writerow(
            [row["key"], truth_of(row), full["validation"], full["seconds"]]
            + ["" if math.isnan(cell) else f"{cell:.9g}" for cell in cells]
        )
    write_text(Path(f"{out}.csv"), table.getvalue())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train")
    run.add_argument("--idx", type=Path, help="folder of the IDX files of Fashion-MNIST")
    run.add_argument("--dataset", default=Setting.dataset, help="other data, to try it out")
    run.add_argument("--rows", type=Path, required=True)
    run.add_argument("--seed", type=int, default=Setting.seed)
    run.add_argument("--epochs", type=float, default=Setting.epochs)
    run.add_argument("--passes", type=int, default=Setting.passes)
    run.add_argument("--limit", type=int)
    run.add_argument("--most", type=int, help="train at most so many architectures")
    show = commands.add_parser("table")
    show.add_argument("--rows", type=Path, required=True)
    show.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.csv are written")
    options = parser.parse_args()
    if options.command == "table":
        print(json.dumps(write_table(options.rows, options.out)))
        return
    torch.set_num_threads(1)
    setting = Setting(options.dataset, options.seed, options.epochs, options.passes, options.limit)
    with tempfile.TemporaryDirectory() as cache:
        place = None if options.idx is None else unpack(options.idx, Path(cache))
        trained_now = train_all(options.rows, open_source(options.dataset, cache=place), setting, options.most)
    rows = len(read_rows(options.rows)) - 1
    print(json.dumps({"benchmark": "convnet_table", "trained": trained_now, "rows": rows, "of": space.size}))


if __name__ == "__main__":
    main()
