"""Folders of image files.

In: DIR with `train/<class>/`, `test/<class>/` and optionally `val/<class>/`, or with `<class>/` alone.
Out: the class names and, for each part that has its own folder, a `FolderPart`.
Guarantees: opening lists names and decodes nothing; a part knows its own files and, for the size and the
channels that all parts share, those of train; the order is that of the sorted names, on every machine.
"""

import os
import struct
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from nas_proxy.errors import DataError

Progress = Callable[[int, int], None]

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


@dataclass(frozen=True)
class Frame:
    """What all images of a source share, found in the train files when the first image is read."""

    files: tuple[Path, ...]
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
    """The files of one part, and the class of each."""

    files: tuple[Path, ...]
    targets: tuple[int, ...]
    frame: Frame

    def labels(self) -> Tensor:
        """Return the labels: int64, (n,)."""
        return torch.tensor(self.targets, dtype=torch.int64)

    def images(self, index: Tensor, progress: Progress | None = None) -> Tensor:
        """Decode the files at `index`: uint8, (len(index), c, h, w). Raises DataError with the path."""
        files = [self.files[i] for i in index.tolist()]
        (width, height), channels = self.frame.size, self.frame.channels
        _check_memory(len(files), channels, width, height)
        out = np.empty((len(files), channels, height, width), dtype=np.uint8)

        def block(start: int) -> int:
            chosen = files[start : start + _BLOCK]
            for offset, file in enumerate(chosen):
                out[start + offset] = _pixels(file, self.frame)
            return len(chosen)

        done = 0
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            # `map` keeps the order, so that of several bad files the first is always the one named.
            for count in pool.map(block, range(0, len(files), _BLOCK)):
                done += count
                if progress is not None:
                    progress(done, len(files))
        return torch.from_numpy(out)


def open_folder(root: Path, image_size: int | None) -> tuple[tuple[str, ...], Mapping[str, FolderPart]]:
    """Return the class names, sorted, and the parts. Raises DataError for a layout that cannot be used."""
    if not root.exists():
        raise DataError(f"the folder {root} does not exist; give an existing one as folder:DIR")
    if not root.is_dir():
        raise DataError(f"{root} is a file, not a folder; give a folder of class folders as folder:DIR")
    folders = _part_folders(root)
    listed = {part: _class_files(folder) for part, folder in folders.items()}
    classes = tuple(listed["train"])
    if len(classes) == 1:
        raise DataError(f"{folders['train']} has only one class, {classes[0]!r}; two or more are needed")
    frame = Frame(tuple(file for files in listed["train"].values() for file in files), image_size)
    parts = {}
    for part, of_class in listed.items():
        unknown = [name for name in of_class if name not in classes]
        if unknown:
            raise DataError(
                f"{folders[part]} has the class {unknown[0]!r}, which {folders['train']} lacks; "
                "every class needs images in train"
            )
        files = tuple(file for files in of_class.values() for file in files)
        targets = tuple(classes.index(name) for name, files in of_class.items() for _ in files)
        parts[part] = FolderPart(files, targets, frame)
    return classes, parts


def _part_folders(root: Path) -> dict[str, Path]:
    below = _list(root, folders=True)
    if "train" not in [folder.name for folder in below]:
        return {"train": root}
    parts: dict[str, Path] = {}
    for folder in below:
        part = _PARTS.get(folder.name)
        if part is None:
            raise DataError(f"{root} has the folder {folder.name!r} beside 'train'; known: {', '.join(_PARTS)}")
        if part in parts:
            raise DataError(f"{root} has both {parts[part].name!r} and {folder.name!r}; keep one of them")
        parts[part] = folder
    return parts


def _class_files(folder: Path) -> dict[str, tuple[Path, ...]]:
    classes = _list(folder, folders=True)
    if not classes:
        raise DataError(
            f"{folder} has no class folders; expected DIR/<class>/<image files>, or "
            "DIR/train/<class>/<image files> and DIR/test/<class>/<image files>"
        )
    return {found.name: _image_files(found) for found in classes}


def _image_files(folder: Path) -> tuple[Path, ...]:
    deeper = _list(folder, folders=True)
    if deeper:
        raise DataError(
            f"the class folder {folder} has the folder {deeper[0].name!r} in it; "
            "put the image files directly into their class folder"
        )
    files = tuple(file for file in _list(folder, folders=False) if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"the class folder {folder} has no image files ({', '.join(SUFFIXES)})")
    return files


def _list(folder: Path, *, folders: bool) -> list[Path]:
    """Return the folders, or the files, in `folder` by name; hidden ones are left out, links are followed."""
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and (entry.is_dir() if folders else entry.is_file())
            ]
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read ({error.strerror})") from None
    return [folder / name for name in sorted(names)]


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


def _check_memory(count: int, channels: int, width: int, height: int) -> None:
    """Refuse what cannot fit, since the system would end the program without a word."""
    needed = count * channels * width * height
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not known here, for example on Windows
        return
    if needed > memory:
        raise DataError(
            f"{count} images of {_by((width, height))} pixels need {needed / 2**30:.1f} GiB of memory "
            f"and this machine has {memory / 2**30:.1f}; choose smaller ones, for example --image-size 64"
        )
