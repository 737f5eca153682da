"""What a command would do, and about how long it will take: settings in, an `Estimate` out, within a minute.

A bound by FLOPs comes at once; where that may be more than a few minutes it is refined by a few small measurements, see
`nas_proxy.pipeline.speeds`. A few images are read, whatever there is. Nothing is written into the run folder, which
need not exist.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.splits import Counts
from nas_proxy.names import PROXY, TRUTH
from nas_proxy.pipeline.budget import (
    PLANNED,
    Plan,
    Takes,
    asked_of,
    floor_of,
    kept_plan,
    makes_other_images,
    others,
    plan_for,
    spent_in,
)
from nas_proxy.pipeline.checks import check, check_room
from nas_proxy.pipeline.forecast import Done, Estimate, Speeds, forecast
from nas_proxy.pipeline.forecast_text import first_sight, flags_of, told
from nas_proxy.pipeline.problem import Prospect, open_prospect, within
from nas_proxy.pipeline.shortening import LONG, shortened
from nas_proxy.pipeline.speeds import affordable, coarse, measured, sized, with_recipe
from nas_proxy.pipeline.work import open_executor
from nas_proxy.progress import SILENT, Progress
from nas_proxy.report.formats import count
from nas_proxy.runs.folder import RunFolder, begun, check_same, open_run
from nas_proxy.runs.settings import RunConfig, default_folder
from nas_proxy.runs.settings_checks import seconds_of
from nas_proxy.signals.signal import SmallSet, plan_of
from nas_proxy.signals.stored_names import set_path, study_of
from nas_proxy.storage.location import existing, study_name
from nas_proxy.storage.read_only import open_studies, readable
from nas_proxy.storage.records import LATENCY, finished
from nas_proxy.training.worker_pool import lanes

# Seconds that a run may take at most for the coarse estimate to do.
SHORT = 300.0
# The largest share of a budget that a training may take.
DEAREST = 0.2
# Those that a budget does not decide itself.
BESIDE_BUDGET = ("full_training.epochs", "proxy_training.epochs", "limit", "pool")


@dataclass(frozen=True)
class Outlook:
    """An estimate, and where it is long the settings by which it becomes shorter, as `RunConfig` calls them."""

    estimate: Estimate
    shorter: Mapping[str, float]
    then: Estimate | None
    plan: Plan | None = None

    def text(self) -> str:
        """Return it in lines for a reader; the plan of a budget first."""
        lines = told(self.estimate, self.shorter, self.then)
        return lines if self.plan is None else f"{self.plan.sentence()}\n{lines}"

    def as_json(self) -> dict[str, object]:
        """Return the object that `--dry-run --json` prints."""
        then = None if self.then is None else asdict(self.then.seconds)
        plan = {} if self.plan is None else {"plan": asdict(self.plan)}
        return {**self.estimate.as_json(), "shorter": {"settings": dict(self.shorter), "seconds": then}, **plan}


def estimate_run(
    config: RunConfig, out: Path | None, stages: Sequence[str], *, overwrite: bool = False, progress: Progress = SILENT
) -> Outlook:
    """Return what the same command without `--dry-run` has to do; its mistakes are raised here as there."""
    folder = out or default_folder(config)
    run = RunFolder(folder, config if overwrite else with_plan(config, folder))
    if not overwrite:
        check_same(run)
    prospect = open_prospect(run.config, progress)
    check(prospect, stages)
    run, prospect, plan, speeds = planned(run, prospect, stages, progress, overwrite=overwrite)
    if not overwrite:
        check_same(run)
    found = foresee(run, prospect, stages, progress, overwrite=overwrite, speeds=speeds)
    return found if plan is None else replace(found, plan=plan)


def with_plan(config: RunConfig, folder: Path) -> RunConfig:
    """Return the settings with the numbers of the plan that a folder keeps, where they have a budget.

    Of a plan for other settings, which may be asked for until something is trained, only the images stay.
    """
    plan = kept_plan(folder)
    if config.budget is None or plan is None:
        return config
    if plan.is_for(config):
        return plan.settings(config)
    return replace(config, condense=plan.settings(config).condense) if begun(folder) else config


def planned(
    run: RunFolder, prospect: Prospect, stages: Sequence[str], progress: Progress, *, overwrite: bool = False
) -> tuple[RunFolder, Prospect, Plan | None, Speeds | None]:
    """Return run and prospect with what the budget leaves room for, the plan, and the speeds that it is made with.

    Without a budget, or for stages that do not search, the run as it is. A plan that the folder keeps of the same
    budget, and for the same settings, is not made again.
    """
    config = run.config
    if config.budget is None or not {"search", "truth"} <= set(stages):
        if config.budget is not None and "search" in stages:
            check_room(prospect)
        return run, prospect, None, None
    kept = None if overwrite else kept_plan(run.path)
    if kept is not None and (makes_other_images(config, kept) or not kept.is_for(config)):
        kept = None  # either may be asked for as long as nothing is made, or trained
    asked = asked_of(config, kept)
    if kept is not None and seconds_of(kept.budget) >= seconds_of(config.budget):
        if seconds_of(kept.budget) > seconds_of(config.budget):
            progress.say(f"The plan is that of --budget {kept.budget}; the search ends by --budget {config.budget}.")
        check_room(prospect)
        return run, prospect, kept, None
    done = Done({}) if overwrite else done_in(run)
    trained, before = done.trainings.get(PROXY, 0) > 0, kept
    if kept is None and not overwrite and begun(run.path):  # made without a plan, or by one for other settings
        before = floor_of(config, open_run(run.path).config if trained else None)
    spent = 0.0 if overwrite else spent_in(run.path)
    speeds = _speeds(prospect, progress, lambda found: found.seconds.high > SHORT, run, stages, done)

    if kept is None and not trained and config.max_flops is None:
        prospect, speeds = _affordable(run, prospect, speeds, progress)
        config = prospect.config
    number = prospect.number

    @functools.cache
    def of_width(width: int) -> Speeds:
        return with_recipe(speeds, prospect, config.condense, replace(config.condense, width=width))

    def by(recipe: Condensation) -> Speeds:
        same = replace(config.condense, width=recipe.width)
        return with_recipe(of_width(recipe.width), prospect, same, recipe)

    def takes(to: RunConfig) -> Takes:
        at = by(to.condense)
        found = forecast(to, prospect.counts, prospect.shape.classes, number, at, stages, done)
        return Takes(found.by_stage["condense"].value, found.seconds.value, found.pays)

    def advice(least: RunConfig) -> str:
        """Return the flags with which the least run takes a third of the budget, so that there is room to search.

        Where that cannot be, those with which it fits at all.
        """
        budget = seconds_of(str(config.budget))

        def estimate_of(to: RunConfig, counts: Counts) -> Estimate:
            return forecast(to, counts, prospect.shape.classes, number, by(to.condense), stages, done)

        changed, then = shortened(least, prospect.counts, estimate_of, budget / 3, BESIDE_BUDGET)
        return flags_of(changed) if changed and then.seconds.value <= PLANNED * budget else ""

    sizes = [size for size in (number, config.pool) if size is not None]
    plan = plan_for(config, takes, min(sizes, default=None), spent, before, advice)
    plan = replace(plan, asked=asked, of=others(config))
    settings = plan.settings(config)
    return replace(run, config=settings), replace(prospect, config=settings), plan, by(settings.condense)


def _affordable(run: RunFolder, prospect: Prospect, speeds: Speeds, progress: Progress) -> tuple[Prospect, Speeds]:
    """Return the prospect of the architectures whose training takes little of the budget, and how fast those are.

    What a small network takes for its FLOPs is more than a large one does, so the rest is measured anew, and once more.
    """
    seconds, sample = DEAREST * seconds_of(str(run.config.budget)), sized(prospect)
    most, least = None, sample[(len(sample) - 1) // 2][1] if sample else 0  # half of them stay in any case
    for _ in range(2):
        found = affordable(run.config, prospect.counts, speeds, sample, seconds, least)
        if found is None:
            break
        most, sample = found, [one for one in sample if one[1] <= found]
        with open_executor(run.config, prospect.device) as executor:
            speeds = measured(prospect, executor, speeds, sample, progress)
    if most is None:
        return prospect, speeds
    progress.say(
        f"Architectures of more than {count(most)} FLOPs are left out (--max-flops): a full training of one takes more "
        f"than a fifth of --budget {run.config.budget}."
    )
    return within(prospect, most), speeds


def announce(
    run: RunFolder,
    prospect: Prospect,
    stages: Sequence[str],
    progress: Progress,
    *,
    overwrite: bool = False,
    speeds: Speeds | None = None,
    plan: Plan | None = None,
) -> None:
    """Say what a command is about to do and how long that takes, before it does."""
    if progress is SILENT or not set(stages) & {"condense", "search", "truth", "rank"}:
        return
    found = foresee(run, prospect, stages, progress, overwrite=overwrite, speeds=speeds)
    progress.say((found if plan is None else replace(found, plan=plan)).text())


def foresee(
    run: RunFolder,
    prospect: Prospect,
    stages: Sequence[str],
    progress: Progress,
    *,
    overwrite: bool = False,
    speeds: Speeds | None = None,
) -> Outlook:
    """Estimate what is left to be done in `stages`, and find how to shorten it where it is long.

    overwrite: nothing that is there counts. speeds: where they are known already.
    """
    config, done = run.config, Done({}) if overwrite else done_in(run)

    def estimate_of(speeds: Speeds, config: RunConfig = config, counts: Counts = prospect.counts) -> Estimate:
        return forecast(config, counts, prospect.shape.classes, prospect.most, speeds, stages, done)

    known = speeds or _speeds(prospect, progress, lambda found: found.seconds.high > SHORT, run, stages, done)
    found = estimate_of(known)
    if found.seconds.value <= LONG or config.compare is not None or config.budget is not None:
        return Outlook(found, {}, None)
    shorter, then = shortened(config, prospect.counts, lambda config, counts: estimate_of(known, config, counts))
    return Outlook(found, shorter, then)


def _speeds(
    prospect: Prospect,
    progress: Progress,
    long: Callable[[Estimate], bool],
    run: RunFolder,
    stages: Sequence[str],
    done: Done,
) -> Speeds:
    """Return speeds by FLOPs, or by measurements where the estimate that comes of these is `long`."""
    sample = sized(prospect)
    with open_executor(run.config, prospect.device) as executor:
        speeds = coarse(prospect, lanes(executor, prospect.device), sample)
        counts, classes, size = prospect.counts, prospect.shape.classes, prospect.most
        found = forecast(run.config, counts, classes, size, speeds, stages, done)
        if not long(found):
            return speeds
        progress.say(first_sight(found))
        return measured(prospect, executor, speeds, sample if found.parts else (), progress)


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
