"""A limit on how long a user's code may take in this process, where the long work is for processes of its own."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

# Of building a network and running it once, which takes a fraction of a second.
SECONDS = 60.0
# Between one interruption and the next, for code that catches whatever is raised in it.
AGAIN = 1.0


@contextlib.contextmanager
def deadline(seconds: float = SECONDS) -> Iterator[None]:
    """Raise TimeoutError in the block when it takes longer than that.

    Loops, sleeps and waits are interrupted; a call into a library that never returns is not. Only the main thread
    can be interrupted, so elsewhere, and where the system has no timers, there is no limit.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"took longer than {seconds:g} s")

    start = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:  # also where the interruption comes in the line above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler or signal.SIG_DFL)  # None for one that is not of Python
        if left:  # somebody else's timer, such as that of a test
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - start), 1e-3), interval)
