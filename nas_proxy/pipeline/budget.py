"""A time in place of numbers: what a budget leaves room for, and the clock that keeps to it.

In: a time, and what settings would take. Out: settings with numbers. Condensing gets a share at most: where it would
take more, its embedding networks see fewer real images and become narrower, then it takes fewer steps; where that is
too much too, or more than the full trainings that it saves, random images are the proxy. Of the rest a third of the
full trainings are uniform, to judge by, and twice as many architectures as are chosen are trained on the proxy first,
as far as all of that fits. While the run works, a `Clock` ends the rounds of full trainings when what is left is needed
for judging, and lets them go on where the estimate was too high: the full trainings, most of the time, take up what the
estimate of all else was off by. So with a budget how far a run comes depends on the machine.

The plan is made once and kept in `budget.json` with what is spent, so a run that was cut off goes on by the same plan;
a larger budget makes a new one, of the time that is left, in which nothing shrinks and the proxy stays as it is. So
does one for a run that had none; and as long as nothing is trained, one for other settings, in which the proxy stays.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.errors import ConfigError, NasProxyError
from nas_proxy.files import write_json
from nas_proxy.names import RANDOM
from nas_proxy.report.formats import duration
from nas_proxy.runs.comparison_checks import LEAST
from nas_proxy.runs.heartbeat import repeating
from nas_proxy.runs.identity import NOT_IDENTITY, OF_PROPOSALS, OF_TRAININGS
from nas_proxy.runs.nested import flat, listed
from nas_proxy.runs.settings import RunConfig, to_dict
from nas_proxy.runs.settings_checks import seconds_of

NAME = "budget.json"
# Shares of the time: that condensing may take, and that a plan is made for, as it may take a little longer. Condensing
# gets little, since no set of benchmarks/README.md ranked better than random images, which take none, a second time.
CONDENSING, PLANNED = 0.05, 0.95
# What may be spent so that there is a search at all: a budget is kept to within 15 %.
TOLERATED = 1.15
# Seconds between two times at which what is spent is kept.
EVERY = 5.0
# The most architectures that are only there to judge.
JUDGES = 24
# The least of a condensation: real images a class and step, and channels of its networks, which is what all sets of the
# ablation in benchmarks/README.md were made with (larger ones have not been compared with them); and steps.
REAL, WIDTH, STEPS = 64, 32, 50


@dataclass(frozen=True)
class Plan:
    """What a budget leaves room for: the settings of these names. seconds: what it was made for, in all.

    steps: 0 where nothing is learnt step by step. why: `method` is not that of the settings. asked: what the settings
    were of which a plan may change what is asked for, see `lowered`; of: all `others`; None where that is not known.
    """

    budget: str
    steps: int
    trials: int
    truth: int
    judge: int
    seconds: float
    # What plans of earlier versions did not say.
    truth_seeds: int = 2
    real_batch: int | None = None
    width: int | None = None
    method: str | None = None
    max_flops: int | None = None
    why: str = ""
    asked: Mapping[str, object] | None = None
    of: Mapping[str, object] | None = None

    def is_for(self, config: RunConfig) -> bool:
        """Return whether it was made for such settings; True where that is not known."""
        return self.of is None or self.of == others(config)

    def settings(self, config: RunConfig) -> RunConfig:
        """Return the settings with these numbers, but for what they ask for otherwise than when this was planned."""
        numbers = {name: getattr(self, name) for name in ("trials", "truth", "judge")}
        asked = lowered(config).items()
        found = {name: value if self._is_asked(name, value) else getattr(self, name) for name, value in asked}
        limit = found.pop("max_flops")
        return replace(config, condense=replace(config.condense, **found), max_flops=limit, **numbers)

    def _is_asked(self, name: str, value: object) -> bool:
        planned, before = getattr(self, name), value if self.asked is None else self.asked.get(name)
        return planned is None or value not in (before, planned)

    def sentence(self) -> str:
        """Return the plan for a reader."""
        seeds = "one seed each" if self.truth_seeds == 1 else f"{self.truth_seeds} seeds each"
        images = f"{self.steps:,} steps of condensing"
        if self.method == "dm":
            images += f" (width {self.width}, {self.real_batch} real images a class)"
        elif self.method is not None:
            images = f"images by --method {self.method}" + (f" ({self.why})" if self.why else "")
        full = f"{self.truth:,} full ones, {self.judge:,} of them to judge, with {seeds}"
        if self.of is not None and "truth_table" in self.of:
            full = f"{self.truth:,} accuracies to look up in the table, {self.judge:,} of them to judge"
        return (
            f"The budget of {self.budget} allows {images}, {self.trials:,} trainings on the proxy and {full}: "
            f"about {duration(self.seconds)}."
        )


def asked_of(config: RunConfig, before: Plan | None) -> Mapping[str, object] | None:
    """Return `Plan.asked` of settings to which `before`, the plan that the folder keeps, has been applied."""
    if before is None:
        return lowered(config)
    asked = before.asked
    if asked is None:
        return None
    return {n: asked.get(n) if value == getattr(before, n) else value for n, value in lowered(config).items()}


def makes_other_images(config: RunConfig, plan: Plan) -> bool:
    """Return whether settings ask for another condensed set than a plan has."""
    planned = {name: getattr(plan, name) for name in lowered(config) if name != "max_flops"}
    return any(value not in (None, getattr(config.condense, name)) for name, value in planned.items())


def lowered(config: RunConfig) -> dict[str, Any]:
    """Return the settings that a plan may lower, by name; all others that it has nobody gives beside a budget."""
    recipe = {name: getattr(config.condense, name) for name in ("steps", "real_batch", "width", "method")}
    return {**recipe, "max_flops": config.max_flops}


def others(config: RunConfig) -> dict[str, Any]:
    """Return the settings by name that a plan is made for, and that no command may change once something is trained."""
    lower = {"max_flops", *(f"condense.{name}" for name in lowered(config))}
    known = flat(listed(to_dict(config)))
    return {n: v for n, v in known.items() if n not in lower | NOT_IDENTITY | OF_PROPOSALS | OF_TRAININGS}


def floor_of(config: RunConfig, trained: RunConfig | None) -> Plan:
    """Return the least that a plan is in a folder with images, and with trainings where it has some, of `trained`."""
    numbers = (0, LEAST, 0) if trained is None else (trained.trials, trained.truth, trained.sample)
    made = config.condense
    seeds = config.seeds_of_truth
    return Plan("", made.steps, *numbers, 0.0, seeds, made.real_batch, made.width, made.method, config.max_flops)


@dataclass(frozen=True)
class Takes:
    """What is left to be done with some settings takes: seconds of condensing, and of everything.

    pays: whether condensing takes less than the full trainings that it saves.
    """

    condensing: float
    everything: float
    pays: bool = True


def plan_for(
    config: RunConfig,
    takes: Callable[[RunConfig], Takes],
    size: int | None,
    spent: float = 0.0,
    least: Plan | None = None,
    advice: Callable[[RunConfig], str] = lambda least: "",
) -> Plan:
    """Return what the budget of the settings leaves room for; a pure function.

    takes: of settings. size: architectures of the space, None if not known. spent: seconds that are spent already.
    least: the plan of a smaller budget, than which none is smaller, and whose proxy stays; or that of `floor_of`.
    advice: flags with which the budget has room for the least run and more, "" where there are none.
    Raises ConfigError where the least that a run is takes longer, with the time that it takes.
    """
    assert config.budget is not None
    budget = seconds_of(config.budget)
    left = PLANNED * budget - spent
    fewest = LEAST if least is None else least.truth

    def of(truth: int, recipe: Condensation) -> Plan:
        judge = max(min(truth, max(LEAST, min(JUDGES, round(truth / 3)))), 0 if least is None else least.judge)
        judge = min(judge, truth)
        trials = max(judge, min(judge + 2 * (truth - judge), size or judge + 2 * (truth - judge)))
        trials = max(trials, judge + len(config.enqueue), 0 if least is None else least.trials)
        seeds = replace(config, truth=truth, judge=judge).seeds_of_truth
        made = (recipe.real_batch, recipe.width, recipe.method, config.max_flops)
        return Plan(str(config.budget), recipe.steps, trials, truth, judge, 0.0, seeds, *made)

    def seconds(plan: Plan) -> float:
        return takes(plan.settings(config)).everything

    recipe = config.condense if least is None else least.settings(config).condense
    why = "" if least is None else least.why
    if least is None:
        fits = (r for r in smaller(recipe) if takes(of(fewest, r).settings(config)).condensing <= CONDENSING * budget)
        if (fitting := next(fits, None)) is None and recipe.method != RANDOM:
            why = f"making others takes more than {CONDENSING:.0%} of the time"
        recipe = fitting or replace(recipe, method=RANDOM)
    if (shortest := seconds(of(fewest, recipe))) > left and (least is None or not least.budget):
        flags = advice(of(fewest, recipe).settings(config))
        shorter = f"less to do, such as {flags}" if flags else "fewer --truth-epochs or --epochs, or a --limit"
        told = f"--budget {config.budget} is too short: the least that a run is takes about"
        raise ConfigError([f"{told} {duration(shortest / PLANNED)} here; give more, or {shorter}"])
    found = _most(lambda truth: of(truth, recipe), seconds, left, fewest, size)
    if least is None and recipe.learnt and not takes(found.settings(config)).pays:
        recipe, why = replace(recipe, method=RANDOM), "condensing takes longer than the full trainings that it saves"
        found = _most(lambda truth: of(truth, recipe), seconds, left, fewest, size)
    return replace(found, seconds=seconds(found) + spent, why=why)


def smaller(recipe: Condensation) -> Iterator[Condensation]:
    """Yield a recipe, and those that take ever less to make; a recipe that learns nothing is as cheap as it gets."""
    yield recipe
    while recipe.learnt and recipe.real_batch // 2 >= REAL:
        yield (recipe := replace(recipe, real_batch=recipe.real_batch // 2))
    while recipe.learnt and recipe.embed != "space" and recipe.width // 2 >= WIDTH:
        yield (recipe := replace(recipe, width=recipe.width // 2))
    while recipe.learnt and recipe.steps // 2 >= STEPS:
        yield (recipe := replace(recipe, steps=recipe.steps // 2))


def _most(
    of: Callable[[int], Plan], seconds: Callable[[Plan], float], left: float, fewest: int, size: int | None
) -> Plan:
    """Return the plan of most full trainings that takes no longer than what is left."""
    low, high = fewest, size if size is not None else max(fewest, 1 << 20)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if seconds(of(middle)) <= left else (low, middle - 1)
    return of(low)


class Clock:
    """What a run has spent of its budget, in this command and in those before it.

    seconds: of the budget. start: when this command began, by `now`. While it is `running` the time is kept every few
    seconds, so a kill loses no more than that.
    """

    def __init__(
        self, folder: Path, seconds: float, start: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._now = folder / NAME, now
        self._start = now() if start is None else start
        self.seconds = seconds
        self._before = spent_in(folder)
        self._file = threading.RLock()

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        return self._before + self._now() - self._start

    @contextlib.contextmanager
    def running(self, every: float = EVERY) -> Iterator[None]:
        """Keep what is spent meanwhile, and at the end."""

        def beat() -> None:
            with contextlib.suppress(OSError, NasProxyError):  # a full disk, which whoever computes is told of
                self.keep()

        try:
            with repeating(beat, every):
                yield
        finally:
            self.keep()

    def keep(self) -> None:
        """Keep what is spent."""
        with self._file:
            write_json(self._path, {**_kept(self._path.parent), "spent": round(self.spent, 3)})

    def known(self, name: str) -> float | None:
        """Return a number that was made `once` for this budget; None where it was not."""
        numbers = _kept(self._path.parent).get(name)
        found = numbers.get(f"{self.seconds:g}") if isinstance(numbers, dict) else None
        return None if found is None else float(found)

    def once(self, name: str, make: Callable[[], float]) -> float:
        """Return a number that is made once for this budget, and kept for the commands that go on with it."""
        if (found := self.known(name)) is not None:
            return found
        made = round(make(), 3)
        with self._file:
            kept = _kept(self._path.parent)
            numbers = kept.get(name)
            numbers = numbers if isinstance(numbers, dict) else {}
            write_json(self._path, {**kept, name: {**numbers, f"{self.seconds:g}": made}})
        return made

    def allows(self, seconds: float, reserved: float = 0.0, share: float = 1.0) -> bool:
        """Whether so much more may be begun, when so much is reserved for what comes after it; share: of the budget."""
        return self.spent + seconds + reserved <= share * self.seconds


def spent_in(folder: Path) -> float:
    """Return the seconds that earlier commands spent on the run in a folder."""
    spent = _kept(folder).get("spent", 0.0)
    return float(spent) if isinstance(spent, int | float) else 0.0


def kept_plan(folder: Path) -> Plan | None:
    """Return the plan that a folder keeps; None where it has none."""
    try:
        return Plan(**_kept(folder)["plan"])  # type: ignore[arg-type]
    except (KeyError, TypeError):
        return None


def keep_plan(folder: Path, plan: Plan) -> None:
    """Keep a plan, beside what is spent."""
    write_json(folder / NAME, {**_kept(folder), "plan": asdict(plan)})


def _kept(folder: Path) -> Mapping[str, object]:
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
