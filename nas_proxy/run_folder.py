"""A run's folder: what is in it, who may write to it, and what it needs to be continued.

run.toml            the complete settings
proxy.safetensors   the condensed set                proxy.png     to look at
study.db            all trainings (Optuna studies)
trials.csv          a row for each candidate of the search
truth.csv           a row for each fully trained architecture
scores.csv          a row for each sampled architecture, a column for each signal
ranking.json        how far the ranking can be trusted
report.html         all of it, to read
"""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from nas_proxy.config import RunConfig, differences, resolve, write_config
from nas_proxy.errors import RunFolderError

OURS = (
    "run.toml",
    "proxy.safetensors",
    "proxy.png",
    "study.db",
    "study.db-journal",
    "trials.csv",
    "truth.csv",
    "scores.csv",
    "ranking.json",
    "report.html",
)


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder, and its settings."""

    path: Path
    config: RunConfig

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def work(self) -> Path:
        """Files that only a running command needs: checkpoints, and image sets that workers map into memory."""
        return self.path / ".work"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; a process that dies lets it go. Raises RunFolderError when it is held."""
        lock = filelock.FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise RunFolderError(
                f"another nas-proxy is working in {self.path}; wait for it, or choose another folder with --out"
            ) from None
        try:
            yield
        finally:
            lock.release()


def open_run(path: Path) -> RunFolder:
    """Return the run in `path`. Raises RunFolderError when there is none."""
    if not path.is_dir():
        raise RunFolderError(f"the run folder {path} does not exist; make one with: nas-proxy run --out {path}")
    if not (path / "run.toml").is_file():
        raise RunFolderError(f"{path} holds no run (it has no run.toml); make one with: nas-proxy run --out {path}")
    return RunFolder(path, resolve({}, path / "run.toml"))


def prepare_run(path: Path, config: RunConfig, *, overwrite: bool = False) -> RunFolder:
    """Make or continue the run `config` in `path`.

    A larger `trials` or `truth` extends a run. Raises RunFolderError when the folder holds another run, unless
    `overwrite`, which removes that run's own files and nothing else.
    """
    if path.exists() and not path.is_dir():
        raise RunFolderError(f"{path} is a file; choose a folder with --out")
    path.mkdir(parents=True, exist_ok=True)
    run = RunFolder(path, config)
    with run.lock():
        if overwrite:
            _remove_run(run)
        if (path / "run.toml").exists():
            _check_same(path, config, resolve({}, path / "run.toml"))
        write_config(config, path / "run.toml")
    return run


def _check_same(path: Path, config: RunConfig, existing: RunConfig) -> None:
    changed = differences(config, existing)
    smaller = [
        f"{name}: {getattr(existing, name)} → {getattr(config, name)}"
        for name in ("trials", "truth")
        if getattr(config, name) < getattr(existing, name)
    ]
    if changed or smaller:
        raise RunFolderError(
            f"{path} holds another run ({'; '.join(changed + smaller)}); "
            "choose another folder with --out, or replace the run with --overwrite"
        )


def _remove_run(run: RunFolder) -> None:
    for name in OURS:
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run.work, ignore_errors=True)
