"""A command at work in a run folder: the folder held, its trial store open, workers ready, and all closed at the end.

In: a run folder whose problem has been opened. Out: a `Work`, whose parts are what the stages need; what works on a
part takes that part. Guarantees: whatever ends the command, workers end with it, open trials are closed and working
files removed; checkpoints stay.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from nas_proxy.condensation.distributed import ALONE, ProcessGroup
from nas_proxy.hardware import jobs_at_once
from nas_proxy.names import TRUTH, label
from nas_proxy.pipeline.budget import Clock
from nas_proxy.pipeline.image_files import ImageFiles
from nas_proxy.pipeline.problem import Problem, choose_device
from nas_proxy.pipeline.tracking import open_tracker, training
from nas_proxy.progress import Progress
from nas_proxy.runs import heartbeat
from nas_proxy.runs.folder import RunFolder
from nas_proxy.runs.settings import RunConfig
from nas_proxy.runs.settings_checks import seconds_of
from nas_proxy.signals.sets import SetMaker, embedded_keys
from nas_proxy.signals.signal import Plan, plan_of
from nas_proxy.spaces.limits import fast_part
from nas_proxy.spaces.measured import Latency
from nas_proxy.spaces.space import Architecture
from nas_proxy.storage import file_systems
from nas_proxy.storage.location import Database, settled
from nas_proxy.storage.records import LATENCY
from nas_proxy.storage.retry import Retry
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy.candidates import Stream
from nas_proxy.strategy.latencies import MINUTES, Latencies
from nas_proxy.strategy.trainer import Limits, Trainer
from nas_proxy.training.executor import Executor
from nas_proxy.training.jobs import Failure, Timing
from nas_proxy.training.train import Outcome
from nas_proxy.training.worker_pool import ProcessExecutor


@dataclass(frozen=True)
class Work:
    """What the stages of a command work with.

    plan: the signals. store: of trials. trainer: trains by `executor`. sets: of images that signals train on.
    files: other images. clock: of a run with a budget. drawn: the beginning of the uniform stream, as far as it has
    been needed at once.
    """

    run: RunFolder
    problem: Problem
    plan: Plan
    store: TrialStore
    executor: Executor
    trainer: Trainer
    sets: SetMaker
    files: ImageFiles
    progress: Progress
    clock: Clock | None = None
    drawn: dict[str, Architecture] = field(default_factory=dict, repr=False)

    @property
    def config(self) -> RunConfig:
        """The settings of the run."""
        return self.run.config

    def stream(self) -> Stream:
        """Return the architectures of the uniform sample in their order, without those that made a set."""
        return Stream(self.trainer.space, self.config.seed, embedded_keys(self.run.path))


def open_executor(config: RunConfig, device: str) -> Executor:
    """Return what performs the jobs of a command: workers of this machine, which start with their first job, or a
    Ray cluster. Raises ClusterError where that is not there.
    """
    if config.ray != "none":
        from nas_proxy.training.ray_executor import RayExecutor

        gpus = config.gpus_per_candidate
        return RayExecutor(config.ray, config.workers, (1.0 if device != "cpu" else 0.0) if gpus is None else gpus)
    if config.devices:
        devices = [choose_device(name) for name in config.devices]
        each = config.workers or min(jobs_at_once(name, len(devices)) for name in devices)
        return ProcessExecutor(len(devices) * each, devices)
    return ProcessExecutor(config.workers or jobs_at_once(device))


def open_store(run: RunFolder, progress: Progress) -> TrialStore:
    """Return the run's trial store, with what a killed command left open closed."""
    place = settled(run.path, run.place)
    if not isinstance(place, Database) and (warning := file_systems.warning(place)) is not None:
        progress.say(f"Warning: {warning}.")
    store = TrialStore(place, Retry(progress.say), run.config.objective)
    try:
        store.close_interrupted()
    except BaseException:
        store.close()
        raise
    return store


def timed(problem: Problem, executor: Executor, architecture: Architecture) -> Latency | Failure:
    """Time an architecture in a worker process, within the limits of a candidate."""
    config = problem.config
    minutes, memory = config.candidate_minutes or MINUTES, config.candidate_memory
    chosen, batch = dict(architecture), config.latency_batch
    return executor.run_apart(Timing(problem.spec, chosen, problem.shape, problem.device, batch, minutes, memory))


def make_trainer(problem: Problem, store: TrialStore, executor: Executor, progress: Progress) -> Trainer:
    """Return what trains architectures of the problem, within its limits."""
    config = problem.config
    limits = Limits(config.max_params, config.max_flops, config.max_latency_ms)
    space, latencies = problem.space, None
    if config.max_latency_ms is not None or LATENCY in config.objective:
        latencies = Latencies(
            store,
            space,
            lambda a: timed(problem, executor, a),
            problem.device,
            config.latency_batch,
            config.max_latency_ms,
        )
    if config.max_latency_ms is not None and latencies is not None:
        space = fast_part(space, config.max_latency_ms, latencies.of)
    return Trainer(
        store,
        executor,
        space,
        problem.spec,
        problem.device,
        config.seed,
        problem.sizes,
        progress,
        limits,
        latencies,
    )


def make_sets(run: RunFolder, problem: Problem, progress: Progress, group: ProcessGroup = ALONE) -> SetMaker:
    """Return what makes the sets of a run."""
    config = run.config
    return SetMaker(
        run.path,
        problem.data.train,
        config.dataset,
        problem.data.fingerprint,
        config.seed,
        problem.device,
        problem.whole_space,
        problem.digest,
        progress,
        group,
        config.preview_every,
        config.classes_per_step,
    )


@contextlib.contextmanager
def work_in(
    run: RunFolder, problem: Problem, progress: Progress, group: ProcessGroup = ALONE, start: float | None = None
) -> Iterator[Work]:
    """Work in a run folder that is held. start: when the command began, by the monotonic clock; now if not given."""
    with contextlib.ExitStack() as closing:
        files = ImageFiles(run.work, problem, lambda fingerprint: store.bind(TRUTH, "test data", fingerprint))
        # The files before the store, which may need the space on a full disk.
        store = closing.enter_context(_closing(open_store(run, progress)))
        closing.callback(files.remove)
        executor = closing.enter_context(open_executor(run.config, problem.device))
        closing.enter_context(heartbeat.beating(run, executor.nodes))
        tracker = closing.enter_context(open_tracker(run.config.log if group.rank == 0 else "none", run.path))

        def trained(signal: str, key: str, draw: int, outcome: Outcome) -> None:
            name = f"{key}, {draw + 1}" if draw else key
            training(tracker, label(signal), name, outcome.losses, outcome.score)

        def learnt(title: str, step: int, loss: float) -> None:
            tracker.point("Condensing", title, "loss", step, loss)

        trainer = replace(make_trainer(problem, store, executor, progress), tell=trained)
        sets = replace(make_sets(run, problem, progress, group), tell=learnt)
        budget = run.config.budget
        clock = None if budget is None else Clock(run.path, seconds_of(budget), start)
        if clock is not None:
            closing.enter_context(clock.running())
        yield Work(run, problem, plan_of(run.config), store, executor, trainer, sets, files, progress, clock)


@contextlib.contextmanager
def _closing(store: TrialStore) -> Iterator[TrialStore]:
    try:
        yield store
    finally:
        store.close_interrupted()
        store.close()
