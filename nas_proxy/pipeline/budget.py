"""A time in place of numbers: what a budget leaves room for, and the clock that keeps to it.

In: a time, and what settings would take. Out: settings with numbers. Condensing gets a share at most; of the rest a
third of the full trainings are uniform, to judge by, and twice as many architectures as are chosen are trained on the
proxy first, as far as all of that fits. While the run works, a `Clock` ends the rounds of full trainings when what is
left is needed for judging, and lets them go on where the estimate was too high: the full trainings, most of the time,
take up what the estimate of all else was off by. So with a budget how far a run comes depends on the machine.

The plan is made once and kept in `budget.json` with what is spent, so a run that was cut off goes on by the same plan;
a larger budget makes a new one, of the time that is left, in which nothing shrinks and the proxy stays as it is.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nas_proxy.errors import ConfigError
from nas_proxy.files import write_json
from nas_proxy.report.formats import duration
from nas_proxy.runs.comparison_checks import LEAST
from nas_proxy.runs.settings import RunConfig
from nas_proxy.runs.settings_checks import seconds_of

NAME = "budget.json"
# Shares of the time: that condensing may take, and that a plan is made for, as it may take a little longer.
CONDENSING, PLANNED = 0.15, 0.95
# The fewest steps of a condensation, and the most architectures that are only there to judge.
STEPS, JUDGES = 50, 24


@dataclass(frozen=True)
class Plan:
    """What a budget leaves room for: the settings of these names. seconds: what it was made for, in all.

    steps: 0 where nothing is learnt step by step.
    """

    budget: str
    steps: int
    trials: int
    truth: int
    judge: int
    seconds: float

    def settings(self, config: RunConfig) -> RunConfig:
        """Return the settings with these numbers."""
        numbers = {"trials": self.trials, "truth": self.truth, "judge": self.judge}
        condense = replace(config.condense, steps=self.steps) if self.steps else config.condense
        return replace(config, condense=condense, **numbers)  # type: ignore[arg-type]

    def sentence(self) -> str:
        """Return the plan for a reader."""
        steps = f"{self.steps:,} steps of condensing, " if self.steps else ""
        return (
            f"The budget of {self.budget} allows {steps}{self.trials:,} trainings on the "
            f"proxy and {self.truth:,} full ones, {self.judge:,} of them to judge: about {duration(self.seconds)}."
        )


# Of settings: the seconds of condensing, and of everything.
Seconds = Callable[[RunConfig], tuple[float, float]]


def plan_for(
    config: RunConfig, seconds: Seconds, size: int | None, spent: float = 0.0, least: Plan | None = None
) -> Plan:
    """Return what the budget of the settings leaves room for; a pure function.

    seconds: what is left to be done with given settings takes. size: architectures of the space, None if not known.
    spent: seconds that are spent already. least: the plan of a smaller budget, than which none is smaller.
    Raises ConfigError where the least that a run is takes longer, with the time that it takes.
    """
    assert config.budget is not None
    budget = seconds_of(config.budget)
    left = PLANNED * budget - spent

    def of(truth: int, steps: int) -> Plan:
        judge = max(min(truth, max(LEAST, min(JUDGES, round(truth / 3)))), 0 if least is None else least.judge)
        judge = min(judge, truth)
        trials = max(judge, min(judge + 2 * (truth - judge), size or judge + 2 * (truth - judge)))
        trials = max(trials, 0 if least is None else least.trials)
        return Plan(str(config.budget), steps, trials, truth, judge, 0.0)

    def takes(plan: Plan) -> float:
        return seconds(plan.settings(config))[1]

    steps = least.steps if least is not None else config.condense.steps if config.condense.learnt else 0
    fewest = LEAST if least is None else least.truth
    while least is None and steps // 2 >= STEPS:
        if seconds(of(fewest, steps).settings(config))[0] <= CONDENSING * budget:
            break
        steps //= 2
    if (shortest := takes(of(fewest, steps))) > left and least is None:
        raise ConfigError(
            [
                f"--budget {config.budget} is too short: the least that a run is takes about "
                f"{duration(shortest / PLANNED)} here; give more, or fewer --truth-epochs, --epochs or "
                f"{'--teacher-epochs' if config.condense.patched else '--steps'}"
            ]
        )
    low, high = fewest, size if size is not None else max(fewest, 1 << 20)
    while low < high:  # the most that fits
        middle = (low + high + 1) // 2
        low, high = (middle, high) if takes(of(middle, steps)) <= left else (low, middle - 1)
    found = of(low, steps)
    return replace(found, seconds=takes(found) + spent)


class Clock:
    """What a run has spent of its budget, in this command and in those before it.

    seconds: of the budget. start: when this command began, by `now`. The time is kept whenever a round or a stage ends,
    so a kill loses that of one.
    """

    def __init__(
        self, folder: Path, seconds: float, start: float | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._path, self._now = folder / NAME, now
        self._start = now() if start is None else start
        self.seconds = seconds
        self._before = spent_in(folder)

    @property
    def spent(self) -> float:
        """Seconds spent so far."""
        return self._before + self._now() - self._start

    def keep(self) -> None:
        """Keep what is spent."""
        write_json(self._path, {**_kept(self._path.parent), "spent": round(self.spent, 3)})

    def allows(self, seconds: float, reserved: float = 0.0) -> bool:
        """Whether so much more may be begun, when so much is reserved for what comes after it."""
        return self.spent + seconds + reserved <= self.seconds


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
