"""The record of all trainings: Optuna studies in the run's one storage, a SQLite file or a PostgreSQL database.

Each trained signal (proxy, random, early_stop, truth) is a study; a trial is an architecture and a draw: which
random images, or which seed of full training. Everything that resumes, counts or reports reads it from here.

One process at a time writes (see `RunFolder.lock`), wherever the trainings are done, so a trial found running at the
start was cut off: it is closed as failed with the reason "interrupted", which counts for nothing, and its training is
done again.
"""

import contextlib
import math
import sqlite3
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.trial import Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from nas_proxy.errors import RunFolderError
from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.spaces.objectives import ACCURACY, WORDS, directions
from nas_proxy.storage import retry
from nas_proxy.storage.location import SQLITE, Database, Location, study_name
from nas_proxy.storage.records import (
    INTERRUPTED,
    LATENCY,
    Candidate,
    Record,
    finished,
    metric_names,
    record_of,
    told_latency,
)
from nas_proxy.storage.sqlite_errors import DAMAGED, closed_after_errors, explanation
from nas_proxy.training.jobs import Failure
from nas_proxy.training.train import Outcome


@contextlib.contextmanager
def explained(place: Location) -> Iterator[None]:
    """Raise what goes wrong in the storage meanwhile as a RunFolderError, or a StorageError for a database."""
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        if isinstance(place, Database):
            raise retry.explained(place, error) from None
        raise RunFolderError(explanation(place, error, writing=True)) from None


class _Connection(sqlite3.Connection):
    """A connection that need not wait for the disk at each of a trial's six transactions.

    A killed process loses nothing, as ever; a machine that loses power loses the last trainings and no more.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        with closed_after_errors() as opened:
            opened.append(self)
            self.execute("PRAGMA journal_mode = WAL")
            self.execute("PRAGMA synchronous = NORMAL")


def _open(place: Location, patience: retry.Retry) -> RDBStorage:
    if isinstance(place, Database):
        return retry.open_storage(place, patience)
    try:
        path = str(place.absolute())  # wherever the process is when it connects again
        with closed_after_errors() as opened:

            def connect() -> _Connection:
                opened.append(connection := _Connection(path, timeout=60, check_same_thread=False))
                return connection

            # The path itself, and in no URL: there a folder's ? and % mean something else.
            return RDBStorage(SQLITE, engine_kwargs={"creator": connect})
    except (SQLAlchemyError, RuntimeError) as error:
        raise RunFolderError(explanation(place, error, writing=True)) from None


class TrialStore:
    """The studies of one run: in the SQLite file at a path, or in a database.

    patience: with a database. objectives: those of the study of the proxy, the accuracy first; of
    `nas_proxy.spaces.objectives.OBJECTIVES`.
    """

    def __init__(
        self, place: Location, patience: retry.Retry | None = None, objectives: Sequence[str] = (ACCURACY,)
    ) -> None:
        self.place = place
        self.patience = patience or retry.Retry()
        self._objectives = tuple(objectives)
        self._costs: dict[int, list[float | None]] = {}  # of the open trials of the proxy, by number
        self._storage = _open(place, self.patience)
        self._studies: dict[str, optuna.Study] = {}
        self._open: dict[tuple[str, int], Trial] = {}
        self._records: dict[str, dict[int, Record]] = {}

    def study(self, signal: str) -> optuna.Study:
        """Return the study of one trained signal, created when needed."""
        if signal not in self._studies:
            with without_announcements():
                objectives = self._objectives_of(signal)
                study = optuna.create_study(
                    storage=self._storage,
                    study_name=study_name(self.place, signal),
                    directions=directions(objectives),
                    load_if_exists=True,
                )
                if study.metric_names is None:
                    study.set_metric_names(metric_names(signal, objectives))
            self._studies[signal] = study
        return self._studies[signal]

    def names(self) -> list[str]:
        """Return the names in the storage of this run's studies; a database may hold those of other runs too."""
        ours = study_name(self.place, "") if isinstance(self.place, Database) else ""
        return [name for name in optuna.get_all_study_names(self._storage) if name.startswith(ours)]

    def _objectives_of(self, signal: str) -> tuple[str, ...]:
        return {"proxy": self._objectives, LATENCY: (LATENCY,)}.get(signal, (ACCURACY,))

    def has(self, signal: str) -> bool:
        """Return whether there is a study of `signal` already."""
        return study_name(self.place, signal) in self.names()

    def records(self, signal: str) -> list[Record]:
        """Return the finished trainings of one signal: the sample first, then proposals, each in their order."""
        # Records of finished trials are kept, since those do not change; see `finished`.
        try:
            trials = self.study(signal).get_trials(deepcopy=False)
        except DAMAGED as error:
            raise RunFolderError(explanation(Path(str(self.place)), error, writing=True)) from None
        return finished(trials, self._records.setdefault(signal, {}))

    def bind(self, signal: str, what: str, fingerprint: str) -> None:
        """Tie a study to what its scores depend on. Raises RunFolderError when it was begun with something else."""
        study = self.study(signal)
        before = study.user_attrs.get(what)
        if before is None:
            study.set_user_attr(what, fingerprint)
        elif before != fingerprint:
            raise RunFolderError(
                f"the {what} has changed since the trainings of this run (fingerprint {before}, now {fingerprint}); "
                "restore it, or start again with --overwrite"
            )

    def close_interrupted(self) -> None:
        """Close the trials that are open in this run's studies, such as those that a kill left."""
        for name in self.names():
            study = optuna.load_study(study_name=name, storage=self._storage)
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                self._fail(study, Trial(study, trial._trial_id), INTERRUPTED)

    def begin(self, signal: str, candidate: Candidate, draw: int) -> int:
        """Open a trial and return its number."""
        study = self.study(signal)
        template = optuna.trial.create_trial(
            state=TrialState.RUNNING,
            params=dict(candidate.architecture),
            distributions=dict(candidate.distributions),
            user_attrs={
                "key": candidate.key,
                "phase": candidate.phase,
                "index": candidate.index,
                "draw": draw,
                **({} if candidate.why is None else {"why": candidate.why}),
                "params": candidate.size.params,
                "flops": candidate.size.flops,
                **told_latency(candidate.latency),
            },
            # Where Optuna's samplers leave them, so that whatever reads a study finds them.
            system_attrs={"constraints": list(candidate.constraints)} if candidate.constraints else None,
        )
        # One transaction for the whole trial, where ask() and suggest would take one for each parameter. What
        # Study.add_trial does, but for the identity of the trial, which it does not return.
        trial = Trial(study, study._storage.create_new_trial(study._study_id, template_trial=template))
        self._open[signal, trial.number] = trial
        if signal == "proxy":
            self._costs[trial.number] = candidate.costs.values(self._objectives)
        return trial.number

    def finish(self, signal: str, number: int, result: Outcome | Failure) -> Record:
        """Close a trial with its score or with the reason of its failure; return its record, as it is stored."""
        study, trial = self.study(signal), self._open.pop((signal, number))
        costs = self._costs.pop(number, []) if signal == "proxy" else []
        if isinstance(result, Failure):
            self._fail(study, trial, result.reason, result.seconds)
        elif None in costs:
            name = self._objectives[1 + costs.index(None)]
            reason = f"its {WORDS[name]} could not be measured, which is an objective"
            self._fail(study, trial, reason, result.seconds)
        else:
            self._tell(study, trial, result, [cost for cost in costs if cost is not None])
        record = record_of(study._storage.get_trial(trial._trial_id))
        self._records.setdefault(signal, {})[number] = record
        return record

    @staticmethod
    def _tell(study: optuna.Study, trial: Trial, result: Outcome, costs: Sequence[float]) -> None:
        trial.set_user_attr("seconds", round(result.seconds, 4))
        trial.set_user_attr("image_passes", result.image_passes)
        # JSON has no infinity: the curve of a diverged training ends where it diverged.
        trial.set_user_attr("losses", [round(loss, 5) for loss in result.losses if math.isfinite(loss)])
        if result.diverged:
            trial.set_user_attr("diverged", True)
        if result.validation is not None:
            trial.set_user_attr("validation", result.validation)
        if result.memory is not None:
            trial.set_user_attr("memory_mb", round(result.memory / 1e6, 1))
        for name, value in _of_seeds(result).items():
            trial.set_user_attr(name, value)
        for step, value in result.curve:
            trial.report(value, step)
        if result.pruned_at is None:
            study.tell(trial, [result.score, *costs])
            return
        trial.set_user_attr("pruned_at", result.pruned_at)
        trial.set_user_attr("seconds_saved", round(result.seconds_saved, 4))
        trial.set_user_attr("reason", result.reason)
        study.tell(trial, state=TrialState.PRUNED)

    def close(self) -> None:
        """Leave one file that can be read, copied and kept anywhere; where others read it now, they leave it."""
        engine = self._storage.engine
        self._storage.scoped_session.remove()
        engine.dispose()
        if isinstance(self.place, Database):
            return
        with contextlib.suppress(SQLAlchemyError, sqlite3.Error), contextlib.closing(engine.raw_connection()) as last:
            last.execute("PRAGMA journal_mode = DELETE")
        engine.dispose()

    @staticmethod
    def _fail(study: optuna.Study, trial: Trial, reason: str, seconds: float = 0.0) -> None:
        trial.set_user_attr("reason", reason)
        if seconds:
            trial.set_user_attr("seconds", round(seconds, 4))
        study.tell(trial, state=TrialState.FAIL)


def _of_seeds(result: Outcome) -> dict[str, Any]:
    """Return what tells a trial's several seeds apart; {} where there is one."""
    if not result.seeds:
        return {}
    scores = [outcome.score for outcome in result.seeds]
    told: dict[str, Any] = {"seeds": len(scores), "scores": scores, "score_std": round(statistics.stdev(scores), 6)}
    if not result.diverged:
        sums = [round(sum(outcome.losses), 5) for outcome in result.seeds]
        told |= {"loss_sums": sums, "loss_sum_std": round(statistics.stdev(sums), 6)}
    return told
