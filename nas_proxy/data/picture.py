"""Condensed and real images as pictures: a row a class, pixels shown large."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from nas_proxy.files import atomic_path

if TYPE_CHECKING:
    from nas_proxy.data.images import ImageSet

MOST_COLUMNS, MOST_ROWS = 20, 50
TILE = 40
GAP = 2
# Pixels across, at most, of what is shown in a notebook.
WIDE = 640


def write_grid(images: ImageSet, real: ImageSet, path: Path) -> None:
    """Write a PNG with up to 20 images of each of up to 50 classes, in the colours of the real images."""
    with atomic_path(path) as temporary:
        grid(images, real).save(temporary, format="PNG")


def grid(images: ImageSet, real: ImageSet, columns: int = MOST_COLUMNS, rows: int = MOST_ROWS) -> Image.Image:
    """Return a picture with up to `columns` images of each of up to `rows` classes, in the colours of real images."""
    members = [members[:columns] for members in images.of_class()[:rows]]
    colours = torch.split(pixels(images.select(torch.cat(members)), real), [len(row) for row in members])
    zoom = max(1, TILE // images.shape.height)
    height, width = images.shape.height * zoom + GAP, images.shape.width * zoom + GAP
    canvas = torch.full((3, len(members) * height + GAP, max(map(len, members)) * width + GAP), 255, dtype=torch.uint8)
    for y, row in enumerate(colours):
        for x, image in enumerate(row):
            tile = image.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
            top, left = y * height + GAP, x * width + GAP
            canvas[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def sample_png(images: ImageSet, columns: int = 10, rows: int = 10) -> tuple[bytes, int]:
    """Return the first few images of the first few classes as a PNG file, to look at, and its width in pixels.

    Large images are shown with fewer pixels. Condensed images are shown over their own range of values.
    """
    picture = grid(images, images, columns, rows)
    if picture.width > WIDE:
        picture = picture.resize((WIDE, max(1, picture.height * WIDE // picture.width)), Image.Resampling.BOX)
    written = io.BytesIO()
    picture.save(written, format="PNG")
    return written.getvalue(), picture.width


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
