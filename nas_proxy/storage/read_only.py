"""Looking into a run's storage without disturbing it: a run folder in, an Optuna storage that only reads out.

Nothing here creates a database, takes the run folder's lock or closes a trial. The storage itself refuses every
write (`PRAGMA query_only`, or a read-only session of PostgreSQL); a SQLite file is opened for writing all the same,
because what a killed command left half written must be rolled back to be read.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from nas_proxy.errors import RunFolderError
from nas_proxy.storage import retry
from nas_proxy.storage.location import SQLITE, Database, Location, connectable, existing
from nas_proxy.storage.sqlite_errors import DAMAGED, closed_after_errors, explanation

# Attributes of studies by the studies' names, made when they are looked at.
Told = Callable[[], Mapping[str, Mapping[str, Any]]]
OURS = "What the attributes of a trial mean:"
"""Stands in every note of ours, those of earlier versions among them, and tells them from what somebody wrote."""
# Seconds that a reader waits while a search writes.
PATIENCE = 10.0


class Studies(RDBStorage):
    """A storage that is there already; its studies are shown under the names in `names`, looked up by their own.

    told: attributes that studies have beside those in the storage, by the names in the storage; a note that is in the
    storage stands before one that is told. Where they are given, trials have curves, too. Of a database, which may
    hold many runs, the studies of one are shown.
    """

    def __init__(
        self, place: Location, *, writable: bool = False, names: dict[str, str] | None = None, told: Told | None = None
    ) -> None:
        self._shown, self._told = names or {}, told
        self._prefix = place.study("") if isinstance(place, Database) else ""
        if isinstance(place, Database):
            retry.require_driver()
            options = retry.engine_options(kept=False, read_only=not writable)
            super().__init__(connectable(place.url), engine_kwargs=options, skip_table_creation=True)
            return
        with closed_after_errors() as opened:

            def connect() -> sqlite3.Connection:
                opened.append(connection := _connected(place, writable=writable))
                return connection

            super().__init__(SQLITE, engine_kwargs={"creator": connect}, skip_table_creation=True)

    def get_all_studies(self) -> list["optuna.study._frozen.FrozenStudy"]:
        """Return the studies under the names that a reader sees."""
        studies = [study for study in super().get_all_studies() if study.study_name.startswith(self._prefix)]
        told = {} if self._told is None else self._told()
        for study in studies:
            if study.study_name in told:
                study.system_attrs = _merged(study.system_attrs, told[study.study_name])
            study.study_name = self._shown.get(study.study_name, study.study_name)
        return studies

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:
        """Return the attributes of one study, as `get_all_studies` does."""
        stored: dict[str, Any] = super().get_study_system_attrs(study_id)
        told = {} if self._told is None else self._told().get(self.get_study_name_from_id(study_id), {})
        return _merged(stored, told) if told else stored

    def _get_trials(self, study_id: int, *args: Any, **options: Any) -> list[FrozenTrial]:
        """Return trials for a reader, who sees the losses of each epoch as a curve, where no pruner kept another."""
        trials: list[FrozenTrial] = super()._get_trials(study_id, *args, **options)
        if self._told is not None:
            for trial in trials:
                if not trial.intermediate_values:
                    trial.intermediate_values = dict(enumerate(trial.user_attrs.get("losses", ()), start=1))
        return trials


def _merged(stored: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a study with those that are told, but for notes that somebody wrote instead of ours.

    Earlier versions kept our notes, figures and the picture in the storage: the new ones stand in their place.
    """
    kept = {name: value for name, value in stored.items() if not _is_ours(name, value)}
    for version in [name for name in kept if name.startswith("dashboard:") and name.endswith("note_ver")]:
        note = (version, version.removesuffix("note_ver") + "note_str:")
        body = "".join(str(value) for name, value in kept.items() if name.startswith(note[1]))
        if OURS in body or body.startswith("Failed: "):
            kept = {name: value for name, value in kept.items() if not name.startswith(note)}
        else:
            told = {name: value for name, value in told.items() if not name.startswith(note)}
    return {**kept, **told}


def _is_ours(name: str, value: Any) -> bool:
    """Return whether a stored attribute is a figure, or the condensed images, for people or for workers."""
    images = any(f'"proxy.{kind}"' in str(value) for kind in ("png", "safetensors"))
    return name.startswith("dashboard:plot_data:") or (name.startswith("artifacts:") and images)


def _connected(path: Path, *, writable: bool) -> sqlite3.Connection:
    # mode=rw: unlike the default, it makes no file.
    uri = f"{path.resolve().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, check_same_thread=False)
    with closed_after_errors() as opened:
        opened.append(connection)
        if not writable:
            connection.execute("PRAGMA query_only = ON")
    return connection


def open_studies(
    run: Path, *, writable: bool = False, names: dict[str, str] | None = None, told: Told | None = None
) -> Studies:
    """Open the storage in the folder `run`. Raises RunFolderError when there is none or it cannot be read."""
    place = existing(run)
    if place is None:
        first = (
            f"nas-proxy search {run}" if (run / "run.toml").is_file() else f"nas-proxy compare --out {run}, as before"
        )
        raise RunFolderError(f"{run} holds no trainings yet (it has no study.db); first run: {first}")
    with readable(place):
        return Studies(place, writable=writable, names=names, told=told)


class Reader:
    """Reads the trials in a folder's storage as often as it is asked, those that are finished once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._storage: BaseStorage | None = None

    def studies(self, *, at_work: bool) -> dict[str, "optuna.study._frozen.FrozenStudy"]:
        """Return the studies by their names in the storage; none where there is no storage yet.

        at_work: whether a command works in the folder, which may not have made its tables this moment. Raises
        RunFolderError where the storage cannot be read.
        """
        place = existing(self._folder)
        if self._storage is None and place is not None:
            try:
                self._storage = optuna.storages.get_storage(open_studies(self._folder))
            except RunFolderError:
                if not at_work:
                    raise
        if self._storage is None or place is None:
            return {}
        with readable(place):
            return {study.study_name: study for study in self._storage.get_all_studies()}

    def trials(self, study: "optuna.study._frozen.FrozenStudy") -> list[FrozenTrial]:
        """Return the trials of one of `studies`. Raises RunFolderError where they cannot be read."""
        place = existing(self._folder)
        if self._storage is None or place is None:
            return []
        with readable(place):
            return self._storage.get_all_trials(study._study_id, deepcopy=False)


@contextlib.contextmanager
def readable(place: Location) -> Iterator[None]:
    """Raise what goes wrong in reading a storage meanwhile as a RunFolderError, or a StorageError for a database."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError, sqlite3.Error, RuntimeError, *DAMAGED) as error:
        if isinstance(place, Database):
            raise retry.explained(place, error) from None
        raise RunFolderError(explanation(place, error, writing=False)) from None
