"""How the program ends: errors and signals become one sentence on stderr and an exit code.

0 done, 1 the work failed, 2 a mistake that the user can mend, 130 interrupted. A traceback means a bug.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import typer

from nas_proxy.errors import NasProxyError, UserError
from nas_proxy.files import is_full
from nas_proxy.untrusted import safe

INTERRUPTED = 130

_stop = threading.Event()


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Leave the program with the sentence and the code of what goes wrong inside."""
    try:
        with _interruptible():
            yield
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer's, which says nothing
            _interrupted()
        raise
    except KeyboardInterrupt:
        _interrupted()
    except Exception as error:
        if _stop.is_set():  # C code that is interrupted may raise anything
            _interrupted()
        told = _told(error)
        if told is None:
            raise
        _leave(*told)


def _told(error: Exception) -> tuple[int, str] | None:
    """Return the exit code and the sentence for what went wrong; None for what is a bug."""
    if isinstance(error, NasProxyError):
        return 2 if isinstance(error, UserError) else 1, str(error)
    if isinstance(error, OSError):
        return 2, _sentence(error)
    if isinstance(error, MemoryError | RuntimeError) and _is_memory(error):
        return 1, "out of memory; a smaller --image-size, --limit or --ipc needs less, and so do fewer --workers"
    return None


def end_if_interrupted() -> None:
    """Raise KeyboardInterrupt again; Python swallows one that comes in the callback of a weak reference."""
    if _stop.is_set():
        raise KeyboardInterrupt


@contextlib.contextmanager
def without_farewell() -> Iterator[None]:
    """End the process at once where it is left interrupted: all is closed, and the interpreter's own end takes long."""
    try:
        yield
    except SystemExit as end:
        if end.code != INTERRUPTED or not _stop.is_set():
            raise
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(INTERRUPTED)


def _leave(code: int, text: str) -> None:
    typer.echo(f"nas-proxy: {safe(text)}", err=True)
    sys.exit(code)


def _interrupted() -> None:
    _leave(INTERRUPTED, "interrupted; the same command goes on from here")


def _sentence(error: OSError) -> str:
    place = f" ({error.filename})" if error.filename else ""
    if is_full(error):
        return f"the disk is full{place}; free some space and run the same command again"
    return f"{error.strerror or error}{place}; mend that and run the same command again"


def _is_memory(error: Exception) -> bool:
    # PyTorch has a class for the GPU's memory only.
    return isinstance(error, MemoryError) or "out of memory" in str(error) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt for SIGINT and SIGTERM, unless they are ignored, as `nohup` or a script's `&` has it."""
    _stop.clear()
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = [(number, signal.signal(number, _interrupt)) for number in numbers]
    with _quiet_about_swallowed():
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)


@contextlib.contextmanager
def _quiet_about_swallowed() -> Iterator[None]:
    """Tell nothing of interrupts that Python swallowed: `end_if_interrupted` raises them again."""
    tell = sys.unraisablehook

    def hook(swallowed: "sys.UnraisableHookArgs") -> None:
        if not issubclass(swallowed.exc_type, KeyboardInterrupt):
            tell(swallowed)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = tell


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number, frame
    _stop.set()
    raise KeyboardInterrupt
