"""What a file of images must hold to be believed: types, shapes, ranges, and a checksum of all of it.

In: the tensors and the metadata of a safetensors file. Out: nothing, or RunFolderError with one sentence. Files of the
first format, which had no checksum, are held to the rest, and to having a content at all.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_proxy.errors import RunFolderError

_TYPES = {
    "images": torch.uint8,
    "rows": torch.int64,
    "labels": torch.int64,
    "scale": torch.float32,
    "offset": torch.float32,
}


# A changed byte can make `checksum` an unknown name: so the format says whether there is one.
FORMAT, FIRST_FORMAT = "nas_proxy.images/2", "nas_proxy.images/1"


@dataclass(frozen=True)
class Header:
    """The metadata of a file of images. store: the folder and the identity of a store that holds the images."""

    classes: tuple[str, ...]
    formation: int
    store: tuple[str, str] | None
    checked: bool


def checksum(tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> str:
    """Return 32 hexadecimal digits that change with every value of every tensor and of the metadata."""
    kept = {name: value for name, value in text.items() if name != "checksum"}
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.numpy().data)
    return digest.hexdigest()[:32]


def parsed(path: Path, name: str, text: str) -> Any:
    """Return a value of the metadata. Raises RunFolderError where it is no JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise _damaged(path, f"its {name} is no JSON") from None


def read_header(path: Path, text: Mapping[str, str]) -> Header:
    """Return the metadata. Raises RunFolderError where it is not as it was written."""
    classes = parsed(path, "list of classes", text.get("classes", ""))
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise _damaged(path, "its classes are no list of names")
    formation = parsed(path, "formation", text.get("formation", "1"))
    if type(formation) is not int or not 1 <= formation <= 16:
        raise _damaged(path, f"its formation is {formation!r}, which is no number from 1 to 16")
    store = None
    if "store" in text:
        store = parsed(path, "store", text["store"])
        if not isinstance(store, list) or len(store) != 2 or not all(isinstance(part, str) for part in store):
            raise _damaged(path, "its store is not a folder and an identity")
    checked = text["format"] != FIRST_FORMAT
    if checked != ("checksum" in text):
        raise _damaged(path, "its format and its checksum do not go together")
    return Header(tuple(classes), formation, None if store is None else (store[0], store[1]), checked)


def check_tensors(path: Path, tensors: Mapping[str, Tensor], header: Header, text: Mapping[str, str]) -> None:
    """Raise RunFolderError where the tensors cannot be images, their labels and how they decode.

    header: what `read_header` made of the metadata `text`.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != _TYPES[name]:
            raise _damaged(path, f"its {name} are of type {tensor.dtype}, not {_TYPES[name]}")
    labels, scale, offset = tensors["labels"], tensors["scale"], tensors["offset"]
    kept = tensors.get("images", tensors.get("rows"))
    assert kept is not None
    if labels.ndim != 1 or not len(labels) or len(labels) != len(kept) or kept.ndim not in {1, 4} or 0 in kept.shape:
        raise _damaged(path, f"it has images of the shape {tuple(kept.shape)} and labels of {tuple(labels.shape)}")
    if "images" in tensors and (kept.ndim != 4 or scale.shape != kept.shape[1:2]):
        raise _damaged(path, f"it has images of the shape {tuple(kept.shape)} and a scale of {tuple(scale.shape)}")
    if scale.ndim != 1 or scale.shape != offset.shape:
        raise _damaged(path, f"it has a scale of the shape {tuple(scale.shape)} and an offset of {tuple(offset.shape)}")
    if not 0 <= int(labels.min()) <= int(labels.max()) < len(header.classes):
        raise _damaged(path, f"a label is not one of its {len(header.classes)} classes")
    if not bool(scale.isfinite().all() and offset.isfinite().all() and (scale > 0).all()):
        raise _damaged(path, "its scale is not positive, or scale or offset are not finite")
    if "rows" in tensors and int(kept.min()) < 0:
        raise _damaged(path, "it names images before the first")
    if header.checked:
        if text["checksum"] != checksum(tensors, text):
            raise _damaged(path, "its images, labels or notes are not those that were written")
    elif len(labels) > 1 and _empty(tensors, header):
        raise _damaged(path, "its images, or its labels, are all the same")


def _empty(tensors: Mapping[str, Tensor], header: Header) -> bool:
    labels, images = tensors["labels"], tensors.get("images")
    one_label = len(header.classes) > 1 and bool((labels == labels[0]).all())
    return one_label or (images is not None and bool((images == images.reshape(-1)[0]).all()))


def _damaged(path: Path, what: str) -> RunFolderError:
    return RunFolderError(f"{path} is damaged: {what}; delete it and run the same command again")
