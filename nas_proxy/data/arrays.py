"""Images in arrays, and the checks that every array goes through.

In: two functions that load labels and images. Out: an `ArrayPart`. Guarantees: a part loads its own arrays only; every
image leaves as uint8, channels first.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nas_proxy.data.levels import ROUNDING, Kind, Levels, levels_of
from nas_proxy.data.store import Progress
from nas_proxy.errors import DataError

_CHUNK = 1024
_CHANNELS = (1, 3, 4)


@dataclass(frozen=True)
class ArrayPart:
    """One part of a source, called `name` in errors; `load_images` returns what `as_raw` understands.

    levels: which values are black and white in all parts; those of the images themselves if not given.
    """

    name: str
    load_labels: Callable[[], Tensor]
    load_images: Callable[[], np.ndarray]
    image_size: int | None = None
    levels: Levels | None = None

    def labels(self) -> Tensor:
        """Return the labels: int64, (n,)."""
        return self.load_labels()

    def known_levels(self) -> dict[Kind, Levels]:
        """Return the levels of the kind of pixels that do not fit 8 bits, where these are such."""
        if self.levels is None:
            return {}
        return {"floats" if self.levels == Levels(0, 1) else "whole": self.levels}

    def images(self, index: Tensor, progress: Progress | None = None) -> Tensor:
        """Return the images at `index`: uint8, (len(index), c, h, w). Raises DataError if that fails."""
        everything, count = self.load_images(), len(self.labels())
        if len(everything) != count:
            raise DataError(f"{self.name} has {len(everything)} images but {count} labels; each image needs one")
        images = as_raw(everything[index.numpy()], self.name, self.levels)
        if self.image_size is not None:
            images = resized(images, self.image_size)
        if progress is not None:
            progress(len(index), len(index))
        return images


def as_raw(images: np.ndarray, name: str, levels: Levels | None = None) -> Tensor:
    """Return images as uint8, (n, c, h, w), with 1 or 3 channels.

    Taken are (n, h, w), (n, h, w, c) and (n, c, h, w) with c of 1, 3 or 4 (a fourth is alpha, composited onto
    white); whole numbers from 0, or floats in 0..1. levels: which values are black and white in the whole set; those
    of these images if not given. Raises DataError for anything else.
    """
    _, channels_last = layout(images.shape, name)
    if images.ndim == 3:
        images = images[:, None]
    elif channels_last:
        images = images.transpose(0, 3, 1, 2)
    found = levels_in(images, name)
    raw = torch.from_numpy(np.ascontiguousarray(_eight_bit(images, levels or found)))
    return _on_white(raw) if raw.shape[1] == 4 else raw


def layout(shape: tuple[int, ...], name: str) -> tuple[tuple[int, int, int], bool]:
    """Return channels, height and width of images of this shape, and whether channels come last.

    Raises DataError for what is no shape of images.
    """
    last = len(shape) == 4 and _channels_last(shape, name)
    channels, *size = (shape[3], *shape[1:3]) if last else (shape[1:] if len(shape) == 4 else (1, *shape[1:]))
    if len(shape) not in {3, 4} or channels not in _CHANNELS or 0 in size:
        raise DataError(f"{name} has the shape {by(shape)}; expected n×h×w, n×h×w×c or n×c×h×w with 1, 3 or 4 channels")
    return (channels, size[0], size[1]), last


def _channels_last(shape: tuple[int, ...], name: str) -> bool:
    """Whether the last axis of images holds the channels: where both might, images are taken to be square."""
    _, first, middle, last = shape
    if first not in _CHANNELS or last not in _CHANNELS:
        return last in _CHANNELS
    if (first == middle) != (middle == last):
        return first == middle
    raise DataError(
        f"{name} has the shape {by(shape)}, whose channels may come first or last; "
        "give grey images as n×h×w, or images of 5 pixels or more"
    )


def levels_in(images: np.ndarray, name: str) -> Levels:
    """Return which values are black and white in an array. Raises DataError for values that are no pixels."""
    if images.dtype == np.uint8 or not images.size:
        return Levels(0, 255)
    check_type(images.dtype, name)
    low, high = images.min(), images.max()
    floats = images.dtype.kind == "f"
    allowed = (-ROUNDING, 1 + ROUNDING) if floats else (0, np.iinfo(np.uint16).max)
    if not (low >= allowed[0] and high <= allowed[1]):  # written so that NaN fails
        raise DataError(
            f"{name} has values of type {images.dtype} from {low:g} to {high:g}; expected uint8, or floats in 0..1"
        )
    return levels_of(float(low), float(high), floats=floats)


def check_type(kind: np.dtype, name: str) -> None:
    """Raise DataError for a type that is not one of pixels."""
    if kind.kind == "O":
        raise DataError(f"{name} holds Python objects; save it as a plain array")
    if kind.kind not in "iuf":
        raise DataError(f"{name} has values of type {kind}; expected uint8, or floats in 0..1")


def _eight_bit(images: np.ndarray, levels: Levels) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    eight = np.empty(images.shape, dtype=np.uint8)
    for start in range(0, len(images), _CHUNK):  # a whole scaled copy would double the memory
        some = images[start : start + _CHUNK]
        if levels == Levels(0, 1):
            eight[start : start + _CHUNK] = np.rint(some.astype(np.float32) * 255).clip(0, 255)
        else:
            eight[start : start + _CHUNK] = levels.eight_bit(some)
    return eight


def _on_white(images: Tensor) -> Tensor:
    out = torch.empty_like(images[:, :3])
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].float()
        colour, alpha = chunk[:, :3], chunk[:, 3:] / 255
        out[start : start + _CHUNK] = (colour * alpha + 255 * (1 - alpha)).round().byte()
    return out


def resized(images: Tensor, size: int) -> Tensor:
    """Cut the largest centred square of each image and resize it, antialiased, to `size` × `size` pixels."""
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = images[:, :, top : top + side, left : left + side]
    out = torch.empty((*images.shape[:2], size, size), dtype=torch.uint8)
    for start in range(0, len(images), _CHUNK):
        chunk = square[start : start + _CHUNK].float()
        small = interpolate(chunk, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        out[start : start + _CHUNK] = small.round().clamp(0, 255).byte()
    return out


def by(shape: Sequence[int]) -> str:
    """Return a shape in words: 3×32×32."""
    return "×".join(map(str, shape))
