"""A run's folder: what is in it, who may write to it, and what it needs to be continued.

run.toml            the complete settings
proxy.safetensors   the condensed set    proxy.png, real.png    to look at, beside real images
study.db            all trainings (Optuna studies); study.name where a database has them
trials.csv          a row for each candidate of the search
truth.csv           a row for each fully trained architecture
scores.csv          a row for each sampled architecture, a column for each signal
ranking.json        how far the ranking can be trusted
report.html         all of it, to read
final/              a final network, see `nas_proxy.pipeline.final`; its accuracy is not the search's
artifacts/          what the dashboard shows beside the studies
previews/           pictures of the images while they were learnt, where they were asked for
"""

import contextlib
import fcntl
import functools
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from nas_proxy.errors import RunFolderError
from nas_proxy.files import is_full
from nas_proxy.pipeline.settings import OF_PROPOSALS, OF_TRAININGS, RunConfig, differences, resolve, write_config
from nas_proxy.storage.location import Database, Location, existing, place_of

OURS = (
    "run.toml",
    "proxy.safetensors",
    "proxy.png",
    "real.png",
    "study.db",
    "study.db-journal",
    "study.db-wal",
    "study.db-shm",
    "study.name",
    "trials.csv",
    "truth.csv",
    "scores.csv",
    "ranking.json",
    "report.html",
    *(f"final/{name}" for name in ("architecture.json", "model.safetensors", "model.pt2", "model.onnx", "load.py")),
)


# Seconds that a command tries to get the folder: more than a look at the lock takes, see `is_held`.
PATIENCE = 0.5


@dataclass(frozen=True)
class RunFolder:
    """The paths in a run's folder, and its settings."""

    path: Path
    config: RunConfig

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @functools.cached_property
    def place(self) -> Location:
        """Where the studies are, or will be."""
        return place_of(self.path, self.config.storage)

    @property
    def work(self) -> Path:
        """Files that only a running command needs: checkpoints, and image sets that workers map into memory."""
        return self.path / ".work"

    @property
    def previews(self) -> Path:
        """Pictures of the images while they are learnt, "step-<steps done>.png"."""
        return self.path / "previews"

    @property
    def checkpoint(self) -> Path:
        """The state of an unfinished condensation."""
        return self.work / "condense.safetensors"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Make the folder and hold it for this process; a process that dies lets it go.

        A folder that was made here and stayed empty is removed. Raises RunFolderError when it is held by another
        process or cannot be made or written.
        """
        lock = filelock.FileLock(self.path / ".lock")
        try:
            str(self.path).encode()
            made = not self.path.exists()
            if not made and not self.path.is_dir():
                raise RunFolderError(f"{self.path} is a file; choose a folder with --out")
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=PATIENCE)
        except filelock.Timeout:
            raise RunFolderError(
                f"another nas-proxy is working in {self.path}; wait for it, or choose another folder with --out"
            ) from None
        except UnicodeEncodeError:
            raise RunFolderError(
                f"the name of the run folder {str(self.path)!r} is not UTF-8; choose another with --out"
            ) from None
        except OSError as error:
            if is_full(error):
                raise
            raise RunFolderError(
                f"the run folder {self.path} cannot be written ({error.strerror or error}); "
                "choose another folder with --out"
            ) from None
        try:
            yield
        finally:
            lock.release()
            with contextlib.suppress(OSError):
                if made and all(path.name == ".lock" for path in self.path.iterdir()):
                    (self.path / ".lock").unlink(missing_ok=True)
                    self.path.rmdir()


def is_held(path: Path) -> bool:
    """Return whether a command is at work in the folder `path`, without holding it up."""
    with contextlib.suppress(FileNotFoundError), (path / ".lock").open("rb") as file:
        try:
            # Shared: two that look at the same time do not take each other for a command.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def open_run(path: Path) -> RunFolder:
    """Return the run in `path`. Raises RunFolderError when there is none."""
    if path.is_file():
        raise RunFolderError(f"{path} is a file; give the run folder that it is in, such as {path.parent}")
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
    run = RunFolder(path, config)
    with run.lock():
        claim(run, overwrite=overwrite)
    return run


def claim(run: RunFolder, *, overwrite: bool = False) -> None:
    """Do what `prepare_run` does, in a folder that is held already."""
    if overwrite:
        forget(run.path)
        for name in OURS:
            (run / name).unlink(missing_ok=True)
        for folder in (run.work, run / "artifacts"):
            shutil.rmtree(folder, ignore_errors=True)
        for picture in run.previews.glob("step-*.png"):
            picture.unlink()
    check_same(run)
    write_config(run.config, run / "run.toml")


def check_same(run: RunFolder) -> None:
    """Raise RunFolderError when the folder holds another run; one that has computed nothing yet does not count."""
    path, config = run.path, run.config
    if not (run / "run.toml").exists():
        if found := [name for name in OURS if (run / name).exists()]:
            raise RunFolderError(
                f"{path} holds {found[0]} but no run.toml, so it may be no run; "
                "choose another folder with --out, or replace such files with --overwrite"
            )
        return
    begun = (run / "proxy.safetensors", run / "study.db", run / "study.name")
    if not any(file.exists() for file in (*begun, *run.work.glob("condense*.safetensors"))):
        return
    before = resolve({}, run / "run.toml")
    changed = differences(config, before)
    if changed and not differences(config, before, free=OF_PROPOSALS | OF_TRAININGS):
        phases = _trained(path)
        free = frozenset() if "search" in phases else OF_PROPOSALS
        changed = differences(config, before, free=free if phases else free | OF_TRAININGS)
    smaller = [
        f"{name}: {getattr(before, name)} → {getattr(config, name)}"
        for name in ("trials", "truth")
        if getattr(config, name) < getattr(before, name)
    ]
    if changed or smaller:
        raise RunFolderError(
            f"{path} holds another run ({'; '.join(changed + smaller)}); "
            "choose another folder, or replace the run with nas-proxy run --overwrite"
        )


def _trained(path: Path) -> set[str]:
    """Return the phases of the candidates that the run in the folder `path` has trained."""
    from nas_proxy.storage.trial_store import TrialStore, explained

    place = existing(path)
    if place is None:
        return set()
    with explained(place), contextlib.closing(TrialStore(place)) as ledger:
        return {r.phase for r in ledger.records("proxy")}


def forget(path: Path) -> None:
    """Remove from its database what the run in the folder `path` has there; nothing where a file has it."""
    place = existing(path)
    if not isinstance(place, Database):
        return
    from nas_proxy.pipeline.coordinator import forget_studies
    from nas_proxy.storage.trial_store import TrialStore, explained

    with explained(place), contextlib.closing(TrialStore(place)) as ledger:
        forget_studies(ledger, place)
