"""Condensed and real images as pictures: a row a class, pixels shown large."""

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from nas_proxy.data.images import ImageSet
from nas_proxy.files import atomic_path

MOST_COLUMNS, MOST_ROWS = 20, 50
TILE = 40
GAP = 2


def write_grid(images: ImageSet, real: ImageSet, path: Path) -> None:
    """Write a PNG with up to 20 images of each of up to 50 classes, in the colours of the real images."""
    colours = pixels(images, real)
    rows = [colours[members[:MOST_COLUMNS]] for members in images.of_class()[:MOST_ROWS]]
    zoom = max(1, TILE // images.shape.height)
    height, width = images.shape.height * zoom + GAP, images.shape.width * zoom + GAP
    canvas = torch.full((3, len(rows) * height + GAP, max(map(len, rows)) * width + GAP), 255, dtype=torch.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            tile = image.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
            top, left = y * height + GAP, x * width + GAP
            canvas[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    with atomic_path(path) as temporary:
        Image.fromarray(canvas.permute(1, 2, 0).numpy()).save(temporary, format="PNG")


def write_real(images: ImageSet, real: ImageSet, path: Path) -> None:
    """Write real images in the grid of `write_grid`, for each class as many as it has condensed ones.

    They are the first of each class, in the order in which they are stored.
    """
    counts = [min(len(members), MOST_COLUMNS) for members in images.of_class()[:MOST_ROWS]]
    first = [torch.nonzero(real.labels == label).flatten()[:count] for label, count in enumerate(counts)]
    write_grid(real.select(torch.cat(first)), real, path)


def pixels(images: ImageSet, real: ImageSet) -> Tensor:
    """Return uint8 (n, 3, h, w): what the network sees, mapped back to the 0 to 255 of the real images."""
    seen = (images.decode() - real.offset.view(-1, 1, 1)) / real.scale.view(-1, 1, 1)
    levels = seen.round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1) if levels.shape[1] == 1 else levels
