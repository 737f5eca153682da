"""What the stages of a run share while a command works: data, space, ledger, workers, each made when first used."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from nas_proxy.condensation.distributed import ALONE, ProcessGroup
from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.data.sources import Source, open_source
from nas_proxy.data.splits import Development, development
from nas_proxy.errors import DeviceError, RunFolderError
from nas_proxy.pipeline import heartbeat
from nas_proxy.pipeline.coordinator import Coordinator
from nas_proxy.pipeline.latencies import MINUTES, Latencies
from nas_proxy.pipeline.run_folder import RunFolder
from nas_proxy.progress import SILENT, Progress
from nas_proxy.ranking.truth_table import TruthTable, known_part, load_truth_table
from nas_proxy.search.enqueue import architectures
from nas_proxy.spaces.cost import UNMEASURED, Sizes
from nas_proxy.spaces.latency import Latency
from nas_proxy.spaces.limits import constraints, fast_part, small_part
from nas_proxy.spaces.loading import load_space, space_digest, try_out
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.storage import file_systems
from nas_proxy.storage.location import Database, settled
from nas_proxy.storage.records import LATENCY, Candidate
from nas_proxy.storage.retry import Retry
from nas_proxy.storage.trial_store import TrialStore, explained
from nas_proxy.training.jobs import Failure, Job, Timing
from nas_proxy.training.train import Outcome, Recipe
from nas_proxy.training.worker_pool import ProcessExecutor


def choose_device(name: str) -> str:
    """Return "cpu" or "cuda:N" for the setting `device`. Raises DeviceError when it is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if count else "cpu"
    if name == "cpu":
        return "cpu"
    wanted = int(name.removeprefix("cuda").removeprefix(":") or 0)
    if wanted >= count:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise DeviceError(f"the device {name} is not there; this machine has: {there}")
    return f"cuda:{wanted}"


class Session:
    """One command at work in one run folder; use `open_session`."""

    def __init__(self, run: RunFolder, progress: Progress = SILENT, ranks: ProcessGroup = ALONE) -> None:
        self.run = run
        self.config = run.config
        self.progress = progress
        self.ranks = ranks
        self.holds = False  # the run folder, see `open_session`
        # The condensation and the final network train on the first of several.
        self.device = choose_device(next(iter(run.config.devices), run.config.device))

    @functools.cached_property
    def source(self) -> Source:
        """The user's data set."""
        return open_source(self.config.dataset, image_size=self.config.image_size, say=self.progress.say)

    @functools.cached_property
    def data(self) -> Development:
        """Train and validation images."""
        with self.progress.stage("Load", 1) as bar:
            found = development(
                self.source,
                seed=self.config.seed,
                limit=self.config.limit,
                progress=lambda done, total: bar.to(0, f"{done}/{total} read"),
            )
            bar.to(1, f"{len(found.train)} train, {len(found.validation)} val")
        return found

    @property
    def shape(self) -> DataShape:
        """The shape of the images and the number of classes."""
        return self.data.train.shape

    @functools.cached_property
    def whole_space(self) -> SearchSpace:
        """The search space, tried out."""
        space = load_space(self.config.space, self.shape)
        try_out(space, self.shape)
        return space

    def stream(self) -> Iterator[Architecture]:
        """Yield the architectures of the uniform sample in their order: those that may be ranked.

        What served as an embedding network in the condensation is left out: the proxy was made with it.
        """
        path = self.run / "proxy.safetensors"
        metadata = ImageSet.load_metadata(path) if path.exists() else {}
        embedded = metadata.get("embedded", [])
        assert isinstance(embedded, list)
        known = frozenset(embedded)
        return (a for a in self.space.sample(self.config.seed) if self.space.key(a) not in known)

    @functools.cached_property
    def truth_table(self) -> TruthTable | None:
        """The published accuracies that stand for full training, where the user gave some."""
        if self.config.truth_table is None:
            return None
        consent = self.config.allow_pickle
        table = load_truth_table(self.config.truth_table, self.whole_space, self.shape.classes, allow_pickle=consent)
        self.progress.say(f"Truth table: {'; '.join(table.remarks)}.")
        return table

    @functools.cached_property
    def sized_space(self) -> SearchSpace:
        """The search space; the part of it that a truth table holds and that is within the limits on size."""
        table, config = self.truth_table, self.config
        known = self.whole_space if table is None else known_part(self.whole_space, table)
        return small_part(known, config.max_params, config.max_flops, self.sizes.of)

    @functools.cached_property
    def sizes(self) -> Sizes:
        """How large the networks of architectures are; one that hangs is given up as its training would be."""
        return Sizes(self.whole_space, self.shape, 60 * (self.config.candidate_minutes or MINUTES))

    @functools.cached_property
    def space(self) -> SearchSpace:
        """The part of `sized_space` that is fast enough, which is measured, once the run folder is held, as needed."""
        most = self.config.max_latency_ms
        return self.sized_space if most is None else fast_part(self.sized_space, most, self.latencies.of)

    @functools.cached_property
    def latencies(self) -> Latencies:
        """How long architectures take to answer on this run's device."""
        batch, most = self.config.latency_batch, self.config.max_latency_ms
        return Latencies(lambda: self.ledger, self.sized_space, self.timed, self.device, batch, most)

    def timed(self, architecture: Architecture) -> Latency | Failure:
        """Time an architecture in a worker process, within the limits of a candidate."""
        config = self.config
        minutes, memory = config.candidate_minutes or MINUTES, config.candidate_memory
        batch, chosen = config.latency_batch, dict(architecture)
        return self.pool.run_apart(Timing(config.space, chosen, self.shape, self.device, batch, minutes, memory))

    @functools.cached_property
    def enqueued(self) -> Sequence[Architecture]:
        """The architectures to be proposed first. Raises ConfigError for an entry that names none."""
        return architectures(self.sized_space, self.config.enqueue)

    @functools.cached_property
    def ledger(self) -> TrialStore:
        """The run's studies, with what a killed run left open closed."""
        place = settled(self.run.path, self.run.place)
        if isinstance(place, Path) and (warning := file_systems.warning(place)) is not None:
            self.progress.say(f"Warning: {warning}.")
        ledger = TrialStore(place, Retry(self.progress.say), self.config.objective)
        ledger.close_interrupted()
        return ledger

    @functools.cached_property
    def team(self) -> Coordinator | None:
        """The workers elsewhere, which a run in a database may have; None for one in a file."""
        place = self.ledger.place
        return Coordinator(self, place) if isinstance(place, Database) else None

    @functools.cached_property
    def pool(self) -> ProcessExecutor:
        """The workers of this machine."""
        if self.config.devices:
            devices = [choose_device(name) for name in self.config.devices]
            pool = ProcessExecutor(len(devices) * (self.config.workers or 1), devices)
        else:
            default = 1 if self.device != "cpu" else (os.cpu_count() or 1)
            pool = ProcessExecutor(self.config.workers or default)
        if self.holds and not isinstance(self.run.place, Database):  # which knows its workers
            heartbeat.announce(self.run, self.trains_on(pool))
        return pool

    def trains_on(self, pool: ProcessExecutor) -> str:
        """Return what the workers of this machine train on, in words."""
        return ", ".join(pool.devices) or f"{pool.count} × {self.device}"

    @functools.cached_property
    def proxy_path(self) -> Path:
        """The condensed set, checked to be of this data. Raises RunFolderError otherwise."""
        path = self.run / "proxy.safetensors"
        metadata, shape = ImageSet.load_metadata(path), ImageSet.load(path).shape
        if shape != self.shape or metadata.get("data_fingerprint") != self.data.fingerprint:
            raise RunFolderError(
                f"{path} was condensed from other data (fingerprint {metadata.get('data_fingerprint')}, "
                f"the data now has {self.data.fingerprint}); restore the data or start again with --overwrite"
            )
        self.ledger.bind("proxy", "space", space_digest(self.config.space))
        self.ledger.bind("proxy", "condensed set", ImageSet.load(path).fingerprint())
        if self.truth_table is not None:
            self.ledger.bind("proxy", "truth table", self.truth_table.fingerprint)
        return path

    def file(self, name: str, make: Callable[[], ImageSet]) -> Path:
        """Return the path of an image set that workers map into memory, written once a command."""
        path = self.run.work / f"{name}.safetensors"
        if path not in self._written:
            make().save(path)
            self._written.add(path)
        return path

    @functools.cached_property
    def _written(self) -> set[Path]:
        return set()

    @functools.cached_property
    def _told(self) -> set[str]:
        return set()

    @property
    def train_path(self) -> Path:
        """All training images, as a file."""
        return self.file("train", lambda: self.data.train)

    @property
    def validation_path(self) -> Path:
        """The validation images, as a file."""
        return self.file("validation", lambda: self.data.validation)

    def candidate(self, architecture: Architecture, phase: str, index: int) -> Candidate:
        """Return what the ledger needs to know of an architecture."""
        from optuna.trial import FixedTrial

        fixed = FixedTrial(dict(architecture))
        self.space.suggest(fixed)
        config, size, latency, unmeasured = self.config, UNMEASURED, None, None
        if config.max_latency_ms is not None or LATENCY in config.objective:
            latency, failure = self.latencies.of(architecture), self.latencies.failure(architecture)
            unmeasured = failure and f"its latency could not be measured: {failure}"
        if unmeasured is None:  # what has failed in a process of its own is not run in this one
            size = self.sizes.of(architecture) or UNMEASURED
            hanging = self.sizes.hanging(architecture)
            unmeasured = hanging and f"its FLOPs could not be counted: it {hanging}"
        above = constraints(size, latency, config.max_params, config.max_flops, config.max_latency_ms)
        key = self.space.key(architecture)
        return Candidate(key, architecture, phase, index, size, fixed.distributions, latency, above, unmeasured)

    def job(self, architecture: Architecture, data: Path, evaluation: Path, recipe: Recipe, seed: int) -> Job:
        """Return a training of this run's space on this run's device."""
        return Job(self.config.space, dict(architecture), data, evaluation, recipe, seed, self.device)

    def train_all(
        self,
        signal: str,
        tasks: Sequence[tuple[Candidate, int]],
        job: Callable[[Candidate, int], Job],
        done: Callable[[Outcome | Failure], None],
    ) -> None:
        """Train candidates, each in a draw, and record them in the study of `signal`.

        One of which something is needed that could not be measured fails at once: it would when it is trained.
        """

        def finished(number: int, result: Outcome | Failure) -> None:
            self.ledger.finish(signal, number, result)
            if isinstance(result, Outcome) and result.note and result.note not in self._told:
                self._told.add(result.note)
                self.progress.say(result.note)
            done(result)

        for candidate, draw in tasks:
            if candidate.unmeasured is not None:
                finished(self.ledger.begin(signal, candidate, draw), Failure(candidate.unmeasured))
        tasks = [task for task in tasks if task[0].unmeasured is None]
        if self.team is not None:
            self.team.train(signal, tasks, job, finished)
            return

        def jobs() -> Iterator[tuple[int, Job]]:
            for candidate, draw in tasks:
                yield self.ledger.begin(signal, candidate, draw), job(candidate, draw)

        for number, result in self.pool.run(jobs()):
            finished(number, result)

    def close(self) -> None:
        """Stop the workers, close open trials and remove working files; checkpoints stay."""
        made = vars(self)
        if "pool" in made:
            self.pool.__exit__(None, None, None)
        if (team := made.get("team")) is not None:
            team.close()
        if self.holds:
            heartbeat.withdraw(self.run)
        # Before the ledger, which may need the space on a full disk.
        for path in made.get("_written", ()):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.run.work.rmdir()
        if "ledger" in made:
            self.ledger.close_interrupted()
            self.ledger.close()


@contextlib.contextmanager
def open_session(run: RunFolder, progress: Progress = SILENT, ranks: ProcessGroup = ALONE) -> Iterator[Session]:
    """Hold the run folder and work in it."""
    with run.lock(), explained(run.place):
        session = Session(run, progress, ranks)
        session.holds = True
        heartbeat.withdraw(run)  # what a killed command left
        try:
            yield session
        finally:
            session.close()
