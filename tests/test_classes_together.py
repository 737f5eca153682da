"""What continual learning needs: some classes of a set, several sets as one, and data as a run sees them."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nas_proxy
from conftest import blobs
from nas_proxy.data.images import ImageSet, quantised
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development


def test_some_classes_in_another_order():
    images = blobs(per_class=2)  # labels 0 0 1 1 2 2
    some = images.of_classes([2, 0])
    assert some.labels.tolist() == [1, 1, 0, 0]
    assert some.classes == ("class2", "class0")
    assert torch.equal(some.images, images.images[[0, 1, 4, 5]])
    assert torch.equal(some.scale, images.scale)


def test_sets_that_decode_alike_are_joined_as_they_are():
    images = blobs(per_class=2)
    both = nas_proxy.join([images.of_classes([2]), images.of_classes([0, 1])])
    assert both.classes == ("class2", "class0", "class1")
    assert both.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(both.images, images.images[[4, 5, 0, 1, 2, 3]])
    assert torch.equal(both.decode(), images.decode()[[4, 5, 0, 1, 2, 3]])


def learnt(seed: int, spread: float, formation: int = 1) -> ImageSet:
    draws = torch.Generator().manual_seed(seed)
    images = quantised(spread * torch.randn(4, 2, 4, 4, generator=draws), torch.tensor([0, 0, 1, 1]), ("a", "b"))
    return dataclasses.replace(images, formation=formation)


@given(seeds=st.lists(st.integers(0, 99), min_size=2, max_size=4), spread=st.floats(0.1, 10))
def test_condensed_sets_keep_their_images_to_half_a_level(seeds, spread):
    sets = [learnt(seed, spread * (1 + number)) for number, seed in enumerate(seeds)]
    joined = nas_proxy.join(sets)
    decoded = torch.cat([each.decode() for each in sets])
    assert joined.labels.tolist() == [2 * k + label for k in range(len(sets)) for label in (0, 0, 1, 1)]
    error = (joined.decode() - decoded).abs().amax((0, 2, 3))
    assert (error <= 0.5001 * joined.scale + 1e-5).all()


def test_sets_of_several_images_in_one_are_unpacked():
    joined = nas_proxy.join([learnt(0, 1.0, formation=2), learnt(1, 1.0)])
    assert len(joined) == 4 * 4 + 4
    assert joined.formation == 1


def test_data_are_those_of_a_run():
    data = nas_proxy.load_data("digits", seed=3, limit=20)
    assert isinstance(data, nas_proxy.Development)
    assert data.fingerprint == development(open_source("digits"), seed=3, limit=20).fingerprint
    assert len(data.train) + len(data.validation) == 200
    assert nas_proxy.load_data("digits", limit=20, image_size=12).train.shape[1:3] == (12, 12)
    with pytest.raises(nas_proxy.DataError, match="unknown data set 'digitz'"):
        nas_proxy.load_data("digitz")
