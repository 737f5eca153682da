"""Condensed sets from and for other programs: published `.pt` and `.npz` files in, an image folder out.

A `.pt` file is read by PyTorch's restricted loader, which executes nothing; an `.npz` file without pickles. What is
written replaces an earlier export in the same folder, and never a file of anybody else's.
"""

import codecs
import contextlib
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from nas_proxy.data.images import ImageSet, quantised
from nas_proxy.data.picture import pixels
from nas_proxy.errors import DataError
from nas_proxy.files import atomic_path

EXPECTED = "`images` and `labels`, a pair of both, or the authors' {'data': [[images, labels], …]}"
# Learnt images leave the range of normalised real ones, but not by orders of magnitude.
FAR, TIMES = 10.0, 2.0
# What tells the files of an export from others, which must not be replaced.
MARK = ("Software", "nas_proxy")
_IMAGE, _UNFINISHED = re.compile(r"\d{5,}\.png"), re.compile(r"\.\d{5,}\.png(\.[0-9a-f]{8}-\d+)?\.part")
_UNSAFE = re.compile(r'^\.+|[. ]+$|[/\\:*?"<>|\x00-\x1f\x7f\ud800-\udfff]')
_LONGEST = 60


def read_set(path: Path, real: ImageSet, per_class: int | None = None) -> ImageSet:
    """Return the images of a published set as condensed images of the data `real`.

    Whole numbers from 0 to 255, and floats in [0, 1], are pixels. Other floats are taken to be normalised already, as
    the published sets are, and are what the network sees; they must lie within ±10, or twice as far out as the pixels
    of `real` can. Of several sets in one file the last counts. With `per_class`, each class must have so many images.
    Raises DataError when the file cannot be read, or does not fit the classes or the size of `real`.
    """
    if not path.is_file():
        reason = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"the set {path} {reason}; give a .pt or .npz file")
    images, given = _from_npz(path) if path.suffix.lower() == ".npz" else _from_pt(path)
    for name, array in (("images", images), ("labels", given)):
        if array.dtype.kind not in "iuf":
            raise DataError(f"the {name} in {path} are of type {array.dtype}; save whole numbers or floats")
    _, channels, height, width = real.images.shape
    expected = (len(images) if images.ndim else 0, channels, height, width)
    if images.shape != expected or given.ndim == 0 or given.shape[0] != given.size or given.size != expected[0]:
        raise DataError(
            f"{path} holds images of shape {images.shape} and labels of shape {given.shape}; the data needs images of "
            f"shape (n, {channels}, {height}, {width}) and n labels"
        )
    labels = _labels(path, given.reshape(-1), len(real.classes))
    if per_class is not None:
        _check_counts(path, labels, per_class)
    order = labels.argsort(stable=True)
    images, labels = images[order.numpy()], labels[order]
    _check_values(path, images, real)
    if images.dtype.kind != "f":
        return ImageSet(torch.from_numpy(images.astype(np.uint8)), labels, real.scale, real.offset, real.classes)
    seen = torch.from_numpy(images.astype(np.float32))
    if float(seen.min()) >= 0 and float(seen.max()) <= 1:
        seen = seen * 255 * real.scale.view(-1, 1, 1) + real.offset.view(-1, 1, 1)
    return quantised(seen, labels, real.classes)


def write_folder(images: ImageSet, real: ImageSet, folder: Path) -> None:
    """Write `<folder>/<class>/<number>.png`, in the colours of the real images; what lies outside them is cut off.

    Written are the images that networks are trained on, so formation² for each stored one. They replace an earlier
    export. Raises DataError as `earlier_export` does.
    """
    stale = set(earlier_export(folder))
    images = images.unpacked()
    about = PngImagePlugin.PngInfo()
    about.add_text(*MARK)
    for name, members in zip(folder_names(images.classes), images.of_class(), strict=True):
        for number, image in enumerate(pixels(images.select(members), real)):
            path = folder / name / f"{number:05d}.png"
            with atomic_path(path) as temporary:
                picture = Image.fromarray(image.permute(1, 2, 0).numpy())
                picture.save(temporary, format="PNG", pnginfo=about)
            stale.discard(path)
    for path in stale:
        path.unlink(missing_ok=True)
    for parent in {path.parent for path in stale}:
        with contextlib.suppress(OSError):  # it holds images, or hidden files
            parent.rmdir()


def earlier_export(folder: Path) -> list[Path]:
    """Return the images in `folder`, all from an earlier export; none where there is no folder yet.

    Hidden files are passed over. Raises DataError for a folder with any other file, and for what is no folder.
    """
    blocked = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), None)
    if blocked is not None and not blocked.is_dir():
        raise DataError(f"the images cannot be written into {folder}, as {blocked} is no folder; give another folder")
    found: list[Path] = []
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for path in (Path(place) / name for name in sorted([*names, *links])):
            if path.parent.parent == folder and (_UNFINISHED.fullmatch(path.name) or _is_exported(path)):
                found.append(path)
            elif not path.name.startswith("."):
                raise DataError(
                    f"{folder} holds {path.relative_to(folder)}, which is no image of an earlier export and would be "
                    "mixed with this one; give an empty folder, or one that does not exist yet"
                )
    return found


def folder_names(classes: Sequence[str]) -> list[str]:
    """Return a folder's name for each class, distinct even where case does not count; most are the class's own."""
    names = [_UNSAFE.sub("_", name) or "_" for name in classes]
    names = [name if len(name.encode()) <= 4 * _LONGEST else name[:_LONGEST] for name in names]
    taken: set[str] = set()
    # Classes that keep their names come first, so that none loses its own to one that is renamed.
    for label in sorted(range(len(names)), key=lambda label: names[label] != classes[label]):
        if names[label].casefold() in taken:
            names[label] += f"-{label}"
        while names[label].casefold() in taken:
            names[label] += "_"
        taken.add(names[label].casefold())
    return names


def _is_exported(path: Path) -> bool:
    if not _IMAGE.fullmatch(path.name) or path.is_symlink():
        return False
    try:
        with Image.open(path, formats=("PNG",)) as image:
            return bool(image.info.get(MARK[0]) == MARK[1])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return False


def _labels(path: Path, given: np.ndarray, classes: int) -> Tensor:
    broken = given[given != np.rint(given)]
    if len(broken):
        raise DataError(f"the labels in {path} are not all whole numbers, as {broken[0]:g}; save one class an image")
    if not np.array_equal(np.unique(given), np.arange(classes)):
        raise DataError(f"the labels in {path} are not 0 to {classes - 1}, each at least once")
    return torch.from_numpy(given.astype(np.int64))


def _check_counts(path: Path, labels: Tensor, per_class: int) -> None:
    counts = torch.bincount(labels)
    least, most = int(counts.min()), int(counts.max())
    if least != most:
        raise DataError(
            f"{path} holds {least} to {most} images a class; each class needs as many: save a file with {least} of each"
        )
    if least != per_class:
        raise DataError(f"{path} holds {least} images of a class where {per_class} were asked for; give --ipc {least}")


def _check_values(path: Path, images: np.ndarray, real: ImageSet) -> None:
    low, high = images.min(), images.max()
    if images.dtype.kind != "f":
        if low < 0 or high > 255:
            raise DataError(f"{path} holds whole numbers from {low} to {high}; pixels are from 0 to 255")
        return
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{path} holds images that are not finite")
    ends = torch.stack([real.offset, real.offset + 255 * real.scale])
    far = max(FAR, TIMES * float(ends.abs().max()))
    if max(-low, high) > far:
        raise DataError(
            f"{path} holds floats from {low:g} to {high:g}, neither pixels from 0 to 1 nor normalised (within ±"
            f"{far:.3g} for this data); save pixels from 0 to 255 as uint8, or divide them by 255"
        )


def _from_npz(path: Path) -> tuple[np.ndarray, np.ndarray]:
    # NumPy does not close a file that it opened and that turns out to be damaged.
    with _opened(path) as file:
        try:
            with np.load(file, allow_pickle=False) as arrays:
                names = list(arrays.files)
                found = {name: arrays[name] for name in ("images", "labels") if name in names}
        except Exception:  # noqa: BLE001 (zipfile, zlib and NumPy have an error each for a damaged file)
            raise DataError(
                f"{path} is damaged, or no .npz file of plain arrays; "
                "write one with numpy.savez_compressed(FILE, images=…, labels=…)"
            ) from None
    if len(found) < 2:
        raise DataError(f"{path} has the arrays {', '.join(names) or 'none'}; it needs `images` and `labels`")
    return found["images"], found["labels"]


def _from_pt(path: Path) -> tuple[np.ndarray, np.ndarray]:
    # The authors' files keep accuracies as NumPy scalars beside the images; these names can do no harm.
    numpy_scalars = [np.dtype, np.dtypes.Float64DType, np.float64, codecs.encode, np._core.multiarray.scalar]  # type: ignore[attr-defined]
    with _opened(path) as file:
        try:
            with torch.serialization.safe_globals(numpy_scalars), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of kinds of files and tensors that get their sentence here
                found = torch.load(file, map_location="cpu", weights_only=True)
        except Exception:  # noqa: BLE001 (the loader raises whatever a damaged file makes it meet)
            raise DataError(
                f"{path} is damaged, or not a .pt file of tensors alone, which can be read without executing code in "
                "it; write one with torch.save({'images': images, 'labels': labels}, FILE)"
            ) from None
    pair = _pair(found)
    if pair is None:
        raise DataError(f"{path} holds a {type(found).__name__} without images and labels; expected {EXPECTED}")
    return _plain(path, pair[0]), _plain(path, pair[1])


def _opened(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(f"the set {path} cannot be read ({error.strerror})") from None


def _plain(path: Path, tensor: Tensor) -> np.ndarray:
    try:
        tensor = tensor.detach()
        array: np.ndarray = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    except Exception:  # noqa: BLE001 (each kind of tensor has an error of its own)
        kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
        raise DataError(f"{path} holds a tensor that has no plain values ({kind}); save dense ones") from None
    return array


def _pair(found: Any) -> tuple[Tensor, Tensor] | None:
    if isinstance(found, Mapping) and isinstance(found.get("data"), Sequence) and found["data"]:
        found = found["data"][-1]
    if isinstance(found, Mapping):
        found = (found.get("images"), found.get("labels"))
    if isinstance(found, Sequence) and len(found) == 2 and all(isinstance(part, Tensor) for part in found):
        return found[0], found[1]
    return None
