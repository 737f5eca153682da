"""The residual family: its size, its conditions, and networks that run and learn from 8×8 to 64×64 pixels."""

import itertools

import optuna
import pytest
import torch
from torch import nn

from nas_proxy import DataShape, SpaceError, load_space
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.loading import try_out

LARGE = pytest.param(DataShape(3, 64, 64, 5), marks=pytest.mark.slow)
SHAPES = [DataShape(1, 8, 8, 10), DataShape(3, 9, 14, 4), DataShape(3, 32, 32, 10), LARGE]


def architectures(shape, count, **wanted):
    """The first of the uniform stream with the options that are asked for."""
    stream = load_space("resnet", shape).sample(0)
    matching = (a for a in stream if all(a.get(name) == value for name, value in wanted.items()))
    return list(itertools.islice(matching, count))


def test_its_size_is_the_product_of_what_is_open():
    assert load_space("resnet", SHAPES[2]).size == 3 * 3 * (2 + 2 + 4) * 3 * (9 + 27 + 81) == 25_272
    assert load_space("resnet", SHAPES[0]).size == 3 * 3 * 8 * 3 * (9 + 27)


def test_only_active_choices_are_in_an_architecture():
    for architecture in itertools.islice(load_space("resnet", SHAPES[2]).sample(0), 200):
        assert ("expansion" in architecture) == (architecture["block"] == "inverted")
        assert ("squeeze_ratio" in architecture) == architecture["squeeze"]
        assert sum(name.endswith(".blocks") for name in architecture) == architecture["stages"]


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.height}x{s.width}")
@pytest.mark.parametrize("block", ["basic", "bottleneck", "inverted"])
def test_networks_run_and_every_weight_has_a_gradient(shape, block):
    space = load_space("resnet", shape)
    try_out(space, shape)
    draws = torch.Generator().manual_seed(0)
    for architecture in architectures(shape, 2, block=block, width=16 if shape.height >= 28 else 8):
        network = space.build(architecture, shape)
        modules = [m for m in network.modules() if not list(m.children())]
        assert isinstance(modules[-1], nn.Linear) and isinstance(modules[-3], nn.AdaptiveAvgPool2d)
        maps = []
        modules[-3].register_forward_pre_hook(lambda _, inputs, maps=maps: maps.append(inputs[0]))
        logits = network(torch.randn(2, *shape[:3], generator=draws))
        assert logits.shape == (2, shape.classes)
        assert maps[0].dim() == 4 and min(maps[0].shape[2:]) >= 2
        logits.square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def test_a_basic_network_has_the_parameters_that_are_counted_by_hand():
    plain = {"width": 16, "activation": "relu", "block": "basic", "kernel": 3, "squeeze": False, "stages": 2}
    architecture = {**plain, "stage0.blocks": 1, "stage1.blocks": 1}
    first = 3 * 16 * 9 + 32 + 2 * (16 * 16 * 9 + 32)
    second = 16 * 32 * 9 + 64 + 32 * 32 * 9 + 64 + 16 * 32 + 64
    size = measure(load_space("resnet", SHAPES[2]), architecture, SHAPES[2])
    assert size.params == first + second + 32 * 10 + 10
    squeezed = measure(
        load_space("resnet", SHAPES[2]), {**architecture, "squeeze": True, "squeeze_ratio": 4}, SHAPES[2]
    )
    assert squeezed.params - size.params == 2 * 16 * 4 + 4 + 16 + 2 * 32 * 8 + 8 + 32


def test_optuna_suggests_what_the_space_holds():
    space = load_space("resnet", SHAPES[2])
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    keys = {space.key(a) for a in space.sample(0)}
    assert all(space.key(space.suggest(study.ask())) in keys for _ in range(20))


def test_smaller_images_are_refused():
    with pytest.raises(SpaceError, match="resnet needs images of at least 8×8 pixels; these have 7×9"):
        load_space("resnet", DataShape(1, 7, 9, 2))
