"""What a command would do, and about how long it will take: settings in, an `Estimate` out, within a minute.

A bound by FLOPs comes at once; where that may be more than a few minutes it is refined by a few small measurements, see
`nas_proxy.pipeline.speeds`. A few images are read, whatever there is. Nothing is written into the run folder, which
need not exist.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas_proxy.data.splits import Counts
from nas_proxy.names import TRUTH
from nas_proxy.pipeline.checks import check
from nas_proxy.pipeline.forecast import Done, Estimate, Speeds, forecast
from nas_proxy.pipeline.forecast_text import first_sight, told
from nas_proxy.pipeline.problem import Prospect, open_prospect
from nas_proxy.pipeline.speeds import coarse, measured, sized
from nas_proxy.pipeline.work import open_executor
from nas_proxy.progress import SILENT, Progress
from nas_proxy.runs.folder import RunFolder, check_same
from nas_proxy.runs.settings import RunConfig, default_folder
from nas_proxy.signals.signal import SmallSet, plan_of
from nas_proxy.signals.stored_names import set_path, study_of
from nas_proxy.storage.location import existing, study_name
from nas_proxy.storage.read_only import open_studies, readable
from nas_proxy.storage.records import LATENCY, finished

# Seconds that a run may take at most for the coarse estimate to do, and from which on it is told how to shorten it.
SHORT, LONG = 300.0, 1800.0
# The least that a setting is shortened to.
LEAST = {"condense.steps": 50, "full_training.epochs": 5.0, "proxy_training.epochs": 20.0, "truth": 8, "trials": 12}
LEAST_LIMIT = 100
# What a stage takes grows with these settings, of which the first are the least missed.
SHORTENS = {
    "read": ("limit",),
    "condense": ("condense.steps",),
    "search": ("proxy_training.epochs", "trials"),
    "truth": ("full_training.epochs", "limit", "truth"),
    "rank": ("proxy_training.epochs", "truth"),
}


@dataclass(frozen=True)
class Outlook:
    """An estimate, and where it is long the settings by which it becomes shorter, as `RunConfig` calls them."""

    estimate: Estimate
    shorter: Mapping[str, float]
    then: Estimate | None

    def text(self) -> str:
        """Return it in lines for a reader."""
        return told(self.estimate, self.shorter, self.then)

    def as_json(self) -> dict[str, object]:
        """Return the object that `--dry-run --json` prints."""
        then = None if self.then is None else asdict(self.then.seconds)
        return {**self.estimate.as_json(), "shorter": {"settings": dict(self.shorter), "seconds": then}}


def estimate_run(
    config: RunConfig, out: Path | None, stages: Sequence[str], *, overwrite: bool = False, progress: Progress = SILENT
) -> Outlook:
    """Return what the same command without `--dry-run` has to do; its mistakes are raised here as there."""
    run = RunFolder(out or default_folder(config), config)
    if not overwrite:
        check_same(run)
    prospect = open_prospect(config, progress)
    check(prospect)
    return foresee(run, prospect, stages, progress, overwrite=overwrite)


def announce(
    run: RunFolder, prospect: Prospect, stages: Sequence[str], progress: Progress, *, overwrite: bool = False
) -> None:
    """Say what a command is about to do and how long that takes, before it does."""
    if progress is SILENT or not set(stages) & {"condense", "search", "truth", "rank"}:
        return
    found = foresee(run, prospect, stages, progress, overwrite=overwrite)
    progress.say(found.text())


def foresee(
    run: RunFolder, prospect: Prospect, stages: Sequence[str], progress: Progress, *, overwrite: bool = False
) -> Outlook:
    """Estimate what is left to be done in `stages`, and find how to shorten it where it is long.

    overwrite: nothing that is there counts.
    """
    config, done = run.config, Done({}) if overwrite else done_in(run)

    def estimate_of(speeds: Speeds, config: RunConfig = config, counts: Counts = prospect.counts) -> Estimate:
        return forecast(config, counts, prospect.shape.classes, prospect.space.size, speeds, stages, done)

    sample = sized(prospect)
    with open_executor(config, prospect.device) as executor:
        speeds = coarse(prospect, executor.count, sample)
        found = estimate_of(speeds)
        if found.seconds.high > SHORT:
            progress.say(first_sight(found))
            speeds = measured(prospect, executor, speeds, sample if found.parts else (), progress)
            found = estimate_of(speeds)
    if found.seconds.value <= LONG or config.compare is not None:
        return Outlook(found, {}, None)
    shorter, then = shortened(config, prospect.counts, lambda config, counts: estimate_of(speeds, config, counts))
    return Outlook(found, shorter, then)


def done_in(run: RunFolder) -> Done:
    """Return what a run or comparison has done."""
    plan, path = plan_of(run.config), run.path
    made = frozenset(
        signal.name
        for signal in plan.trained
        if isinstance(signal.source, SmallSet)
        and all(set_path(path, signal.name, draw).exists() for draw in range(signal.draws))
    )
    place = existing(path)
    if place is None:
        return Done({}, made)
    studies = {signal.name: study_of(plan, signal) for signal in plan.trained} | {TRUTH: TRUTH, LATENCY: LATENCY}
    with readable(place):
        storage = open_studies(path)
        ids = {study.study_name: study._study_id for study in storage.get_all_studies()}
        own = {name: ids.get(study_name(place, study)) for name, study in studies.items()}
        trials = {n: storage.get_all_trials(study, deepcopy=False) for n, study in own.items() if study is not None}
    timed = sum(trial.state.is_finished() for trial in trials.pop(LATENCY, []))
    return Done({name: len(finished(each)) for name, each in trials.items()}, made, timed)


def shortened(
    config: RunConfig, counts: Counts, estimate_of: Callable[[RunConfig, Counts], Estimate], seconds: float = LONG
) -> tuple[dict[str, float], Estimate]:
    """Halve what the longest stage depends on, over and over, until all takes `seconds`; return what was changed.

    Ends earlier where nothing more can sensibly be halved.
    """
    changed: dict[str, float] = {}
    found = estimate_of(config, counts)
    classes = max(1, counts.train // max(1, counts.smallest))
    limit = (counts.train + counts.validation) // classes
    while found.seconds.value > seconds:
        stages = sorted(found.by_stage, key=lambda stage: -found.by_stage[stage].value)
        names = (name for stage in stages for name in SHORTENS[stage])
        halved = ((name, value) for name in names if (value := _halved(config, name, limit)) is not None)
        name, value = next(halved, ("", 0.0))
        if not name:
            break
        changed[name] = value
        if name == "limit":
            share, limit = value / limit, int(value)
            counts = Counts(**{part: int(share * number) for part, number in asdict(counts).items()})
        else:
            config = _with(config, name, value)
        found = estimate_of(config, counts)
    return changed, found


def _halved(config: RunConfig, name: str, limit: int) -> float | None:
    """Return half of a setting, None where that would be too little."""
    if name == "limit":
        half = round(limit / 2, 2 - len(str(limit // 2)))  # two digits
        return half if half >= LEAST_LIMIT else None
    table, _, field = name.rpartition(".")
    value = getattr(getattr(config, table) if table else config, field)
    half = value // 2 if value >= 8 else value / 2
    return half if half >= LEAST[name] and (name != "trials" or half >= config.truth) else None


def _with(config: RunConfig, name: str, value: float) -> RunConfig:
    """Return the settings with another value, of the type that the setting has."""
    table, _, field = name.rpartition(".")
    of = getattr(config, table) if table else config
    changed: Any = replace(of, **{field: type(getattr(of, field))(value)})
    whole: dict[str, Any] = {table: changed}
    return replace(config, **whole) if table else changed
