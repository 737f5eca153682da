"""A user's code in a process of its own for a moment, so that nothing that it does there is done to this one.

In: what is to be called. Out: what it returns, as plain values, or what went wrong, in words. A process that hangs is
ended, and whatever the code started with it. Where the system has no fork that PyTorch survives (elsewhere than on
Linux), the code is called in this process.
"""

import contextlib
import json
import os
import select
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from nas_proxy.errors import SpaceError
from nas_proxy.process_start import BEGINNING
from nas_proxy.untrusted import in_a_line, said

# Beyond the time limit, which the code may have caught or outwitted, it is waited for so long.
GRACE = 5.0
FORKS = sys.platform == "linux"


@dataclass(frozen=True)
class Complaint:
    """What went wrong: a sentence of nas_proxy's own, or what the user's code raised or did to its process.

    late: whether it took too long.
    """

    text: str
    own: bool = False
    late: bool = False


def apart(work: Callable[[], Any], seconds: float) -> Any:
    """Call `work` in a copy of this process; return its result, as JSON has it, or a `Complaint`.

    seconds: how long it may take; `work` may have a limit of its own, which is told better.
    """

    def serve(link: Link) -> None:
        last_call(seconds)
        link.say(answer(work))

    child = serving(serve)
    if child is None:
        found = answer(work)
    else:
        with child:
            found = child.hear(seconds)
    return Complaint(**found["complaint"]) if "complaint" in found else found["result"]


class Child:
    """A copy of this process that says things in turn with it: a line of JSON each."""

    def __init__(self, pid: int, link: "Link") -> None:
        self._pid, self._link = pid, link
        self._ended = False

    def __enter__(self) -> "Child":
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def say(self, message: Any) -> None:
        """Send a message; one that is gone does not hear it."""
        with contextlib.suppress(OSError):
            self._link.say(message)

    def hear(self, seconds: float) -> Any:
        """Return the next message, or {"complaint": …} where none comes."""
        try:
            return self._link.hear(time.monotonic() + seconds + GRACE)
        except TimeoutError:
            return _told(Complaint(f"took longer than {seconds:g} s", late=True))
        except (EOFError, OSError, ValueError):
            return _told(Complaint(_end(self._code(GRACE))))

    def _code(self, seconds: float) -> int | None:
        """Return the exit code, or the negated signal, of a process that has ended, or does within so long."""
        until = time.monotonic() + seconds
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is None:
                if time.monotonic() > until:
                    return None
                time.sleep(0.005)
            return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status
        return None

    def end(self) -> None:
        """End the process and all that it has started."""
        if self._ended:
            return
        self._ended = True
        self._link.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)


class Kept:
    """A process apart that is kept from one use to the next, and ends with this object."""

    def __init__(self) -> None:
        self._child: Child | None = None
        self._owner = os.getpid()

    @property
    def ours(self) -> bool:
        """Whether this is the process that has it, and not a copy of that one."""
        return self._owner == os.getpid()

    def child(self, serve: Callable[["Link"], None]) -> Child | None:
        """Return the process, which is made when there is none, and serves; None where it cannot be, and in a copy."""
        if not self.ours:
            return None
        self._child = self._child or serving(serve)
        return self._child

    def end(self) -> None:
        """End the process; the next use makes another."""
        if self._child is not None and self.ours:
            self._child.end()
        self._child = None

    def __del__(self) -> None:
        try:  # noqa: SIM105 (the interpreter may be ending, and `contextlib` be gone)
            self.end()
        except Exception:  # noqa: BLE001
            pass


class Link:
    """One end of a connection of two processes."""

    def __init__(self, end: socket.socket) -> None:
        self._end, self._unread = end, b""

    def say(self, message: Any) -> None:
        """Send a message. ASCII, so that no text of a user's is too odd to be sent."""
        self._end.sendall(json.dumps(message).encode() + b"\n")

    def hear(self, until: float | None = None) -> Any:
        """Return the next message. Raises EOFError when the other end is gone, TimeoutError when it is late."""
        while b"\n" not in self._unread:
            if until is not None and not select.select([self._end], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError
            some = self._end.recv(65536)
            if not some:
                raise EOFError
            self._unread += some
        line, _, self._unread = self._unread.partition(b"\n")
        return json.loads(line)

    def close(self) -> None:
        """Close this end."""
        self._end.close()


def serving(serve: Callable[[Link], None]) -> Child | None:
    """Return a copy of this process that serves, until it returns; None where it cannot be made."""
    if not FORKS:
        return None
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(ValueError, OSError, AttributeError):
            stream.flush()
    ours, theirs = socket.socketpair()
    with warnings.catch_warnings(), BEGINNING:
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the copy starts none and takes no lock
        try:
            pid = os.fork()
        except OSError:
            ours.close()
            theirs.close()
            return None
    if pid == 0:
        ours.close()
        _serve(serve, Link(theirs))
    theirs.close()
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)  # whoever comes first: a signal to the group must meet no other process
    return Child(pid, Link(ours))


def last_call(seconds: float) -> None:
    """Let the system end this process after `seconds` and some more, also where nobody is left to do so; 0 to stop."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds and seconds + 2 * GRACE)


def _serve(serve: Callable[[Link], None], link: Link) -> NoReturn:
    """Be the copy: serve, and end without farewell."""
    own = os.getpid()
    try:
        os.setpgid(0, 0)
        import torch

        # As PyTorch's own workers: the threads of the copied process are not here.
        torch.set_num_threads(1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        serve(_Own(link, own))
    finally:
        os._exit(0)


class _Own(Link):
    """A link that only the process that it was made for may use, not a copy that the user's code made of it."""

    def __init__(self, link: Link, pid: int) -> None:
        super().__init__(link._end)
        self._pid = pid

    def say(self, message: Any) -> None:
        if os.getpid() != self._pid:
            os._exit(0)
        super().say(message)


def answer(work: Callable[[], Any]) -> dict[str, Any]:
    """Call `work`; return {"result": …}, or {"complaint": …}, a `Complaint` as plain values, whatever it raises."""
    try:
        return {"result": work()}
    except SpaceError as error:
        return _told(Complaint(str(error), own=True))
    except TimeoutError as error:
        return _told(Complaint(str(error), late=True))
    except BaseException as error:  # noqa: BLE001 (the user's code may raise what it likes)
        return _told(Complaint(f"raises {reason_of(error)}"))


def _told(complaint: Complaint) -> dict[str, Any]:
    return {"complaint": vars(complaint)}


def _end(code: int | None) -> str:
    if code is not None and code < 0:
        return f"was killed by signal {-code}"
    return "ended its process" if code is None else f"ended its process with exit code {code}"


def reason_of(error: BaseException) -> str:
    """Return the first line of what a user's code raised; nas_proxy's own sentences as they are."""
    return said(error) if isinstance(error, SpaceError) else in_a_line(error)
