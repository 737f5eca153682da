"""Labelled images: one 8-bit tensor, its labels, and how it decodes into what a network sees.

Real images and condensed images are the same type, so whatever trains on one trains on the other.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas_proxy import notebook
from nas_proxy.data.image_files import FIRST_FORMAT, FORMAT, check_tensors, checksum, parsed, read_header
from nas_proxy.data.multi_formation import decoded, packed
from nas_proxy.data.shape import DataShape
from nas_proxy.data.store import StoredImages, reopened
from nas_proxy.errors import RunFolderError
from nas_proxy.files import atomic_path

__all__ = ["DataShape", "ImageSet", "from_raw", "join", "quantised"]

# Metadata that is the set's own.
OWN = ("format", "classes", "formation", "store", "checksum")


@dataclass(frozen=True)
class ImageSet:
    """`n` labelled images of one size.

    images: uint8, (n, channels, height, width); or such images in a file, see `nas_proxy.data.store`.
    labels: int64, (n,), in [0, len(classes)).
    scale, offset: float32, (channels,); a network sees `images * scale + offset` (zero mean and unit variance
    a channel for real images, the learnt range for condensed ones).
    classes: the class names, in the order of the labels.
    formation: how many images a stored one holds, down and across; see `unpacked`.
    """

    images: Tensor | StoredImages
    labels: Tensor
    scale: Tensor
    offset: Tensor
    classes: tuple[str, ...]
    formation: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        size = "×".join(map(str, self.images.shape[1:]))
        packed = f", {self.formation**2} in each" if self.formation > 1 else ""
        return f"ImageSet({len(self)} images of {size}, {len(self.classes)} classes{packed})"

    def _repr_html_(self) -> str:
        from nas_proxy.data.picture import sample_png

        return notebook.page(notebook.line(repr(self)), notebook.pictures([("", *sample_png(self))]))

    @property
    def shape(self) -> DataShape:
        """Channels, height, width and number of classes."""
        _, channels, height, width = self.images.shape
        return DataShape(channels, height, width, len(self.classes))

    @property
    def stored_bytes(self) -> int:
        """Bytes of the images as stored."""
        return self.images.numel() * self.images.element_size()

    def decode(self, index: Tensor | slice = slice(None)) -> Tensor:
        """Return the images at `index` as a network sees them: float32, (len(index), c, h, w)."""
        return self.images[index] * self.scale.view(-1, 1, 1) + self.offset.view(-1, 1, 1)

    def select(self, index: Tensor) -> "ImageSet":
        """Return the images at `index`, in that order."""
        return replace(self, images=self.images[index], labels=self.labels[index])

    def of_classes(self, labels: Sequence[int]) -> "ImageSet":
        """Return the images of some classes, as a set of these classes in that order."""
        place = torch.full((len(self.classes),), -1, dtype=torch.int64)
        place[list(labels)] = torch.arange(len(labels))
        labelled = place.to(self.labels.device)[self.labels]
        index = torch.nonzero(labelled >= 0).flatten()
        names = tuple(self.classes[label] for label in labels)
        return replace(self, images=self.images[index], labels=labelled[index], classes=names)

    def unpacked(self) -> "ImageSet":
        """Return the images that networks are trained on: formation², upsampled, for each stored one."""
        if self.formation == 1:
            return self
        levels = decoded(self.images[:].float(), self.formation).round().to(torch.uint8)
        return replace(self, images=levels, labels=self.labels.repeat_interleave(self.formation**2), formation=1)

    def packed(self, formation: int) -> "ImageSet":
        """Return the same images at 1/formation of their resolution, formation² in one; each class by itself.

        The images must be in blocks, one a class, each of a multiple of formation².
        """
        if formation == 1:
            return self
        labels = self.labels[:: formation**2]
        return replace(self, images=packed(self.images[:], formation), labels=labels, formation=formation)

    def to(self, device: torch.device | str) -> "ImageSet":
        """Return the same set on `device`."""
        tensors = {name: getattr(self, name).to(device) for name in ("images", "labels", "scale", "offset")}
        return replace(self, **tensors)

    def of_class(self) -> list[Tensor]:
        """Return, for each class, the indices of its images."""
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return list(torch.split(self.labels.argsort(stable=True), counts))

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits that change with any pixel, label, class name or order."""
        kind = [list(self.images.shape), list(self.classes)] + [self.formation] * (self.formation != 1)
        digest = hashlib.sha256(json.dumps(kind).encode())
        labels = self.labels.cpu().contiguous().numpy().data

        def finished() -> str:
            for block in self.images.blocks() if isinstance(self.images, StoredImages) else [self.images]:
                digest.update(block.cpu().contiguous().numpy().data)
            digest.update(labels)
            return digest.hexdigest()[:16]

        if not isinstance(self.images, StoredImages):
            return finished()
        name = hashlib.sha256(json.dumps(kind).encode() + bytes(labels)).hexdigest()[:16]
        return str(self.images.remembered(f"fingerprint {name}", finished))

    def save(self, path: Path, metadata: Mapping[str, object] | None = None) -> None:
        """Write a safetensors file at once or not at all; `metadata` values are stored as JSON.

        Images of a store stay there, and the file says where.
        """
        tensors = {name: getattr(self, name).cpu().contiguous() for name in ("labels", "scale", "offset")}
        text = {"format": FORMAT, "classes": json.dumps(self.classes), "formation": str(self.formation)}
        if isinstance(self.images, StoredImages):
            tensors["rows"] = self.images.rows
            text["store"] = json.dumps([str(self.images.folder), self.images.identity])
        else:
            tensors["images"] = self.images.cpu().contiguous()
        text |= {name: json.dumps(value) for name, value in (metadata or {}).items()}
        text["checksum"] = checksum(tensors, text)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=text)

    @staticmethod
    def load(path: Path) -> "ImageSet":
        """Read a file written by `save`, and believe nothing of it. Raises RunFolderError for anything else."""
        with _opened(path) as file:
            text = _own_metadata(path, file.metadata())
            names = ("rows" if "store" in text else "images", "labels", "scale", "offset")
            tensors = {name: file.get_tensor(name) for name in names}
        header = read_header(path, text)
        check_tensors(path, tensors, header, text)
        images: Tensor | StoredImages = tensors[names[0]]
        if header.store is not None:
            images = _reopened(path, header.store, tensors["rows"])
        return ImageSet(
            images, tensors["labels"], tensors["scale"], tensors["offset"], header.classes, header.formation
        )

    @staticmethod
    def load_metadata(path: Path) -> dict[str, object]:
        """Return the metadata given to `save`. Raises RunFolderError as `load` does."""
        with _opened(path) as file:
            text = _own_metadata(path, file.metadata())
        return {name: parsed(path, name, value) for name, value in text.items() if name not in OWN}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise RunFolderError(f"{path} does not exist; condense first") from None
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunFolderError(
            f"{path} is not a readable image file ({error}); delete it and run the same command again"
        ) from None


def _own_metadata(path: Path, metadata: Mapping[str, str] | None) -> Mapping[str, str]:
    found = (metadata or {}).get("format")
    if metadata is None or found not in {FORMAT, FIRST_FORMAT}:
        raise RunFolderError(
            f"{path} was not written by nas_proxy (format {found!r}, expected {FORMAT!r}); "
            "move it away and run the same command again"
        )
    return metadata


def _reopened(path: Path, store: tuple[str, str], rows: Tensor) -> StoredImages:
    folder, identity = store
    images = reopened(Path(folder), identity, rows)
    if images is not None and len(rows) and int(rows.max()) >= images.count:
        images = None
    if images is None:
        raise RunFolderError(f"the images that {path} names are no longer in {folder}; run the same command again")
    return images


def from_raw(
    images: Tensor | StoredImages, labels: Tensor, classes: tuple[str, ...], like: ImageSet | None = None
) -> ImageSet:
    """Wrap uint8 images (n, c, h, w); they decode to zero mean and unit variance a channel, or as `like` does."""
    if like is not None:
        return ImageSet(images, labels, like.scale, like.offset, classes)
    if isinstance(images, StoredImages):
        mean, std = (
            torch.tensor(values, dtype=torch.float64) for values in images.remembered("moments", images.moments)
        )
        std = std.clamp_min(1.0)
        return ImageSet(images, labels, (1 / std).float(), (-mean / std).float(), classes)
    # One channel at a time: a float copy of a whole data set would need eight times its memory.
    flat = [images[:, channel].double() for channel in range(images.shape[1])]
    mean = torch.stack([channel.mean() for channel in flat])
    std = torch.stack([channel.std(correction=0) for channel in flat]).clamp_min(1.0)
    return ImageSet(images, labels, (1 / std).float(), (-mean / std).float(), classes)


def join(sets: Sequence[ImageSet]) -> ImageSet:
    """Return the images of several sets of one size as one, the classes of the first set first.

    A class of the same name in two sets stays two classes. Sets that decode differently, as condensed ones do, are
    stored anew over the range of all, see `quantised`; images of several in one are unpacked.
    """
    sets = [each.unpacked() for each in sets]
    classes = tuple(name for each in sets for name in each.classes)
    starts = [sum(len(before.classes) for before in sets[:number]) for number in range(len(sets))]
    labels = torch.cat([each.labels + start for each, start in zip(sets, starts, strict=True)])
    first = sets[0]
    if all(torch.equal(each.scale, first.scale) and torch.equal(each.offset, first.offset) for each in sets):
        return replace(first, images=torch.cat([_whole(each.images) for each in sets]), labels=labels, classes=classes)
    return quantised(torch.cat([each.decode() for each in sets]), labels, classes)


def _whole(images: Tensor | StoredImages) -> Tensor:
    return torch.cat(list(images.blocks())) if isinstance(images, StoredImages) else images


def quantised(images: Tensor, labels: Tensor, classes: tuple[str, ...]) -> ImageSet:
    """Wrap float images (n, c, h, w), as a network sees them, as 8-bit images over the range of each channel.

    Learnt images leave the range of real ones, so the range is theirs; the error is at most half of a 255th of it.
    """
    low, high = images.amin((0, 2, 3)), images.amax((0, 2, 3))
    scale = ((high - low) / 255).clamp_min(1e-6)
    levels = ((images - low.view(-1, 1, 1)) / scale.view(-1, 1, 1)).round().clamp(0, 255).to(torch.uint8)
    return ImageSet(levels, labels, scale, low, classes)
