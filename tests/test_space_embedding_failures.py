"""Networks of the space that cannot embed: they are passed over, and harm nothing."""

import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import blobs
from nas_proxy import Choice, Space, time_limit
from nas_proxy.condensation.space_embedding import open_space_embedding
from nas_proxy.errors import SpaceError
from nas_proxy.spaces import apart
from test_space_embedding import OPTIONS, Residual, space_of

KINDS = {
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), 9),
    "interrupt": lambda: exec("raise KeyboardInterrupt"),
}


class Hangs(nn.Module):
    def forward(self, images):
        time.sleep(600)


def test_architectures_that_raise_are_passed_over():
    def sometimes(architecture, shape):
        if architecture["x"] % 3:
            raise ValueError("no")
        return Residual(norm=True)

    shape = blobs(channels=2).shape
    family = open_space_embedding(Space("own", Choice("x", tuple(range(8))), sometimes), shape, **OPTIONS)
    assert family.network(0, 0).embed(torch.zeros(2, *shape[:3])).shape == (2, 64)
    broken = open_space_embedding(space_of(lambda: 1 / 0), shape, **OPTIONS)
    with pytest.raises(
        SpaceError, match="20 architectures of the space 'own' in a row cannot embed; the last raises ZeroDivisionError"
    ):
        broken.network(0, 0)


def test_a_network_that_hangs_is_passed_over(monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 0.5)
    monkeypatch.setattr(apart, "GRACE", 0.5)
    shape = blobs().shape

    def make(architecture, shape):
        return Hangs() if architecture["x"] == 0 else nn.Conv2d(shape.channels, 4, 3)

    space = Space("now and then", Choice("x", (0, 1)), make)
    embedding = open_space_embedding(space, shape, **OPTIONS)
    hanging = next(step for step in range(8) if embedding.at(step)["x"] == 0)
    found = embedding.network(hanging, seed=0)
    assert found.embed(torch.zeros(2, *shape[:3])).shape[0] == 2


@pytest.mark.skipif("sys.platform != 'linux'", reason="users' code embeds in this process there")
@pytest.mark.parametrize("end", KINDS.values(), ids=KINDS)
def test_an_embedding_network_that_ends_its_process_is_passed_over(end):
    def make(architecture, shape):
        return Residual(norm=True) if architecture["x"] % 3 else end()

    shape = blobs(channels=2).shape
    family = open_space_embedding(Space("own", Choice("x", tuple(range(8))), make), shape, **OPTIONS)
    for step in range(8):
        assert family.network(step, 0).embed(torch.zeros(2, *shape[:3])).shape == (2, 64)


def test_what_an_embedding_network_does_to_the_process_is_undone():
    class Changes(Residual):
        def forward(self, images):
            os.chdir("/")
            torch.set_default_dtype(torch.float64)
            return super().forward(images)

    before = Path.cwd()
    shape = blobs(channels=2).shape
    family = open_space_embedding(space_of(lambda: Changes(norm=True)), shape, **OPTIONS)
    family.network(0, 0).embed(torch.zeros(2, *shape[:3]))
    assert (Path.cwd(), torch.get_default_dtype()) == (before, torch.float32)
