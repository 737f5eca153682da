"""Looking into a run's storage without disturbing it: a run folder in, an Optuna storage that only reads out.

Nothing here creates a database, takes the run folder's lock or closes a trial. The storage itself refuses every
write (`PRAGMA query_only`, or a read-only session of PostgreSQL); a SQLite file is opened for writing all the same,
because what a killed command left half written must be rolled back to be read.
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
from nas_proxy.storage import patient
from nas_proxy.storage.jobs import Worker, alive_workers
from nas_proxy.storage.place import Database, Place, connectable, existing

# Seconds that a reader waits while a search writes.
PATIENCE = 10.0


class Studies(RDBStorage):
    """A storage that is there already; its studies are shown under the names in `names`, looked up by their own.

    Of a database, which may hold many runs, the studies of one are shown.
    """

    def __init__(self, place: Place, *, writable: bool = False, names: dict[str, str] | None = None) -> None:
        self._shown = names or {}
        self._prefix = place.study("") if isinstance(place, Database) else ""
        if isinstance(place, Database):
            patient.require_driver()
            url, options = connectable(place.url), patient.engine_options(kept=False, read_only=not writable)
        else:
            url, options = f"sqlite:///{place}", {"creator": lambda: _connected(place, writable=writable)}
        super().__init__(url, engine_kwargs=options, skip_table_creation=True)

    def get_all_studies(self) -> list["optuna.study._frozen.FrozenStudy"]:
        """Return the studies under the names that a reader sees."""
        studies = [study for study in super().get_all_studies() if study.study_name.startswith(self._prefix)]
        for study in studies:
            study.study_name = self._shown.get(study.study_name, study.study_name)
        return studies

    def workers(self) -> list[Worker]:
        """Return the workers whose hearts beat; a file knows of none."""
        if not self._prefix:
            return []
        with self.engine.connect() as connection:
            return alive_workers(connection, self._prefix.removesuffix("/"))


def _connected(path: Path, *, writable: bool) -> sqlite3.Connection:
    # mode=rw: unlike the default, it makes no file.
    uri = f"{path.resolve().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, check_same_thread=False)
    if not writable:
        connection.execute("PRAGMA query_only = ON")
    return connection


def open_studies(run: Path, *, writable: bool = False, names: dict[str, str] | None = None) -> Studies:
    """Open the storage of the run in `run`. Raises RunFolderError when there is none or it cannot be read."""
    place = existing(run)
    if place is None:
        raise RunFolderError(f"{run} holds no trainings yet (it has no study.db); first run: nas-proxy search {run}")
    with readable(place):
        return Studies(place, writable=writable, names=names)


@contextlib.contextmanager
def readable(place: Place) -> Iterator[None]:
    """Raise what goes wrong in reading a storage meanwhile as a RunFolderError, or a StorageError for a database."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, RuntimeError) as error:
        if isinstance(place, Database):
            raise patient.explained(place, error) from None
        raise RunFolderError(_explanation(place, error)) from None


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
