"""Files written at once or not at all, so that a kill or a full disk leaves the last good version.

Processes that write one file at once each write their own, and the last one stays. What a kill left of such a file goes
when a process of the same machine first writes into that folder.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil

from nas_proxy.errors import RunFolderError

FULL = (errno.ENOSPC, errno.EDQUOT)
_UNFINISHED = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)\.part")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed."""
    temporary = path.with_name(f".{path.name}.{_machine()}-{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent.absolute())
        temporary.unlink(missing_ok=True)
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)  # some libraries write files that nobody else may read
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if is_full(error):
            raise RunFolderError(
                f"the disk is full: {path} could not be written; free some space and run the same command again"
            ) from None
        raise


@functools.cache
def _machine() -> str:
    """Return 8 hexadecimal digits for this machine, or container: the number of a process means nothing elsewhere."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (it is a name, and no path)
    except OSError:
        space = ""
    return hashlib.sha256(f"{platform.node()} {space}".encode()).hexdigest()[:8]


@functools.cache
def _sweep(folder: Path) -> None:
    """Remove the files that ended processes of this machine left unfinished in a folder."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 (names are all that is wanted)
            found = _UNFINISHED.fullmatch(name)
            if found is not None and found[1] == _machine() and not psutil.pid_exists(int(found[2])):
                (folder / name).unlink(missing_ok=True)


def expanded(path: str | Path) -> Path:
    """Return a path with "~" as the home folder; as it is where that is not known, unlike `Path.expanduser`."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def is_full(error: BaseException) -> bool:
    """Whether the disk, or the user's share of it, is full."""
    if isinstance(error, OSError):
        return error.errno in FULL
    return any(f"(os error {number})" in str(error) for number in FULL)  # safetensors has a class of its own


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Write indented JSON atomically; NaN is refused, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
