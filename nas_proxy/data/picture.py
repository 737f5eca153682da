"""Condensed and real images as pictures: a row a class, pixels shown large."""

from __future__ import annotations

import io
import math
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
# Pixels of a whole picture: of large images it has fewer.
MOST_PIXELS = 50_000_000
# Pixels across, at most, of what is shown in a notebook.
WIDE = 640


def write_grid(images: ImageSet, real: ImageSet, path: Path) -> None:
    """Write a PNG with up to 20 images of each of up to 50 classes, in the colours of the real images."""
    _write(grid(images, real), path)


def _write(picture: Image.Image, path: Path) -> None:
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")


def grid(images: ImageSet, real: ImageSet, columns: int = MOST_COLUMNS, rows: int = MOST_ROWS) -> Image.Image:
    """Return a picture with up to `columns` images of each of up to `rows` classes, in the colours of real images.

    It has fewer of both where they would be more than `MOST_PIXELS`.
    """
    columns, rows = _room(images, columns, rows)
    members = [members[:columns] for members in images.of_class()[:rows]]
    colours = (pixels(images.select(row), real) for row in members)  # a class at a time, as floats are large
    zoom, height, width = _tile(images)
    canvas = torch.full((3, len(members) * height + GAP, max(map(len, members)) * width + GAP), 255, dtype=torch.uint8)
    for y, row in enumerate(colours):
        for x, image in enumerate(row):
            tile = image.repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
            top, left = y * height + GAP, x * width + GAP
            canvas[:, top : top + tile.shape[1], left : left + tile.shape[2]] = tile
    return Image.fromarray(canvas.permute(1, 2, 0).numpy())


def _tile(images: ImageSet) -> tuple[int, int, int]:
    """Return how many times as large images are shown, and the pixels down and across that each takes."""
    zoom = max(1, TILE // images.shape.height)
    return zoom, images.shape.height * zoom + GAP, images.shape.width * zoom + GAP


def _room(images: ImageSet, columns: int, rows: int) -> tuple[int, int]:
    """Return how many of the wanted columns and rows, of those that there are, fit; one of each at least."""
    counts = [len(members) for members in images.of_class()[:rows]]
    columns, rows = min(columns, max(counts)), len(counts)
    _, height, width = _tile(images)
    most = max(1, MOST_PIXELS // (height * width))
    if columns * rows > most:
        columns = max(1, int(columns * math.sqrt(most / (columns * rows))))
        rows = max(1, min(rows, most // columns))
    return columns, rows


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
    columns, rows = _room(images, MOST_COLUMNS, MOST_ROWS)
    counts = [min(len(members), columns) for members in images.of_class()[:rows]]
    first = [torch.nonzero(real.labels == label).flatten()[:count] for label, count in enumerate(counts)]
    _write(grid(real.select(torch.cat(first)), real, columns, rows), path)


def pixels(images: ImageSet, real: ImageSet) -> Tensor:
    """Return uint8 (n, 3, h, w): what the network sees, mapped back to the 0 to 255 of the real images."""
    seen = (images.decode() - real.offset.view(-1, 1, 1)) / real.scale.view(-1, 1, 1)
    levels = seen.round().clamp(0, 255).to(torch.uint8)
    return levels.expand(-1, 3, -1, -1) if levels.shape[1] == 1 else levels
