"""What the command that works in a run folder does for workers elsewhere, and they for it.

In: trainings to be done. Out: their results, recorded by this command alone, wherever they were done: it offers
them as jobs in the run's database, has its own processes take their share, and takes in what is done.
Guarantees: what a job is depends on the run alone, so who trains changes no score; a result that a worker handed in
is not lost with this command, but recorded by the next; an architecture and draw is recorded once.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.artifacts import get_all_artifact_meta, upload_artifact

from nas_proxy._version import __version__
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import StorageError
from nas_proxy.pipeline.problem import Problem
from nas_proxy.runs.folder import RunFolder
from nas_proxy.runs.settings import to_dict
from nas_proxy.spaces.loading import space_digest
from nas_proxy.storage.artifacts import DatabaseStore
from nas_proxy.storage.job_queue import GRACE, Jobs, Offer
from nas_proxy.storage.json_values import from_plain, to_plain
from nas_proxy.storage.location import Database
from nas_proxy.storage.records import TRAINED
from nas_proxy.storage.retry import connect
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy.trainer import Finished, MakeJob, Tasks
from nas_proxy.training.executor import Executor
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.train import Outcome

PROXY = "proxy.safetensors"
# System attributes of the proxy's study.
RUN, DONE = "nas_proxy:run", "nas_proxy:done"
KEYS = 8  # of the sample, by which a worker sees whether its space is the run's
# Seconds between two looks at what is done: few when much happens.
LOOK, SELDOM = 0.05, 1.0


class Coordinator:
    """This command among the workers of a run whose trials are in a database."""

    def __init__(self, run: RunFolder, problem: Problem, store: TrialStore, executor: Executor) -> None:
        place = store.place
        assert isinstance(place, Database)
        self._run, self._problem, self._store, self._executor = run, problem, store, executor
        self._engine = connect(place)
        self.jobs = Jobs(self._engine, place.name, store.patience)
        self._joined = False

    def train(self, signal: str, tasks: Tasks, job: MakeJob, finished: Finished) -> None:
        """Have the tasks trained by this machine's processes and whoever has joined the run, and record them."""
        if not tasks:
            return
        self._join()
        store, pool = self._store, self._executor
        wanted = {(candidate.key, draw): candidate for candidate, draw in tasks}
        own = {(candidate.key, draw): job(candidate, draw) for candidate, draw in tasks}
        self.jobs.offer([Offer(signal, key, draw, told(one)) for (key, draw), one in own.items()])
        begun: dict[tuple[str, int], int] = {}
        busy: dict[tuple[str, str, int], Offer] = {}
        pause = LOOK
        while wanted:
            for claim in self.jobs.claim(pool.free, busy) if pool.free else ():
                if claim.signal != signal or (claim.key, claim.draw) not in own:
                    self.jobs.drop(claim)  # left by an earlier command, by a worker that died since
                    continue
                busy[claim.identity] = claim
                pool.submit(claim, own[claim.key, claim.draw])
            for claim, result in pool.results(pause):
                self.jobs.finish(claim, told_result(result))
                busy.pop(claim.identity, None)
                pause = LOOK
            pause = min(1.5 * pause, SELDOM)
            for taken in self.jobs.taken(signal):
                at = (taken.key, taken.draw)
                if at not in wanted:
                    continue
                if at not in begun:
                    begun[at] = store.begin(signal, wanted[at], taken.draw)
                if taken.result is not None:
                    result = result_of(taken.result)
                    finished(begun[at], result)
                    self._close(signal, *at, pruned=isinstance(result, Outcome) and result.pruned_at is not None)
                    del wanted[at]
                    pause = LOOK

    def _close(self, signal: str, key: str, draw: int, *, pruned: bool) -> None:
        """Keep a job as recorded; one that was pruned may be wanted again, whole, when the sample comes to it."""
        if pruned:
            self.jobs.drop(Offer(signal, key, draw, {}))
        else:
            self.jobs.recorded(signal, key, draw)

    def done(self, finished: bool) -> None:
        """Tell the workers whether there is more to come."""
        study = self._store.study("proxy")
        study._storage.set_study_system_attr(study._study_id, DONE, finished)

    def close(self) -> None:
        """Take back what nobody is at and leave; the jobs that others are at go on, and wait to be recorded."""
        if self._joined:
            self.jobs.withdraw()
            self.jobs.leave()
        self._engine.dispose()

    def _join(self) -> None:
        if self._joined:
            return
        self.jobs.forget_coordinator()
        others = [worker for worker in self.jobs.alive() if worker.coordinates]
        if others:
            raise StorageError(
                f"a nas-proxy on {others[0].host} (process {others[0].pid}) is working on this run; end it there, or "
                f"wait {GRACE:.0f} s when it has been killed"
            )
        self._settle()
        self.jobs.join(trains_on(self._executor, self._problem.device), coordinates=True)
        self._joined = True
        self._publish()

    def _settle(self) -> None:
        """Keep the jobs as recorded that were recorded when an earlier command was cut off."""
        for signal in TRAINED:
            records = self._store.records(signal)
            whole = {(r.key, r.draw) for r in records if r.pruned_at is None}
            known = whole | {(r.key, r.draw) for r in records}
            for taken in self.jobs.taken(signal):
                at = (taken.key, taken.draw)
                if at in known:
                    self._close(signal, *at, pruned=at not in whole)

    def _publish(self) -> None:
        """Let workers find the configuration, the fingerprints and the condensed set."""
        study, problem = self._store.study("proxy"), self._problem
        path = self._run / PROXY
        published: dict[str, Any] = {
            "configuration": to_dict(self._run.config),
            "data": problem.data.fingerprint,
            "condensed set": ImageSet.load(path).fingerprint(),
            "space": space_digest(self._problem.spec),
            "keys": keys_of(problem),
            "device": problem.device.split(":", maxsplit=1)[0],
            "nas_proxy": __version__,
            "torch": torch.__version__,
        }
        if all(meta.filename != PROXY for meta in get_all_artifact_meta(study)):
            upload_artifact(artifact_store=DatabaseStore(self._engine), file_path=str(path), study_or_trial=study)
        study._storage.set_study_system_attr(study._study_id, RUN, published)
        self.done(False)


def trains_on(executor: Executor, device: str) -> str:
    """Return what the workers of this machine train on, in words."""
    return ", ".join(executor.devices) or f"{executor.count} × {device}"


def keys_of(problem: Problem) -> list[str]:
    """Return the keys of the first architectures that a run's seed draws from its space."""
    space = problem.whole_space
    return [space.key(architecture) for architecture in islice(space.sample(problem.config.seed), KEYS)]


def system_attrs(study: optuna.Study) -> Mapping[str, Any]:
    """Return what a study keeps for programs rather than for people."""
    return study._storage.get_study_system_attrs(study._study_id)


def told(job: Job) -> dict[str, Any]:
    """Return a job as JSON values; images by their names, and without what is the worker's own affair."""
    plain = to_plain(job)
    return {
        **{name: value for name, value in plain.items() if name not in {"space", "device"}},
        "data": job.data.stem,
        "evaluation": job.evaluation.stem,
    }


def job_of(plain: Mapping[str, Any], space: str, device: str, images: Callable[[str], Path]) -> Job:
    """Return the job that `told` was given, with this machine's space and device; `images` knows files by name."""
    values = {**plain, "space": space, "device": device, "data": "", "evaluation": ""}
    return replace(
        from_plain(Job, values), data=images(str(plain["data"])), evaluation=images(str(plain["evaluation"]))
    )


def told_result(result: Outcome | Failure) -> dict[str, Any]:
    """Return a result as JSON values."""
    return to_plain(result)


def result_of(plain: Mapping[str, Any]) -> Outcome | Failure:
    """Return the result that `told_result` was given."""
    return from_plain(Outcome, plain) if "score" in plain else from_plain(Failure, plain)
