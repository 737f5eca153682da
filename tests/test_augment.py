"""Augmentation of whole batches equals straightforward per-image versions, and is Siamese where asked."""

import math

import pytest
import torch

from nas_proxy.data import augment
from nas_proxy.seeds import torch_generator


def draws_of(name: str, n: int = 6, height: int = 12, width: int = 10) -> augment.Draws:
    operations = torch.full((n,), augment.FULL.index(name))
    return augment.draw(operations, augment.FULL, height, width, torch_generator(0, name))


def images(n: int = 6, channels: int = 3, height: int = 12, width: int = 10) -> torch.Tensor:
    return torch.randn(n, channels, height, width, generator=torch_generator(0, "images"), dtype=torch.float64)


def crop(image, draws, i):
    height, width = image.shape[1:]
    dy, dx = draws.shift[i].tolist()
    found = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + dy < height and 0 <= x + dx < width:
                found[:, y, x] = image[:, y + dy, x + dx]
    return found


def cutout(image, draws, i):
    top, left = draws.hole[i].tolist()
    found = image.clone()
    for y in range(top, top + 6):
        for x in range(left, left + 5):
            if 0 <= y < 12 and 0 <= x < 10:
                found[:, y, x] = 0
    return found


def colour(image, draws, i):
    image = image + draws.brightness[i].double()
    grey = image.mean(0, keepdim=True)
    image = grey + (image - grey) * draws.saturation[i].double()
    return image.mean() + (image - image.mean()) * draws.contrast[i].double()


def warp(image, draws, i):
    """Bilinear sampling at the mapped pixel centres, zero outside."""
    (a, b, c), (d, e, f) = draws.affine[i].double().tolist()
    _, height, width = image.shape
    found = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            u, v = (2 * x + 1) / width - 1, (2 * y + 1) / height - 1
            px, py = ((a * u + b * v + c + 1) * width - 1) / 2, ((d * u + e * v + f + 1) * height - 1) / 2
            for yy in (math.floor(py), math.floor(py) + 1):
                for xx in (math.floor(px), math.floor(px) + 1):
                    if 0 <= yy < height and 0 <= xx < width:
                        found[:, y, x] += image[:, yy, xx] * (1 - abs(px - xx)) * (1 - abs(py - yy))
    return found


PLAIN = {"crop": crop, "cutout": cutout, "colour": colour, "flip": warp, "scale": warp, "rotate": warp}


@pytest.mark.parametrize("name", augment.FULL)
def test_a_batch_equals_its_images_one_by_one(name):
    draws, batch = draws_of(name), images()
    found = augment.apply(batch, draws)
    expected = torch.stack([PLAIN[name](image, draws, i) for i, image in enumerate(batch)])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, batch)


def test_flips_mirror_about_half_of_the_images_exactly():
    draws, batch = draws_of("flip", 200), images(200)
    found = augment.apply(batch, draws)
    mirrored = torch.tensor([torch.allclose(a, b.flip(2)) for a, b in zip(found, batch, strict=True)])
    same = torch.tensor([torch.allclose(a, b) for a, b in zip(found, batch, strict=True)])
    assert bool((mirrored ^ same).all())
    assert 70 < int(mirrored.sum()) < 130


def test_images_of_a_class_get_their_class_row():
    operations = torch.tensor([augment.FULL.index("rotate"), augment.FULL.index("cutout")])
    rows = augment.draw(operations, augment.FULL, 12, 10, torch_generator(3))
    same = images(1).expand(4, -1, -1, -1)
    found = augment.apply(same, rows.rows(torch.tensor([0, 1, 0, 1])))
    torch.testing.assert_close(found[0], found[2])
    torch.testing.assert_close(found[1], found[3])
    assert not torch.allclose(found[0], found[1])


def test_gradients_flow_to_the_images():
    operations = torch.arange(len(augment.FULL))
    draws = augment.draw(operations, augment.FULL, 6, 6, torch_generator(1))
    batch = images(len(augment.FULL), 2, 6, 6).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, draws), (batch,))


def test_ranges_are_the_published_ones():
    n = 4000
    scale, rotate = draws_of("scale", n).affine, draws_of("rotate", n).affine
    assert scale[:, 0, 0].min() >= 1 / 1.2
    assert 1.19 < float(scale[:, 0, 0].max()) <= 1.2
    angle = torch.rad2deg(torch.atan2(rotate[:, 1, 0], rotate[:, 0, 0]))
    assert 14.5 < float(angle.max()) <= 15.01
    assert draws_of("crop", n, 32, 32).shift.unique().tolist() == list(range(-4, 5))
    colours = draws_of("colour", n)
    assert 0.49 < float(colours.brightness.abs().max()) <= 0.5
    assert 1.98 < float(colours.saturation.max()) <= 2
    assert 0.5 <= float(colours.contrast.min()) < 0.51
    assert 1.49 < float(colours.contrast.max()) <= 1.5


def test_operations_are_drawn_evenly_and_nothing_else_is_used():
    drawn = augment.draw_operations(6000, augment.NO_FLIP, torch_generator(0))
    counts = torch.bincount(drawn, minlength=5)
    assert len(counts) == 5
    assert bool((counts > 1050).all())
    assert "flip" not in augment.NO_FLIP


@pytest.mark.parametrize("name", augment.FULL)
def test_one_operation_alone_is_the_same(name):
    draws = draws_of(name)
    torch.testing.assert_close(augment.apply_one(images(), name, draws), augment.apply(images(), draws))
