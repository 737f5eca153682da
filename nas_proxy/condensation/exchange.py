"""Condensed sets from and for other programs: published `.pt` and `.npz` files in, an image folder out.

A `.pt` file is read by PyTorch's restricted loader, which executes nothing; an `.npz` file without pickles.
"""

import codecs
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nas_proxy.data.images import ImageSet, quantised
from nas_proxy.data.picture import pixels
from nas_proxy.errors import DataError

EXPECTED = "`images` and `labels`, a pair of both, or the authors' {'data': [[images, labels], …]}"


def read_set(path: Path, real: ImageSet, per_class: int | None = None) -> ImageSet:
    """Return the images of a published set as condensed images of the data `real`.

    8-bit images, and floats in [0, 1], are pixels. Other floats are taken to be normalised already, as the
    published sets are, and are what the network sees. Of several sets in one file the last counts. With `per_class`,
    each class must have so many images.
    Raises DataError when the file cannot be read, or does not fit the classes or the size of `real`.
    """
    if not path.is_file():
        raise DataError(f"the set {path} does not exist")
    images, labels = _from_npz(path) if path.suffix == ".npz" else _from_pt(path)
    labels = labels.long().flatten()
    _, channels, height, width = real.images.shape
    if images.dim() != 4 or tuple(images.shape[1:]) != (channels, height, width) or len(images) != len(labels):
        raise DataError(
            f"{path} holds images of shape {tuple(images.shape)} and {len(labels)} labels; the data needs images of "
            f"shape (n, {channels}, {height}, {width}) and n labels"
        )
    if len(labels) == 0 or int(labels.min()) < 0 or set(labels.tolist()) != set(range(len(real.classes))):
        raise DataError(f"the labels in {path} are not 0 to {len(real.classes) - 1}, each at least once")
    counts = torch.bincount(labels)
    if per_class is not None and bool((counts != per_class).any()):
        has = int(counts[counts != per_class][0])
        raise DataError(f"{path} holds {has} images of a class where {per_class} were asked for; give --ipc {has}")
    order = labels.argsort(stable=True)
    images, labels = images[order], labels[order]
    if not images.is_floating_point():
        return ImageSet(images.clamp(0, 255).to(torch.uint8), labels, real.scale, real.offset, real.classes)
    if not bool(images.isfinite().all()):
        raise DataError(f"{path} holds images that are not finite")
    if float(images.min()) >= 0 and float(images.max()) <= 1:
        images = images * 255 * real.scale.view(-1, 1, 1) + real.offset.view(-1, 1, 1)
    return quantised(images.float(), labels, real.classes)


def write_folder(images: ImageSet, real: ImageSet, folder: Path) -> None:
    """Write `<folder>/<class>/<number>.png`, in the colours of the real images; what lies outside them is cut off."""
    for label, colours in enumerate(images.of_class()):
        name = images.classes[label].replace("/", "_")
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(pixels(images.select(colours), real)):
            array = image.permute(1, 2, 0).numpy()
            Image.fromarray(array.squeeze()).save(folder / name / f"{number:05d}.png")


def _from_npz(path: Path) -> tuple[Tensor, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    except (KeyError, ValueError, OSError) as error:
        raise DataError(f"{path} does not hold the arrays `images` and `labels` ({error})") from None


def _from_pt(path: Path) -> tuple[Tensor, Tensor]:
    # The authors' files keep accuracies as NumPy scalars beside the images; these names can do no harm.
    numpy_scalars = [np.dtype, np.dtypes.Float64DType, np.float64, codecs.encode, np._core.multiarray.scalar]  # type: ignore[attr-defined]
    try:
        with torch.serialization.safe_globals(numpy_scalars):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 (the loader raises whatever a damaged file makes it meet)
        reason = str(error).split("\n", 1)[0]
        raise DataError(f"{path} is not a file of tensors that can be read without executing it ({reason})") from None
    pair = _pair(found)
    if pair is None:
        raise DataError(f"{path} holds a {type(found).__name__} without images and labels; expected {EXPECTED}")
    return pair


def _pair(found: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(found, Mapping):
        if "data" in found and isinstance(found["data"], Sequence) and found["data"]:
            return _pair(found["data"][-1])
        found = (found.get("images"), found.get("labels"))
    if isinstance(found, Sequence) and len(found) == 2 and all(isinstance(part, Tensor) for part in found):
        return found[0], found[1]
    return None
