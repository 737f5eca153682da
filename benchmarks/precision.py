"""Does bfloat16 cost accuracy? Sets condensed in it and in float32, and networks trained on both.

From each seed a set is condensed in either precision, from the same images and the same embedding networks; the same
ConvNets are trained on both by the paper's recipe, and scored on validation images, beside random real images. So the
differences are paired.

    python benchmarks/precision.py --data folder:cifar10 --out DIR

Sets are kept in `--out`, so that a run that is cut off goes on. The last line on stdout is one JSON object.
"""

import argparse
import statistics
from pathlib import Path

from cached_sets import condensed
from nas_proxy.condensation.evaluation import Evaluation, evaluate, paper_recipe
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data import augment
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import Development, development
from nas_proxy.runs.resolving import NOT_MIRRORED
from outcome import show

PRECISIONS = ("float32", "bfloat16")
SETTINGS = ("limit", "ipc", "steps", "width", "real_batch", "epochs")


def strategy(options: argparse.Namespace) -> tuple[str, ...]:
    return augment.NO_FLIP if options.data in NOT_MIRRORED else augment.FULL


def judged(data: Development, precision: str, seed: int, options: argparse.Namespace) -> Evaluation:
    """Condense a set, or take it from the folder, and train on it and on random images."""
    recipe = Condensation(
        options.ipc,
        options.steps,
        real_batch=options.real_batch,
        width=options.width,
        precision=precision,
        augmentation=strategy(options),
    )
    images, seconds = condensed(data.train, recipe, seed, options.out, options.device)
    found = evaluate(
        images,
        data.train,
        data.validation,
        paper_recipe(options.epochs, strategy(options)),
        seed,
        width=options.width,
        networks=options.networks,
        device=options.device,
    )
    print(f"{precision}, seed {seed}: {found.accuracy:.3f}, condensed in {seconds:.0f} s", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as --dataset of nas-proxy run")
    parser.add_argument("--limit", type=int, default=500, help="images a class that are used of the data")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--real-batch", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=300, help="of a training; the paper's are 1,000")
    parser.add_argument("--seeds", type=int, default=3, help="sets of each precision, 2 or more")
    parser.add_argument("--networks", type=int, default=3, help="trainings on each set, 2 or more")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True, help="folder for the sets")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    data = development(open_source(options.data), seed=0, limit=options.limit)
    seeds = range(options.seeds)
    found = {precision: [judged(data, precision, seed, options) for seed in seeds] for precision in PRECISIONS}
    accuracies = {precision: [each.accuracy for each in found[precision]] for precision in PRECISIONS}
    differences = [b - a for a, b in zip(accuracies["float32"], accuracies["bfloat16"], strict=True)]
    result = {
        "benchmark": "precision",
        "accuracy": {precision: round(statistics.fmean(values), 4) for precision, values in accuracies.items()},
        "random_accuracy": round(statistics.fmean(each.random_accuracy for each in found["float32"]), 4),
        "bfloat16_minus_float32": round(statistics.fmean(differences), 4),
        "standard_deviation_of_differences": round(statistics.stdev(differences), 4),
        "n": options.seeds,
        "networks": options.networks,
        "by_seed": {precision: [round(value, 4) for value in values] for precision, values in accuracies.items()},
        "settings": {name: getattr(options, name) for name in SETTINGS},
    }
    show(result, options.device, ("torch",))


if __name__ == "__main__":
    main()
