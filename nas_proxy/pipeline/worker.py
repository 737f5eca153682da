"""A worker of a run that is elsewhere: the run's database in, results of trainings out.

It takes the configuration and the condensed set from the run, and the images from this machine. Guarantees: it
trains nothing before version, data, condensed set and space have been found to be the run's; what it is at when it
ends is given back, and when it is killed, another takes it over.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.artifacts import download_artifact, get_all_artifact_meta

from nas_proxy._version import __version__
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import ConfigError, RunFolderError, StorageError, UserError
from nas_proxy.pipeline.coordinator import DONE, PROXY, RUN, job_of, keys_of, system_attrs, told_result, trains_on
from nas_proxy.pipeline.image_files import ImageFiles
from nas_proxy.pipeline.problem import Problem, open_problem
from nas_proxy.pipeline.run_folder import RunFolder, open_run
from nas_proxy.pipeline.settings import RunConfig, resolve
from nas_proxy.pipeline.work import make_sets, open_executor
from nas_proxy.progress import SILENT, Progress
from nas_proxy.signals.sets import SetMaker
from nas_proxy.signals.signal import plan_of
from nas_proxy.spaces.loading import space_digest
from nas_proxy.storage.artifacts import DatabaseStore
from nas_proxy.storage.job_queue import Jobs, Offer
from nas_proxy.storage.location import Database, existing, is_database, url_mistake, without_password
from nas_proxy.storage.retry import Retry, connect, open_storage
from nas_proxy.storage.trial_store import explained
from nas_proxy.training.executor import Executor
from nas_proxy.training.jobs import Failure
from nas_proxy.training.train import Outcome

# Seconds between two looks for something to do, at first and at most.
LOOK, SELDOM = 0.1, 2.0


@dataclass(frozen=True)
class Here:
    """What is this machine's own affair.

    dataset, space: where they are here; None where the run says. proxy: a file with the condensed set; None for the
    run's artifact. device, devices, workers: as in `RunConfig`. idle_minutes: the worker ends after so long without
    a training.
    """

    dataset: str | None = None
    space: str | None = None
    proxy: Path | None = None
    device: str = "auto"
    devices: tuple[str, ...] = ()
    workers: int = 0
    idle_minutes: float = 10.0


@dataclass
class Tally:
    """What a worker did: trainings with a score, without one, and why it ended."""

    trained: int = 0
    failed: int = 0
    ended: str = ""


def work(place: str, name: str | None, here: Here, progress: Progress = SILENT) -> Tally:
    """Train what the run offers until it is done or offers nothing for `here.idle_minutes`.

    place: a run folder, or the URL of a database, in which `name` is the run; None where there is one alone.
    Raises StorageError, ConfigError and what data and spaces raise, each one sentence, for what is not as the run's.
    """
    url, name = _named(place, name)
    nameless = Database(url, name or "")
    tally = Tally()
    with explained(nameless):
        engine, patience = connect(nameless), Retry(progress.say)
        database = open_storage(nameless, patience)
        storage = optuna.storages.get_storage(database)
        try:
            with tempfile.TemporaryDirectory(prefix="nas-proxy-") as folder:
                deadline = _Deadline(here.idle_minutes)
                study = _awaited(storage, url, name, deadline, progress)
                if study is None:
                    tally.ended = f"no run came in {here.idle_minutes:g} minutes"
                    return tally
                published: Mapping[str, Any] = system_attrs(study)[RUN]
                config = _config(published["configuration"], here)
                run = RunFolder(Path(folder), config)
                _fetch(study, DatabaseStore(engine), here, run)
                problem = _checked(published, run, progress)
                images = _ImagesHere(run, ImageFiles(run.work, problem), make_sets(run, problem, progress))
                jobs = Jobs(engine, study.study_name.rpartition("/")[0], patience)
                with open_executor(config, problem.device) as executor:
                    _serve(problem, executor, images, jobs, study, deadline, tally, progress)
        finally:
            database.scoped_session.remove()
            database.engine.dispose()
            engine.dispose()
    return tally


def _named(place: str, name: str | None) -> tuple[str, str | None]:
    """Return the URL and the name of a run."""
    if is_database(place):
        if (wrong := url_mistake(place)) is not None:
            raise ConfigError([f"{without_password(place)} is no place of a run: {wrong}"])
        return without_password(place), name
    folder = open_run(Path(place))
    if folder.config.storage is None:
        raise RunFolderError(
            f"{place} keeps its trainings in a SQLite file, which one command owns; for workers elsewhere, begin the "
            "run with --storage postgresql+psycopg://USER@HOST/DATABASE"
        )
    found = existing(folder.path)
    return folder.config.storage, found.name if isinstance(found, Database) else name


class _Deadline:
    """The moment at which a worker without work ends."""

    def __init__(self, minutes: float) -> None:
        self._seconds = 60 * minutes
        self.reset()

    def reset(self) -> None:
        self._at = time.monotonic() + self._seconds

    @property
    def over(self) -> bool:
        return time.monotonic() > self._at


def _awaited(
    storage: optuna.storages.BaseStorage, url: str, name: str | None, deadline: _Deadline, progress: Progress
) -> optuna.Study | None:
    """Return the proxy's study once the run has a condensed set to train on; None where that takes too long."""
    told = False
    while not deadline.over:
        ready = {
            study.study_name.rpartition("/")[0]: study.study_name
            for study in storage.get_all_studies()
            if study.study_name.endswith("/proxy") and RUN in storage.get_study_system_attrs(study._study_id)
        }
        if name is None and len(ready) > 1:
            raise StorageError(f"{url} holds {len(ready)} runs; choose one with --run: {', '.join(sorted(ready)[:10])}")
        wanted = ready.get(name) if name is not None else next(iter(ready.values()), None)
        if wanted is not None:
            return optuna.load_study(study_name=wanted, storage=storage)
        if not told:
            told = True
            progress.say(f"Waiting for {name or 'a run'} with a condensed set in {url}.")
        time.sleep(SELDOM)
    return None


def _config(configuration: Mapping[str, Any], here: Here) -> RunConfig:
    """Return the run's settings with what is this machine's own affair."""
    given = {"dataset": here.dataset, "space": here.space, "device": here.device, "devices": list(here.devices)}
    shared = {name: value for name, value in configuration.items() if name != "truth_table"}
    return resolve({**shared, **{k: v for k, v in given.items() if v is not None}, "workers": here.workers})


def _fetch(study: optuna.Study, store: DatabaseStore, here: Here, run: RunFolder) -> None:
    """Bring the condensed set into the worker's folder."""
    path = run / PROXY
    if here.proxy is not None:
        images = ImageSet.load(here.proxy)  # what is wrong with it is said there
        images.save(path)
        return
    metas = [meta for meta in get_all_artifact_meta(study) if meta.filename == PROXY]
    if not metas:
        raise StorageError("the run's database holds no condensed set; give the run's file with --proxy FILE")
    download_artifact(artifact_store=store, file_path=str(path), artifact_id=metas[-1].artifact_id)


def _checked(published: Mapping[str, Any], run: RunFolder, progress: Progress) -> Problem:
    """Open the problem here and compare everything that a score depends on. Raises StorageError for what differs."""

    def same(what: str, ours: object, theirs: object, mend: str) -> None:
        if ours != theirs:
            raise StorageError(f"{what} is not the run's (here {ours}, in the run {theirs}); {mend}")

    config = run.config
    same("this version of nas_proxy", __version__, published["nas_proxy"], "install the run's on this machine")
    ours, theirs = torch.__version__, published["torch"]
    if ours.split(".")[0] != theirs.split(".")[0]:
        progress.say(f"Warning: PyTorch is {ours} here and {theirs} in the run; scores may differ.")
    proxy = ImageSet.load(run / PROXY).fingerprint()
    same("the condensed set", proxy, published["condensed set"], "give the run's proxy.safetensors with --proxy")
    with _hinted("--space"):
        digest = space_digest(config.space)
    same(f"the search space {config.space}", digest, published["space"], "give the run's with --space")
    with _hinted("--dataset"):
        problem = open_problem(config, progress)
    same(f"the data {config.dataset}", problem.data.fingerprint, published["data"], "give the same data with --dataset")
    keys = keys_of(problem)
    same("what is drawn from the search space", keys, published["keys"], "use the run's versions of Python and Optuna")
    if problem.device.split(":")[0] != published["device"]:
        progress.say(
            f"Warning: this worker trains on {problem.device} and the run's coordinator on {published['device']}; "
            "scores differ a little between them."
        )
    return problem


@dataclass(frozen=True)
class _ImagesHere:
    """The images that jobs name, as files of this machine."""

    run: RunFolder
    files: ImageFiles
    sets: SetMaker

    def __call__(self, name: str) -> Path:
        """Return the file of "proxy", "train", "validation", "test" or a set of random images, "random-<draw>"."""
        if name == Path(PROXY).stem:
            return self.run / PROXY
        signal, dash, draw = name.rpartition("-")
        if dash:
            return self.sets.of(plan_of(self.run.config)[signal], int(draw), frozenset).path
        return {"train": self.files.train, "validation": self.files.validation, "test": self.files.test}[name]()


@contextlib.contextmanager
def _hinted(option: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise type(error)(f"{error} (the run names it; {option} gives its place on this machine)") from None


def _serve(
    problem: Problem,
    pool: Executor,
    images: _ImagesHere,
    jobs: Jobs,
    study: optuna.Study,
    deadline: _Deadline,
    tally: Tally,
    progress: Progress,
) -> None:
    """Take jobs until there are no more."""
    devices = trains_on(pool, problem.device)
    jobs.join(devices)
    progress.say(f"Joined {study.study_name.rpartition('/')[0]} with {devices}.")
    busy: dict[tuple[str, str, int], Offer] = {}
    pause = LOOK
    deadline.reset()

    def done(claim: Offer, result: Outcome | Failure) -> None:
        jobs.finish(claim, told_result(result))
        busy.pop(claim.identity, None)
        deadline.reset()
        _count(tally, claim, result, progress)

    try:
        while True:
            claims = jobs.claim(pool.free, busy)
            for claim in claims:
                job = job_of(claim.job, problem.config.space, problem.device, images)
                busy[claim.identity] = claim
                pool.submit(claim, job)
            for claim, result in pool.results(0 if claims else pause):
                done(claim, result)
            if claims or busy:
                pause = LOOK
                continue
            pause = min(1.5 * pause, SELDOM)
            if system_attrs(study).get(DONE):
                tally.ended = "the run is done"
                return
            if deadline.over:
                tally.ended = "the run has offered nothing for a while"
                return
    finally:
        jobs.leave()


def _count(tally: Tally, claim: Offer, result: Outcome | Failure, progress: Progress) -> None:
    if isinstance(result, Failure):
        tally.failed += 1
        progress.say(f"{claim.signal} {claim.key}: {result.reason}")
        return
    tally.trained += 1
    progress.say(f"{claim.signal} {claim.key}: {result.score:.1%} in {result.seconds:.1f} s")
