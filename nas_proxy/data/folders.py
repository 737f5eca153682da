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
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import overload

import numpy as np
import torch
from torch import Tensor

from nas_proxy.data.frame import Frame, pixels
from nas_proxy.data.levels import Kind, Levels
from nas_proxy.data.listing import NAMED, list_folder
from nas_proxy.data.store import Progress, Say, StoredImages, open_store
from nas_proxy.errors import DataError
from nas_proxy.files import write_text
from nas_proxy.hardware import cores

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

    def known_levels(self) -> dict[Kind, Levels]:
        """Return which values of pixels that do not fit 8 bits are black and white."""
        return self.frame.known_levels()

    def pixels(self, index: int) -> np.ndarray:
        """Decode one file: uint8, (c, h, w). Raises DataError with the path."""
        return pixels(self.files[index], self.frame)

    def readable(self, index: Tensor, most: int) -> Tensor:
        """Return the first `most` of the images at `index`, without unreadable ones where such are left out.

        Where none can be read they are the first all the same, so that reading them tells.
        """
        if not self._is_large(self.count):
            return index[:most]
        found = [*itertools.islice(filter(self._opens, index.tolist()), most)]
        return torch.tensor(found, dtype=torch.int64) if found else index[:most]

    def _opens(self, index: int) -> bool:
        try:
            self.pixels(index)
        except DataError:
            return False
        return True

    def _is_large(self, count: int) -> bool:
        # Three channels, since to know better may take reading every file.
        return count * 3 * math.prod(self.frame.size) > _room()

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
        if self._is_large(len(index)):
            stored = open_store(self.place, self, progress, self.say)
            return stored.at(torch.searchsorted(stored.rows, index[torch.isin(index, stored.rows)]))
        return decoded(self.pixels, index, self.shape, progress)


def decoded(
    pixels_of: Callable[[int], np.ndarray], index: Tensor, shape: tuple[int, int, int], progress: Progress | None
) -> Tensor:
    """Return the images at `index`, several at a time: uint8, (len(index), *shape)."""
    chosen = index.tolist()
    out = np.empty((len(chosen), *shape), dtype=np.uint8)

    def block(start: int) -> int:
        some = chosen[start : start + _BLOCK]
        for offset, number in enumerate(some):
            out[start + offset] = pixels_of(number)
        return len(some)

    done = 0
    with ThreadPoolExecutor(max_workers=min(4, cores())) as pool:
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
    listing = list_folder(root)
    if (remark := listing.remark()) is not None:
        if len(listing.left_out) > NAMED:
            every = cache / "folders" / f"{root.resolve().name}-{_digest_of(root, image_size)}" / "left_out.txt"
            write_text(every, "\n".join(listing.left_out) + "\n")
            remark += f"; all are listed in {every}"
        say(remark)
    folders = listing.folders
    classes = tuple(listing.files["train"])
    if len(classes) == 1:
        raise DataError(f"{folders['train']} has only one class, {classes[0]!r}; two or more are needed")
    frame = Frame(Files(list(listing.files["train"].values())), image_size, say)
    number = {name: label for label, name in enumerate(classes)}
    parts = {}
    for part, of_class in listing.files.items():
        unknown = [name for name in of_class if name not in classes]
        if unknown:
            raise DataError(
                f"{folders[part]} has the class {unknown[0]!r}, which {folders['train']} lacks; "
                "every class needs images in train"
            )
        folder = folders[part]
        place = cache / "folders" / f"{folder.resolve().name}-{_digest_of(folder, image_size)}"
        files = frame.files if part == "train" else Files(list(of_class.values()))
        assert isinstance(files, Files)
        own = frame if part == "train" else Frame(files, image_size, say, frame)
        own.check_size()
        parts[part] = FolderPart(str(folder), files, tuple(number[name] for name in of_class), own, place, say)
    return classes, parts


def _digest_of(folder: Path, image_size: int | None) -> str:
    return hashlib.sha256(f"{folder.resolve()} {image_size}".encode()).hexdigest()[:16]


def _room() -> float:
    """Return how many bytes of pixels may be decoded into memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not known here, for example on Windows
        return IN_MEMORY
    return min(IN_MEMORY, SHARE_OF_MEMORY * memory)
