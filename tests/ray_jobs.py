"""Jobs for the machines of a test's Ray cluster, which import this module by its name."""

import os
import time
from dataclasses import dataclass, replace
from typing import Self


@dataclass(frozen=True)
class Does:
    """A job that names no file: what it does, and for how long before that."""

    what: str = "well"
    seconds: float = 0.0
    device: str = "cpu"
    minutes: float | None = None
    megabytes: float | None = None

    def on(self, device: str) -> Self:
        """Return the same job on another device."""
        return replace(self, device=device)

    def perform(self) -> tuple[int, int]:
        """Return the ids of the job's process and of Ray's, which waits for it."""
        time.sleep(self.seconds)
        if self.what == "exits":
            os._exit(5)
        if self.what == "ends Ray's worker":
            os.kill(os.getppid(), 9)
            time.sleep(60)
        return os.getpid(), os.getppid()
