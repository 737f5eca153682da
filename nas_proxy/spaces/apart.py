"""A user's code in a process of its own for a moment, so that nothing that it does there is done to this one.

In: what is to be called. Out: None, or what it raised, in words. Where the system has no fork that PyTorch survives
(elsewhere than on Linux), it is called in this process.
"""

import contextlib
import json
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from nas_proxy.errors import SpaceError

# Beyond the time limit, which the code may have caught or outwitted, it is waited for so long.
GRACE = 5.0


@dataclass(frozen=True)
class Complaint:
    """What a check ended with: a sentence of nas_proxy's own, or what the user's code raised."""

    text: str
    own: bool


def apart(check: Callable[[], None], seconds: float, reason: Callable[[BaseException], str]) -> Complaint | None:
    """Call `check` in a copy of this process; return what it complained of. seconds: how long it may take."""
    if sys.platform != "linux":
        return _complaint(check, reason)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            stream.flush()
    ours, theirs = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the copy starts none and takes no lock
        try:
            child = os.fork()
        except OSError:  # no memory for a copy
            os.close(ours)
            os.close(theirs)
            return _complaint(check, reason)
    if child == 0:
        os.close(ours)
        _answer(check, reason, theirs)
    os.close(theirs)
    try:
        said = _heard(ours, time.monotonic() + seconds + GRACE)
    finally:
        os.close(ours)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if said is None:
        return Complaint(f"took longer than {seconds:g} s", own=False)
    if said:
        found = json.loads(said)
        return None if found is None else Complaint(**found)
    code = os.waitstatus_to_exitcode(status)
    ended = f"was killed by signal {-code}" if code < 0 else f"ended its process with exit code {code}"
    return Complaint(ended, own=False)


def _answer(check: Callable[[], None], reason: Callable[[BaseException], str], pipe: int) -> None:
    """Be the copy: check, say how it went, and end without farewell."""
    import torch

    # As PyTorch's own workers: the threads of the copied process are not here.
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        found = _complaint(check, reason)
        # ASCII, so that no text of the user's is too odd to be written.
        text = json.dumps(None if found is None else {"text": found.text, "own": found.own})
        os.write(pipe, text.encode())
    finally:
        os._exit(0)


def _complaint(check: Callable[[], None], reason: Callable[[BaseException], str]) -> Complaint | None:
    try:
        check()
    except SpaceError as error:
        return Complaint(str(error), own=True)
    except TimeoutError as error:
        return Complaint(str(error), own=False)
    except BaseException as error:  # noqa: BLE001 (the user's code may raise what it likes)
        return Complaint(f"raises {reason(error)}", own=False)
    return None


def _heard(pipe: int, until: float) -> bytes | None:
    """Return what was written until the end, b"" for nothing, None where the time is over."""
    said = b""
    while (left := until - time.monotonic()) > 0:
        if select.select([pipe], [], [], left)[0]:
            some = os.read(pipe, 65536)
            if not some:
                return said
            said += some
    return None
