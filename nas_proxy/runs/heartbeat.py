"""Who is at work in a run folder whose studies are in a file: one command, and what it trains on.

In: the run folder of the command that holds it. Out: a `Worker`, as a database knows several of. Guarantees: a command
that was killed is not told as alive: the folder must be held, on this machine, and the process be there.
"""

import contextlib
import json
import os
import platform
from dataclasses import asdict

from nas_proxy.errors import RunFolderError
from nas_proxy.files import write_json
from nas_proxy.runs.folder import RunFolder, is_held
from nas_proxy.storage.job_queue import Worker

NAME = "command.json"


def announce(run: RunFolder, devices: str) -> None:
    """Tell whoever looks that this process, which holds the folder, trains on `devices`."""
    worker = Worker(platform.node(), os.getpid(), devices, coordinates=True, jobs=0)
    with contextlib.suppress(OSError, RunFolderError):  # a comfort, which never costs a run
        write_json(run.work / NAME, asdict(worker))


def withdraw(run: RunFolder) -> None:
    """Remove what this command, or one that was killed, has told."""
    with contextlib.suppress(OSError):
        (run.work / NAME).unlink(missing_ok=True)


def alive(run: RunFolder) -> Worker | None:
    """Return the command at work in the folder; None where there is none, or it has announced nothing yet."""
    try:
        told = Worker(**json.loads((run.work / NAME).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    return told if told.host == platform.node() and _lives(told.pid) and is_held(run.path) else None


def _lives(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except PermissionError:  # of another user
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
