"""Candidates in, recorded trainings out: what a run needs to train architectures, wherever that is done.

Guarantees: each training is a trial in the store, opened before it begins and closed with its score or its reason;
what the store holds is never trained again; who trains changes no score. Candidates of which something that the run
needs could not be measured fail at once, as they would when they are trained.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from optuna.trial import FixedTrial

from nas_proxy.progress import Progress
from nas_proxy.seeds import derive
from nas_proxy.spaces.cost import Sizes
from nas_proxy.spaces.limits import constraints
from nas_proxy.spaces.loading import Spec
from nas_proxy.spaces.measured import UNMEASURED
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy.latencies import Latencies
from nas_proxy.training.executor import Executor
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.train import Outcome, Recipe

# Candidates and draws, taken as they can be trained; None among them as in `nas_proxy.training.executor.Jobs`.
Tasks = Iterable[tuple[Candidate, int] | None]
MakeJob = Callable[[Candidate, int], Job]
Done = Callable[[Outcome | Failure, Record], None]


@dataclass(frozen=True)
class Limits:
    """The most parameters, FLOPs and milliseconds that a candidate may have; None for no limit."""

    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None


@dataclass(frozen=True)
class Images:
    """What networks train on and are scored on, as files that workers map into memory; made when first asked for.

    train: for each draw. evaluation: held-out images. validation: those that a search may see, where `evaluation` is
    of those that judge.
    """

    train: Callable[[int], Path]
    evaluation: Callable[[], Path]
    validation: Callable[[], Path] | None = None


@dataclass(frozen=True)
class Trainer:
    """Trains architectures of `space`, which workers know as `spec`, on `device`, and records them in `store`.

    seed: of the run, from which those of trainings derive. latencies: measured before a training where the run needs
    them. tell: is told the signal, key, draw and outcome of each training that ends well.
    """

    store: TrialStore
    executor: Executor
    space: SearchSpace
    spec: Spec
    device: str
    seed: int
    sizes: Sizes
    progress: Progress
    limits: Limits = Limits()
    latencies: Latencies | None = None
    tell: Callable[[str, str, int, Outcome], None] = lambda signal, key, draw, outcome: None
    _said: set[str] = field(default_factory=set, repr=False)

    def candidate(self, architecture: Architecture, phase: str, index: int, why: str | None = None) -> Candidate:
        """Return what the store needs to know of an architecture; why: it was proposed."""
        fixed = FixedTrial(dict(architecture))
        self.space.suggest(fixed)
        size, latency, unmeasured = UNMEASURED, None, None
        if self.latencies is not None:
            latency, failure = self.latencies.of(architecture), self.latencies.failure(architecture)
            unmeasured = failure and f"its latency could not be measured: {failure}"
        if unmeasured is None:  # what has failed in a process of its own is not run in this one
            size = self.sizes.of(architecture) or UNMEASURED
            hanging = self.sizes.hanging(architecture)
            unmeasured = hanging and f"its FLOPs could not be counted: it {hanging}"
        above = constraints(size, latency, self.limits.params, self.limits.flops, self.limits.latency_ms)
        key = self.space.key(architecture)
        return Candidate(key, architecture, phase, index, size, fixed.distributions, latency, above, unmeasured, why)

    def job(self, signal: str, candidate: Candidate, draw: int, images: Images, recipe: Recipe) -> Job:
        """Return the training of a candidate in one draw of a signal; its seed derives from both."""
        seed = derive(self.seed, signal, candidate.key, draw)
        architecture = dict(candidate.architecture)
        validation = None if images.validation is None else images.validation()
        job = Job(self.spec, architecture, images.train(draw), images.evaluation(), recipe, seed, self.device)
        return replace(job, validation=validation)

    def train(self, signal: str, tasks: Tasks, job: MakeJob, done: Done) -> None:
        """Train candidates, each in a draw, and record them in the study of `signal`."""

        known: dict[int, tuple[str, int]] = {}

        def finished(number: int, result: Outcome | Failure) -> None:
            record = self.store.finish(signal, number, result)
            told = known.pop(number, None)
            if isinstance(result, Outcome) and told is not None:
                self.tell(signal, *told, result)
            if isinstance(result, Outcome) and result.note and result.note not in self._said:
                self._said.add(result.note)
                self.progress.say(result.note)
            done(result, record)

        def jobs() -> Iterator[tuple[int, Job] | None]:
            for task in tasks:
                if task is None:
                    yield None
                    continue
                candidate, draw = task
                number = self.store.begin(signal, candidate, draw)
                if candidate.unmeasured is not None:
                    finished(number, Failure(candidate.unmeasured))
                    continue
                known[number] = candidate.key, draw
                yield number, job(candidate, draw)

        for number, result in self.executor.run(jobs()):
            finished(number, result)

    def train_draws(
        self,
        title: str,
        signal: str,
        chosen: Sequence[Record | Candidate],
        draws: range,
        images: Images,
        recipe: Recipe,
        seeds: int = 1,
    ) -> None:
        """Train architectures in each of `draws`, but for what the study of `signal` holds already."""
        finished = {(r.key, r.draw) for r in self.store.records(signal)}
        total = len(chosen) * len(draws)
        tasks = [
            (self.candidate(c.architecture, c.phase, c.index, c.why), draw)
            for draw in draws
            for c in chosen
            if (c.key, draw) not in finished
        ]
        with self.progress.stage(title, total) as bar:
            count = total - len(tasks)
            bar.to(count)

            def done(result: Outcome | Failure, record: Record) -> None:
                nonlocal count
                del result, record
                count += 1
                bar.to(count)

            def job(candidate: Candidate, draw: int) -> Job:
                return replace(self.job(signal, candidate, draw, images, recipe), seeds=seeds)

            self.train(signal, tasks, job, done)
