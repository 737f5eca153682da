"""Networks of one architecture and seed: those that differ, or share what is trained, are told before any work."""

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy import Choice, Space
from nas_proxy.errors import SpaceError
from nas_proxy.spaces.loading import try_out
from test_space_networks import SHAPE, Net, space_of


class OwnGenerator(Net):
    def __init__(self, width, shape):
        super().__init__(width, shape)
        draws = np.random.default_rng()  # seeded by the system
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(draws.normal(size=self.head.weight.shape)))


class SameGenerator(Net):
    def __init__(self, width, shape):
        super().__init__(width, shape)
        draws = np.random.default_rng(5)
        self.register_buffer("mask", torch.from_numpy(draws.random(16)) > 0.5)
        self.register_buffer("scale", torch.tensor(float("nan")))


def test_networks_that_no_seed_repeats_are_told():
    with pytest.raises(
        SpaceError, match=r"built from the same seed differ in 'head\.weight', so that no score would rep"
    ):
        try_out(space_of(OwnGenerator), SHAPE)
    try_out(space_of(SameGenerator), SHAPE)


LAYER = nn.Linear(16, 8)


@pytest.mark.parametrize("first", ["odd", "plain"])
@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (OwnGenerator, "built from the same seed differ in 'head"),
        (lambda *_: nn.Sequential(nn.Flatten(), LAYER, nn.Linear(8, 3)), "the space 'bent' share '1.weight'"),
    ],
    ids=["not repeated", "shared"],
)
def test_what_one_branch_alone_does_is_told(make, sentence, first):
    """Whichever is the first to be drawn; a branch that shares with itself alone, too."""

    def build(architecture, shape):
        if architecture["kind"] == "odd":
            return make(8, shape)
        return Net(2, shape)

    kinds = ("odd", "plain") if first == "odd" else ("plain", "odd")
    space = Space("bent", Choice("kind", kinds), build)
    with pytest.raises(SpaceError, match=sentence):
        try_out(space, SHAPE)
