"""The blocks of a network, to be drawn."""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_proxy.data.shape import DataShape
from nas_proxy.spaces import blocks
from nas_proxy.spaces.blocks import Block, blocks_of
from nas_proxy.spaces.loading import load_space
from nas_proxy.spaces.space import Choice, Space

SHAPE = DataShape(1, 8, 8, 10)


def made_of(build: Callable[[], nn.Module]) -> tuple[Block, ...]:
    return blocks_of(Space("one", Choice("only", (1,)), lambda _, __: build()), {"only": 1}, SHAPE)


def test_the_blocks_of_a_convnet_are_its_convolutions_with_what_follows() -> None:
    space = load_space("convnet", SHAPE)
    chosen = {"depth": 2, "width": 32, "norm": "batch", "activation": "relu", "pooling": "average"}
    layers = ("conv 3×3", "batch norm", "ReLU", "average pooling")
    assert blocks_of(space, chosen, SHAPE) == (
        Block(layers, (32, 4, 4), 9 * 32 + 32 + 64),
        Block(layers, (32, 2, 2), 9 * 32 * 32 + 32 + 64),
        Block(("linear",), (10,), 32 * 4 * 10 + 10),
    )


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return images + torch.as_tensor(self.inner(images))


def test_a_users_module_is_a_block_by_its_name() -> None:
    def build() -> nn.Module:
        stem = nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False)
        return nn.Sequential(stem, Residual(), Residual(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

    found = made_of(build)
    assert [block.layers for block in found] == [
        ("conv 3×3, stride 2",),
        ("Residual",),
        ("Residual", "global average pooling"),
        ("linear",),
    ]
    assert [block.shape for block in found] == [(4, 4, 4), (4, 4, 4), (4,), (10,)]
    assert sum(block.params for block in found) == 36 + 2 * 148 + 50


def test_weights_that_are_shared_are_counted_once() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU(), nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            for _ in range(2):
                images = self.relu(self.conv(images))
            return torch.as_tensor(self.head(images.flatten(1)))

    assert [(block.layers, block.params) for block in made_of(Twice)] == [
        (("conv 3×3", "ReLU"), 10),
        (("conv 3×3", "ReLU"), 0),
        (("linear",), 650),
    ]


def test_a_deep_network_is_told_of_by_its_ends() -> None:
    found = made_of(lambda: nn.Sequential(*[nn.Conv2d(1, 1, 1) for _ in range(40)], nn.Flatten(), nn.Linear(64, 10)))
    assert len(found) == blocks.MOST
    assert (found[-1].layers, found[-1].skipped) == (("linear",), 41 - blocks.MOST)


def test_a_network_that_needs_values_is_told_of_and_one_that_fails_is_not() -> None:
    class OfValues(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64, 10)

        def forward(self, images: Tensor) -> Tensor:
            return torch.as_tensor(self.head(images.flatten(1))) * float(images.sum() + 1)

    assert [block.layers for block in made_of(OfValues)] == [("linear",)]
    assert made_of(lambda: nn.Linear(3, 10)) == ()


def test_what_a_network_does_to_its_process_is_not_done_to_the_command(tmp_path: Path) -> None:
    class Moving(nn.Flatten):
        def forward(self, images: Tensor) -> Tensor:
            os.chdir(tmp_path)
            return super().forward(images)

    before = Path.cwd()
    assert [block.layers for block in made_of(lambda: nn.Sequential(Moving(), nn.Linear(64, 10)))] == [("linear",)]
    assert Path.cwd() == before
    assert made_of(lambda: os._exit(3)) == ()
