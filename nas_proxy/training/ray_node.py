"""What a Ray task does on its node: see that the node fits, put what the job names in place, and let a process do it.

In: a job, and its files and space as references into Ray's object store. Out: an `Answer`. Guarantees: a file comes to
a node once and is mapped there by all its processes; a file or a space is found by its content, never by its path at
home; the job's process is the one of `nas_proxy.training.worker_pool`, so it may crash, hang or take too much memory
without harm to the node's Ray worker, and it ends with that.
"""

import contextlib
import functools
import hashlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nas_proxy._version import __version__
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import CodeChangedError, UserError
from nas_proxy.training.jobs import Work, moved
from nas_proxy.training.shared_gpu import SharedGpus
from nas_proxy.training.worker_pool import WorkerProcess

# Seconds after which what no job has used is removed from a node.
UNUSED = 24 * 3600.0


@dataclass(frozen=True)
class Parcel:
    """Files on their way to a node, the first of them the one that is named.

    digest: of names and contents. names: relative to one folder. content: refers to a list of arrays in the object
    store. parameters: what follows a space's file in its name.
    """

    digest: str
    names: tuple[str, ...]
    content: Any
    parameters: str = ""

    @staticmethod
    def of(folder: Path, files: Sequence[Path], put: Callable[[Any], Any], parameters: str = "") -> "Parcel":
        """Return files of a folder as a parcel; `put` brings their bytes into the object store."""
        arrays = [np.fromfile(file, dtype=np.uint8) for file in files]
        names = tuple(file.relative_to(folder).as_posix() for file in files)
        digest = hashlib.sha256(repr(names).encode())
        for array in arrays:
            digest.update(hashlib.sha256(array.data).digest())
        return Parcel(digest.hexdigest()[:32], names, put(arrays), parameters)


@dataclass(frozen=True)
class Luggage:
    """What a job names: its files, by their paths at home, and its space; None for a built-in one, or none."""

    files: Mapping[Path, Parcel]
    space: Parcel | None


@dataclass(frozen=True)
class Refusal:
    """Why a node cannot perform jobs at all."""

    reason: str


@dataclass(frozen=True)
class Answer:
    """A result, and the id of the node that it comes from."""

    node: str
    result: Any


@functools.cache
def versions() -> dict[str, str]:
    """Return what must be the same on all machines."""
    return {
        "nas_proxy": __version__,
        "PyTorch": torch.__version__.partition("+")[0],  # what follows is the kind of GPU that it was built for
        "Python": ".".join(platform.python_version_tuple()[:2]),
    }


def perform(job: Work[Any], luggage: Luggage, wanted: Mapping[str, str]) -> Answer:
    """Perform a job that has come with its luggage from a machine of the versions `wanted`."""
    import ray

    node = ray.get_runtime_context().get_node_id()
    for name, version in wanted.items():
        if versions()[name] != version:
            there = f"{platform.node()} has {name} {versions()[name]}, and this machine {version}"
            return Answer(node, Refusal(f"the machines of the Ray cluster differ: {there}; install the same there"))
    try:
        files = {path: unpacked(parcel, ray.get) for path, parcel in luggage.files.items()}
        space = None
        if luggage.space is not None:
            parameters = luggage.space.parameters
            space = f"{unpacked(luggage.space, ray.get)}{':' if parameters else ''}{parameters}"
    except (UserError, OSError) as error:
        return Answer(node, Refusal(f"on the machine {platform.node()} of the Ray cluster, {error}"))
    child = _child(os.environ.get("CUDA_VISIBLE_DEVICES"))
    try:
        return Answer(node, child.perform(moved(job, files, space)))
    except CodeChangedError as error:
        return Answer(node, Refusal(str(error)))


_children: dict[str | None, WorkerProcess] = {}


def _child(devices: str | None) -> WorkerProcess:
    """Return the process of this Ray worker that sees the GPUs `devices`; one that saw others ends."""
    if devices not in _children:
        for child in _children.values():
            child.end()
        _children.clear()
        _children[devices] = WorkerProcess(SharedGpus())
    return _children[devices]


def unpacked(parcel: Parcel, get: Callable[[Any], Any]) -> Path:
    """Return where the first file of a parcel is on this node, brought there by whichever process is first."""
    place = _cache() / parcel.digest
    first = place / parcel.names[0]
    if not place.is_dir():
        _sweep(place.parent)
        packing = Path(tempfile.mkdtemp(prefix=f"{parcel.digest}.", dir=place.parent))
        try:
            for name, array in zip(parcel.names, get(parcel.content), strict=True):
                (packing / name).parent.mkdir(parents=True, exist_ok=True)
                array.tofile(packing / name)
            if first.suffix == ".safetensors":
                ImageSet.load(packing / parcel.names[0])  # a large set's images are in a store, which must be here too
            with contextlib.suppress(OSError):  # another process was faster
                packing.rename(place)
        finally:
            shutil.rmtree(packing, ignore_errors=True)
    os.utime(place)
    return first


def _cache() -> Path:
    """Return the folder of this user on this node. Raises OSError where it is somebody else's."""
    folder = Path(tempfile.gettempdir()) / f"nas-proxy-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OSError(f"{folder} is another user's; set TMPDIR to another folder")
    return folder


def _sweep(folder: Path) -> None:
    """Remove what has not been used for long, and what a killed process left half unpacked."""
    for place in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - place.stat().st_mtime > UNUSED:
                shutil.rmtree(place)
