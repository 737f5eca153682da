"""Published data sets, through torchvision.

In: a name and a cache folder. Out: the class names and the train and test parts.
Guarantees: torchvision is imported here alone and only when a published set is asked for; all files are
downloaded when the set is opened, so that a run does not fail late; files that a download which was cut off has left
do not count, nor do others before torchvision has checked them once; reading train opens no test file.
"""

import os
import pickle
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from nas_proxy.data.arrays import ArrayPart
from nas_proxy.data.catalogue import PUBLISHED
from nas_proxy.errors import DataError

# What a truncated pickle, IDX or MATLAB file has been seen to raise.
_DAMAGED = (
    OSError,
    RuntimeError,
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    AssertionError,
    pickle.UnpicklingError,
)


def open_published(name: str, image_size: int | None, cache: Path) -> tuple[tuple[str, ...], Mapping[str, ArrayPart]]:
    """Return the class names and the parts of `PUBLISHED[name]`, downloaded into `cache` if absent there."""
    published = PUBLISHED[name]
    kind = _torchvision_class(published.torchvision)
    if not _is_whole(name, cache):
        _download(name, kind, cache)

    def part(which: str) -> ArrayPart:
        return ArrayPart(
            f"the {which} part of {name}",
            lambda: _labels(_dataset(name, kind, which, cache)),
            lambda: np.asarray(_dataset(name, kind, which, cache).data),
            image_size,
        )

    if name == "svhn":  # torchvision names no classes for it; they are the digits
        classes = tuple(map(str, range(10)))
    else:  # CIFAR keeps them in a file that only reading a part opens
        classes = tuple(getattr(kind, "classes", None) or _dataset(name, kind, "train", cache).classes)
    return classes, {"train": part("train"), "test": part("test")}


def _torchvision_class(name: str) -> Any:
    try:
        import torchvision.datasets as published
    except (ImportError, RuntimeError, AttributeError, OSError) as error:
        raise DataError(
            f"torchvision cannot be imported beside torch {torch.__version__} ({error}); the two do not "
            "match: install versions of them that belong together"
        ) from None
    return getattr(published, name)


def _absent(name: str, cache: Path) -> list[str]:
    published = PUBLISHED[name]
    return [file for file in published.files if not (cache / published.folder / file).exists()]


def _is_whole(name: str, cache: Path) -> bool:
    """Return whether all files are there and have been checked; in a folder that cannot be written, nobody does."""
    return not _absent(name, cache) and (_marker(name, cache).exists() or not os.access(cache, os.W_OK))


def _marker(name: str, cache: Path) -> Path:
    return cache / f".{name}.checked"


def _download(name: str, kind: Any, cache: Path) -> None:
    """Download what is not there, or is not as its checksum says, and leave a marker."""
    wanted = PUBLISHED[name]
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{name}.lock"):
            if _is_whole(name, cache):  # by now, by somebody else
                return
            _marker(name, cache).unlink(missing_ok=True)
            for part in ("train", "test"):
                _construct(kind, part, cache, download=True)
            _marker(name, cache).touch()
    except (OSError, HTTPException, *_DAMAGED) as error:
        # torchvision tells of several mirrors in several lines; the last one holds the reason.
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        state = "not" if len(_absent(name, cache)) == len(wanted.files) else "not whole"
        raise DataError(
            f"{name} is {state} in {cache} and could not be downloaded ({reason}); "
            f"put the unpacked files {', '.join(wanted.files)} into {cache / wanted.folder}"
        ) from None


def _dataset(name: str, kind: Any, part: str, cache: Path) -> Any:
    try:
        return _construct(_without_other_part(kind, part), part, cache, download=False)
    except _DAMAGED as error:
        raise DataError(
            f"the files of {name} in {cache / PUBLISHED[name].folder} are damaged ({error}); "
            "delete them, and they will be downloaded again"
        ) from None


def _construct(kind: Any, part: str, cache: Path, *, download: bool) -> Any:
    which = {"split": part} if kind.__name__ == "SVHN" else {"train": part == "train"}
    with _quiet_about_old_pickles():
        return kind(str(cache), **which, download=download)


def _without_other_part(kind: Any, part: str) -> Any:
    """Return `kind` without the files of the other part, which CIFAR would open for their checksums."""
    other = {"train": "test_list", "test": "train_list"}[part]
    # The name stays, since the MNIST classes look for their files in a folder called like the class.
    return type(kind.__name__, (kind,), {other: []}) if hasattr(kind, other) else kind


@contextmanager
def _quiet_about_old_pickles() -> Iterator[None]:
    """NumPy 2.4.0 to 2.4.4 warns of how the published CIFAR files spell a data type; they are in order."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        yield


def _labels(dataset: Any) -> Tensor:
    # CIFAR and MNIST say `targets`, SVHN says `labels`.
    given = dataset.targets if hasattr(dataset, "targets") else dataset.labels
    return torch.as_tensor(given).long()
