"""The built-in space of timm's networks: all families at the sizes that it is for, and a sentence without timm."""

import sys

import pytest
import torch

from nas_proxy import DataShape, SpaceError, load_space
from nas_proxy.spaces import built_in


def test_without_timm_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(SpaceError, match="timm_family needs timm, which is not installed: pip install timm"):
        load_space("timm_family", DataShape(3, 32, 32, 10))


def test_small_images_get_a_sentence():
    pytest.importorskip("timm", reason="timm is not installed")
    with pytest.raises(SpaceError, match=r"at least 24×24 pixels; these have 8×8, so give --image-size 32"):
        load_space("timm_family", DataShape(1, 8, 8, 10))


@pytest.mark.parametrize("shape", [DataShape(3, 32, 32, 10), DataShape(1, 28, 28, 3), DataShape(3, 64, 64, 5)])
def test_a_network_of_every_family_trains(shape):
    pytest.importorskip("timm", reason="timm is not installed")
    space = load_space("timm_family", shape)
    assert space.size == 45
    assert built_in.list_spaces()[-1][1].startswith("45 networks")
    of_family = {a["family"]: a for a in space.sample(0)}
    assert len(of_family) == 12
    for architecture in of_family.values():
        network = space.build(architecture, shape)
        found = network(torch.randn(2, *shape[:3]))
        found.sum().backward()
        assert found.shape == (2, shape.classes)


def test_small_images_keep_their_size_in_the_stem():
    pytest.importorskip("timm", reason="timm is not installed")

    def after_the_stem(side: int) -> int:
        shape = DataShape(3, side, side, 10)
        architecture = {"family": "resnet", "family.resnet.width": 16, "family.resnet.depth": 1}
        network = load_space("timm_family", shape).build(architecture, shape).eval()
        sides: list[int] = []
        network.layer1.register_forward_pre_hook(lambda _, given: sides.append(given[0].shape[-1]))
        network(torch.zeros(1, 3, side, side))
        return sides[0]

    assert after_the_stem(32) == 32
    assert after_the_stem(64) == 16
