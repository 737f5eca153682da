"""Data sets of Hugging Face's library `datasets`: `hf:DIR` for one that was saved or lies in files, `hf:NAME` for one
in its cache.

In: a folder or a name. Out: the class names and the parts. Guarantees: nothing is downloaded and no code of a data set
is run; images are decoded as those of a folder are; several labels an image, and labels that are amounts, are refused.
"""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from nas_proxy.data.decoding import Encoded
from nas_proxy.data.folders import decoded
from nas_proxy.data.frame import Frame, pixels
from nas_proxy.data.levels import Kind, Levels
from nas_proxy.data.listing import PARTS, shown
from nas_proxy.data.store import Progress, Say
from nas_proxy.data.tables import LABELS, check_names
from nas_proxy.errors import DataError
from nas_proxy.files import expanded


class _Images(Sequence[Encoded]):
    """The images of a split, as they are stored."""

    def __init__(self, name: str, split: Any, column: str) -> None:
        self.name, self._split, self._column = name, split, column

    def __len__(self) -> int:
        return len(self._split)

    @overload
    def __getitem__(self, index: int) -> Encoded: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Encoded]: ...
    def __getitem__(self, index: int | slice) -> Encoded | Sequence[Encoded]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return Encoded(f"{index} of {self.name}", lambda: self._stream(index))

    def _stream(self, index: int) -> io.BytesIO:
        found = self._split[index][self._column]
        if found is None:
            raise ValueError("there is none in its row")
        return io.BytesIO(found["bytes"] if found["bytes"] is not None else Path(found["path"]).read_bytes())


@dataclass(frozen=True)
class HuggingFacePart:
    """One split, with labels from 0."""

    files: _Images
    label: Tensor
    frame: Frame

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        width, height = self.frame.size
        return self.frame.channels, height, width

    def labels(self) -> Tensor:
        """Return the labels: int64, (n,)."""
        return self.label

    def known_levels(self) -> dict[Kind, Levels]:
        """Return which values of pixels that do not fit 8 bits are black and white."""
        return self.frame.known_levels()

    def images(self, index: Tensor, progress: Progress | None = None) -> Tensor:
        """Return the images at `index`: uint8, (len(index), c, h, w). Raises DataError with the row."""
        return decoded(lambda number: pixels(self.files[number], self.frame), index, self.shape, progress)


def open_hugging_face(
    place: str, image_size: int | None, say: Say = lambda text: None
) -> tuple[tuple[str, ...], Mapping[str, HuggingFacePart]]:
    """Return the class names and the parts. Raises DataError for what cannot be used."""
    datasets = _library(place)
    splits = _splits(datasets, place)
    image, label = _columns(datasets, place, splits["train"])
    values = {part: np.asarray(split[label]) for part, split in splits.items()}
    classes, codes = _classes(place, splits["train"].features[label], values)
    if len(classes) == 1:
        raise DataError(f"hf:{place} has only one class, {classes[0]!r}; two or more are needed")
    images = {
        part: _Images(f"{part} of hf:{place}", split.cast_column(image, datasets.Image(decode=False)), image)
        for part, split in splits.items()
    }
    frame = Frame(images["train"], image_size, say)
    own = {part: frame if part == "train" else Frame(images[part], image_size, say, frame) for part in splits}
    for each in own.values():
        each.check_size()
    return classes, {part: HuggingFacePart(images[part], codes[part], own[part]) for part in splits}


def _library(place: str) -> Any:
    try:
        with _without_network():
            import datasets
    except ImportError:
        raise DataError(
            f"reading hf:{place} needs the library datasets; install it with: pip install -e '.[hf]'"
        ) from None
    return datasets


@contextmanager
def _without_network() -> Iterator[None]:
    """In the block, the library is imported as one that asks no server, which it decides when it is imported."""
    before = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")}
    os.environ.update(dict.fromkeys(before, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _offline(datasets: Any) -> Iterator[None]:
    """As `_without_network`, for a library that was imported before, as in a notebook."""
    import huggingface_hub.constants as hub

    before = hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    hub.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def _splits(datasets: Any, place: str) -> dict[str, Any]:
    """Return the splits by part."""
    path = expanded(place)
    where = str(path) if path.is_dir() else place
    saved = any((path / mark).is_file() for mark in ("dataset_dict.json", "state.json"))
    datasets.disable_progress_bars()
    try:
        with _offline(datasets):
            found = datasets.load_from_disk(str(path)) if saved else datasets.load_dataset(where)
    except Exception as error:  # noqa: BLE001 (the library raises what it likes for files of others)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"hf:{place} is neither a data set on this disk nor in the cache of Hugging Face's library ({reason}); "
            "save one with its save_to_disk, or load it once by its own name"
        ) from None
    if not isinstance(found, Mapping):
        return {"train": found}
    splits: dict[str, Any] = {}
    for name, split in found.items():
        part = PARTS.get(str(name).casefold())
        if part is None or part in splits:
            raise DataError(f"hf:{place} has the splits {', '.join(map(str, found))}; known: {', '.join(PARTS)}")
        splits[part] = split
    if "train" not in splits:
        raise DataError(f"hf:{place} has no split train; it has {', '.join(splits)}")
    return {part: splits[part] for part in sorted(splits, key=lambda part: part != "train")}


def _columns(datasets: Any, place: str, split: Any) -> tuple[str, str]:
    features = split.features
    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    labels = labels or [name for name in features if name.casefold() in (*LABELS, "labels")]
    for kind, found in (("images", images), ("labels", labels)):
        if len(found) != 1:
            has = f"the columns {', '.join(found)} of" if found else "no column of"
            raise DataError(f"hf:{place} has {has} {kind}, of {', '.join(features)}; one is needed")
    return images[0], labels[0]


def _classes(place: str, feature: Any, values: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the class names, and the labels of each part from 0."""
    for part, each in values.items():
        if each.ndim != 1 or each.dtype.kind == "O":
            raise DataError(
                f"hf:{place} has several labels, or none, for images of {part}; multi-label is not supported"
            )
        if each.dtype.kind == "f":
            raise DataError(f"hf:{place} has labels with fractions; regression is not supported, so give classes")
    names = getattr(feature, "names", None)
    values = {part: _labels(place, part, each, names) for part, each in values.items()}
    known = np.unique(values["train"])
    for part, each in values.items():
        absent = np.setdiff1d(each, known)
        if len(absent):
            raise DataError(f"hf:{place} has the class {str(absent[0])!r} in {part}, which train lacks")
    classes = tuple(shown(str(value if names is None else names[int(value)])) for value in known)
    if len(set(classes)) < len(classes):
        twice = next(name for name in classes if classes.count(name) > 1)
        raise DataError(f"hf:{place} has two classes of the name {twice!r}; give each its own")
    codes = {part: torch.from_numpy(np.searchsorted(known, each).astype(np.int64)) for part, each in values.items()}
    return classes, codes


def _labels(place: str, part: str, values: np.ndarray, names: Sequence[str] | None) -> np.ndarray:
    """Return the labels of a part as they are compared. Raises DataError for images that have none, or several."""
    if names is not None:
        outside = np.flatnonzero((values < 0) | (values >= len(names)))
        if len(outside):
            raise DataError(
                f"hf:{place} has {len(outside):,} images in {part} without one of its {len(names)} classes, the first "
                f"row {outside[0]} with the label {values[outside[0]]}; leave such rows out"
            )
        return values
    if values.dtype.kind != "U":
        return values
    # One form of Unicode, as for the names of folders.
    values = np.array([shown(name.strip()) for name in values.tolist()])
    found, first = np.unique(values, return_index=True)
    rows = {str(name): f"row {row} of {part}" for name, row in zip(found, first, strict=True)}
    if "" in rows:
        raise DataError(f"hf:{place} has no label for {rows['']}; give every image one, or leave it out")
    check_names(f"hf:{place}", rows)
    return values
