"""Networks of the space that cannot embed: they are passed over, and harm nothing."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from conftest import blobs
from nas_proxy import Choice, Space, time_limit
from nas_proxy.condensation import space_embedding
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


@pytest.mark.skipif("sys.platform != 'linux'", reason="users' code embeds in this process there")
@pytest.mark.parametrize(
    "end",
    [*KINDS.values(), pytest.param(lambda: time.sleep(600), marks=pytest.mark.slow)],
    ids=[*KINDS, "hang"],
)
def test_a_network_that_fails_on_many_images_alone_is_passed_over(end, monkeypatch):
    monkeypatch.setattr(apart, "GRACE", 0.5)
    monkeypatch.setattr(time_limit, "SECONDS", 2.0)
    monkeypatch.setattr(space_embedding, "ROWS", 16)

    class Many(Residual):
        def forward(self, images):
            return end() if len(images) > 8 else super().forward(images)

    shape = blobs(channels=2).shape
    options = {**OPTIONS, "steps": 6}
    space = Space("own", Choice("x", tuple(range(6))), lambda given, _: (Residual if given["x"] else Many)(norm=True))
    family = open_space_embedding(space, shape, **options)
    first = next(step for step in range(6) if family.at(step)["x"] == 0)
    for step in (first, first, first + 1):
        assert family.network(step, 0).embed(torch.zeros(12, *shape[:3])).shape == (12, 64)
    hopeless = Space("own", Choice("x", (0, 1)), lambda *_: Many(norm=True))
    monkeypatch.setattr(space_embedding, "PATIENCE", 1)
    with pytest.raises(SpaceError, match="architectures of the space 'own' in a row cannot embed; the last"):
        open_space_embedding(hopeless, shape, **options).network(0, 0)


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "SystemExit", "ValueError"])
def test_what_a_network_raises_in_the_command_is_a_sentence(raised, monkeypatch):
    """Where the first one, which stands for all, has run on many images."""
    errors = {"KeyboardInterrupt": KeyboardInterrupt, "SystemExit": SystemExit, "ValueError": ValueError}
    monkeypatch.setattr(space_embedding, "ROWS", 8)

    class Many(Residual):
        def forward(self, images):
            if len(images) > 8:
                raise errors[raised]("no")
            return super().forward(images)

    shape = blobs(channels=2).shape
    network = open_space_embedding(space_of(lambda: Many(norm=True)), shape, **OPTIONS).network(0, 0)
    before = signal.signal(signal.SIGINT, lambda *_: exec("raise KeyboardInterrupt"))  # as the command has it
    try:
        with pytest.raises(SpaceError, match=rf"'x=\d' of the space 'own' raises {raised}: no on 9 images at once"):
            network.embed(torch.zeros(9, *shape[:3]))
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_users_own_interrupt_goes_through(monkeypatch):
    class Interrupted(Residual):
        def forward(self, images):
            if len(images) > 8:
                signal.raise_signal(signal.SIGINT)
            return super().forward(images)

    def interrupt(number, frame):
        raise KeyboardInterrupt

    monkeypatch.setattr(space_embedding, "ROWS", 8)
    shape = blobs(channels=2).shape
    network = open_space_embedding(space_of(lambda: Interrupted(norm=True)), shape, **OPTIONS).network(0, 0)
    for handler in (interrupt, signal.default_int_handler):
        before = signal.signal(signal.SIGINT, handler)
        try:
            with pytest.raises(KeyboardInterrupt):
                network.embed(torch.zeros(9, *shape[:3]))
        finally:
            signal.signal(signal.SIGINT, before)
