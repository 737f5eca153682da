"""Removing a run from a database: its studies go, those of other runs stay."""

import optuna

from nas_proxy.storage.trial_store import TrialStore


def remove_run(store: TrialStore) -> None:
    """Remove the studies of the store's run."""
    for name in store.names():
        optuna.delete_study(study_name=name, storage=store._storage)
