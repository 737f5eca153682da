"""Looking into a run's storage without disturbing it: a run folder in, an Optuna storage that only reads out.

`storage_url` alone knows where a run keeps its studies. Nothing here creates a database, takes the run folder's
lock or closes a trial. SQLite itself refuses every write of such a storage (`PRAGMA query_only`); the file is
opened for writing all the same, because what a killed command left half written must be rolled back to be read.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from nas_proxy.errors import RunFolderError

# Seconds that a reader waits while a search writes.
PATIENCE = 10.0


def storage_url(run: Path) -> str:
    """Return the URL of the storage that holds the studies of a run."""
    return f"sqlite:///{run / 'study.db'}"


class Studies(RDBStorage):
    """A storage that is there already; its studies are shown under the names in `names`, looked up by their own."""

    def __init__(self, run: Path, *, writable: bool = False, names: dict[str, str] | None = None) -> None:
        path = run / "study.db"
        self._shown = names or {}

        def connect() -> sqlite3.Connection:
            # mode=rw: unlike the default, it makes no file.
            uri = f"{path.resolve().as_uri()}?mode=rw"
            connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, check_same_thread=False)
            if not writable:
                connection.execute("PRAGMA query_only = ON")
            return connection

        super().__init__(storage_url(run), engine_kwargs={"creator": connect}, skip_table_creation=True)

    def get_all_studies(self) -> list["optuna.study._frozen.FrozenStudy"]:
        """Return the studies under the names that a reader sees."""
        studies = super().get_all_studies()
        for study in studies:
            study.study_name = self._shown.get(study.study_name, study.study_name)
        return studies


def open_studies(run: Path, *, writable: bool = False, names: dict[str, str] | None = None) -> Studies:
    """Open the storage of the run in `run`. Raises RunFolderError when there is none or it cannot be read."""
    path = run / "study.db"
    if not path.is_file():
        raise RunFolderError(f"{run} holds no trainings yet (it has no study.db); first run: nas-proxy search {run}")
    with readable(path):
        return Studies(run, writable=writable, names=names)


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raise what goes wrong in reading the database `path` meanwhile as a RunFolderError."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, RuntimeError) as error:
        raise RunFolderError(_explanation(path, error)) from None


def _explanation(path: Path, error: BaseException) -> str:
    while error.__cause__ is not None:  # SQLite knows the reason; SQLAlchemy and Optuna wrap it
        error = error.__cause__
    reason = str(error).split("\n", 1)[0]
    if "locked" in reason:
        return f"{path} is locked by another program ({reason}); end that, or wait for it and try again"
    if any(word in reason for word in ("unable to open", "disk I/O", "readonly")):
        return f"{path} cannot be read ({reason}); see what hinders that and try again"
    return (
        f"{path} is not a study database that this version of Optuna reads ({reason}); "
        "restore it, or move it away and run the search again"
    )
