"""Folders of image files.

In: DIR with `train/<class>/`, `test/<class>/` and optionally `val/<class>/`, or with `<class>/` alone.
Out: the class names and, for each part that has its own folder, a `FolderPart`.
Guarantees: opening lists names and decodes nothing; a part knows its own files and, for the size and the
channels that all parts share, those of train; the order is that of the sorted names, on every machine.

Up to `IN_MEMORY` bytes of pixels are decoded into memory, and an unreadable file is a mistake. More than that are
decoded once into a file of the cache, see `nas_proxy.data.store`, and stay there.
"""

import bisect
import hashlib
import itertools
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nas_proxy.data.store import Progress, Say, StoredImages, open_store
from nas_proxy.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# Pillow would otherwise also try formats that run other programs, whatever the file is called.
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N")
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)
_PARTS = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}
_BLOCK = 128
# Bytes of pixels that are decoded into memory; on a small machine a share of its memory.
IN_MEMORY, SHARE_OF_MEMORY = 1 << 30, 0.25


class Files(Sequence[Path]):
    """Image files of several folders in a row; a million paths are kept as one string a folder."""

    def __init__(self, of_folder: Sequence[tuple[Path, Sequence[str]]]) -> None:
        self._folders = tuple(folder for folder, _ in of_folder)
        self._names = tuple("/".join(names) for _, names in of_folder)
        self.counts = tuple(len(names) for _, names in of_folder)
        self._starts = [0, *itertools.accumulate(self.counts)]

    def __len__(self) -> int:
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Path]: ...
    def __getitem__(self, index: int | slice) -> Path | Sequence[Path]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        folder = bisect.bisect_right(self._starts, index) - 1
        return self._folders[folder] / _divided(self._names[folder])[index - self._starts[folder]]


@lru_cache(maxsize=8)
def _divided(names: str) -> list[str]:
    return names.split("/")


@dataclass(frozen=True)
class Frame:
    """What all images of a source share, found in the train files when the first image is read."""

    files: Files
    image_size: int | None

    @cached_property
    def channels(self) -> int:
        """1 if every train file is grey by its header, else 3; reads up to the first file in colour."""
        return 1 if all(map(_is_grey, self.files)) else 3

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels: the image size asked for, else that of the first train file."""
        if self.image_size is not None:
            return self.image_size, self.image_size
        with _opened(self.files[0]) as image:
            return _upright(image).size


@dataclass(frozen=True)
class FolderPart:
    """The files of one part, and the class of each folder of them.

    place: where they are indexed if they are too many for the memory. say: is told of unreadable files there.
    """

    name: str
    files: Files
    classes: tuple[int, ...]
    frame: Frame
    place: Path
    say: Say

    @property
    def count(self) -> int:
        """The number of files."""
        return len(self.files)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        width, height = self.frame.size
        return self.frame.channels, height, width

    def labels(self) -> Tensor:
        """Return the labels: int64, (n,)."""
        return torch.tensor(self.classes).repeat_interleave(torch.tensor(self.files.counts))

    def pixels(self, index: int) -> np.ndarray:
        """Decode one file: uint8, (c, h, w). Raises DataError with the path."""
        return _pixels(self.files[index], self.frame)

    def digest(self, block: range) -> str:
        """Return what changes with the names, sizes and times of files, and with the size of images."""
        digest = hashlib.sha256(repr(self.frame.image_size).encode())
        for index in block:
            file = self.files[index]
            found = file.stat()
            digest.update(f"{file.parent.name}/{file.name} {found.st_size} {found.st_mtime_ns}\n".encode())
        return digest.hexdigest()[:16]

    def images(self, index: Tensor, progress: Progress | None = None) -> Tensor | StoredImages:
        """Return the images at `index`: uint8, (len(index), c, h, w). Raises DataError with the path.

        Where they are too many for the memory, they stay in the store, and those that are unreadable are left out.
        """
        # Three channels, since to know better may take reading every file.
        if len(index) * 3 * math.prod(self.frame.size) > _room():
            stored = open_store(self.place, self, progress, self.say)
            return stored.at(torch.searchsorted(stored.rows, index[torch.isin(index, stored.rows)]))
        return self._decoded(index, progress)

    def _decoded(self, index: Tensor, progress: Progress | None) -> Tensor:
        chosen = index.tolist()
        out = np.empty((len(chosen), *self.shape), dtype=np.uint8)

        def block(start: int) -> int:
            some = chosen[start : start + _BLOCK]
            for offset, number in enumerate(some):
                out[start + offset] = self.pixels(number)
            return len(some)

        done = 0
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            # `map` keeps the order, so that of several bad files the first is always the one named.
            for count in pool.map(block, range(0, len(chosen), _BLOCK)):
                done += count
                if progress is not None:
                    progress(done, len(chosen))
        return torch.from_numpy(out)


def open_folder(
    root: Path, image_size: int | None, cache: Path, say: Say = lambda text: None
) -> tuple[tuple[str, ...], Mapping[str, FolderPart]]:
    """Return the class names, sorted, and the parts. Raises DataError for a layout that cannot be used.

    cache: where large parts are indexed. say: is told what the user should know of them.
    """
    if not root.exists():
        raise DataError(f"the folder {root} does not exist; give an existing one as folder:DIR")
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder; give a folder of class folders as folder:DIR")
    folders = _part_folders(root)
    listed = {part: _class_files(folder) for part, folder in folders.items()}
    classes = tuple(listed["train"])
    if len(classes) == 1:
        raise DataError(f"{folders['train']} has only one class, {classes[0]!r}; two or more are needed")
    frame = Frame(_files(folders["train"], listed["train"]), image_size)
    number = {name: label for label, name in enumerate(classes)}
    parts = {}
    for part, of_class in listed.items():
        unknown = [name for name in of_class if name not in classes]
        if unknown:
            raise DataError(
                f"{folders[part]} has the class {unknown[0]!r}, which {folders['train']} lacks; "
                "every class needs images in train"
            )
        folder = folders[part]
        place = cache / "folders" / f"{folder.resolve().name}-{_digest_of(folder, image_size)}"
        files = frame.files if part == "train" else _files(folder, of_class)
        parts[part] = FolderPart(str(folder), files, tuple(number[name] for name in of_class), frame, place, say)
    return classes, parts


def _files(folder: Path, of_class: Mapping[str, Sequence[str]]) -> Files:
    return Files([(folder / name, files) for name, files in of_class.items()])


def _digest_of(folder: Path, image_size: int | None) -> str:
    return hashlib.sha256(f"{folder.resolve()} {image_size}".encode()).hexdigest()[:16]


def _part_folders(root: Path) -> dict[str, Path]:
    below = _list(root, folders=True)
    if "train" not in below:
        return {"train": root}
    parts: dict[str, Path] = {}
    for name in below:
        part = _PARTS.get(name)
        if part is None:
            raise DataError(f"{root} has the folder {name!r} beside 'train'; known: {', '.join(_PARTS)}")
        if part in parts:
            raise DataError(f"{root} has both {parts[part].name!r} and {name!r}; keep one of them")
        parts[part] = root / name
    return parts


def _class_files(folder: Path) -> dict[str, tuple[str, ...]]:
    classes = _list(folder, folders=True)
    if not classes:
        raise DataError(
            f"{folder} has no class folders; expected DIR/<class>/<image files>, or "
            "DIR/train/<class>/<image files> and DIR/test/<class>/<image files>"
        )
    return {name: _image_files(folder / name) for name in classes}


def _image_files(folder: Path) -> tuple[str, ...]:
    deeper = _list(folder, folders=True)
    if deeper:
        raise DataError(
            f"the class folder {folder} has the folder {deeper[0]!r} in it; "
            "put the image files directly into their class folder"
        )
    files = tuple(name for name in _list(folder, folders=False) if name.lower().endswith(SUFFIXES))
    if not files:
        raise DataError(f"the class folder {folder} has no image files ({', '.join(SUFFIXES)})")
    return files


def _list(folder: Path, *, folders: bool) -> list[str]:
    """Return the names of the folders, or files, in `folder`; hidden ones are left out, links are followed."""
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and (entry.is_dir() if folders else entry.is_file())
            ]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read ({error.strerror})") from None
    return sorted(names)


@contextmanager
def _opened(file: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(file, formats=_FORMATS) as image:
            yield image
    except _UNREADABLE as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"the image {file} cannot be read ({reason}); mend or remove it") from None


def _is_grey(file: Path) -> bool:
    with _opened(file) as image:
        return image.mode in _GREY


def _upright(image: Image.Image) -> Image.Image:
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _pixels(file: Path, frame: Frame) -> np.ndarray:
    """Return one image: uint8, (c, h, w)."""
    with _opened(file) as opened:
        if frame.image_size is not None:
            # A JPEG decodes faster at a fraction of its size; twice the target keeps the antialiasing ours.
            opened.draft(None, (2 * frame.image_size, 2 * frame.image_size))
        image = _flat(_upright(opened), "L" if frame.channels == 1 else "RGB")
    if frame.image_size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square.resize(frame.size, Image.Resampling.BILINEAR)  # antialiased, as `arrays.resized` is
    if image.size != frame.size:
        raise DataError(
            f"{frame.files[0]} has {_by(frame.size)} pixels but {file} has {_by(image.size)}; "
            "images of one data set must have one size, so choose one, for example --image-size 32"
        )
    pixels = np.asarray(image)
    return pixels[None] if frame.channels == 1 else pixels.transpose(2, 0, 1)


def _flat(image: Image.Image, mode: str) -> Image.Image:
    """Return `image` with 8 bits a channel and nothing transparent: alpha is composited onto white."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _room() -> float:
    """Return how many bytes of pixels may be decoded into memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not known here, for example on Windows
        return IN_MEMORY
    return min(IN_MEMORY, SHARE_OF_MEMORY * memory)
