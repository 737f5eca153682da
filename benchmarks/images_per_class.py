"""Accuracy against the number of condensed images a class, beside as many random real images.

For each number a set is condensed, then networks are trained on it and on random images, each for the same number of
steps of the paper's recipe, and scored on validation images. `--embed` and `--network` choose sophisticated networks.

    python benchmarks/images_per_class.py --data folder:cifar10 --ipc 1,2,5,10,20,50 --out runs/curve
    python benchmarks/images_per_class.py --data folder:cifar10 --ipc 10 --embed resnet18 --network resnet18 --out DIR

Sets and points are kept in `--out`, so that a run that is cut off goes on. The last line on stdout is one JSON object.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from cached_sets import condensed
from nas_proxy.condensation.evaluation import KINDS, evaluate, paper_recipe
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data import augment
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import Development, development
from nas_proxy.runs.resolving import NOT_MIRRORED
from outcome import show

BATCH = 256


def point(data: Development, ipc: int, options: argparse.Namespace, device: str) -> dict[str, Any]:
    """Condense `ipc` images a class, and train on them and on random ones."""
    strategy = augment.NO_FLIP if options.data in NOT_MIRRORED else augment.FULL
    recipe = Condensation(
        ipc,
        options.steps,
        learning_rate=10.0 if ipc > 50 else 1.0,
        real_batch=options.real_batch,
        width=options.width,
        embed=options.embed,
        augmentation=strategy,
    )
    images, seconds = condensed(data.train, recipe, 0, options.out, device)
    count = len(images)
    epochs = options.train_steps * min(BATCH, count) / count
    started = time.perf_counter()
    found = evaluate(
        images,
        data.train,
        data.validation,
        paper_recipe(epochs, strategy),
        0,
        width=options.width,
        network=options.network,
        networks=options.networks,
        device=device,
    )
    rounded = {name: round(value, 4) for name, value in found.as_json().items()}
    trained = round(time.perf_counter() - started, 1)
    return {"ipc": ipc, **rounded, "condense_seconds": round(seconds, 1), "train_seconds": trained}


def kept(data: Development, ipc: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the point of `ipc` images a class, from the folder where it is there."""
    settings = {name: value for name, value in vars(options).items() if name not in {"ipc", "out", "data"}}
    path = options.out / f"{options.embed}-{options.network}-{ipc}.json"
    identity = [data.fingerprint, settings]
    if path.exists() and (found := json.loads(path.read_text(encoding="utf-8")))["identity"] == identity:
        return found["point"]
    made = point(data, ipc, options, options.device)
    path.write_text(json.dumps({"identity": identity, "point": made}), encoding="utf-8")
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits", help="as --dataset of nas-proxy run")
    parser.add_argument("--limit", type=int, default=None, help="images a class that are used of the data")
    parser.add_argument("--ipc", default="1,2,5,10,20,50", help="images a class, with commas between")
    parser.add_argument("--steps", type=int, default=200, help="of a condensation")
    parser.add_argument("--train-steps", type=int, default=300, help="of a training, whatever the number of images")
    parser.add_argument("--width", type=int, default=16, help="of the ConvNets; a ResNet-18 has half as many channels")
    parser.add_argument("--real-batch", type=int, default=64)
    parser.add_argument("--embed", choices=("convnet", "resnet18"), default="convnet")
    parser.add_argument("--network", choices=KINDS, default="convnet", help="what is trained on the sets")
    parser.add_argument("--networks", type=int, default=3, help="trainings on each set, 2 or more")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="0: PyTorch's choice")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is done")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    data = development(open_source(options.data), seed=0, limit=options.limit)
    points = []
    for ipc in map(int, options.ipc.split(",")):
        points.append(kept(data, ipc, options))
        print(json.dumps(points[-1]), flush=True)
    settings = ("limit", "steps", "train_steps", "width", "real_batch", "embed", "network")
    result = {
        "benchmark": "images_per_class",
        "data": "digits" if options.data == "digits" else options.data.rpartition("/")[2],
        "classes": len(data.train.classes),
        **{name: getattr(options, name) for name in settings},
        "n": options.networks,
        "points": points,
    }
    show(result, options.device, ("torch",), threads=torch.get_num_threads())


if __name__ == "__main__":
    main()
