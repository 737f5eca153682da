"""Who is at work in a run folder: one command, and the machines that it has jobs performed on.

In: the folder of the command that holds it, which tells every `BEAT` seconds that it lives. Out: a `Command`.
Guarantees: one that was killed is not told as alive: on this machine its process must be there and the folder be held;
elsewhere it must have told something for less than `GRACE` seconds.
"""

import contextlib
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from nas_proxy.errors import NasProxyError, RunFolderError
from nas_proxy.files import write_json
from nas_proxy.runs.folder import RunFolder, is_held
from nas_proxy.training.node import Node
from nas_proxy.untrusted import checked

NAME = "command.json"
BEAT, GRACE = 5.0, 30.0


@dataclass(frozen=True)
class Command:
    """A command at work: its machine and process, and the machines that it has at work, which may be others."""

    host: str
    pid: int
    nodes: tuple[Node, ...]


@contextlib.contextmanager
def repeating(act: Callable[[], None], every: float) -> Iterator[None]:
    """Call `act` every so many seconds meanwhile, in a thread."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(every):
            act()

    heart = threading.Thread(target=beat, daemon=True)
    heart.start()
    try:
        yield
    finally:
        over.set()
        heart.join()


@contextlib.contextmanager
def beating(run: RunFolder, nodes: Callable[[], tuple[Node, ...]]) -> Iterator[None]:
    """Tell whoever looks that this process, which holds the folder, is at work, and on which machines."""

    def tell() -> None:
        with contextlib.suppress(OSError, NasProxyError):  # a comfort, which never costs a run
            write_json(run.work / NAME, asdict(Command(platform.node(), os.getpid(), nodes())))

    tell()
    try:
        with repeating(tell, BEAT):
            yield
    finally:
        withdraw(run)


def withdraw(run: RunFolder) -> None:
    """Remove what this command, or one that was killed, has told."""
    with contextlib.suppress(OSError):
        (run.work / NAME).unlink(missing_ok=True)


def alive(run: RunFolder) -> Command | None:
    """Return the command at work in the folder; None where there is none, or it trains nothing yet."""
    try:
        told = checked(Command, json.loads((run.work / NAME).read_text(encoding="utf-8")))
        silent = time.time() - (run.work / NAME).stat().st_mtime
    except (OSError, ValueError):
        return None
    if told.host != platform.node():
        return told if silent < GRACE else None
    return told if _lives(told.pid) and is_held(run.path) else None


def refuse_another(run: RunFolder) -> None:
    """Forget what a killed command left. Raises RunFolderError where one on another machine is at work in the folder.

    Locks of a folder that machines share are not kept by every file system.
    """
    command = alive(run)
    if command is not None and command.host != platform.node():
        raise RunFolderError(
            f"a nas-proxy on {command.host} (process {command.pid}) is working in {run.path}; end it there, or wait "
            f"{GRACE:.0f} s when it has been killed"
        )
    withdraw(run)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:  # of another user
        return True
    except (OSError, OverflowError):
        return False
    return True
