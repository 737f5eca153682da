"""Distribution matching: the formula, its checkpoint, its stored images."""

import dataclasses

import pytest
import torch
from torch import nn

from conftest import blobs
from nas_proxy import augment, condensation
from nas_proxy.condensation import Condensation, condense, embedding, matching_loss
from nas_proxy.data import random_subset
from nas_proxy.errors import RunFailedError
from nas_proxy.images import ImageSet
from nas_proxy.picture import write_grid
from nas_proxy.seeds import torch_generator

RECIPE = Condensation(images_per_class=2, steps=12, real_batch=8, width=8)


@pytest.mark.parametrize("sizes", [(5, 5, 5), (3, 7, 4)], ids=["equal classes", "unequal classes"])
def test_the_loss_and_its_gradient_equal_a_loop_over_classes_in_float64(sizes):
    draws = torch_generator(0, "loss")
    real_labels = torch.repeat_interleave(torch.arange(3), torch.tensor(sizes))
    labels = torch.arange(3).repeat_interleave(2)
    real = torch.randn(len(real_labels), 2, 8, 8, dtype=torch.float64, generator=draws)
    synthetic = torch.randn(6, 2, 8, 8, dtype=torch.float64, generator=draws).requires_grad_()
    shape = blobs(channels=2).shape
    network = embedding(shape, RECIPE, 1).double()
    operations = augment.draw_operations(3, augment.FULL, draws)
    rows = augment.draw(operations, augment.FULL, 8, 8, draws)

    loss, features = matching_loss(
        network,
        augment.apply(real, rows.rows(real_labels)),
        real_labels,
        augment.apply(synthetic, rows.rows(labels)),
        labels,
        3,
    )
    (gradient,) = torch.autograd.grad(loss, synthetic)

    assert features == 8
    expected = torch.zeros((), dtype=torch.float64)
    for c in range(3):
        a_class = rows.rows(torch.full((len(real),), c))
        one = augment.apply(real[real_labels == c], a_class.rows(torch.arange(sizes[c])))
        other = augment.apply(synthetic[labels == c], a_class.rows(torch.arange(2)))
        means = [network(x).flatten(1).mean(0) for x in (one, other)]
        expected = expected + ((means[0] - means[1]) ** 2).sum()
    (expected_gradient,) = torch.autograd.grad(expected, synthetic)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


def test_each_step_has_its_own_network():
    shape = blobs().shape
    weights = [next(embedding(shape, RECIPE, seed).parameters()) for seed in (1, 1, 2)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_matching_brings_class_means_together():
    real = blobs(per_class=40)
    recipe = dataclasses.replace(RECIPE, steps=100, width=32, learning_rate=0.3, augmentation=augment.NO_FLIP)
    result = condense(real, recipe, 0).images
    start = random_subset(real, 2, torch_generator(0, "condense", "initial"))

    def distance(found: ImageSet) -> float:
        total = 0.0
        for seed in range(5):  # networks that were not used
            network = embedding(real.shape, recipe, 1000 + seed)
            loss, _ = matching_loss(network, real.decode(), real.labels, found.decode(), found.labels, 3)
            total += float(loss)
        return total

    assert distance(result) < 0.9 * distance(start)


def test_the_same_seed_gives_the_same_images_with_8_bits(images):
    one, two = (condense(images, RECIPE, 3).images for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.images.dtype == torch.uint8
    assert one.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.classes == images.classes
    assert condense(images, RECIPE, 4).images.fingerprint() != one.fingerprint()


def test_a_condensation_that_is_cut_off_goes_on_bit_equal(images, tmp_path, monkeypatch):
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    recipe = dataclasses.replace(RECIPE, steps=25)
    whole = condense(images, recipe, 0)
    checkpoint = tmp_path / "checkpoint.safetensors"

    class CutOffError(Exception):
        pass

    def cut_off(step, loss):
        if step == 20:
            raise CutOffError

    with pytest.raises(CutOffError):
        condense(images, recipe, 0, checkpoint=checkpoint, progress=cut_off)
    assert checkpoint.exists()
    reached = []
    rest = condense(images, recipe, 0, checkpoint=checkpoint, progress=lambda step, loss: reached.append(step))
    assert reached == [20, 25]
    assert rest.images.fingerprint() == whole.images.fingerprint()
    assert rest.losses == pytest.approx(whole.losses)
    assert not checkpoint.exists()


@pytest.mark.parametrize("damage", ["other recipe", "truncated"])
def test_a_checkpoint_that_does_not_fit_is_ignored(images, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def cut_off(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        condense(images, RECIPE, 0, checkpoint=checkpoint, progress=cut_off)
    recipe = RECIPE
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    else:
        recipe = dataclasses.replace(RECIPE, learning_rate=0.5)
    found = condense(images, recipe, 0, checkpoint=checkpoint).images
    assert found.fingerprint() == condense(images, recipe, 0).images.fingerprint()


def test_a_loss_that_is_not_finite_stops_with_what_to_lower(images):
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30)
    with pytest.raises(
        RunFailedError, match=r"loss is (nan|inf) at step 1\d; lower the learning rate .* \(now 1e\+30\)"
    ):
        condense(images, recipe, 0)


@pytest.mark.parametrize(
    "data",
    [blobs(classes=2), blobs(channels=3), blobs(size=11), blobs(per_class=3, classes=30, size=30)],
    ids=["two classes", "colour", "odd size", "many classes"],
)
def test_it_works_on(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=2, images_per_class=1)
    found = condense(data, recipe, 0).images
    assert found.shape == data.shape
    assert len(found) == len(data.classes)
    write_grid(found, data, tmp_path / "proxy.png")
    assert (tmp_path / "proxy.png").read_bytes().startswith(b"\x89PNG")


def test_stored_images_decode_to_what_was_learnt(images):
    learnt = torch.randn(6, 1, 8, 8, generator=torch_generator(0)) * 3
    stored = condensation._stored(learnt, torch.arange(6) // 2, images)
    step = float(stored.scale.max())
    assert step == pytest.approx(float(learnt.max() - learnt.min()) / 255)
    torch.testing.assert_close(stored.decode(), learnt, rtol=0, atol=step / 2 + 1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_condensation_on_a_gpu_agrees_with_the_cpu(images):
    recipe = dataclasses.replace(RECIPE, steps=3)
    found, expected = (condense(images, recipe, 0, device=device).images for device in ("cuda", "cpu"))
    torch.testing.assert_close(found.decode(), expected.decode(), rtol=0, atol=0.05)


def test_the_embedding_is_frozen():
    network: nn.Module = embedding(blobs().shape, RECIPE, 0)
    assert not any(p.requires_grad for p in network.parameters())
