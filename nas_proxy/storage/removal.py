"""Removing a run from a database: its studies, their artifacts and its jobs go, those of other runs stay."""

import optuna
from optuna.artifacts import get_all_artifact_meta

from nas_proxy.storage.artifacts import DatabaseStore
from nas_proxy.storage.job_queue import forget_run
from nas_proxy.storage.location import Database
from nas_proxy.storage.retry import connect
from nas_proxy.storage.trial_store import TrialStore


def remove_run(store: TrialStore, place: Database) -> None:
    """Remove what the run has in its database."""
    engine = connect(place)
    try:
        for name in store.names():
            if name.startswith(place.study("")):
                study = optuna.load_study(study_name=name, storage=store._storage)
                for meta in get_all_artifact_meta(study):
                    DatabaseStore(engine).remove(meta.artifact_id)
                optuna.delete_study(study_name=name, storage=store._storage)
        with engine.begin() as connection:
            forget_run(connection, place.name)
    finally:
        engine.dispose()
