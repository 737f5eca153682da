"""What the stages of a run share while a command works: data, space, ledger, workers, each made when first used."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch

from nas_proxy.condensation.ranks import ALONE, Ranks
from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.data.sources import Source, open_source
from nas_proxy.data.splits import Development, development
from nas_proxy.errors import DeviceError, RunFolderError
from nas_proxy.pipeline.ledger import Candidate, Ledger, explained
from nas_proxy.pipeline.run_folder import RunFolder
from nas_proxy.progress import SILENT, Progress
from nas_proxy.ranking.truth_table import TruthTable, known_part, load_truth_table
from nas_proxy.search.enqueue import architectures
from nas_proxy.spaces.cost import Size, measure
from nas_proxy.spaces.limits import limited
from nas_proxy.spaces.loading import load_space, space_digest, try_out
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.training.train import Outcome, Recipe
from nas_proxy.training.workers import Failure, Job, Pool


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

    def __init__(self, run: RunFolder, progress: Progress = SILENT, ranks: Ranks = ALONE) -> None:
        self.run = run
        self.config = run.config
        self.progress = progress
        self.ranks = ranks
        self.device = choose_device(run.config.device)

    @functools.cached_property
    def source(self) -> Source:
        """The user's data set."""
        return open_source(self.config.dataset, image_size=self.config.image_size)

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
    def space(self) -> SearchSpace:
        """The search space; the part of it that a truth table holds and that is within the limits on size."""
        table, config = self.truth_table, self.config
        known = self.whole_space if table is None else known_part(self.whole_space, table)
        return limited(known, self.shape, config.max_params, config.max_flops)

    @functools.cached_property
    def enqueued(self) -> Sequence[Architecture]:
        """The architectures to be proposed first. Raises ConfigError for an entry that names none."""
        return architectures(self.space, self.config.enqueue)

    @functools.cached_property
    def ledger(self) -> Ledger:
        """The run's studies, with what a killed run left open closed."""
        ledger = Ledger(self.run / "study.db")
        ledger.close_interrupted()
        return ledger

    @functools.cached_property
    def pool(self) -> Pool:
        """The workers."""
        default = 1 if self.device != "cpu" else (os.cpu_count() or 1)
        return Pool(self.config.workers or default)

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
        try:
            size = measure(self.space, architecture, self.shape)
        except Exception:  # noqa: BLE001 (a broken architecture gets its reason when it is trained)
            size = Size(0, 0)
        return Candidate(self.space.key(architecture), architecture, phase, index, size, fixed.distributions)

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
        """Train candidates, each in a draw, and record them in the study of `signal`."""

        def jobs() -> Iterator[tuple[int, Job]]:
            for candidate, draw in tasks:
                yield self.ledger.begin(signal, candidate, draw), job(candidate, draw)

        for number, result in self.pool.run(jobs()):
            self.ledger.finish(signal, number, result)
            if isinstance(result, Outcome) and result.note and result.note not in self._told:
                self._told.add(result.note)
                self.progress.say(result.note)
            done(result)

    def close(self) -> None:
        """Stop the workers, close open trials and remove working files; checkpoints stay."""
        made = vars(self)
        if "pool" in made:
            self.pool.__exit__(None, None, None)
        # Before the ledger, which may need the space on a full disk.
        for path in made.get("_written", ()):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.run.work.rmdir()
        if "ledger" in made:
            self.ledger.close_interrupted()
            self.ledger.close()


@contextlib.contextmanager
def open_session(run: RunFolder, progress: Progress = SILENT, ranks: Ranks = ALONE) -> Iterator[Session]:
    """Hold the run folder and work in it."""
    with run.lock(), explained(run / "study.db"):
        session = Session(run, progress, ranks)
        try:
            yield session
        finally:
            session.close()
