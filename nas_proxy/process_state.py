"""What a user's code may change of the whole process, put back after it, so that the next candidate finds none of it.

In: a process before the code. Out: the same process as it was: working directory, environment, signal handlers, open
standard streams, PyTorch's defaults, logging. Of the filters of warnings and of the places of modules what was there is
there again, and no new filter raises; others stay, since a library that was imported meanwhile may want them. A copy of
the process that the code has made, and let return, ends here, since two processes would answer for one. Threads and
processes that are left cannot be ended; `left_behind` tells of them.
"""

import contextlib
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)


def _precision() -> str | None:
    """Return how precise products of float32 matrices are; None where that is set part by part, and not as one."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return None


@dataclass(frozen=True)
class ProcessState:
    """The state of this process at a moment."""

    pid: int
    folder: str | None
    environment: dict[str, str]
    handlers: dict[int, Any]
    streams: tuple[Any, Any, Any]
    threads: frozenset[int | None]
    dtype: torch.dtype
    device: torch.device
    gradients: bool
    deterministic: bool
    precision: str | None
    cores: int
    filters: tuple[Any, ...]
    places: tuple[str, ...]
    unlogged: int

    @classmethod
    def now(cls) -> "ProcessState":
        """Return the state."""
        return cls(
            pid=os.getpid(),
            folder=_folder(),
            environment=dict(os.environ),
            handlers={number: signal.getsignal(number) for number in SIGNALS},
            streams=(sys.stdin, sys.stdout, sys.stderr),
            threads=frozenset(thread.ident for thread in threading.enumerate()),
            dtype=torch.get_default_dtype(),
            device=torch.get_default_device(),
            gradients=torch.is_grad_enabled(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
            precision=_precision(),
            cores=torch.get_num_threads(),
            filters=tuple(warnings.filters),
            places=tuple(sys.path),
            unlogged=logging.root.manager.disable,
        )

    def restore(self) -> None:
        """Make the process what it was then; end it where it is a copy of that one."""
        if os.getpid() != self.pid:
            os._exit(0)
        self._restore_torch()
        if self.folder is not None and _folder() != self.folder:
            with contextlib.suppress(OSError):
                os.chdir(self.folder)
        if dict(os.environ) != self.environment:
            os.environ.clear()
            os.environ.update(self.environment)
        if threading.current_thread() is threading.main_thread():
            for number, handler in self.handlers.items():
                if handler is not None and signal.getsignal(number) != handler:
                    signal.signal(number, handler)
        self._restore_streams()
        self._restore_filters()
        if not set(self.places) <= set(sys.path):
            sys.path[:] = [*self.places, *(place for place in sys.path if place not in self.places)]
        logging.disable(self.unlogged)

    def _restore_torch(self) -> None:
        torch.set_default_dtype(self.dtype)
        if torch.get_default_device() != self.device:
            torch.set_default_device(None if self.device.type == "cpu" else self.device)
        torch.set_grad_enabled(self.gradients)
        if torch.are_deterministic_algorithms_enabled() != self.deterministic:  # setting it imports a compiler, for 1 s
            torch.use_deterministic_algorithms(self.deterministic)
        if self.precision is not None and _precision() != self.precision:
            with contextlib.suppress(RuntimeError):  # set part by part since, which `nas_proxy.libraries` sees
                torch.set_float32_matmul_precision(self.precision)
        if torch.get_num_threads() != self.cores:
            torch.set_num_threads(self.cores)

    def _restore_streams(self) -> None:
        for number, (name, stream) in enumerate(zip(("stdin", "stdout", "stderr"), self.streams, strict=True)):
            try:
                os.fstat(number)
            except OSError:  # closed: the next file that is opened would be taken for it
                os.dup2(os.open(os.devnull, os.O_RDWR), number)
            closed = stream is not None and stream.closed
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False) if closed else stream)

    def _restore_filters(self) -> None:
        kept = tuple(one for one in warnings.filters if one in self.filters)
        if kept != self.filters or any(one[0] == "error" and one not in kept for one in warnings.filters):
            warnings.filters[:] = self.filters  # type: ignore[index]
            with warnings.catch_warnings():  # whose end has Python look at them anew
                pass

    def left_behind(self) -> list[str]:
        """Return the names of threads that have begun since, those of other languages aside, and told of processes."""
        new = [thread for thread in threading.enumerate() if thread.ident not in self.threads]
        names = [thread.name for thread in new if not isinstance(thread, threading._DummyThread)]
        return [*names, "a process"] if _has_children() else names


def _has_children() -> bool:
    """Whether a process that this one has started goes on, or has ended and was not waited for."""
    if not hasattr(os, "waitid"):
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


@contextlib.contextmanager
def restored() -> Iterator[ProcessState]:
    """Put back afterwards what is changed in the block."""
    state = ProcessState.now()
    try:
        yield state
    finally:
        state.restore()


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 (a path of text, also where it is gone)
    except OSError:
        return None
