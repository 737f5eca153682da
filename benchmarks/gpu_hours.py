"""What condensing known data sets would cost on a GPU: arithmetic, nothing of it measured on one.

FLOPs of a step (PyTorch's count of the convolutions of one real and one synthetic image, gradient included, times the
images of a step) × steps ÷ a sustained rate that is assumed. Norms, pooling, augmentation and reading have no FLOPs
here; what they take must be thought into the rate.

    python benchmarks/gpu_hours.py --rate 50

The last line on stdout is one JSON object.
"""

import argparse
from dataclasses import replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from nas_proxy.condensation.embedding import Embedding, open_engine
from nas_proxy.condensation.matching import loss_and_gradient
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import DataShape
from nas_proxy.spaces.convnet import deepest
from outcome import show

DATA = {
    "CIFAR-100": DataShape(3, 32, 32, 100),
    "TinyImageNet": DataShape(3, 64, 64, 200),
    "ImageNet at 64 pixels": DataShape(3, 64, 64, 1000),
}


def flops_of_an_image(shape: DataShape, recipe: Condensation) -> tuple[int, int]:
    """Return the FLOPs of one real and of one synthetic image in a step."""
    embedding = Embedding(shape, recipe.width, deepest(shape, recipe.depth))
    engine = open_engine(embedding, "cpu", real=1, synthetic=1, steps=0)
    # The counter sees its own thread only.
    network = replace(engine.draw(torch.Generator().manual_seed(0)), parallel=False)
    counts = []
    for real, synthetic in ((1, 1), (2, 1), (1, 2)):
        images = [torch.zeros(n, *shape[:3]) for n in (real, synthetic)]
        with FlopCounterMode(display=False) as counter:
            # One part for all: parts are filled up with blank images.
            loss_and_gradient(network, images[0], [real], images[1], [synthetic])
        counts.append(counter.get_total_flops())
    return counts[1] - counts[0], counts[2] - counts[0]


def step_flops(shape: DataShape, recipe: Condensation) -> int:
    """Return the FLOPs of a step: each class has `real_batch` real and `images_per_class` synthetic images."""
    real, synthetic = flops_of_an_image(shape, recipe)
    return shape.classes * (recipe.real_batch * real + recipe.images_per_class * synthetic)


def hours(shape: DataShape, recipe: Condensation, rate: float) -> float:
    """Return the hours of all steps at `rate` TFLOPs a second."""
    return recipe.steps * step_flops(shape, recipe) / (rate * 1e12) / 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=50.0, help="sustained TFLOPs a second that are assumed")
    parser.add_argument("--ipc", default="1,10,50", help="images a class, with commas between")
    options = parser.parse_args()
    rows = []
    for name, shape in DATA.items():
        for ipc in map(int, options.ipc.split(",")):
            recipe = Condensation(ipc)
            rows.append(
                {
                    "data": name,
                    "ipc": ipc,
                    "step_tflop": round(step_flops(shape, recipe) / 1e12, 2),
                    "hours": float(f"{hours(shape, recipe, options.rate):.3g}"),
                }
            )
            print(rows[-1], flush=True)
    defaults = Condensation()
    result = {
        "benchmark": "gpu_hours",
        "measured": False,
        "assumed_tflops_a_second": options.rate,
        "steps": defaults.steps,
        "real_batch": defaults.real_batch,
        "width": defaults.width,
        "depth": defaults.depth,
        "rows": rows,
    }
    show(result, None, ("torch",))


if __name__ == "__main__":
    main()
