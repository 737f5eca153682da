"""Multi-formation: packing, decoding, and what trains on packed images."""

import pytest
import torch

from conftest import blobs
from nas_proxy.condensation.evaluation import evaluate, paper_recipe
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet
from nas_proxy.data.multi_formation import decoded, packed
from nas_proxy.data.splits import random_subset
from nas_proxy.seeds import torch_generator


def test_a_stored_image_holds_its_parts_from_left_to_right():
    stored = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).repeat_interleave(3, 0).repeat_interleave(3, 1).view(1, 1, 6, 6)
    found = decoded(stored, 2)
    assert tuple(found.shape) == (4, 1, 6, 6)
    for image, level in zip(found, (1, 2, 3, 4), strict=True):
        torch.testing.assert_close(image, torch.full((1, 6, 6), float(level)))


def test_packing_averages_and_decoding_returns_smooth_images():
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 2, 4, 6).contiguous()
    stored = packed(images, 2)
    assert tuple(stored.shape) == (2, 2, 4, 6)
    torch.testing.assert_close(decoded(stored, 2), images)
    corner = torch.tensor([[0.0, 4.0], [8.0, 0.0]]).expand(4, 1, 2, 2)
    torch.testing.assert_close(packed(corner, 2), torch.full((1, 1, 2, 2), 3.0))


def test_formation_1_changes_nothing(images):
    assert images.packed(1) is images
    assert images.unpacked() is images
    pixels = images.decode()
    assert decoded(pixels, 1) is pixels


def test_decoding_can_be_differentiated():
    stored = torch.randn(2, 1, 4, 4, dtype=torch.float64, generator=torch_generator(0)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: decoded(x, 2), stored)


def test_a_packed_set_survives_its_file_and_knows_itself(images, tmp_path):
    stored = random_subset(images, 8, torch_generator(0)).packed(2)
    assert stored.labels.tolist() == [0, 0, 1, 1, 2, 2]
    stored.save(tmp_path / "packed.safetensors", {"method": "random"})
    found = ImageSet.load(tmp_path / "packed.safetensors")
    assert found.formation == 2
    assert ImageSet.load_metadata(tmp_path / "packed.safetensors") == {"method": "random"}
    assert found.fingerprint() == stored.fingerprint()
    assert found.unpacked().labels.tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert found.unpacked().stored_bytes == 4 * found.stored_bytes
    plain = ImageSet(found.images, found.labels, found.scale, found.offset, found.classes)
    assert plain.fingerprint() != found.fingerprint()


def test_condensing_learns_packed_images(images):
    recipe = Condensation(images_per_class=2, steps=12, real_batch=8, width=8, formation=2)
    found = make_proxy(images, recipe, 0).images
    assert (len(found), found.formation) == (6, 2)
    start = random_subset(images, 8, torch_generator(0, "condense", "initial")).packed(2)
    assert not torch.allclose(found.decode(), start.decode(), atol=0.01)
    other = make_proxy(images, Condensation(images_per_class=2, steps=12, real_batch=8, width=8), 0).images
    assert other.unpacked().shape == found.unpacked().shape
    assert len(found.unpacked()) == 4 * len(other.unpacked())


def test_random_images_are_packed_the_same_way_for_comparison(monkeypatch):
    data = blobs(per_class=20)
    sizes = []

    def counted(build, images, evaluation, recipe, seed, device):
        sizes.append(len(images))
        return train(build, images, evaluation, recipe, seed, device)

    from nas_proxy.condensation import evaluation
    from nas_proxy.training.train import train

    monkeypatch.setattr(evaluation, "train", counted)
    stored = random_subset(data, 8, torch_generator(0)).packed(2)
    evaluate(stored, data, data, paper_recipe(1, ()), 0, width=4)
    assert sizes == [24] * 10


@pytest.mark.parametrize("formation", [2, 3])
def test_each_class_keeps_its_images(formation):
    data = blobs(per_class=36, size=12)
    stored = data.packed(formation)
    for label, members in enumerate(data.of_class()):
        expected = packed(data.images[members], formation)
        assert torch.equal(stored.images[stored.labels == label], expected)
