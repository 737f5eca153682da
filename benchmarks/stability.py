"""Is the default step size stable when every step has another network of a search space?

Draws that many architectures, takes one step with each, and measures after every tenth of them how well the images
match the class means in ConvNets that are never stepped with: it must fall and not blow up. Beside it the spread of
the gradient before steps are limited: the root mean square at the first images, of each of the networks.

    python benchmarks/stability.py --data folder:cifar10 --space nas_bench_201:cells=1 --networks 200

The last line on stdout is one JSON object.
"""

import argparse
import time

import torch

from nas_proxy.condensation import step as condensation
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.embedding import Embedding, open_engine
from nas_proxy.condensation.matching import loss_and_gradient
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Task
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development
from nas_proxy.pipeline.problem import choose_device
from nas_proxy.seeds import torch_generator
from nas_proxy.spaces.loading import load_space
from outcome import show

JUDGES = 3


def distance(task: Task, images: torch.Tensor) -> float:
    """Return the loss in ConvNets of width 64 that were not used, over all real images."""
    engine = open_engine(Embedding(task.real.shape, 64, 3), task.device, real=1, synthetic=1, steps=1)
    real = torch.cat([task.real.decode(members) for members in task.members])
    sizes, own = [len(members) for members in task.members], [task.recipe.images_per_class] * len(task.members)
    networks = [engine.draw(torch_generator(index, "judge")) for index in range(JUDGES)]
    return sum(float(loss_and_gradient(n, real, sizes, images, own)[0].sum()) for n in networks) / JUDGES


def slope(task: Task, networks: condensation.Networks, step: int) -> float:
    """Return the root mean square of the gradient of one network at the first images, all classes together."""
    images = condensation.initial(task).images
    real = torch.cat([task.real.decode(members[: task.recipe.real_batch]) for members in task.members])
    sizes = [min(len(members), task.recipe.real_batch) for members in task.members]
    own = [task.recipe.images_per_class] * len(task.members)
    return float(loss_and_gradient(networks.draw(step), real, sizes, images, own)[1].square().mean().sqrt())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="as nas-proxy run --dataset takes it")
    parser.add_argument("--space", default="convnet")
    parser.add_argument("--networks", type=int, default=200)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--real-batch", type=int, default=24)
    parser.add_argument("--limit", type=int, default=None, help="images a class of the data")
    parser.add_argument("--match", choices=("last", "all"), default="last")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    device = choose_device(options.device)
    real = development(open_source(options.data, image_size=None), seed=0, limit=options.limit).train.to(device)
    recipe = Condensation(
        options.ipc, options.networks, real_batch=options.real_batch, match=options.match, embed="space"
    )
    task = Task(real, tuple(real.of_class()), recipe, 0, torch.device(device), ALONE)
    networks = condensation.open_networks(task, load_space(options.space, real.shape), (), print)
    slopes = torch.tensor([slope(task, networks, step) for step in range(recipe.steps)])
    state = condensation.initial(task)
    curve = [distance(task, state.images)]
    start = time.perf_counter()
    while state.step < recipe.steps:
        condensation.take_step(state, task, networks)
        if state.step % max(1, recipe.steps // 10) == 0:
            curve.append(distance(task, state.images))
            print(f"{state.step} networks: {curve[-1]:.4g}", flush=True)
    result = {
        "benchmark": "stability",
        "space": options.space,
        "n": len(set(networks.embedded)),
        "distance": [round(value, 3) for value in curve],
        "largest_pixel": round(float(state.images.abs().max()), 3),
        "gradient_rms_quantiles": {
            str(q): float(f"{float(slopes.quantile(q)):.3g}") for q in (0.0, 0.05, 0.5, 0.95, 1.0)
        },
        "seconds": round(time.perf_counter() - start, 1),
        "settings": {name: getattr(options, name) for name in ("ipc", "real_batch", "limit", "match")},
    }
    show(result, device, ("torch",))


if __name__ == "__main__":
    main()
