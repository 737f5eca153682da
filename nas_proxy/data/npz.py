"""Images in npz files.

In: an npz file. Out: the class names and, for each part that the file has, an `ArrayPart`. Guarantees: pickled objects
are never loaded; opening reads labels, the heads of images, and values of images that are not uint8; what no name of a
part fits is told.
"""

import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import numpy as np
import torch
from torch import Tensor

from nas_proxy.data.arrays import ArrayPart, by, check_type, layout, levels_in
from nas_proxy.data.levels import Levels
from nas_proxy.data.listing import PARTS, shown
from nas_proxy.data.store import Say
from nas_proxy.errors import DataError

_DAMAGED = (OSError, ValueError, EOFError, BadZipFile, zlib.error)
# What images and labels of a part are called; the part by any of its names, in any case.
_NAMINGS = (("{}_images", "{}_labels"), ("x_{}", "y_{}"))
_LIKE_A_PART = re.compile(r"(.*_)?(images|labels)|[xy]_.*")
# A part whose greatest value is so many times that of train, or the other way, is on another scale.
BRIGHTER, DARKER = 4, 16


def open_npz(
    path: Path, image_size: int | None, say: Say = lambda text: None
) -> tuple[tuple[str, ...], Mapping[str, ArrayPart]]:
    """Return the class names and the parts. Raises DataError for a file that cannot be used.

    Of images that are not uint8 already the values of all parts are looked at, so that no NaN ends the work later.
    """
    names = _array_names(path)
    found = _pairs(path, names, say)
    labels = {part: _label_array(path, pair[1]) for part, pair in found.items()}
    values = np.unique(labels["train"])
    classes = _class_names(path, values, named="classes" in names)
    codes = {part: _encoded(labels[part], values, f"{pair[1]} of {path}") for part, pair in found.items()}
    images = {part: pair[0] for part, pair in found.items()}
    kinds = _checked(path, images, {part: len(each) for part, each in codes.items()}, resized=image_size is not None)
    levels = _levels(path, images, kinds, say)
    return classes, {part: _npz_part(path, images[part], codes[part], image_size, levels.get(part)) for part in found}


def _npz_part(path: Path, name: str, labels: Tensor, image_size: int | None, levels: Levels | None) -> ArrayPart:
    return ArrayPart(f"{name} of {path}", lambda: labels, lambda: _load(path, name), image_size, levels)


def _pairs(path: Path, names: Sequence[str], say: Say) -> dict[str, tuple[str, str]]:
    """Return what the arrays of images and of labels of each part are called, train first."""
    known = {name.casefold(): name for name in names}
    if len(known) < len(names):
        raise DataError(f"{path} has two arrays of one name, of {', '.join(names)}; keep one of them")
    found: dict[str, tuple[str, str]] = {}
    called = [(part, tuple(form.format(word) for form in forms)) for forms in _NAMINGS for word, part in PARTS.items()]
    for part, (images, labels) in sorted(
        [*called, ("train", ("images", "labels"))], key=lambda each: each[0] != "train"
    ):
        if part not in found and (images in known or (part != "train" and labels in known)):
            absent = next((name for name in (images, labels) if name not in known), None)
            if absent is not None:
                raise DataError(f"{path} lacks the array {absent!r}; it has {', '.join(names)}")
            found[part] = known[images], known[labels]
    if "train" not in found:
        raise DataError(
            f"{path} has the arrays {', '.join(names) or 'none'}; expected images and labels, or "
            "train_images, train_labels, test_images and test_labels, or x_train, y_train, x_test and y_test"
        )
    used = {name for pair in found.values() for name in pair}
    unused = [name for folded, name in known.items() if name not in used and _LIKE_A_PART.fullmatch(folded)]
    if unused:
        say(f"{path} has arrays that are not used: {', '.join(unused)}; known parts: {', '.join(PARTS)}")
    return found


def _checked(path: Path, arrays: Mapping[str, str], counts: Mapping[str, int], *, resized: bool) -> dict[str, str]:
    """Return the kind of type of each part's images, "" for uint8 and for what cannot be told.

    By the heads of the arrays. Raises DataError where images cannot be used, have other numbers than labels, or, so far
    as they are not `resized`, another shape than those of train.
    """
    kinds: dict[str, str] = {}
    of_train: tuple[int, ...] | None = None
    for part, array in arrays.items():
        name, head = f"{array} of {path}", _head(path, array)
        kinds[part] = "" if head is None or head[1] == np.uint8 else head[1].kind
        if head is None:
            continue
        shape, kind = head
        check_type(kind, name)
        (channels, height, width), _ = layout(shape, name)
        if shape[0] != counts[part]:
            raise DataError(f"{name} has {shape[0]} images but {counts[part]} labels; each image needs one")
        found = (min(channels, 3), *(() if resized else (height, width)))
        if part == "train":
            of_train = found
        elif of_train is not None and found != of_train:
            what = "channels" if resized else "(channels×height×width)"
            raise DataError(
                f"{name} are {by(found)} {what} but those of train are {by(of_train)}; all parts must have one shape"
            )
    return kinds


def _levels(path: Path, arrays: Mapping[str, str], kinds: Mapping[str, str], say: Say) -> dict[str, Levels]:
    """Return the levels of parts that are not uint8: those of train, or, for numbers of another kind, their own."""
    found: dict[str, Levels] = {}
    most: dict[str, float] = {}
    for part, name in arrays.items():
        if kinds[part]:
            images = _load(path, name)
            found[part], most[part] = levels_in(images, f"{name} of {path}"), float(images.max(initial=0))
    train = found.get("train")
    for part, own in found.items():
        as_train = train is not None and (kinds[part] == "f") == (kinds["train"] == "f")
        if as_train and (most[part] > BRIGHTER * most["train"] or most["train"] > DARKER * most[part]):
            raise DataError(
                f"{arrays[part]} of {path} goes up to {most[part]:g} but {arrays['train']} to {most['train']:g}; "
                "save all parts on one scale, for example as uint8"
            )
        found[part] = train if train is not None and as_train else own
        if own.high not in {1, 255} and (part == "train" or not as_train):
            which = "images" if part == "train" else f"{part} images"
            say(f"the {which} of {path} are whole numbers of 16 bits; {own.text()} becomes 0 to 255 in all of them")
    return found


def _head(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype] | None:
    """Return the shape and the type of an array, whose values stay unread; None for what cannot be told."""
    try:
        with ZipFile(path) as file, file.open(f"{name}.npy") as array:
            version = np.lib.format.read_magic(array)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, kind = read(array)
    except (*_DAMAGED, KeyError):
        return None  # told where it is read
    return shape, kind


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
    given = _load(path, "classes").reshape(-1)
    names = tuple(shown(name.decode(errors="replace") if isinstance(name, bytes) else str(name)) for name in given)
    if len(set(names)) < len(names):
        twice, _ = Counter(names).most_common(1)[0]
        raise DataError(f"{path} has two classes that are called {twice!r}; rename one of them")
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
