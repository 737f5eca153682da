"""What each option of the condensation does for accuracy and for the ranking of architectures.

Makes condensed and random sets of CIFAR-10, trains the same cells of NAS-Bench-201 on each, for equally many image
passes, and ranks them beside published accuracies, by validation accuracy and by the sum of training losses. A
ConvNet-3 of width 32, trained three times on each set, tells how well it trains. Kill it and run it again: it goes on.

    python benchmarks/ablation.py --data folder:cifar10 --truth-table nas_bench_201.csv:cifar10_valid_200ep --out DIR

The last line on stdout is one JSON object.
"""

import argparse
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nas_proxy.condensation import step as condensation
from nas_proxy.condensation.condense import Condensation, condense
from nas_proxy.condensation.ranks import ALONE
from nas_proxy.condensation.step import Task
from nas_proxy.data.images import ImageSet, quantised
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import Development, development, random_subset
from nas_proxy.environment import environment
from nas_proxy.pipeline.session import choose_device
from nas_proxy.ranking.signals import Signal, rank
from nas_proxy.ranking.truth_table import known_part, load_truth_table
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.spaces.convnet import ConvNet
from nas_proxy.spaces.loading import load_space
from nas_proxy.spaces.space import Architecture
from nas_proxy.training.train import Recipe, fit
from nas_proxy.training.workers import Failure, Job, Pool

NETWORKS = 3  # that measure accuracy
TEACHER_EPOCHS = 30


@dataclass(frozen=True)
class Variant:
    """A kind of set.

    changes: of the recipe; None for random images. draws: of random images. soft: labelled by a teacher.
    stored: as "8-bit" or "float".
    """

    changes: dict[str, Any] | None
    draws: int = 1
    soft: bool = False
    stored: str = "8-bit"
    formation: int = 1


TOGETHER = {"formation": 2, "match": "all", "embed": "space"}
VARIANTS = {
    "random": Variant(None, draws=2),
    "dm": Variant({}),
    "space": Variant({"embed": "space"}),
    "formation": Variant({"formation": 2}),
    "random_formation": Variant(None, draws=2, formation=2),
    "all_blocks": Variant({"match": "all"}),
    "together": Variant(TOGETHER),
    "soft": Variant({}, soft=True),
    "random_soft": Variant(None, soft=True),
    "float": Variant({}, stored="float"),
}


class Bench:
    """The data, the cells and the file of results."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.device = choose_device(options.device)
        self.data: Development = development(open_source(options.data, image_size=None), seed=0, limit=options.limit)
        self.spec = f"nas_bench_201:cells={options.cells_a_stage}"
        self.space = load_space(self.spec, self.data.train.shape)
        table = load_truth_table(options.truth_table, self.space, len(self.data.train.classes))
        stream = known_part(self.space, table).sample(0)
        self.cells = {self.space.key(a): a for a in itertools.islice(stream, options.cells)}
        self.truth = table.scores.loc[list(self.cells)]
        self.validation = self.out / "validation.safetensors"
        judges = random_subset(self.data.validation, options.validation, torch_generator(0, "judges"))
        judges.save(self.validation)
        self.records = self.out / "records.jsonl"
        lines = self.records.read_text().splitlines() if self.records.exists() else []
        self.done: dict[str, Any] = {entry["name"]: entry for entry in map(json.loads, lines)}

    def keep(self, name: str, **entry: Any) -> None:
        self.done[name] = {"name": name, **entry}
        with self.records.open("a") as file:
            file.write(json.dumps(self.done[name]) + "\n")

    def recipe(self, variant: Variant) -> Condensation:
        o = self.options
        base = Condensation(images_per_class=o.ipc, steps=o.steps, real_batch=o.real_batch, width=o.width)
        return replace(base, **(variant.changes or {}))

    def make(self, name: str, draw: int) -> Path:
        """Return the path of a set, made when it is not there."""
        path: Path = self.out / f"{name}{draw}.safetensors"
        if path.exists():
            return path
        variant, train = VARIANTS[name], self.data.train
        start = time.perf_counter()
        if variant.changes is None:
            drawn = random_subset(train, self.options.ipc * variant.formation**2, torch_generator(0, "random", draw))
            images = drawn.packed(variant.formation)
        elif variant.changes == {}:
            images = self.plain(variant.stored)
        else:
            images = condense(
                train, self.recipe(variant), 0, device=self.device, space=self.space, exclude=set(self.cells),
                checkpoint=path.with_suffix(".checkpoint"), progress=lambda step, loss: print(name, step, flush=True),
            ).images  # fmt: skip
        if variant.soft:
            images = replace(images, labels=self.taught(images))
        images.save(path, {"seconds": time.perf_counter() - start})
        return path

    def plain(self, stored: str) -> ImageSet:
        """Return what the paper's method learns, as 8-bit or as float images."""
        path = self.out / "plain.pt"
        train, recipe = self.data.train, self.recipe(VARIANTS["dm"])
        if not path.exists():
            task = Task(train, tuple(train.of_class()), recipe, 0, torch.device(self.device), ALONE)
            state, networks = condensation.initial(task), condensation.open_networks(task, None, (), print)
            while state.step < recipe.steps:
                condensation.take_step(state, task, networks)
            torch.save(state.images.detach().cpu(), path)
        images = torch.load(path, weights_only=True)
        labels = torch.arange(len(train.classes)).repeat_interleave(recipe.images_per_class)
        if stored == "8-bit":
            return quantised(images, labels, train.classes)
        one = torch.ones(images.shape[1])
        return ImageSet(images, labels, one, torch.zeros_like(one), train.classes)

    def taught(self, images: ImageSet) -> torch.Tensor:
        """Return a small teacher's probabilities for the images, (n, classes)."""
        shape = self.data.train.shape
        recipe = Recipe(epochs=TEACHER_EPOCHS, batch_size=128)
        teacher = fit(lambda: ConvNet(shape, width=self.options.width), self.data.train, recipe, 0, self.device).network
        with torch.no_grad():
            return teacher.eval()(images.to(self.device).decode()).softmax(1).cpu()

    def jobs(self) -> Iterator[tuple[str, Job]]:
        """Yield what is not trained yet, each with its name."""
        o = self.options
        judge: Architecture = {"depth": 3, "width": 32, "norm": "instance", "activation": "relu", "pooling": "average"}
        for name, variant in VARIANTS.items():
            for draw in range(variant.draws):
                path = self.make(name, draw)
                count = len(ImageSet.load(path).unpacked())
                recipe = Recipe(epochs=o.passes / count, batch_size=64, learning_rate=o.learning_rate)
                tasks: list[tuple[str, str, Architecture]] = [(f"judge{i}", "convnet", judge) for i in range(NETWORKS)]
                tasks += [(key, self.spec, cell) for key, cell in self.cells.items()]
                for key, spec, architecture in tasks:
                    full = f"{name}/{draw}/{key}"
                    if full not in self.done:
                        seed = derive(0, "ablation", key)
                        yield full, Job(spec, architecture, path, self.validation, recipe, seed, self.device)

    def work(self) -> None:
        with Pool(self.options.workers) as pool:
            for name, result in pool.run(self.jobs()):
                if isinstance(result, Failure):
                    self.keep(name, reason=result.reason)
                else:
                    self.keep(name, score=result.score, loss_sum=sum(result.losses), seconds=result.seconds)
                print(name, self.done[name].get("score"), flush=True)

    def rows(self) -> dict[str, Any]:
        """Return a row a variant."""
        ways: dict[str, Callable[[Any], float]] = {
            "accuracy": lambda entry: entry["score"],
            "loss_sum": lambda entry: -entry["loss_sum"],
        }
        found: dict[str, Any] = {}
        for way, of in ways.items():
            signals = [Signal(name, self.scores(name, of), 0.0, 0, 0) for name in VARIANTS]
            ranked = rank(
                signals, self.truth, list(self.cells), seed=0,
                truth_seconds=None, truth_image_passes=None, truth_stored_bytes=None,
            )  # fmt: skip
            for name in VARIANTS:
                row = ranked[name]
                found.setdefault(name, {})[way] = {k: row[k] for k in ("spearman", "minus_random")}
        for name, variant in VARIANTS.items():
            draws = range(variant.draws)
            judged = [self.done[f"{name}/{d}/judge{i}"]["score"] for d in draws for i in range(NETWORKS)]
            set_ = self.out / f"{name}0.safetensors"
            trained = [self.done[f"{name}/{d}/{key}"]["seconds"] for d in draws for key in self.cells]
            found[name] |= {
                "convnet_accuracy": statistics.fmean(judged),
                "convnet_std": statistics.stdev(judged),
                "condense_seconds": ImageSet.load_metadata(set_)["seconds"],
                "candidate_seconds": statistics.median(trained),
                "stored_bytes": ImageSet.load(set_).stored_bytes,
            }
        return found

    def scores(self, name: str, of: Callable[[Any], float]) -> pd.DataFrame:
        draws = range(VARIANTS[name].draws)
        columns = {draw: [of(self.done[f"{name}/{draw}/{key}"]) for key in self.cells] for draw in draws}
        return pd.DataFrame(columns, index=pd.Index(list(self.cells), name="key"), dtype=float)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="CIFAR-10, as nas-proxy run --dataset takes it")
    parser.add_argument("--truth-table", required=True, help="FILE:COLUMN of NAS-Bench-201")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="images a class of the data")
    parser.add_argument("--validation", type=int, default=100, help="validation images a class")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--cells-a-stage", type=int, default=1)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--passes", type=int, default=6000, help="image passes of a training")
    parser.add_argument("--learning-rate", type=float, default=0.1)
    options = parser.parse_args()
    bench = Bench(options)
    bench.work()
    facts = environment(bench.device, options.workers)
    result = {
        "benchmark": "ablation",
        "n": len(bench.cells),
        "rows": bench.rows(),
        "settings": {k: v for k, v in vars(options).items() if k not in {"data", "truth_table", "out"}},
        "hardware": {k: facts[k] for k in ("device", "cpu", "cores")},
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "nas_proxy": facts["nas_proxy"]},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
