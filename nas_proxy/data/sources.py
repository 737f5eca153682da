"""Data sets by name.

In: a name such as `cifar10`, `folder:DIR`, `npz:FILE`, `csv:FILE` or `hf:DIR`, or a path that is recognised.
Out: a `Source`, whose parts are read one at a time as uint8 images and int64 labels.
Guarantees: reading one part opens the images of that part only, or fails with one DataError sentence; the
same files give the same images in the same order.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from nas_proxy.data.arrays import ArrayPart
from nas_proxy.data.catalogue import PUBLISHED, default_cache, kind_and_place, split_group
from nas_proxy.data.folders import FolderPart, open_folder
from nas_proxy.data.levels import Kind, Levels
from nas_proxy.data.npz import open_npz
from nas_proxy.data.published import open_published
from nas_proxy.data.store import Progress, Say, StoredImages
from nas_proxy.data.tables import open_table
from nas_proxy.errors import DataError
from nas_proxy.files import expanded

Part = Literal["train", "validation", "test"]


class StoredPart(Protocol):
    """One part of a source; it knows where its own images are, not where those of other parts are."""

    def labels(self) -> Tensor:
        """Return int64, (n,)."""

    def images(self, index: Tensor, progress: Progress | None = None) -> Tensor | StoredImages:
        """Return the images at `index`, uint8, (len(index), c, h, w); of a store, those that can be read."""

    def known_levels(self) -> Mapping[Kind, Levels]:
        """Return which values of pixels that do not fit 8 bits are black and white, by the kind of pixels."""


@dataclass(frozen=True)
class Source:
    """A data set: its class names in the order of the labels, and the parts that it has of its own.

    groups: int64, (n,), of the train images, where those of one group are to stay on one side of a split.
    """

    name: str
    classes: tuple[str, ...]
    parts: Mapping[str, StoredPart] = field(repr=False, compare=False)
    groups: Tensor | None = field(default=None, repr=False, compare=False)

    @property
    def has_test(self) -> bool:
        """Whether test images are kept apart; if not, they are to be split from `train`."""
        return "test" in self.parts

    @property
    def has_validation(self) -> bool:
        """Whether validation images are kept apart; if not, they are to be split from `train`."""
        return "validation" in self.parts

    def labels(self, part: Part) -> Tensor:
        """Return the labels of a part, int64, (n,), without decoding an image file."""
        return self._part(part).labels()

    def read(
        self, part: Part, index: Tensor | None = None, *, progress: Progress | None = None
    ) -> tuple[Tensor | StoredImages, Tensor]:
        """Return images, uint8, (n, c, h, w), and labels, int64, (n,), of a part, or of it at `index`.

        Images of a store stay there, and its row i is image i of the part; unreadable ones are left out.
        `progress` is called with the number of images read and their total. Raises DataError for unreadable
        data and for a part that the source lacks.
        """
        stored = self._part(part)
        labels = stored.labels()
        chosen = torch.arange(len(labels)) if index is None else index
        images = stored.images(chosen, progress)
        return images, labels[images.rows if isinstance(images, StoredImages) else chosen]

    def levels(self) -> dict[Kind, tuple[float, float]]:
        """Return the values that become 0 and 255 in all images that do not fit 8 bits: those of the train images."""
        return {kind: (levels.low, levels.high) for kind, levels in self._part("train").known_levels().items()}

    def readable(self, part: Part, index: Tensor, most: int) -> Tensor:
        """Return the first `most` of the images at `index`; what a large part leaves out does not count."""
        stored = self._part(part)
        return stored.readable(index, most) if isinstance(stored, FolderPart) else index[:most]

    def _part(self, part: Part) -> StoredPart:
        if part not in self.parts:
            raise DataError(f"{self.name} has no {part} part of its own; it has {', '.join(self.parts)}")
        return self.parts[part]


def open_source(
    dataset: str, *, image_size: int | None = None, cache: Path | None = None, say: Say = lambda text: None
) -> Source:
    """Open a data set by name; a published one is downloaded into `cache` (`default_cache()`) if absent.

    A folder too large for the memory is indexed in `cache` when it is first read; `say` is told what there is to
    know of it. `image_size`: cut each image to its centred square and resize that to so many pixels. Raises
    DataError for an unknown name, a layout that cannot be used and a failed download.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"the image size {image_size} is not a number of pixels; give 1 or more, for example 32")
    kind, place = kind_and_place(dataset)
    return _told(_opened(kind, dataset, place, image_size, cache, say), say)


def _opened(kind: str, dataset: str, place: str, image_size: int | None, cache: Path | None, say: Say) -> Source:
    if kind == "digits":
        return _digits(image_size)
    if kind in PUBLISHED:
        return Source(dataset, *open_published(dataset, image_size, cache or default_cache()))
    if kind == "hf":
        from nas_proxy.data.hugging_face import open_hugging_face  # which imports a library that few have

        return Source(dataset, *open_hugging_face(place, image_size, say))
    if kind == "csv":
        file, group = split_group(place)
        listed = open_table(expanded(file), group, image_size, cache or default_cache(), say)
        return Source(dataset, listed.classes, listed.parts, listed.groups)
    path = expanded(place)
    if kind == "npz":
        return Source(dataset, *open_npz(path, image_size, say))
    return Source(dataset, *open_folder(path, image_size, cache or default_cache(), say))


def _told(source: Source, say: Say) -> Source:
    """Tell which classes a part of its own lacks: an accuracy there is one of the others alone."""
    if source.name in PUBLISHED:  # which lack none, and whose labels take a while
        return source
    for part in ("validation", "test"):
        if part in source.parts:
            counts = torch.bincount(source.parts[part].labels(), minlength=len(source.classes))
            absent = [name for name, count in zip(source.classes, counts.tolist(), strict=True) if not count]
            if absent:
                named = ", ".join(absent[:5]) + (f" and {len(absent) - 5} more" if len(absent) > 5 else "")
                say(
                    f"the {part} images of {source.name} have none of {len(absent)} of the {len(source.classes)} "
                    f"classes ({named}); accuracy on them says nothing of these"
                )
    return source


def _digits(image_size: int | None) -> Source:
    """Scikit-learn's copy of the test set of the UCI handwritten digits (Alpaydin and Kaynak, 1998)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    raw = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = torch.from_numpy(bunch.target.astype(np.int64))
    part = ArrayPart("digits", lambda: labels, lambda: raw, image_size)
    return Source("digits", tuple(map(str, bunch.target_names)), {"train": part})
