"""Images of a large folder, decoded once into a file of pixels and read from there.

In: a `Decodable` part of a data set and a folder of the cache. Out: `StoredImages`, of which only what is asked for is
ever in memory. The folder holds

images.npy      uint8, (n, c, h, w), in NumPy's format, image i at row i
index.json      what it is made of; written last, so that a store without one is unfinished
progress.jsonl  a line for each finished block of files, with a digest of their names, sizes and times
unreadable.txt  files that could not be decoded, with the reasons; their rows are blank, and never handed out
facts.json      what has been computed from many pixels, such as fingerprints

Guarantees: killed anywhere, indexing goes on with the blocks that are missing; a block whose files have changed is
decoded anew; a few unreadable files are left out and told, and more than `MOST_UNREADABLE` of all are a mistake.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from nas_proxy.errors import DataError
from nas_proxy.files import atomic_path, is_full, write_json, write_text
from nas_proxy.hardware import cores

Progress = Callable[[int, int], None]
Say = Callable[[str], None]

BLOCK = 128
# The share of files that may be unreadable: they are left out.
MOST_UNREADABLE = 0.001
# Blocks that are decoded before the next ones are begun: they wait in memory until they are written.
TOGETHER = 16
# Decoded blocks are on the disk, and known to be, this often.
SYNC_SECONDS = 5.0
# Pixels that are looked at together.
BLOCK_BYTES = 1 << 20


class Decodable(Protocol):
    """What can be indexed: `count` images of one `shape` (c, h, w), each with a file."""

    @property
    def name(self) -> str:
        """What a user calls it."""

    @property
    def count(self) -> int:
        """The number of files."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of every image."""

    def digest(self, block: range) -> str:
        """Return what changes with the names, sizes and times of the files in `block`."""

    def pixels(self, index: int) -> np.ndarray:
        """Return an image: uint8, (c, h, w). Raises DataError where its file cannot be read."""


@dataclass(frozen=True)
class StoredImages:
    """The images at `rows` of a store; what an `ImageSet` asks of a uint8 tensor (n, c, h, w), it answers.

    folder: of the store. identity: what the store was made of; see `open_store`.
    """

    folder: Path
    identity: str
    rows: Tensor

    @cached_property
    def _pixels(self) -> np.ndarray:
        pixels: np.ndarray = np.load(self.folder / "images.npy", mmap_mode="r", allow_pickle=False)
        return pixels

    @property
    def shape(self) -> torch.Size:
        """As of a tensor."""
        return torch.Size([len(self.rows), *self._pixels.shape[1:]])

    def __repr__(self) -> str:
        return f"StoredImages({len(self.rows)} images in {self.folder})"

    @property
    def count(self) -> int:
        """How many images the whole store has."""
        return len(self._pixels)

    @property
    def device(self) -> torch.device:
        """Where images come when they are asked for: the CPU."""
        return torch.device("cpu")

    def __len__(self) -> int:
        return len(self.rows)

    def numel(self) -> int:
        """As of a tensor."""
        return self.shape.numel()

    def element_size(self) -> int:
        """As of a tensor."""
        return 1

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        """Read the images at `index`."""
        return torch.from_numpy(self._pixels[self.rows[index].numpy()])

    def at(self, index: Tensor | slice) -> "StoredImages":
        """Return the images at `index`, still unread."""
        return replace(self, rows=self.rows[index])

    def to(self, device: torch.device | str) -> "StoredImages | Tensor":
        """Return itself for the CPU; for another device, read everything."""
        return self if torch.device(device).type == "cpu" else self[:].to(device)

    def blocks(self) -> Iterator[Tensor]:
        """Read all images, a few at a time."""
        step = max(1, BLOCK_BYTES // self.shape[1:].numel())
        return (self[start : start + step] for start in range(0, len(self), step))

    def moments(self) -> tuple[list[float], list[float]]:
        """Return the mean and the standard deviation of each channel, from exact sums."""
        levels = np.arange(256)
        counts = np.zeros((self.shape[1], 256), dtype=np.int64)
        for block in self.blocks():
            counts += [np.bincount(channel.numpy().reshape(-1), minlength=256) for channel in block.unbind(1)]
        total = counts.sum(1)
        mean = counts @ levels / total
        squares = (counts * (levels - mean[:, None]) ** 2).sum(1)
        return mean.tolist(), np.sqrt(squares / total).tolist()

    def remembered(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, a JSON value that depends on nothing but these images and `name`; computed once."""
        path = self.folder / "facts.json"
        key = f"{self.identity} {hashlib.sha256(self.rows.numpy().data).hexdigest()[:16]} {name}"
        found = _json(path)
        if key not in found:
            write_json(path, {**_json(path), key: (value := compute())})
            return value
        return found[key]


def taken(images: Tensor | StoredImages, index: Tensor | slice) -> Tensor | StoredImages:
    """Return the images at `index`, without reading those of a store."""
    return images.at(index) if isinstance(images, StoredImages) else images[index]


def together(first: Tensor | StoredImages, second: Tensor | StoredImages) -> Tensor | StoredImages:
    """Return the images of both; those of one store stay there."""
    if isinstance(first, StoredImages) and isinstance(second, StoredImages) and first.folder == second.folder:
        return replace(first, rows=torch.cat([first.rows, second.rows]))
    return torch.cat([first[:], second[:]])


def reopened(folder: Path, identity: str, rows: Tensor) -> StoredImages | None:
    """Return images of a store by what `StoredImages` says of them; None where the store is another now."""
    return StoredImages(folder, identity, rows) if _json(folder / "index.json").get("identity") == identity else None


def open_store(
    folder: Path, part: Decodable, progress: Progress | None = None, say: Say = lambda text: None
) -> StoredImages:
    """Return all images of `part` that can be read, indexed in `folder` where they are not yet.

    Image i of the part is at row i. Raises DataError where the disk has no room, and for too many unreadable files.
    """
    blocks = [range(start, min(start + BLOCK, part.count)) for start in range(0, part.count, BLOCK)]
    digests = [part.digest(block) for block in blocks]
    identity = hashlib.sha256(json.dumps([part.count, part.shape, digests]).encode()).hexdigest()[:16]
    if _json(folder / "index.json").get("identity") != identity:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if _json(folder / "index.json").get("identity") != identity:
                _Indexing(folder, part, blocks, digests).work(identity, progress)
    unreadable = _json(folder / "index.json")["unreadable"]
    if unreadable:
        say(
            f"{len(unreadable)} of the {part.count} images of {part.name} cannot be read and are left out; "
            f"they are listed in {folder / 'unreadable.txt'}"
        )
    readable = torch.ones(part.count, dtype=torch.bool)
    readable[torch.tensor(unreadable, dtype=torch.int64)] = False
    return StoredImages(folder, identity, torch.nonzero(readable).flatten())


@dataclass
class _Indexing:
    """The work of `open_store`. bad: the reasons of unreadable files, by index."""

    folder: Path
    part: Decodable
    blocks: list[range]
    digests: list[str]
    bad: dict[int, str] = field(default_factory=dict)

    def work(self, identity: str, progress: Progress | None) -> None:
        head = json.dumps([self.part.count, self.part.shape])
        whole = (self.folder / "index.json").exists()
        (self.folder / "index.json").unlink(missing_ok=True)
        done = self._resumed(head)
        log = self.folder / "progress.jsonl"
        try:
            if not done:
                self._begin(head)
            elif whole and len(done) < len(self.blocks):
                self._copy()
            with (self.folder / "images.npy").open("r+b") as pixels, log.open("a", encoding="utf-8") as lines:
                self._decode([n for n in range(len(self.blocks)) if n not in done], pixels, lines, progress)
        except OSError as error:
            if not is_full(error):
                raise
            raise DataError(f"the disk is full: {self._advice()}") from None
        self._judge()
        write_json(self.folder / "index.json", {"identity": identity, "unreadable": sorted(self.bad)})

    def _copy(self) -> None:
        """Put a copy in the place of the pixels: others may still read those as they were."""
        with atomic_path(self.folder / "images.npy") as copy:
            shutil.copyfile(self.folder / "images.npy", copy)

    def _resumed(self, head: str) -> set[int]:
        """Return the blocks that need not be decoded again, and remember the unreadable files in them."""
        log = self.folder / "progress.jsonl"
        if not log.exists() or not (self.folder / "images.npy").exists():
            return set()
        first, *lines = log.read_text(encoding="utf-8").split("\n")
        if first != head:
            return set()
        done: dict[int, dict[str, str]] = {}
        for line in lines[:-1]:  # the last one has no end: a kill may have cut it
            number, digest, bad = json.loads(line)
            done.pop(number, None)
            if number < len(self.digests) and digest == self.digests[number]:
                done[number] = bad
        if lines[-1]:
            log.write_text("\n".join([first, *lines[:-1], ""]), encoding="utf-8")
        self.bad = {int(index): reason for bad in done.values() for index, reason in bad.items()}
        return set(done)

    def _begin(self, head: str) -> None:
        """Make an empty file of the right size, under a new name for the disk: others may still read the old one."""
        path, shape = self.folder / "images.npy", (self.part.count, *self.part.shape)
        path.unlink(missing_ok=True)
        if int(np.prod(shape)) > shutil.disk_usage(self.folder).free:
            raise DataError(f"the disk has {shutil.disk_usage(self.folder).free / 2**30:.1f} GiB: {self._advice()}")
        with path.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + int(np.prod(shape)))
        write_text(self.folder / "progress.jsonl", head + "\n")

    def _decode(self, missing: list[int], pixels: Any, lines: Any, progress: Progress | None) -> None:
        each = int(np.prod(self.part.shape))
        start = os.fstat(pixels.fileno()).st_size - self.part.count * each
        pending: list[str] = []
        synced = time.monotonic()
        count = self.part.count - sum(len(self.blocks[n]) for n in missing)

        def sync() -> None:
            pixels.flush()
            os.fsync(pixels.fileno())
            lines.write("".join(pending))
            lines.flush()
            os.fsync(lines.fileno())
            pending.clear()

        with contextlib.ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(max_workers=min(4, cores())))
            stack.callback(sync)
            for at in range(0, len(missing), TOGETHER):
                some = missing[at : at + TOGETHER]
                for number, (images, bad) in zip(some, pool.map(self._block, some), strict=True):
                    pixels.seek(start + self.blocks[number].start * each)
                    pixels.write(images.data)
                    self.bad |= bad
                    pending.append(json.dumps([number, self.digests[number], bad]) + "\n")
                    count += len(images)
                    if progress is not None:
                        progress(count, self.part.count)
                if time.monotonic() - synced > SYNC_SECONDS:
                    sync()
                    synced = time.monotonic()

    def _block(self, number: int) -> tuple[np.ndarray, dict[int, str]]:
        block, bad = self.blocks[number], {}
        images = np.zeros((len(block), *self.part.shape), dtype=np.uint8)
        for row, index in enumerate(block):
            try:
                images[row] = self.part.pixels(index)
            except DataError as error:
                bad[index] = str(error)
        return images, bad

    def _judge(self) -> None:
        path = self.folder / "unreadable.txt"
        path.unlink(missing_ok=True)
        if not self.bad:
            return
        reasons = [self.bad[index] for index in sorted(self.bad)]
        write_text(path, "\n".join(reasons) + "\n")
        if len(reasons) > MOST_UNREADABLE * self.part.count:
            raise DataError(
                f"{len(reasons)} of the {self.part.count} images of {self.part.name} cannot be used, more than "
                f"the {MOST_UNREADABLE:.1%} that may be left out; all are listed in {path}, and the first says: "
                f"{reasons[0]}"
            )

    def _advice(self) -> str:
        needed = self.part.count * int(np.prod(self.part.shape)) / 2**30
        return (
            f"the {self.part.count} images of {self.part.name} take {needed:.1f} GiB in {self.folder}; "
            "free some space, choose smaller images with --image-size, or another cache folder with NAS_PROXY_CACHE"
        )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
