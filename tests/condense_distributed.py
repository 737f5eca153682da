"""A program for tests/test_ranks.py: twenty steps in float64, alone or as one of several processes."""

import sys
from pathlib import Path

import torch

from conftest import blobs
from nas_proxy.condensation.distributed import ProcessGroup, together
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Task, initial, open_networks, take_step
from nas_proxy.spaces.space import Space
from search_spaces.convnet import build, space_for


def main(embed: str, path: Path) -> None:
    torch.set_num_threads(1)
    with together("cpu") as (ranks, device):
        work(embed, path, ranks, device)


def work(embed: str, path: Path, ranks: ProcessGroup, device: str) -> None:
    real = blobs(per_class=9, classes=5, size=8)
    recipe = Condensation(2, 20, learning_rate=0.1, real_batch=6, width=4, precision="float64", embed=embed)
    task = Task(real, tuple(real.of_class()), recipe, 0, torch.device(device), ranks)
    # Batch norm, whose statistics the processes share.
    space = Space("joint", space_for(real.shape).choices, build, valid=lambda a: a["norm"] == "batch")
    networks = open_networks(task, space, (), print)
    state = initial(task)
    losses = [ranks.total(take_step(state, task, networks)) for _ in range(recipe.steps)]
    images = torch.cat(ranks.gathered(state.images.detach()))
    if ranks.rank == 0:
        torch.save([images, torch.stack(losses)], path)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
