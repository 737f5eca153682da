"""AZ-NAS: traits of hand-made blocks, where blocks begin, and scores that are ranks among others."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import blobs
from nas_proxy.data.images import DataShape
from nas_proxy.signals.az_nas import Blocks, assembled, entropy, traits
from nas_proxy.signals.computed import computed
from nas_proxy.signals.zero_cost import NoScoreError, drawn
from nas_proxy.spaces.loading import load_space
from nas_proxy.spaces.space import Choice, Space

NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"
CIFAR = DataShape(3, 32, 32, 10)


class Made(nn.Module):
    """A block, since it is made of another module, that applies a function."""

    def __init__(self, function) -> None:
        super().__init__()
        self.inner, self.function = nn.Identity(), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.inner(x))


def trainability(*functions, channels: int = 1, side: int = 8) -> float:
    network = nn.Sequential(Made(lambda x: 1.0 * x), *map(Made, functions))
    return traits(network, torch.zeros(16, channels, side, side)).trainability


def passed(sigma: float) -> float:
    return 2 - sigma - 1 / (sigma + 1e-6)


def test_entropy_of_known_variances():
    # Variances 4 and 1, uncorrelated: 0.8 and 0.2 of all.
    maps = torch.tensor([[2.0, 1], [2, -1], [-2, 1], [-2, -1]]).reshape(4, 2, 1, 1) + 7
    assert entropy(maps) == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    # Two channels that are one: a single direction.
    assert entropy(maps[:, [0, 0]]) == pytest.approx(0, abs=1e-12)
    assert entropy(torch.full((4, 2, 3, 3), 5.0)) == -math.inf


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**20), channels=st.integers(2, 5))
def test_entropy_is_that_of_directions_and_not_of_axes_or_scale(seed, channels):
    draws = torch.Generator().manual_seed(seed)
    maps = torch.randn(3, channels, 4, 5, generator=draws, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(channels, channels, generator=draws, dtype=torch.float64))[0]
    turned = 3 * torch.einsum("ij,njhw->nihw", rotation, maps) + 1
    assert entropy(turned) == pytest.approx(entropy(maps), abs=1e-9)
    assert 0 <= entropy(maps) <= math.log(channels) + 1e-12


def test_trainability_of_blocks_with_one_channel_is_exact():
    assert trainability(lambda x: 3 * x) == pytest.approx(passed(3))
    assert trainability(lambda x: -x) == pytest.approx(0, abs=1e-5)
    assert trainability(lambda x: 3 * x, lambda x: x / 4) == pytest.approx((passed(3) + passed(0.25)) / 2)
    # A mean over 2×2 pixels hands each a quarter: four channels of 1/4, whose length is 1/2.
    assert trainability(nn.AvgPool2d(2)) == pytest.approx(passed(0.5))


def test_trainability_of_several_channels_is_the_largest_singular_value():
    matrix = torch.tensor([[3.0, 0.0], [4.0, 5.0]])  # its singular values are √45 and √5
    found = trainability(lambda x: torch.einsum("ij,njhw->nihw", matrix, x), channels=2, side=64)
    assert found == pytest.approx(passed(math.sqrt(45)), abs=0.2)


@pytest.mark.parametrize("crop", [1, 2])
def test_pixels_lie_beside_each_other_where_a_border_is_lost(crop):
    assert trainability(lambda x: x[:, :, crop:-crop, crop:-crop], side=16) == pytest.approx(0, abs=1e-5)


def test_odd_sides_are_halved():
    # Means over 2×2 pixels, but over 2×1, 1×2 and one pixel at the border: of the 25 outputs, the first pixel gets
    # (16 / 4 + 8 / 2 + 1) / 25 = 0.36, its neighbours (16 / 4 + 4 / 2) / 25 = 0.24, the fourth 0.16.
    found = trainability(nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), side=9)
    assert found == pytest.approx(passed(math.sqrt(0.36**2 + 2 * 0.24**2 + 0.16**2)))


def test_a_block_that_does_nothing_cannot_be_trained():
    assert trainability(lambda x: x) == -math.inf
    assert trainability(lambda x: x * 0.0) == pytest.approx(2 - 1e6)


def test_a_constant_block_expresses_nothing():
    found = traits(nn.Sequential(Made(lambda x: 2 * x), Made(lambda x: x * 0.0)), torch.zeros(8, 3, 4, 4))
    assert found[:2] == (-math.inf, -math.inf)
    twice = traits(nn.Sequential(*[Made(lambda x: x * 0.0)] * 2), torch.zeros(8, 3, 4, 4))
    assert twice[:2] == (-math.inf, -math.inf)


def test_progress_is_the_least_step():
    merge = lambda x: x.mean(1, keepdim=True) + 0.01 * x  # noqa: E731
    network = nn.Sequential(Made(lambda x: 2 * x), Made(merge), Made(lambda x: 3 * x))
    found = traits(network, torch.zeros(64, 3, 16, 16))
    assert found.expressivity == pytest.approx(math.log(3), abs=0.05)
    assert found.progressivity == pytest.approx(-math.log(3), abs=0.05)


def count(network: nn.Module, shape: DataShape = CIFAR) -> int:
    return len(Blocks(network).outputs(torch.randn(2, *shape[:3])))


@pytest.mark.parametrize(
    ("spec", "key", "blocks"),
    [
        ("nas_bench_201", NOTHING, 18),  # the stem, fifteen cells, two reductions
        ("nas_bench_201:cells=1", NOTHING, 6),
        ("nas_bench_macro", "12000110", 7),  # the stem, three strided, two more, the last convolution
        ("nas_bench_macro", "00000000", 5),
    ],
)
def test_blocks_of_the_published_spaces(spec, key, blocks):
    space = load_space(spec, CIFAR)
    architecture = next(a for a in space.sample(0) if space.key(a) == key)
    assert count(space.build(architecture, CIFAR)) == blocks


def test_each_convolution_of_a_convnet_begins_a_block():
    space = load_space("convnet", CIFAR)
    for architecture in itertools.islice(space.sample(0), 12):
        assert count(space.build(architecture, CIFAR)) == architecture["depth"]


def test_a_block_ends_after_what_follows_its_convolution_and_stays_as_it_was():
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3),
        nn.Sequential(nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        Made(torch.sigmoid),
        nn.ReLU(inplace=True),
    )
    images = torch.randn(3, 1, 10, 10)
    first, second = Blocks(network).outputs(images)
    expected = nn.functional.max_pool2d(network[0](images).relu(), 2)
    assert torch.equal(first, expected)
    assert torch.equal(second, torch.sigmoid(expected))


def test_pooled_maps_and_vectors_are_no_blocks():
    layers = [nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(2, 2, 1), nn.Flatten(), nn.Linear(2, 3)]
    network = nn.Sequential(*layers)
    assert [found.shape for found in Blocks(network).outputs(torch.randn(4, 1, 10, 10))] == [(4, 2, 8, 8)]
    for few, reason in ((network, "it has 1 of the 2 blocks"), (nn.Flatten(), "it has 0 of the 2 blocks")):
        with pytest.raises(NoScoreError, match=reason):
            traits(few, torch.zeros(4, 1, 10, 10))


def test_branches_that_do_not_see_each_other_are_left_out():
    class Parallel(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = Made(lambda x: 2 * x), Made(lambda x: 3 * x)

        def forward(self, x: Tensor) -> Tensor:
            return self.left(x) + self.right(x)

    with pytest.raises(NoScoreError, match="none of its blocks depends on the block before it"):
        traits(Parallel(), torch.zeros(4, 1, 5, 5))


def scaled(factor: float):
    def build() -> nn.Module:
        network = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(factor / 200), nn.Conv2d(4, 4, 3)
        )
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.mul_(factor).requires_grad_(factor == 1)
        return network

    return build


def test_traits_come_from_the_seed_and_not_from_weights_images_or_dropout():
    zeros, ones = torch.zeros(8, 3, 12, 12), torch.ones(8, 3, 12, 12)
    first = drawn(traits, scaled(1), zeros, 0)
    assert drawn(traits, scaled(100), ones, 0) == first
    assert drawn(traits, scaled(1), zeros, 1) != first


def test_a_score_is_the_sum_of_the_logarithms_of_ranks():
    # Ranks 1 2.5 2.5 and 3 1 2 of three.
    found = assembled([(-math.inf, 9.0), (0.5, -2.0), (0.5, 0.0)])
    assert found == pytest.approx([math.log(1 / 3), math.log(2.5 / 9), math.log(2.5 * 2 / 9)])
    assert assembled([]) == []


rows = st.lists(st.tuples(*[st.integers(-20, 20).map(float)] * 4), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=rows, seed=st.integers(0, 1000))
def test_only_the_order_of_each_trait_counts(rows, seed):
    expected = assembled(rows)
    assert assembled([(math.exp(a), b**3, 2 * c - 7, d) for a, b, c, d in rows]) == pytest.approx(expected)
    order = np.random.default_rng(seed).permutation(len(rows))
    assert assembled([rows[i] for i in order]) == pytest.approx([expected[i] for i in order])
    assert all(score <= 0 for score in expected)


def test_the_order_of_two_depends_on_the_others():
    a, b = (1.0, 10.0), (2.0, 5.0)
    with_one = assembled([a, b, (0.0, 7.0)])
    with_another = assembled([a, b, (1.5, 0.0)])
    assert with_one[0] > with_one[1] and with_another[0] < with_another[1]


def test_what_cannot_be_scored_counts_as_the_lowest_and_changes_no_other():
    def build(architecture, shape):
        layers = [nn.Conv2d(shape.channels, 4, 3, padding=1), nn.ReLU()]
        for _ in range(architecture["depth"] - 1):
            layers += [nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(4 * shape.height * shape.width, shape.classes))

    space = Space("deep", Choice("depth", (1, 2, 3, 4)), build)
    data = blobs(per_class=2)
    told: list[int] = []
    found = computed(["flops", "az_nas"], space, [{"depth": d} for d in (1, 2, 3, 4)], data, 0, progress=told.append)
    assert told == list(range(1, 9))
    column = found["az_nas"]
    assert math.isnan(column.values[0]) and all(math.isfinite(value) for value in column.values[1:])
    assert column.ranked()[0] < min(column.values[1:])
    assert column.note() == (
        "a score is a rank among these 4 architectures; 1 of 4 have no score and count as the lowest "
        "(it has 1 of the 2 blocks with feature maps that AZ-NAS needs)"
    )
    without = computed(["az_nas"], space, [{"depth": d} for d in (2, 3, 4)], data, 0)["az_nas"]
    assert without.values == column.values[1:]
    assert without.note() == "a score is a rank among these 3 architectures"
