"""Removing a run from a database: its studies go, those of other runs stay."""

import optuna

from nas_proxy.storage.location import Database
from nas_proxy.storage.trial_store import TrialStore


def remove_run(store: TrialStore, place: Database) -> None:
    """Remove what the run has in its database."""
    for name in store.names():
        if name.startswith(place.study("")):
            optuna.delete_study(study_name=name, storage=store._storage)
