"""How fast this machine does what a run does: a prospect in, `Speeds` out, at once or within half a minute.

`coarse` counts FLOPs and divides them by what one convolution does a second. `measured` takes a few steps on one batch
with a few architectures, chosen across the FLOPs of a sample so that their mean is the sample's, and scales them; and
a few steps of condensing (`condensing_speeds.py`). Bounds are wide on purpose: `benchmarks/estimate.py` compares
them with whole runs.
"""

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TypeAlias

import torch
from torch import nn

from nas_proxy.condensation.embedding import Embedding
from nas_proxy.condensation.patches import teaching
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet
from nas_proxy.data.splits import Counts, few_indices
from nas_proxy.errors import RunFailedError
from nas_proxy.pipeline.condensing_speeds import compiling, embedding_speed, teaching_speed
from nas_proxy.pipeline.forecast import COARSE, FORWARD, MEASURED, Span, Speeds, timed, within
from nas_proxy.pipeline.problem import Prospect
from nas_proxy.progress import Progress
from nas_proxy.runs.settings import RunConfig
from nas_proxy.signals.signal import SmallSet, plan_of
from nas_proxy.spaces.convnet import deepest
from nas_proxy.spaces.cost import Sizes
from nas_proxy.spaces.space import Architecture
from nas_proxy.strategy.candidates import Stream
from nas_proxy.threads import one_thread
from nas_proxy.training.executor import Executor
from nas_proxy.training.jobs import Failure, Timing
from nas_proxy.training.memory_limit import MB
from nas_proxy.training.probe import Pace, Probe

# Architectures whose FLOPs are counted, and seconds for all and for one; of those, how many are timed.
COUNTED, COUNTING, ONE_COUNT = 24, 5.0, 2.0
PROBED, TRIED = 4, 12
# What is in the reason of a job that was ended for its time.
LATE = "took longer"
# Seconds of a probe's steps, of its one step by the coarse estimate, and after which it is ended.
STEPPING, ONE_STEP, ENDED = 1.5, 1.0, 20.0
# How often a few images are read, and seconds after which that is enough.
READINGS, READINGS_END = 5, 0.4
# Seconds of a training beside its steps, of timing a latency, and of starting workers, judging and reporting.
STARTING, TIMING, JUDGING = 0.05, 0.5, 8.0
# What a step takes beside its arithmetic, and what reading an image takes.
OVERHEAD, READING = 0.003, 2e-4

# Architectures with the FLOPs of an image's forward pass.
Sample: TypeAlias = Sequence[tuple[Architecture, int]]


def coarse(prospect: Prospect, workers: int, sample: Sample) -> Speeds:
    """Return speeds by FLOPs alone, at once."""
    config = prospect.config
    rate = _rate(prospect.device)
    batch, teaching_batch = config.proxy_training.batch_size, teaching(config.condense).batch_size
    flops = statistics.fmean(flops for _, flops in sample) if sample else 1e7
    embedding = Embedding(prospect.shape, config.condense.width, deepest(prospect.shape, config.condense.depth))
    return Speeds(
        image=within(3 * flops / rate + OVERHEAD / batch, COARSE),
        start=within(STARTING, COARSE),
        embedded=within(2 * embedding.multiply_adds / rate + OVERHEAD / 100, COARSE),
        condense_start=compiling(prospect, config.condense),
        taught=within(3 * 2 * embedding.multiply_adds / rate + OVERHEAD / teaching_batch, COARSE),
        timing=within(TIMING, COARSE),
        read=within(READING * (prospect.counts.train + prospect.counts.validation), COARSE),
        judging=within(JUDGING, 3),
        workers=workers,
    )


def measured(prospect: Prospect, executor: Executor, rough: Speeds, sample: Sample, progress: Progress) -> Speeds:
    """Return speeds from a few small measurements, in the executor's workers.

    sample: as of `sized`; empty where nothing is to be trained. Raises RunFailedError where all architectures fail.
    """
    recipes = list(_recipes(prospect.config))
    condenses = next((recipe for recipe in recipes if recipe.learnt), None)
    chooses = next((recipe for recipe in recipes if recipe.patched or recipe.compared), None)
    with progress.stage("Estimate", PROBED + 2) as bar, tempfile.TemporaryDirectory() as folder:
        read = _reading(prospect)
        bar.to(1)
        embedded, condense_mb = rough.embedded, None
        if condenses is not None:
            embedded, condense_mb = embedding_speed(prospect, condenses)
        taught = rough.taught if chooses is None else teaching_speed(prospect, chooses, rough.taught)
        bar.to(2)
        found: tuple[list[tuple[Pace, int | None]], list[float], list[str]] = ([], [], [])
        if sample:
            found = _paces(prospect, executor, rough, sample, Path(folder), lambda n: bar.to(2 + n))
        bar.to(PROBED + 2)
    timed_paces, timings, failed = found
    paces = [pace for pace, _ in timed_paces]
    if not paces:
        if failed and not any(LATE in reason for reason in failed):
            raise RunFailedError(f"all {len(failed)} sampled architectures failed; the last with: {failed[-1]}")
        known = {"embedded": embedded, "taught": taught, "read": read, "condense_mb": condense_mb}
        return replace(rough, **known, failed=tuple(failed))  # type: ignore[arg-type]
    steps = [pace.step / pace.images for pace in paces]
    spread = statistics.stdev(steps) / statistics.fmean(steps) if len(steps) > 1 else 1.0
    factor = MEASURED * (1 + spread / math.sqrt(len(steps)))
    rates = [pace.step / pace.images / flops for pace, flops in timed_paces if flops]
    memory = [pace.memory / MB for pace in paces if pace.memory is not None]
    return replace(
        rough,
        image=within(statistics.fmean(steps), factor),
        start=within(STARTING + statistics.fmean(pace.start for pace in paces), factor),
        embedded=embedded,
        taught=taught,
        timing=within(statistics.fmean(timings), factor) if timings else rough.timing,
        read=read,
        memory_mb=Span(statistics.fmean(memory), min(memory), max(memory)) if memory else None,
        condense_mb=condense_mb,
        measured=len(paces),
        failed=tuple(failed),
        fastest=min(rates, default=None),
    )


def affordable(
    config: RunConfig, counts: Counts, speeds: Speeds, sample: Sample, seconds: float, least: int
) -> int | None:
    """Return the FLOPs with which no training takes more than some seconds; None where that leaves nothing out.

    speeds: of the sample. least: never fewer.
    """
    flops = [each for _, each in sample]
    if not flops or config.truth_table is not None:
        return None
    passes = max(config.full_training.image_passes(counts.train), FORWARD * counts.validation)
    # Small networks take more than large ones for their FLOPs: by what the fastest takes no large one is wronged.
    rate = speeds.fastest or speeds.image.value / statistics.fmean(flops)
    most = max(seconds / (rate * passes), least)
    return None if most >= max(flops) else max(_two_digits(most), least)


def _two_digits(value: float) -> int:
    return int(round(value, 1 - math.floor(math.log10(max(value, 1)))))


def with_recipe(speeds: Speeds, prospect: Prospect, before: Condensation, to: Condensation) -> Speeds:
    """Return the speeds with another recipe; embedding networks of another width are measured, for a second or two.

    Narrow ones take more time than their multiply-adds tell: on two cores a quarter of the width took a sixth of it.
    """
    if before == to:
        return speeds
    embedded = speeds.embedded if before.width == to.width else embedding_speed(prospect, to)[0]
    return replace(speeds, embedded=embedded, condense_start=compiling(prospect, to))


def sized(prospect: Prospect) -> Sample:
    """Return architectures of the sample with their FLOPs, as many as can be counted in time, the smallest first."""
    until, found = time.monotonic() + COUNTING, []
    with contextlib.closing(Sizes(prospect.space, prospect.shape, ONE_COUNT)) as sizes:
        for architecture in islice(Stream(prospect.space, prospect.config.seed), COUNTED):
            size = sizes.of(architecture)
            if size is not None:  # what cannot be measured fails when it is trained, and is told there
                found.append((architecture, size.flops))
            if time.monotonic() > until:
                break
    return sorted(found, key=lambda one: one[1])


def _rate(device: str) -> float:
    """Return the FLOPs a second of a convolution, there and back, on one thread or on the GPU."""
    with one_thread(), torch.random.fork_rng(devices=[]):
        layer = nn.Conv2d(32, 32, 3, padding=1).to(device)
        images = torch.zeros(16, 32, 16, 16, device=device, requires_grad=True)
        flops, taken = 3 * 2 * 9 * 32 * 32 * 16 * 16 * 16, []
        for _ in range(5):
            began = time.perf_counter()
            float(torch.autograd.grad(layer(images).sum(), [images, layer.weight])[1].sum())  # waits for a GPU
            taken.append(time.perf_counter() - began)
    return flops / min(taken)


def _recipes(config: RunConfig) -> Iterator[Condensation]:
    for signal in plan_of(config).trained:
        if isinstance(signal.source, SmallSet):
            yield signal.source.recipe


def _reading(prospect: Prospect) -> Span:
    """Read a few images once more, which are now in the system's cache, and scale that to all."""
    classes = len(prospect.few.classes)
    of, each = prospect.source, len(prospect.few) // classes
    few = few_indices(of, seed=prospect.config.seed, classes=classes, per_class=each)

    def seconds(number: int) -> list[float]:
        taken: list[float] = []
        while len(taken) < READINGS and sum(taken) < READINGS_END:
            began = time.perf_counter()
            of.read("train", few[:number])
            taken.append(time.perf_counter() - began)
        return taken

    single, several = seconds(1), seconds(len(few))
    # Of a set in memory all take what one takes, and on a busy machine that varies by more than what an image takes.
    longer = min(several) - min(single) if min(several) > max(single) else 0.0
    images = prospect.counts.train + prospect.counts.validation
    return within(min(single) + longer / max(1, len(few) - 1) * images, 3)


def _paces(
    prospect: Prospect, executor: Executor, rough: Speeds, sample: Sample, folder: Path, done: Callable[[int], None]
) -> tuple[list[tuple[Pace, int | None]], list[float], list[str]]:
    """Return the paces of architectures, with their FLOPs where these are known, seconds of timing a latency where that
    is wanted, and reasons of failure.
    """
    config = prospect.config
    chosen = [sample[place][0] for place in across(len(sample), PROBED)]
    chosen += [a for a in islice(Stream(prospect.space, config.seed), TRIED) if a not in chosen]
    _batch(prospect, rough, sample).save(folder / "images")
    flops = {prospect.space.key(architecture): each for architecture, each in sample}
    paces: list[tuple[Pace, int | None]] = []
    failed: list[str] = []
    limits = {"minutes": ENDED / 60, "megabytes": math.inf}
    while len(paces) < PROBED and chosen and not any(LATE in reason for reason in failed):
        now, chosen = chosen[: PROBED - len(paces)], chosen[PROBED - len(paces) :]
        probe = Probe(prospect.spec, {}, folder / "images", config.proxy_training, STEPPING, prospect.device, **limits)
        probes = ((flops.get(prospect.space.key(a)), replace(probe, architecture=dict(a))) for a in now)
        for counted, result in executor.run(probes):
            if isinstance(result, Failure):
                failed.append(result.reason)
            else:
                paces.append((result, counted))
            done(len(paces))
    timings: list[float] = []
    if paces and timed(config):
        for architecture, _ in sample[len(sample) // 2 :][:2]:
            began = time.perf_counter()
            job = Timing(
                prospect.spec, dict(architecture), prospect.shape, prospect.device, config.latency_batch, ENDED / 60
            )
            executor.run_apart(job)
            timings.append(time.perf_counter() - began)
    return paces, timings, failed


def _batch(prospect: Prospect, rough: Speeds, sample: Sample) -> ImageSet:
    """Return the images of a step, fewer than the recipe's where the largest network would take long for them."""
    flops = [each for _, each in sample if each] or [1]
    slowest = rough.image.value * max(flops) / statistics.fmean(flops)
    number = max(2, min(prospect.config.proxy_training.batch_size, len(prospect.few), int(ONE_STEP / slowest)))
    places = torch.linspace(0, len(prospect.few) - 1, number).round().long()
    return replace(prospect.few, classes=prospect.source.classes).select(places)


def across(count: int, wanted: int) -> list[int]:
    """Return `wanted` places spread over a sorted sequence of `count`, each in the middle of its share."""
    if count <= wanted:
        return list(range(count))
    return [int(count * (2 * share + 1) / (2 * wanted)) for share in range(wanted)]
