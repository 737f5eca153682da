"""Images in arrays: npz files, and the checks that every array goes through.

In: an npz file, or two functions that load labels and images.
Out: the class names and, for each part that the file has, an `ArrayPart`.
Guarantees: pickled objects are never loaded; opening reads labels, never images; a part loads its own arrays
only; every image leaves as uint8, channels first.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from nas_proxy.data.levels import ROUNDING, Levels, levels_of
from nas_proxy.data.listing import shown
from nas_proxy.data.store import Progress, Say
from nas_proxy.errors import DataError

_DAMAGED = (OSError, ValueError, EOFError, BadZipFile, zlib.error)
_NAMINGS = (
    {"train": ("train_images", "train_labels"), "test": ("test_images", "test_labels")}
    | {"validation": ("val_images", "val_labels")},
    {"train": ("x_train", "y_train"), "test": ("x_test", "y_test"), "validation": ("x_val", "y_val")},
    {"train": ("images", "labels")},
)
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
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and _channels_last(images.shape, name):
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in _CHANNELS or 0 in images.shape[2:]:
        raise DataError(
            f"{name} has the shape {'×'.join(map(str, images.shape))}; "
            "expected n×h×w, n×h×w×c or n×c×h×w with 1, 3 or 4 channels"
        )
    found = levels_in(images, name)
    raw = torch.from_numpy(np.ascontiguousarray(_eight_bit(images, levels or found)))
    return _on_white(raw) if raw.shape[1] == 4 else raw


def _channels_last(shape: tuple[int, ...], name: str) -> bool:
    """Whether the last axis of images holds the channels: where both might, images are taken to be square."""
    _, first, middle, last = shape
    if first not in _CHANNELS or last not in _CHANNELS:
        return last in _CHANNELS
    if (first == middle) != (middle == last):
        return first == middle
    raise DataError(
        f"{name} has the shape {'×'.join(map(str, shape))}, whose channels may come first or last; "
        "give grey images as n×h×w, or images of 5 pixels or more"
    )


def levels_in(images: np.ndarray, name: str) -> Levels:
    """Return which values are black and white in an array. Raises DataError for values that are no pixels."""
    if images.dtype == np.uint8 or not images.size:
        return Levels(0, 255)
    if images.dtype.kind not in "iuf":
        raise DataError(f"{name} has values of type {images.dtype}; expected uint8, or floats in 0..1")
    low, high = images.min(), images.max()
    floats = images.dtype.kind == "f"
    allowed = (-ROUNDING, 1 + ROUNDING) if floats else (0, np.iinfo(np.uint16).max)
    if not (low >= allowed[0] and high <= allowed[1]):  # written so that NaN fails
        raise DataError(
            f"{name} has values of type {images.dtype} from {low:g} to {high:g}; expected uint8, or floats in 0..1"
        )
    return levels_of(float(low), float(high), floats=floats)


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


def open_npz(
    path: Path, image_size: int | None, say: Say = lambda text: None
) -> tuple[tuple[str, ...], Mapping[str, ArrayPart]]:
    """Return the class names and the parts. Raises DataError for a file that cannot be used.

    Of images that are not uint8 already the values of all parts are looked at, so that no NaN ends the work later.
    """
    names = _array_names(path)
    naming = next((n for n in _NAMINGS if n["train"][0] in names), None)
    if naming is None:
        raise DataError(
            f"{path} has the arrays {', '.join(names) or 'none'}; expected images and labels, or "
            "train_images, train_labels, test_images and test_labels, or x_train, y_train, x_test and y_test"
        )
    found = {part: pair for part, pair in naming.items() if pair[0] in names or pair[1] in names}
    missing = [name for pair in found.values() for name in pair if name not in names]
    if missing:
        raise DataError(f"{path} lacks the array {missing[0]!r}; it has {', '.join(names)}")

    labels = {part: _label_array(path, pair[1]) for part, pair in found.items()}
    values = np.unique(labels["train"])
    classes = _class_names(path, values, named="classes" in names)
    levels = _levels(path, {part: pair[0] for part, pair in found.items()}, say)
    return classes, {
        part: _npz_part(path, pair, _encoded(labels[part], values, f"{pair[1]} of {path}"), image_size, levels)
        for part, pair in found.items()
    }


def _npz_part(
    path: Path, pair: tuple[str, str], labels: Tensor, image_size: int | None, levels: Levels | None
) -> ArrayPart:
    return ArrayPart(f"{pair[0]} of {path}", lambda: labels, lambda: _load(path, pair[0]), image_size, levels)


def _levels(path: Path, arrays: Mapping[str, str], say: Say) -> Levels | None:
    """Return the levels of the train images for all parts; None for those that are told where they are read."""
    found: dict[str, Levels] = {}
    for part, name in arrays.items():
        if _kind(path, name) in "iuf":
            found[part] = levels_in(_load(path, name), f"{name} of {path}")
    levels = found.get("train")
    if levels is not None and levels.high not in {1, 255}:
        say(f"the images of {path} are whole numbers of 16 bits; {levels.text()} becomes 0 to 255 in all of them")
    return levels


def _kind(path: Path, name: str) -> str:
    """Return the kind of type of an array's values, unread; "" for uint8 and for what cannot be told."""
    try:
        with ZipFile(path) as file, file.open(f"{name}.npy") as array:
            version = np.lib.format.read_magic(array)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            _, _, kind = read(array)
    except (*_DAMAGED, KeyError):
        return ""  # told where it is read
    return "" if kind == np.uint8 else kind.kind


def _array_names(path: Path) -> list[str]:
    try:
        # NumPy does not close a file that it opened and that turns out to be damaged.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return list(file.files)
    except FileNotFoundError:
        raise DataError(f"the file {path} does not exist; give an existing one as npz:FILE") from None
    # For an npy file np.load returns a bare array, which is no context manager.
    except (*_DAMAGED, AttributeError, TypeError):
        raise DataError(f"{path} is not a readable npz file; write one with numpy.savez_compressed") from None


def _load(path: Path, name: str) -> np.ndarray:
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            array: np.ndarray = file[name]
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            raise DataError(f"{name} of {path} holds Python objects; save it as a plain array") from None
        raise DataError(f"{name} of {path} cannot be read ({error}); write the file again") from None
    return array


def _label_array(path: Path, name: str) -> np.ndarray:
    labels = _load(path, name)
    if labels.dtype.kind == "U":  # one form of Unicode, as for the names of folders
        labels = np.array([shown(str(label)) for label in labels.reshape(-1)]).reshape(labels.shape)
    flat = labels.reshape(-1)
    if labels.ndim == 0 or len(flat) != len(labels) or len(flat) == 0 or labels.dtype.kind not in "iuU":
        raise DataError(
            f"{name} of {path} has the shape {'×'.join(map(str, labels.shape)) or 'of one number'} and "
            f"the type {labels.dtype}; expected one whole number or one name for each image"
        )
    return flat


def _class_names(path: Path, values: np.ndarray, *, named: bool) -> tuple[str, ...]:
    if len(values) == 1:
        raise DataError(f"{path} has only one class, {str(values[0])!r}; two or more are needed")
    if not named:
        return tuple(shown(str(value)) for value in values)
    names = tuple(shown(str(name)) for name in _load(path, "classes").reshape(-1))
    if not np.array_equal(values, np.arange(len(names))):
        raise DataError(
            f"{path} names {len(names)} classes but its train labels are {_some(values)}; "
            f"expected every whole number from 0 to {len(names) - 1}"
        )
    return names


def _encoded(labels: np.ndarray, values: np.ndarray, name: str) -> Tensor:
    unknown = np.setdiff1d(labels, values)
    if len(unknown):
        raise DataError(f"{name} has the class {str(unknown[0])!r}, which train lacks")
    return torch.from_numpy(np.searchsorted(values, labels).astype(np.int64))


def _some(values: np.ndarray) -> str:
    shown = [str(value) for value in values[:5]]
    return ", ".join(shown) + (", …" if len(values) > 5 else "")
