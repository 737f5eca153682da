"""What a command would train, and about how long it will take: settings in, an `Estimate` out.

A few architectures of the uniform sample are trained for a few steps, twice, in as many workers as the command would
have; the difference of the two is the steps, and the rest is building and scoring the network. Condensation takes a
few of its steps. Nothing is written into the run folder, which need not exist.
"""

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from nas_proxy.condensation.estimate import estimate as estimate_condensation
from nas_proxy.data.images import ImageSet
from nas_proxy.data.splits import random_subset
from nas_proxy.errors import RunFailedError
from nas_proxy.pipeline.checks import check
from nas_proxy.pipeline.problem import Problem, open_problem
from nas_proxy.pipeline.scoring import base_images
from nas_proxy.pipeline.work import make_trainer, open_executor
from nas_proxy.progress import SILENT, Progress
from nas_proxy.runs.folder import RunFolder, check_same
from nas_proxy.runs.settings import RunConfig, default_folder
from nas_proxy.search.candidates import Stream
from nas_proxy.search.trainer import Trainer
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.signals.signal import RANDOM_DRAWS, TRUTH_BEST, TRUTH_SEEDS
from nas_proxy.storage.location import existing, study_name
from nas_proxy.storage.read_only import open_studies, readable
from nas_proxy.storage.records import TRAINED, Record, finished
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.executor import Executor
from nas_proxy.training.jobs import Job
from nas_proxy.training.memory_limit import MB
from nas_proxy.training.train import Outcome, Recipe

# Architectures that are measured, and at most how many are tried for them.
ARCHITECTURES, TRIED = 5, 20
# Steps of the shorter training, least and most of the longer one, and the seconds that it should take.
SHORT, LEAST, MOST, SECONDS = 4, 24, 200, 1.0
# Steps of the condensation that are taken and count.
CONDENSE_STEPS = 6
# Batches of a full training's images that are kept for measuring.
BATCHES = 20


@dataclass(frozen=True)
class Span:
    """An estimate with the bounds in which it should be 19 times of 20, None where one architecture was measured."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Part:
    """The trainings of one signal that are not done: their number, those of them that a seed takes, and their time.

    image_passes: of all of them. seconds: by the clock, with all workers.
    """

    trainings: int
    image_passes: int
    seconds: Span


@dataclass(frozen=True)
class Estimate:
    """What is to be done.

    condense: seconds and steps, None where there is nothing to be learnt. parts: by signal. seconds: of all.
    memory_mb: a worker needs while it trains, beyond what it needs anyway; the bounds are the least and the most seen.
    measured: architectures that the estimate is from. failed: of those tried for it, the reasons.
    """

    condense: Mapping[str, Any] | None
    parts: Mapping[str, Part]
    seconds: Span
    memory_mb: Span | None
    workers: int
    measured: int
    failed: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--dry-run --json` prints."""
        return asdict(self)


@dataclass(frozen=True)
class Speed:
    """What the measured architectures took. fixed, step: seconds, of each. memory: bytes, the most of each."""

    fixed: Sequence[float]
    step: Sequence[float]
    memory: Sequence[int]

    def seconds(self, steps: int) -> list[float]:
        """Return what a training of so many steps takes, for each architecture."""
        return [fixed + steps * step for fixed, step in zip(self.fixed, self.step, strict=True)]


def estimate(run: RunFolder, trainer: Trainer, problem: Problem, stages: Sequence[str]) -> Estimate:
    """Return what is left to be done in `stages`. Raises RunFailedError where no architecture could be measured."""
    config, left = run.config, _left(run, trainer, stages)
    train, workers = problem.data.train, trainer.executor.count
    images = base_images(config, len(train.classes))
    missing = "condense" in stages and not (run / "proxy.safetensors").exists()
    condensing = _condensing(problem, trainer.progress) if missing else None
    if not any(left.values()):
        return Estimate(condensing, {}, _sum([], condensing), None, workers, 0, ())
    with tempfile.TemporaryDirectory() as folder:
        measured_on_proxy, measured_on_all, failed = _measured(trainer, problem, Path(folder), full=left["truth"] > 0)
    parts: dict[str, Part] = {}
    for signal, number in left.items():
        if number == 0:
            continue
        full = signal == "truth"
        recipe = config.full_training if full else config.proxy_training
        count = len(train) if full else images
        seeds = 1 if full else config.seeds
        speed = measured_on_all if full else measured_on_proxy
        assert speed is not None
        spent = [seeds * seconds for seconds in speed.seconds(recipe.steps(count))]
        passes = number * seeds * recipe.image_passes(count)
        parts[signal] = Part(number, passes, predicted(spent, number, _lanes(trainer.executor, problem.device)))
    known = [speed for speed in (measured_on_proxy, measured_on_all) if speed is not None]
    memory = [most / MB for speed in known for most in speed.memory]
    return Estimate(
        condense=condensing,
        parts=parts,
        seconds=_sum([part.seconds for part in parts.values()], condensing),
        memory_mb=Span(statistics.fmean(memory), min(memory), max(memory)),
        workers=workers,
        measured=len(measured_on_proxy.step),
        failed=failed,
    )


def _sum(spans: Sequence[Span], condensing: Mapping[str, Any] | None) -> Span:
    """Add up; the bounds add up too, since all of them come from the same architectures."""
    fixed = 0.0 if condensing is None else float(condensing["seconds"])

    def added(ends: list[float | None]) -> float | None:
        known = [end for end in ends if end is not None]
        return fixed + sum(known) if len(known) == len(ends) else None

    low, high = added([span.low for span in spans]), added([span.high for span in spans])
    return Span(fixed + sum(span.value for span in spans), low, high)


def _lanes(executor: Executor, device: str) -> int:
    """Return how many trainings' seconds pass at a time: those of workers, or of the GPUs that workers share."""
    devices = set(executor.devices) or {device}
    return executor.count if "cpu" in devices else len(devices)


def predicted(spent: Sequence[float], number: int, workers: int) -> Span:
    """Return the seconds of `number` trainings, from what some of them, drawn at random, have `spent`.

    The bounds are those of a normal distribution's prediction interval for the mean of `number` more.
    """
    mean, n = statistics.fmean(spent), len(spent)
    at_once = min(workers, number)
    if n == 1:
        return Span(number * mean / at_once, None, None)
    deviation = statistics.stdev(spent) * math.sqrt(1 / n + 1 / number)
    arm = float(student.ppf(0.975, n - 1)) * deviation
    value, low, high = (number * max(0.0, value) / at_once for value in (mean, mean - arm, mean + arm))
    return Span(value, low, high)


def _left(run: RunFolder, trainer: Trainer, stages: Sequence[str]) -> dict[str, int]:
    """Return how many trainings of each signal are not done; those that fail in the sample come on top."""
    config, done = run.config, _done(run)
    found = min(TRUTH_BEST, max(0, config.trials - config.truth))
    wanted = {
        "proxy": max(config.trials, config.truth) if "search" in stages else 0,
        "random": RANDOM_DRAWS * config.truth if "rank" in stages else 0,
        "early_stop": config.truth if "rank" in stages else 0,
        "truth": TRUTH_SEEDS * (config.truth + found) if "truth" in stages and config.truth_table is None else 0,
    }
    size = trainer.space.size
    if size is not None:
        wanted["proxy"] = min(wanted["proxy"], size)
    return {signal: max(0, number - len(done[signal])) for signal, number in wanted.items()}


def _done(run: RunFolder) -> dict[str, list[Record]]:
    place = existing(run.path)
    if place is None:
        return {signal: [] for signal in TRAINED}
    with readable(place):
        storage = open_studies(run.path)
        ids = {study.study_name: study._study_id for study in storage.get_all_studies()}
        own = {signal: ids.get(study_name(place, signal)) for signal in TRAINED}
        return {
            signal: [] if number is None else finished(storage.get_all_trials(number, deepcopy=False))
            for signal, number in own.items()
        }


def _condensing(problem: Problem, progress: Progress) -> dict[str, Any] | None:
    """Take a few steps of the condensation; None where it learns nothing."""
    recipe, config = problem.config.condense, problem.config
    if recipe.source is not None or recipe.method != "dm":
        return None
    with progress.stage("Measure condensing", 1) as bar:
        found = estimate_condensation(
            problem.data.train,
            recipe,
            config.seed,
            device=problem.device,
            space=problem.whole_space,
            classes_per_step=config.classes_per_step,
            steps=min(CONDENSE_STEPS, recipe.steps),
        )
        bar.to(1)
    return {
        "steps": found.steps,
        "seconds": found.seconds,
        "seconds_per_step": found.seconds_per_step,
        "memory_mb": None if found.memory_bytes is None else found.memory_bytes / MB,
    }


def _measured(trainer: Trainer, problem: Problem, folder: Path, *, full: bool) -> tuple[Speed, Speed | None, list[str]]:
    """Return the speed of trainings on as many images as the proxy has and, if asked for, of full ones."""
    config, train, space = problem.config, problem.data.train, trainer.space
    small, large, validation = folder / "proxy", folder / "train", folder / "validation"
    several = config.condense.images_per_class * config.condense.formation**2
    random_subset(train, several, torch_generator(config.seed, "random", 0)).save(small)
    problem.data.validation.save(validation)
    kinds: list[tuple[Path, Recipe]] = [(small, config.proxy_training)]
    if full:
        each = -(-BATCHES * config.full_training.batch_size // len(train.classes))
        smallest = min(map(len, train.of_class()))
        random_subset(train, min(each, smallest), torch_generator(config.seed, "estimate")).save(large)
        kinds.append((large, config.full_training))

    def jobs(steps: Mapping[tuple[str, int], int]) -> Iterator[tuple[tuple[str, int], Job]]:
        for (key, kind), number in steps.items():
            path, recipe = kinds[kind]
            images = len(ImageSet.load(path).unpacked())
            shorter = replace(recipe, epochs=number * recipe.batch(images) / images)
            seed = derive(config.seed, "estimate", key)
            job = Job(config.space, architectures[key], path, validation, shorter, seed, problem.device)
            yield (key, kind), replace(job, minutes=config.candidate_minutes, megabytes=math.inf)

    stream = Stream(space, config.seed)
    architectures = {space.key(a): dict(a) for a in islice(stream, TRIED)}
    latencies = trainer.latencies
    failure = latencies.failure if latencies is not None else lambda _: None
    untimed = {key: reason for key, a in architectures.items() if (reason := failure(a)) is not None}
    failed = list(untimed.values())
    chosen: list[str] = []
    short: dict[tuple[str, int], Outcome] = {}
    pool = trainer.executor
    with trainer.progress.stage("Measure training", 2 * ARCHITECTURES * len(kinds)) as bar:
        waiting = [key for key in architectures if key not in untimed]
        while len(chosen) < ARCHITECTURES and waiting:
            keys, waiting = waiting[: ARCHITECTURES - len(chosen)], waiting[ARCHITECTURES - len(chosen) :]
            tried = dict(pool.run(jobs({(key, kind): SHORT for key in keys for kind in range(len(kinds))})))
            for key in keys:
                results = [tried[key, kind] for kind in range(len(kinds))]
                reasons = [result.reason for result in results if not isinstance(result, Outcome)]
                failed += reasons[:1]
                if not reasons:
                    chosen.append(key)
            short |= {tag: result for tag, result in tried.items() if isinstance(result, Outcome)}
            bar.to(len(chosen) * len(kinds))
        if not chosen:
            raise RunFailedError(f"all {len(architectures)} sampled architectures failed; the last with: {failed[-1]}")
        longer = {tag: _longer(found) for tag, found in short.items() if tag[0] in chosen}
        long: dict[tuple[str, int], Outcome] = {}
        for tag, result in pool.run(jobs(longer)):
            if isinstance(result, Outcome):
                long[tag] = result
            bar.to(len(chosen) * len(kinds) + len(long))
    speeds = [_speed(kind, short, long, longer) for kind in range(len(kinds))]
    return speeds[0], speeds[1] if full else None, failed


def _longer(found: Outcome) -> int:
    """Return how many steps the longer training takes, from what the shorter took."""
    return max(LEAST, min(MOST, math.ceil(SECONDS / (found.seconds / SHORT))))


def _speed(
    kind: int,
    short: Mapping[tuple[str, int], Outcome],
    long: Mapping[tuple[str, int], Outcome],
    steps: Mapping[tuple[str, int], int],
) -> Speed:
    fixed, per_step, memory = [], [], []
    for tag, found in long.items():
        if tag[1] == kind:
            step = max(0.0, (found.seconds - short[tag].seconds) / (steps[tag] - SHORT))
            per_step.append(step)
            fixed.append(max(0.0, found.seconds - steps[tag] * step))
            memory.append(max(found.memory or 0, short[tag].memory or 0))
    return Speed(fixed, per_step, memory)


def estimate_run(
    config: RunConfig, out: Path | None, stages: Sequence[str], *, overwrite: bool = False, progress: Progress = SILENT
) -> Estimate:
    """Return what the same command without `--dry-run` has to do; its mistakes are raised here as there."""
    run = RunFolder(out or default_folder(config), config)
    if overwrite:  # nothing that is there counts
        run = replace(run, path=run.path / f"without-{time.time_ns()}")
    check_same(run)
    problem = open_problem(config, progress)
    check(problem)
    with tempfile.TemporaryDirectory() as folder, open_executor(config, problem.device) as executor:
        # Latencies, which a limit on them needs, are measured for the estimate alone.
        store = TrialStore(Path(folder) / "study.db", objectives=config.objective)
        with contextlib.closing(store):
            trainer = make_trainer(problem, store, executor, progress)
            return estimate(run, trainer, problem, stages)
