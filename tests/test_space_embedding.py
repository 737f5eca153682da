"""Embedding networks drawn from a search space: features, batch statistics, the normalised loss, exclusion."""

import dataclasses

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nas_proxy
from conftest import blobs
from nas_proxy import Choice, Space
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.embedding import Embedding, open_engine
from nas_proxy.condensation.matching import PAPER_SPREAD, Network, loss_and_gradient, parts
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.space_embedding import open_space_embedding, with_batch_statistics
from nas_proxy.condensation.step import limited_gradient
from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.data.splits import random_subset
from nas_proxy.errors import SpaceError
from nas_proxy.seeds import torch_generator
from search_spaces.convnet import build, space_for

OPTIONS = {"steps": 8, "exclude": (), "seed": 0, "device": torch.device("cpu")}


def problem(shape, real_sizes=(6, 9, 5), sizes=(2, 2, 2)):
    draws = torch_generator(0, "problem")
    real, synthetic = (torch.randn(sum(n), *shape[:3], generator=draws) for n in (real_sizes, sizes))
    return real, list(real_sizes), synthetic, list(sizes)


def plain(embed, real, real_sizes, synthetic, sizes):
    """The normalised formula by a loop over classes, with joint forward passes: loss and gradient."""
    synthetic = synthetic.clone().requires_grad_()
    target, found = embed(real).split(real_sizes), embed(synthetic).split(sizes)
    loss = sum((a.mean(0) - b.mean(0)).square().sum() for a, b in zip(target, found, strict=True))
    spread = sum(a.var(0, correction=0).sum() for a in target) / len(target)
    loss = loss * PAPER_SPREAD / spread.detach()
    return loss.detach(), torch.autograd.grad(loss, synthetic)[0]


class Residual(nn.Module):
    def __init__(self, norm):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6) if norm else nn.Identity()
        self.act = nn.ReLU(inplace=True)
        self.down = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.classifier = nn.Linear(4, 3)

    def forward(self, images):
        maps = self.act(self.norm(self.conv(images)))
        return self.classifier(self.drop(self.pool(self.down(maps + 1)).flatten(1)))


def space_of(make):
    return Space("own", Choice("x", tuple(range(8))), lambda architecture, shape: make())


@pytest.mark.parametrize("norm", [True, False], ids=["batch norm", "no norm"])
def test_loss_and_gradient_equal_a_plain_loop_over_classes(norm):
    shape = blobs(channels=2).shape
    options = {**OPTIONS, "precision": "float64"}
    family = open_space_embedding(space_of(lambda: Residual(norm)), shape, **options)
    network = family.network(0, 1)
    assert (network.joint is not None) == norm
    real, real_sizes, synthetic, sizes = problem(shape)
    data = real.double(), real_sizes, synthetic.double(), sizes
    loss, gradient = loss_and_gradient(network, *data)
    expected, expected_gradient = plain(network.embed, *data)
    torch.testing.assert_close(loss.sum(), expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_the_normalised_loss_does_not_depend_on_the_scale_of_the_features():
    weights = torch.randn(2 * 8 * 8, 5, generator=torch_generator(0))
    data = problem(blobs(channels=2).shape)
    small, large = (
        loss_and_gradient(Network(lambda x, f=f: f * x.flatten(1) @ weights, 7, normalised=True), *data)
        for f in (0.01, 30.0)
    )
    torch.testing.assert_close(small, large)


def test_a_network_that_sees_nothing_moves_nothing():
    data = problem(blobs(channels=2).shape)
    for blind in (lambda x: torch.zeros(len(x), 3), lambda x: 0 * x.flatten(1)):
        loss, gradient = loss_and_gradient(Network(blind, 7, normalised=True), *data)
        assert float(loss.sum()) == 0
        assert torch.equal(gradient, torch.zeros_like(data[2]))


def test_batch_norm_uses_the_batch_and_dropout_is_off():
    module = Residual(norm=True)
    assert with_batch_statistics(module, ALONE)
    module.eval()
    maps = module.norm(torch.randn(64, 6, 8, 8, generator=torch_generator(0)) * 3 + 5)
    torch.testing.assert_close(maps.mean((0, 2, 3)), torch.zeros(6), atol=1e-5, rtol=0)
    images = torch.randn(4, 2, 8, 8, generator=torch_generator(0))
    assert torch.equal(module(images), module(images))


def test_excluded_architectures_are_never_drawn(images):
    convnet = space_for(images.shape)
    keys = {convnet.key(a) for a in convnet.sample(0)}
    exclude = set(sorted(keys)[: len(keys) - 3])
    recipe = Condensation(images_per_class=1, steps=5, real_batch=4, embed="space")
    found = make_proxy(images, recipe, 0, space=convnet, exclude=exclude)
    assert len(found.embedded) == 3
    assert set(found.embedded) == keys - exclude
    with pytest.raises(SpaceError, match=r"all architectures of the space 'convnet' are in the sample .*lower --truth"):
        make_proxy(images, recipe, 0, space=convnet, exclude=keys)


def test_a_network_that_views_its_maps_as_rows_embeds():
    class Viewing(nn.Module):
        def __init__(self, shape):
            super().__init__()
            self.maps = nn.Conv2d(shape.channels, 4, 3, padding=1)
            self.last = nn.Linear(4 * shape.height * shape.width, shape.classes)

        def forward(self, x):
            x = torch.relu(self.maps(x))
            return self.last(x.view(x.size(0), -1))

    data = blobs()
    space = Space("viewing", Choice("n", (1, 2)), lambda a, shape: Viewing(shape))
    recipe = Condensation(images_per_class=1, steps=2, real_batch=4, embed="space")
    assert set(make_proxy(data, recipe, 0, space=space).embedded) == {"n=1", "n=2"}


def test_a_condensation_does_not_go_on_with_other_codes_networks(tmp_path):
    data, checkpoint = blobs(), tmp_path / "condense.safetensors"
    recipe = Condensation(images_per_class=1, steps=4, real_batch=4, embed="space")

    def made(kernel: int, digest: str, **options):
        def build(a, shape):
            body = [nn.Conv2d(shape.channels, 4, kernel, padding=kernel // 2), nn.ReLU(), nn.Flatten()]
            return nn.Sequential(*body, nn.Linear(4 * shape.height * shape.width, shape.classes))

        space = Space("kernels", Choice("n", (1, 2)), build)
        return make_proxy(data, recipe, 0, space=space, space_digest=digest, **options).images.fingerprint()

    made(3, "old", checkpoint=checkpoint)  # whose finished images a kill has kept from being stored
    assert made(5, "new", checkpoint=checkpoint) == made(5, "new")


@pytest.mark.slow
@pytest.mark.parametrize("match", ["last", "all"])
def test_a_set_made_with_the_space_matches_other_networks_too(match):
    real = blobs(per_class=30, size=16)
    recipe = Condensation(1, 60, learning_rate=0.05, real_batch=30, embed="space", match=match, augmentation=())
    small = Space("small", space_for(real.shape).choices, build, valid=lambda a: a["width"] <= 16 and a["depth"] <= 2)
    engine = open_engine(Embedding(real.shape, 32, 3), "cpu", real=90, synthetic=3, steps=1)

    def distance(found):
        networks = [engine.draw(torch_generator(seed, "not used")) for seed in range(5)]
        return sum(loss_and_gradient(n, real.decode(), [30] * 3, found.decode(), [1] * 3)[0].sum() for n in networks)

    start = random_subset(real, 1, torch_generator(0, "condense", "initial"))
    assert distance(make_proxy(real, recipe, 0, space=small).images) < 0.8 * distance(start)


@pytest.mark.slow
def test_what_the_set_was_made_with_is_never_ranked(tiny_space, tmp_path):
    settings = {
        "trials": 4,
        "limit": 20,
        "device": "cpu",
        "workers": 1,
        "condense": {"embed": "space", "steps": 6, "images_per_class": 2, "real_batch": 4},
        "proxy_training": {"epochs": 1},
        "full_training": {"epochs": 1},
    }
    keys = []
    for truth in (4, 7):  # the second extends the first
        run = nas_proxy.run("digits", str(tiny_space), out=tmp_path / "run", truth=truth, judge=truth, **settings)
        keys.append(set(pd.read_csv(run.folder / "scores.csv")["key"]))
    embedded = ImageSet.load_metadata(tmp_path / "run" / "proxy.safetensors")["embedded"]
    assert len(set(embedded)) == 6
    assert [len(sample) for sample in keys] == [4, 7]
    assert keys[0] < keys[1]
    assert not keys[1] & set(embedded)


def test_a_step_never_overshoots():
    # A parabola h·x²/2 with its gradient h·x: Polyak's step is 1/(2h), whatever h is.
    x = torch.tensor([3.0, 4.0]).view(2, 1, 1, 1)
    for steep in (torch.tensor([0.1, 0.2]), torch.tensor([1e3, 1e4])):
        losses, gradient = steep * x.flatten().square() / 2, steep.view(2, 1, 1, 1) * x
        rate = 2.0
        moved = x - rate * limited_gradient(gradient, losses, rate)
        expected = x.flatten() * (1 - torch.minimum(rate * steep, torch.tensor(0.5)))
        torch.testing.assert_close(moved.flatten(), expected)


class Drops(Residual):
    def forward(self, images):
        return super().forward(F.dropout(images, 0.5))


def test_a_network_that_is_random_draws_from_the_seed():
    shape = blobs(channels=2).shape
    family = open_space_embedding(space_of(lambda: Drops(norm=True)), shape, **OPTIONS)
    data = problem(shape)
    state = torch.get_rng_state()
    first, again, other = (loss_and_gradient(family.network(0, seed), *data) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], other[0])
    assert not family.network(0, 0).parallel
    lean = loss_and_gradient(family.network(0, 0), *data, lean=True)
    torch.testing.assert_close(lean, first)
    plain_ones = open_space_embedding(space_of(lambda: Residual(norm=True)), shape, **OPTIONS)
    assert plain_ones.network(0, 0).parallel


class Closed(Residual):
    @torch.no_grad()
    def forward(self, images):
        return super().forward(images)


class Overwrites(nn.Module):
    """A gradient needs what the sigmoid has found, which is no longer there."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3)

    def forward(self, images):
        maps = self.conv(images).sigmoid()
        return maps.mul_(2)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Closed(norm=True), "ValueError: no gradient leads from its features to the images$"),
        (Overwrites, "RuntimeError: one of the variables needed for gradient computation has been modified"),
    ],
    ids=["no_grad", "in place"],
)
def test_a_network_without_gradient_is_passed_over(make, reason):
    shape = blobs(channels=2).shape

    def sometimes(architecture, shape):
        return make() if architecture["x"] % 3 else Residual(norm=True)

    family = open_space_embedding(Space("own", Choice("x", tuple(range(8))), sometimes), shape, **OPTIONS)
    assert family.network(0, 0).embed(torch.zeros(2, *shape[:3])).shape == (2, 64)
    with pytest.raises(
        SpaceError, match="20 architectures of the space 'own' in a row cannot embed; the last raises " + reason
    ):
        open_space_embedding(space_of(make), shape, **OPTIONS).network(0, 0)


def test_lazy_layers_take_their_size_from_the_images():
    def make():
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))

    shape = blobs(channels=2).shape
    family = open_space_embedding(space_of(make), shape, **OPTIONS)
    images = torch.randn(2, *shape[:3], generator=torch_generator(0))
    found = family.network(0, 0).embed(images)
    assert found.shape == (2, 4 * 6 * 6)
    assert torch.equal(found, family.network(0, 0).embed(images))


def test_a_reason_is_one_line():
    def fails():
        raise RuntimeError("first line\nsecond line")

    with pytest.raises(SpaceError, match=r"RuntimeError: first line$"):
        open_space_embedding(space_of(fails), blobs().shape, **OPTIONS).network(0, 0)


@pytest.mark.parametrize("sizes", [(256, *[3] * 199), (40, 1, 7), (1, 1, 300)], ids=str)
def test_batch_norm_sees_many_images_where_classes_are_unequal(sizes):
    joint = max(1, 256 // len(sizes))
    number = -(-sum(sizes) // (len(sizes) * joint))
    found = parts(sizes, 256, number, torch.device("cpu"), torch.float32)
    rows = torch.cat([part.rows for part in found])
    assert sorted(rows.tolist()) == list(range(sum(sizes)))
    counts = [len(part.rows) for part in found]
    assert max(counts) - min(counts) <= 1
    assert max(counts) <= 256
    owner = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    for part in found:
        of_class = torch.bincount(owner[part.rows], minlength=len(sizes))
        for size, there in zip(sizes, of_class.tolist(), strict=True):
            assert size // number <= there <= -(-size // number)


@pytest.mark.parametrize(("size", "number"), [(6, 3), (7, 3), (256, 10)])
def test_parts_of_equal_classes_begin_anew_with_each(size, number):
    found = parts((size,) * 3, 256, number, torch.device("cpu"), torch.float32)
    assert [part.rows.tolist() for part in found] == [
        [label * size + place for label in range(3) for place in range(first, size, number)] for first in range(number)
    ]


class Vector(nn.Module):
    """Batch norm of vectors cannot take one image alone."""

    def __init__(self, classes):
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm1d(4), nn.Linear(4, classes)

    def forward(self, images):
        return self.last(self.norm(self.conv(images).mean((2, 3))))


def test_many_unequal_classes_embed_in_parts_of_many_images(monkeypatch):
    sizes = (256, *[3] * 199)
    shape = DataShape(1, 4, 4, len(sizes))
    network = open_space_embedding(space_of(lambda: Vector(200)), shape, **OPTIONS).network(0, 0)
    together = []
    watched = dataclasses.replace(network, embed=lambda images: together.append(len(images)) or network.embed(images))
    loss, gradient = loss_and_gradient(watched, *problem(shape, sizes, (1,) * 200))
    assert together == [171, 171, 171, 170, 170, 200]
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
