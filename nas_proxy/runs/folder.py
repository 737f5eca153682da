"""The folder of a run or of a comparison: what is in it, who may write to it, and what it needs to be continued.

run.toml            the complete settings
proxy.safetensors   the condensed set    proxy.png, real.png    to look at, beside real images
sets/               the other sets of images that networks are trained on, such as random ones
study.db            all trainings (Optuna studies); study.name where a database has them
trials.csv          a row for each candidate of the search
truth.csv           a row for each fully trained architecture
computed.jsonl      scores that need no training, a line each
pool.json           what the search chooses among beside the sample's stream, and which scores it does without
search.json         what the search believes: every architecture of the pool, the pick first
budget.json         the plan that a budget allows, and what of it is spent
scores.csv          a row for each sampled architecture, a column for each signal
ranking.json        how far the ranking can be trusted
report.html         all of it, to read
final/              a final network, see `nas_proxy.pipeline.final`; its accuracy is not the search's
artifacts/          what the dashboard shows beside the studies
tensorboard/        curves, where they were asked for, as in mlflow.db
previews/           pictures of the images while they were learnt, where they were asked for

A comparison has compare.toml in place of run.toml, no condensed set of its own beside sets/, and

table.csv, table.md, compare.html      the table, for programs, for a paper and to read
"""

import contextlib
import fcntl
import functools
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import filelock

from nas_proxy.errors import ConfigError, RunFolderError
from nas_proxy.files import is_full
from nas_proxy.runs.identity import OF_PROPOSALS, differences, of_trainings
from nas_proxy.runs.nested import read_toml, without_none
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import COMPARISON_FILE, RUN_FILE, RunConfig, settings_file, write_config
from nas_proxy.storage.location import Database, Location, existing, place_of

if TYPE_CHECKING:
    from nas_proxy.storage.trial_store import TrialStore

STUDIES = ("study.db", "study.db-journal", "study.db-wal", "study.db-shm")
# Of a final network, in `final`.
NETWORK = (
    *("architecture.json", "model.safetensors", "model.pt2", "model.onnx", "load.py"),
    *("preprocessing.json", "predict.py", "confusion.csv", "README.md"),
)
# The files of each kind of folder, by the one that tells the kind.
OURS = {
    RUN_FILE: (
        *(RUN_FILE, "proxy.safetensors", "proxy.png", "real.png", *STUDIES, "study.name"),
        *("trials.csv", "truth.csv", "scores.csv", "computed.jsonl", "computed.json", "pool.json", "search.json"),
        *("budget.json", "ranking.json", "report.html"),
        *(f"final/{name}" for name in NETWORK),
    ),
    COMPARISON_FILE: (
        *(COMPARISON_FILE, *STUDIES, "computed.jsonl", "computed.json"),
        *("truth.csv", "scores.csv", "ranking.json", "table.csv", "table.md", "compare.html"),
    ),
}
# MLflow tells the runs of two commands apart, so its database stays.
OUR_FOLDERS = {
    RUN_FILE: (".work", "artifacts", "sets", "tensorboard"),
    COMPARISON_FILE: (".work", "sets", "tensorboard"),
}

# Seconds that a command tries to get the folder: more than a look at the lock takes, see `is_held`.
PATIENCE = 0.5
# Times that the folder may be removed by another command while it is taken.
ATTEMPTS = 5


@dataclass(frozen=True)
class RunFolder:
    """The paths in the folder of a run or of a comparison, and its settings."""

    path: Path
    config: RunConfig

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def settings(self) -> Path:
        """The file that holds the settings, and tells which kind of folder this is."""
        return self.path / settings_file(self.config)

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
            self._acquire(lock)
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
            with contextlib.suppress(OSError):  # before it is let go: whoever has it then works in the folder
                if made and all(path.name == ".lock" for path in self.path.iterdir()):
                    (self.path / ".lock").unlink(missing_ok=True)
                    self.path.rmdir()
            lock.release()

    def _acquire(self, lock: filelock.BaseFileLock) -> None:
        """Hold the file that is in the folder, not one that another command removed while this one waited for it."""
        for attempt in range(ATTEMPTS):
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=PATIENCE)
            except FileNotFoundError:  # the folder is gone again
                if attempt + 1 == ATTEMPTS:
                    raise
                continue
            if (self.path / ".lock").exists():
                return
            lock.release()
        raise filelock.Timeout(str(self.path))


def is_held(path: Path) -> bool:
    """Return whether a command is at work in the folder `path`, without holding it up."""
    with contextlib.suppress(FileNotFoundError), (path / ".lock").open("rb") as file:
        try:
            # Shared: two that look at the same time do not take each other for a command.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def is_comparison(path: Path) -> bool:
    """Return whether a folder is a comparison's, as its settings tell, rather than a run's."""
    return (path / COMPARISON_FILE).is_file() and not (path / RUN_FILE).is_file()


def open_run(path: Path, *, comparisons: bool = True) -> RunFolder:
    """Return the run in `path`, or the comparison where these do as well. Raises RunFolderError when there is none."""
    if path.is_file():
        raise RunFolderError(f"{path} is a file; give the run folder that it is in, such as {path.parent}")
    if not path.is_dir():
        raise RunFolderError(f"the run folder {path} does not exist; make one with: nas-proxy run --out {path}")
    if is_comparison(path):
        if comparisons:
            return _open_comparison(path)
        raise RunFolderError(
            f"{path} holds a comparison (it has a {COMPARISON_FILE}), and this command is for runs; "
            f"give the folder of a run, or go on with the comparison by: nas-proxy compare --out {path}"
        )
    if not (path / RUN_FILE).is_file():
        raise RunFolderError(f"{path} holds no run (it has no {RUN_FILE}); make one with: nas-proxy run --out {path}")
    return RunFolder(path, with_changes(path, {}))


def with_changes(path: Path, given: Mapping[str, Any], options: Mapping[str, str] | None = None) -> RunConfig:
    """Return the settings of the run in a folder with what is given, as `resolve` takes it."""
    before = read_toml(path / RUN_FILE)
    # In folders of earlier versions all that is fully trained is the sample.
    old = {} if "judge" in before or "truth" not in before else {"judge": before["truth"]}
    return resolve({**old, **without_none(given)}, path / RUN_FILE, options=options)


def _open_comparison(path: Path) -> RunFolder:
    file = path / COMPARISON_FILE
    try:
        config = resolve({}, file)
    except ConfigError as error:
        raise RunFolderError(f"{error}; or start again with --overwrite") from None
    if config.compare is None:
        raise RunFolderError(f"{file} holds no settings of a comparison; restore it or use --overwrite")
    return RunFolder(path, config)


def prepare_run(path: Path, config: RunConfig, *, overwrite: bool = False) -> RunFolder:
    """Make or continue the run or the comparison `config` in `path`.

    A larger `trials` or `truth` extends it. Raises RunFolderError when the folder holds another one, unless
    `overwrite`, which removes its own files and nothing else.
    """
    run = RunFolder(path, config)
    with run.lock():
        claim(run, overwrite=overwrite)
    return run


def claim(run: RunFolder, *, overwrite: bool = False) -> None:
    """Do what `prepare_run` does, in a folder that is held already."""
    _refuse_other_kind(run)
    if overwrite:
        forget(run.path)
        kind = run.settings.name
        for name in OURS[kind]:
            (run / name).unlink(missing_ok=True)
        for name in OUR_FOLDERS[kind]:
            shutil.rmtree(run / name, ignore_errors=True)
        for picture in run.previews.glob("step-*.png"):
            picture.unlink()
    check_same(run)
    write_config(run.config, run.settings)


def check_same(run: RunFolder) -> None:
    """Raise RunFolderError when the folder holds something else; what has computed nothing yet does not count."""
    _refuse_other_kind(run)
    path, config, kind = run.path, run.config, run.settings.name
    one = "run" if config.compare is None else "comparison"
    if not run.settings.exists():
        if found := [name for name in OURS[kind] if (run / name).exists()]:
            raise RunFolderError(
                f"{path} holds {found[0]} but no {kind}, so it may be no {one}; "
                "choose another folder with --out, or replace such files with --overwrite"
            )
        return
    if not begun(path):
        return
    before = open_run(path).config
    if changed := _changed(path, config, before):
        raise RunFolderError(
            f"{path} holds another {one} ({'; '.join(changed)}); "
            f"choose another folder with --out, or replace the {one} with --overwrite"
        )


def begun(path: Path) -> bool:
    """Return whether images have been made or architectures trained; a trial store is opened before either."""
    made = (path / "proxy.safetensors", path / "sets", *(path / ".work").glob("condense*.safetensors"))
    return any(one.exists() for one in made) or bool(_studies(path))


def _refuse_other_kind(run: RunFolder) -> None:
    """Raise RunFolderError for a folder of the other kind; its studies are no use here, not even to be replaced."""
    for file, kind in ((RUN_FILE, "run"), (COMPARISON_FILE, "comparison")):
        if file != run.settings.name and (run / file).exists():
            raise RunFolderError(f"{run.path} holds a {kind} (it has a {file}); choose another folder with --out")


def _changed(path: Path, config: RunConfig, before: RunConfig) -> list[str]:
    """Return what another command may not change of what the folder `path` holds."""
    if config.compare is not None:
        return differences(config, before)

    def changed(free: frozenset[str]) -> list[str]:
        sizes = (("trials", "trials"), ("truth", "truth"), ("judge", "sample"))
        return differences(config, before, free=free) + [
            f"{name}: {getattr(before, of)} → {getattr(config, of)}"
            for name, of in sizes
            if name not in free and getattr(config, of) < getattr(before, of)
        ]

    if not changed(frozenset()):
        return []
    phases = _trained(path)
    if not phases:
        return changed(of_trainings(before) & of_trainings(config))
    return changed(frozenset() if "search" in phases else OF_PROPOSALS)


def _trained(path: Path) -> set[str]:
    """Return the phases of the candidates that the run in the folder `path` has trained."""
    with _store(path) as store:
        return set() if store is None else {r.phase for r in store.records("proxy")}


def _studies(path: Path) -> list[str]:
    """Return the names of the studies of the run or comparison in the folder `path`."""
    with _store(path) as store:
        return [] if store is None else store.names()


def forget(path: Path) -> None:
    """Remove from its database what the run in the folder `path` has there; nothing where a file has it."""
    if not isinstance(existing(path), Database):
        return
    from nas_proxy.storage.removal import remove_run

    with _store(path) as store:
        if store is not None:
            remove_run(store)


@contextlib.contextmanager
def _store(path: Path) -> Iterator["TrialStore | None"]:
    """Open the trial store of the folder `path`; None where it has none yet."""
    place = existing(path)
    if place is None:
        yield None
        return
    from nas_proxy.storage.trial_store import TrialStore, explained

    with explained(place), contextlib.closing(TrialStore(place)) as store:
        yield store
