"""What a command has left to do, and how long that takes: settings, counts and speeds in, an `Estimate` out.

Arithmetic alone: nothing is measured or opened here, so other settings on the same data can be tried out with the same
`Speeds`, as a planner does. Every time is a `Span`; `nas_proxy.pipeline.speeds` says where they come from.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from nas_proxy.condensation.patches import effort
from nas_proxy.condensation.selection import FEATURE_RECIPE
from nas_proxy.data.splits import Counts
from nas_proxy.names import PROXY, TRUTH
from nas_proxy.pipeline.pool import GROWTH
from nas_proxy.ranking.surrogate import CONDITIONED, LEARNT
from nas_proxy.runs.settings import RunConfig
from nas_proxy.signals.signal import EqualCost, Plan, Signal, SmallSet, plan_of
from nas_proxy.storage.records import LATENCY

# By how much an estimate may be off, from FLOPs alone and from measurements.
COARSE, MEASURED = 6.0, 1.6
# A forward pass, in parts of a training step of the same images; and a synthetic image's step, in forward passes.
FORWARD, THERE_AND_BACK = 1 / 3, 3
# Images of a score without training, in training steps; and its seconds beside them.
SCORED, SCORING = 24, 0.005
# Seconds of a round's choice on one core: of fitting a model to `LEARNT` trainings or more, and of each architecture of
# the pool by a model that rests on `CONDITIONED`; with fewer trainings both take less.
CHOICE, BELIEF = 1.0, 1.5e-4


@dataclass(frozen=True)
class Span:
    """An estimate, between the bounds in which it should be."""

    value: float
    low: float
    high: float

    def __add__(self, other: "Span") -> "Span":
        return Span(self.value + other.value, self.low + other.low, self.high + other.high)

    def times(self, factor: float) -> "Span":
        """Return so many times as much."""
        return Span(self.value * factor, self.low * factor, self.high * factor)


def within(value: float, factor: float) -> Span:
    """Return `value` with bounds that are `factor` times less and more."""
    return Span(value, value / factor, value * factor)


NOTHING = Span(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Speeds:
    """Seconds of one of each thing, on this machine with this data and space.

    image: of a training step, by images in it: of a mean architecture in one worker, with all workers busy. start: of
    a training, without its steps. embedded: of an image's forward pass through an embedding network, with its share
    of a step; condense_start: once, for compiling. taught: of an image in a training step of the network that chooses
    patches or real images. timing: of an architecture's latency. read: of all images.
    judging: of starting workers, judging and reporting.
    memory_mb: that a training needs beyond what a worker needs anyway; condense_mb: that condensing needs.
    measured: architectures that it comes from, 0 where it is counted from FLOPs alone. failed: reasons of others.
    fastest: seconds of an image in a training step for each FLOP, by the architecture that takes least for its own;
    None where nothing is measured.
    """

    image: Span
    start: Span
    embedded: Span
    condense_start: Span
    taught: Span
    timing: Span
    read: Span
    judging: Span
    workers: int
    memory_mb: Span | None = None
    condense_mb: float | None = None
    measured: int = 0
    failed: tuple[str, ...] = ()
    fastest: float | None = None


@dataclass(frozen=True)
class Done:
    """What is there already: finished trainings by signal, signals whose sets are made, architectures timed."""

    trainings: Mapping[str, int]
    sets: frozenset[str] = frozenset()
    timed: int = 0


@dataclass(frozen=True)
class Part:
    """What is left of one signal, or of a stage: its number, image passes of all, and seconds with all workers."""

    trainings: int
    image_passes: int
    seconds: Span


@dataclass(frozen=True)
class Estimate:
    """What is to be done.

    condense: its steps, and those in which a network learns to choose images; None where there are none. latencies:
    None where none are to be measured. parts: the trainings by signal, "truth" for full training. choices: rounds that
    are chosen together, by signal as well. scores: seconds of the pool's scores by untrained networks. other: of
    reading, judging and reporting. seconds: of all. saves: seconds of training what the search trains fully with one
    seed, instead of on the lead signal's images. speeds: what it is made from.
    """

    condense: Part | None
    latencies: Part | None
    parts: Mapping[str, Part]
    choices: Mapping[str, Part]
    scores: Span
    other: Span
    seconds: Span
    saves: float
    speeds: Speeds

    @property
    def by_stage(self) -> dict[str, Span]:
        """Seconds of each stage of `nas_proxy.pipeline.stages` but the last; reading is told as "read"."""
        of_search = (self.parts.get(PROXY), self.latencies, self.choices.get(PROXY))
        of_truth = (self.parts.get(TRUTH), self.choices.get(TRUTH))
        search, truth = (sum((p.seconds for p in of if p is not None), NOTHING) for of in (of_search, of_truth))
        rank = sum((part.seconds for name, part in self.parts.items() if name not in {PROXY, TRUTH}), NOTHING)
        return {
            "read": self.speeds.read,
            "condense": self.condense.seconds if self.condense is not None else NOTHING,
            "search": search + self.scores,
            "truth": truth,
            "rank": rank + self.speeds.judging,
        }

    @property
    def pays(self) -> bool:
        """Whether condensing takes less than the full training that it saves."""
        return self.condense is None or self.condense.seconds.value < self.saves

    def as_json(self) -> dict[str, object]:
        """Return the object that `--dry-run --json` prints."""
        told = asdict(self)
        return {**told, "stages": {name: asdict(span) for name, span in self.by_stage.items()}}


def forecast(
    config: RunConfig,
    counts: Counts,
    classes: int,
    size: int | None,
    speeds: Speeds,
    stages: Sequence[str],
    done: Done,
) -> Estimate:
    """Return what is left to be done in `stages`. size: architectures of the space, None where that is not known."""
    plan = plan_of(config)
    left = _left(config, plan, size, stages, done)
    condense = _condense(plan, classes, counts, speeds, done) if "condense" in stages else None
    parts: dict[str, Part] = {}
    for name, number in left.items():
        if number:
            parts[name] = _trainings(config, plan, name, number, counts, classes, speeds)
    latencies = None
    untimed = _timings(config, size, stages) - done.timed if timed(config) else 0
    if untimed > 0:
        latencies = Part(untimed, 0, speeds.timing.times(untimed))
    choices = _choices(config, size, stages, done)
    other = speeds.read if condense or parts else NOTHING
    scores = _scores(config, plan, size, speeds) if config.compare is None and PROXY in parts else NOTHING
    if "rank" in stages:
        other += speeds.judging
    spans = [part.seconds for part in (condense, latencies, *parts.values(), *choices.values()) if part]
    saves = _saved(config, plan, size, counts, classes, speeds)
    return Estimate(condense, latencies, parts, choices, scores, other, sum(spans, other + scores), saves, speeds)


def _scores(config: RunConfig, plan: Plan, size: int | None, speeds: Speeds) -> Span:
    """Return the seconds of the pool's scores by untrained networks; those that are kept count again, for little."""
    number = config.pool_size if size is None else min(config.pool_size, size)
    each = speeds.image.times(SCORED) + within(SCORING, 3.0)
    return each.times(number * len(plan.computed) / speeds.workers)


def _timings(config: RunConfig, size: int | None, stages: Sequence[str]) -> int:
    """Return how many architectures are timed: the pool as it grows, and what samplers propose beside it."""
    if config.compare is not None:
        return config.sample if "search" in stages else 0
    generation, by_vote = math.ceil(GROWTH * config.pool_size), config.sampler == "ei"
    number = max(config.trials, config.sample) if "search" in stages else 0
    if "search" in stages and by_vote:
        number = max(number, config.pool_size + generation)
    if "truth" in stages:
        number = max(number, config.pool_size + (2 if by_vote else 1) * generation)
    return number if size is None else min(number, size)


def _choices(config: RunConfig, size: int | None, stages: Sequence[str], done: Done) -> dict[str, Part]:
    """Return the rounds that a model of all results chooses: of proposals for the proxy, and of full trainings."""
    if config.compare is not None:
        return {}
    on_proxy, fully = (
        number if size is None else min(number, size) for number in (max(config.trials, config.sample), config.truth)
    )
    trained, known = max(config.sample, done.trainings.get(PROXY, 0)), done.trainings.get(TRUTH, 0)
    pool = max(config.pool_size if size is None else min(config.pool_size, size), on_proxy)
    rounds: dict[str, tuple[int, int]] = {}
    if "search" in stages and config.sampler == "ei":
        rounds[PROXY] = (trained, on_proxy - trained)
    if "truth" in stages:
        rounds[TRUTH] = (on_proxy + known, fully - known)
    found: dict[str, Part] = {}
    for name, (before, number) in rounds.items():
        if number > 0:
            times = math.ceil(number / config.round_size)
            trainings = before + number / 2
            each = CHOICE * min(trainings / LEARNT, 1.0) ** 2 + BELIEF * pool * min(trainings / CONDITIONED, 1.0)
            found[name] = Part(times, 0, within(each * times, 3.0))
    return found


def timed(config: RunConfig) -> bool:
    """Return whether the latencies of architectures are measured."""
    return config.max_latency_ms is not None or LATENCY in config.objective


def _left(config: RunConfig, plan: Plan, size: int | None, stages: Sequence[str], done: Done) -> dict[str, int]:
    """Return how many trainings of each signal are not done; those that fail in the sample come on top."""
    wanted: dict[str, int] = {}
    for signal in plan.trained:
        leads = signal.name == plan.lead
        number = max(config.trials, config.sample) if leads and config.compare is None else config.sample
        if size is not None:
            number = min(number, size)
        rest = config.sample if size is None else min(config.sample, size)
        wanted[signal.name] = (number if leads else rest) + (signal.draws - 1) * rest
        if ("search" if leads else "rank") not in stages:
            wanted[signal.name] = 0
    if "truth" in stages and config.truth_table is None:
        fully, judged = (number if size is None else min(number, size) for number in (config.truth, config.sample))
        # Further seeds of what judges, and of the pick where that is not among it.
        wanted[TRUTH] = fully + (config.seeds_of_truth - 1) * min(fully, judged + (fully > judged))
    return {name: max(0, number - done.trainings.get(name, 0)) for name, number in wanted.items()}


def _condense(plan: Plan, classes: int, counts: Counts, speeds: Speeds, done: Done) -> Part | None:
    """Return the steps of all sets that are learnt or whose choice is, and their time; None where there are none."""
    steps, seconds = 0, NOTHING
    for signal in plan.trained:
        source = signal.source
        if not isinstance(source, SmallSet) or signal.name in done.sets:
            continue
        recipe = source.recipe
        if recipe.learnt:
            real = min(recipe.real_batch, counts.train / classes)
            one = speeds.embedded.times(classes * (real + THERE_AND_BACK * recipe.per_class) * recipe.steps)
            steps += signal.draws * recipe.steps
            seconds += (one + speeds.condense_start).times(signal.draws)
        elif recipe.patched:
            work = effort(recipe, [round(counts.train / classes)] * classes, recipe.patches_across or 1)
            passes = work.training_passes + FORWARD * sum(work.crops)
            steps += signal.draws * work.training_steps
            seconds += (speeds.start + speeds.taught.times(passes)).times(signal.draws)
        elif recipe.compared:
            passes = FEATURE_RECIPE.image_passes(counts.train) + FORWARD * counts.train
            steps += signal.draws * FEATURE_RECIPE.steps(counts.train)
            seconds += (speeds.start + speeds.taught.times(passes)).times(signal.draws)
    return Part(steps, 0, seconds) if steps else None


def _trainings(
    config: RunConfig, plan: Plan, name: str, number: int, counts: Counts, classes: int, speeds: Speeds
) -> Part:
    if name == TRUTH:
        passes, seeds = config.full_training.image_passes(counts.train), 1
        each = _training(speeds, passes, _judged(config, counts))
    else:
        signal = plan[name]
        passes, seeds = passes_on_set(config, plan, classes), signal.seeds
        each = _training(speeds, passes, counts.validation).times(seeds) + _making(
            plan, signal, classes, counts, speeds
        )
    return Part(number, number * seeds * passes, each.times(number / min(speeds.workers, number)))


def _judged(config: RunConfig, counts: Counts) -> int:
    """Return on how many images a full training is scored: a run's search sees those of validation."""
    return counts.test + (counts.validation if config.compare is None else 0)


def passes_on_set(config: RunConfig, plan: Plan, classes: int) -> int:
    """Return the image passes of a training on a set."""
    if plan.passes is not None:
        return plan.passes
    return config.proxy_training.image_passes(config.condense.per_class * classes)


def _making(plan: Plan, signal: Signal, classes: int, counts: Counts, speeds: Speeds) -> Span:
    """Return what a training at the whole cost of another signal takes more: its share of making that one's set."""
    if not isinstance(signal.source, EqualCost):
        return NOTHING
    target = plan[signal.source.target]
    made = _condense(Plan((target,), None), classes, counts, speeds, Done({}))
    return NOTHING if made is None else made.seconds.times(1 / target.draws / plan.sharing)


def _training(speeds: Speeds, passes: int, scored: int) -> Span:
    """Return the seconds of a training of so many image passes that is scored on so many images."""
    return speeds.start + speeds.image.times(passes + FORWARD * scored)


def _saved(config: RunConfig, plan: Plan, size: int | None, counts: Counts, classes: int, speeds: Speeds) -> float:
    number = max(config.trials, config.sample)
    number = number if size is None else min(number, size)
    on_set = _training(speeds, passes_on_set(config, plan, classes), counts.validation).value * config.seeds
    fully = _training(speeds, config.full_training.image_passes(counts.train), _judged(config, counts)).value
    return (fully - on_set) * number / min(speeds.workers, number)
