"""A PostgreSQL server for tests: Debian's programs, a fresh cluster in a folder, a free port of the loopback device.

PostgreSQL refuses to run as root; then it runs as the user `postgres`.
"""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self


def find_programs() -> Path | None:
    """Return the folder of initdb and pg_ctl, of the newest version that is installed; None where there is none."""
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return None
    on_path = shutil.which("initdb")
    found = [*Path("/usr/lib/postgresql").glob("*/bin/initdb"), *([Path(on_path)] if on_path else [])]
    found.sort(key=lambda path: [int(part) if part.isdigit() else 0 for part in path.parts])
    return found[-1].parent if found else None


class Server:
    """A server that lives as long as this context. `url()` makes a database of its own."""

    def __init__(self, programs: Path) -> None:
        # Not in pytest's folder, which is for its owner alone.
        self._folder = Path(tempfile.mkdtemp(prefix="nas-proxy-postgres-"))
        self._programs, self._data, self._databases = programs, self._folder / "data", 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]

    def __enter__(self) -> Self:
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres")
        self._call("initdb", "-D", self._data, "-A", "trust", "-U", "tester", "--no-sync", "-E", "UTF8")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # a test may have left it stopped
            self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}"
        options = f"{settings} -c fsync=off -c max_connections=60"
        self._call("pg_ctl", "start", "-w", "-D", self._data, "-o", options, "-l", self._folder / "log")

    def stop(self) -> None:
        """End the server as an administrator in a hurry does: transactions are cut off."""
        self._call("pg_ctl", "stop", "-w", "-m", "fast", "-D", self._data)

    def restart(self, pause: float = 0.0) -> None:
        self.stop()
        time.sleep(pause)
        self.start()

    def url(self) -> str:
        """Return the URL of a new, empty database."""
        self._databases += 1
        name = f"nas{self._databases}"
        self._call("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "tester", name)
        return f"postgresql+psycopg://tester@127.0.0.1:{self.port}/{name}"

    def _call(self, program: str, *arguments: object) -> None:
        command = [str(self._programs / program), *map(str, arguments)]
        user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
        # Not through a pipe, which the server would keep open.
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        subprocess.run(command, check=True, cwd=self._folder, **quiet, **user)
