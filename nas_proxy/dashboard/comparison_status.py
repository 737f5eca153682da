"""How a comparison stands: its folder in; what is made, trained and computed of each signal out. It only reads.

The time left of a signal is the mean of its finished trainings, or of another signal's, which take as many image
passes, times those that are missing, over those that run at once; and the mean of its sets times those to be made.
Computed signals take seconds; their time is not told.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from optuna.trial import TrialState

from nas_proxy.compare.asked import Comparison, open_comparison
from nas_proxy.compare.contenders import (
    RANDOM,
    draws_of,
    is_made,
    is_set,
    is_total,
    is_trained,
    recipe_of,
    rows_of,
    target_of,
)
from nas_proxy.compare.sets import checkpoint_path, more_name, set_path
from nas_proxy.dashboard.status import condensing
from nas_proxy.dashboard.storage import Reader
from nas_proxy.data.images import ImageSet
from nas_proxy.pipeline.ground_truth import SEEDS
from nas_proxy.pipeline.run_folder import is_held
from nas_proxy.signals.equal_cost import total_study
from nas_proxy.storage.records import Record, finished

TRUTH = "truth"
TABLE = ("ranking.json", "compare.html")


@dataclass(frozen=True)
class SignalStatus:
    """How one signal stands, or full training.

    sets, sets_total: that are made, and are to be; None where it has none of its own. done, total: trainings that
    ended, or architectures whose score is computed. seconds_left: None where nothing tells it.
    """

    name: str
    trained: bool
    sets: int | None
    sets_total: int | None
    done: int
    total: int
    seconds_left: float | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is missing."""
        return self.done >= self.total and self.sets == self.sets_total


@dataclass(frozen=True)
class ComparisonStatus:
    """How a comparison stands.

    signals: in the order of the table; "truth" is full training, which is not there where a table holds it.
    table: whether the folder holds the table of all of it. failures: the reasons and how often, by signal.
    at_work: whether a command holds the folder. open_trainings: begun and not finished; left by a command that was
    killed where nothing is at work. seconds_left: None where nothing is at work or a signal's time is not known.
    """

    comparison: str
    signals: tuple[SignalStatus, ...]
    table: bool
    failures: Mapping[str, Mapping[str, int]]
    at_work: bool
    open_trainings: int
    seconds_left: float | None

    @property
    def complete(self) -> bool:
        """Whether everything is done."""
        return self.table and all(signal.complete for signal in self.signals)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `nas-proxy status --json` prints."""
        signals = [{**asdict(signal), "complete": signal.complete} for signal in self.signals]
        return {**asdict(self), "signals": signals, "complete": self.complete}


@dataclass(frozen=True)
class Look:
    """What a folder holds now, by study: its number, its records, and its failed trials with their reasons.

    per_class: how many images a class the sets of a study of `random_total` have.
    """

    comparison: Comparison
    studies: Mapping[str, int]
    records: Mapping[str, Sequence[Record]]
    failed: Mapping[str, Sequence[tuple[int, str]]]
    open_trainings: int
    per_class: Mapping[str, int]


class ComparisonWatcher:
    """Looks at one comparison as often as it is asked; finished trials are read from the storage once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = Reader(path)
        open_comparison(path)

    def see(self) -> Look:
        """Return what the folder holds now. Raises RunFolderError where its files cannot be read."""
        comparison = open_comparison(self._path)
        there = self._reader.studies(at_work=is_held(self._path))
        trials = {name: self._reader.trials(study) for name, study in there.items()}
        plans = {name: study.user_attrs["plan"] for name, study in there.items() if "plan" in study.user_attrs}
        return Look(
            comparison,
            {name: study._study_id for name, study in there.items()},
            {name: _counted(comparison, finished(found)) for name, found in trials.items()},
            {
                name: [
                    (t._trial_id, t.user_attrs.get("reason", "no score")) for t in found if t.state == TrialState.FAIL
                ]
                for name, found in trials.items()
            },
            sum(trial.state == TrialState.RUNNING for found in trials.values() for trial in found),
            {name: plan["per_class"] for name, plan in plans.items()},
        )

    def look(self) -> ComparisonStatus:
        """Return how the comparison stands now. Raises RunFolderError where its files cannot be read."""
        at_work = is_held(self._path)
        return status_of(self._path, self.see(), at_work)


def study_of(name: str, comparison: Comparison) -> str:
    """Return the name of the study of a trained signal."""
    if not is_total(name):
        return name
    return total_study(target_of(name, comparison.signals), comparison.sharing)


def status_of(folder: Path, seen: Look, at_work: bool) -> ComparisonStatus:
    """Return how a comparison stands, from its files and the records of its studies."""
    comparison = seen.comparison
    computed = _computed(folder, comparison)
    at_once = max(seen.open_trainings or comparison.run.workers, 1) if at_work else None
    names = [*comparison.signals, *([] if comparison.run.truth_table else [TRUTH])]
    signals = tuple(
        _trained(folder, name, seen, at_once)
        if is_trained(name)
        else SignalStatus(name, False, None, None, len(computed.get(name, {})), comparison.run.truth)
        for name in names
    )
    missing = [signal.seconds_left for signal in signals if signal.trained and not signal.complete]
    known = [seconds for seconds in missing if seconds is not None]
    failures = {
        name: Counter(r.reason or "no score" for r in seen.records.get(study_of(name, comparison), ()) if r.failed)
        for name in names
        if is_trained(name)
    }
    failures |= {name: Counter(reason for reason in of.values() if reason is not None) for name, of in computed.items()}
    return ComparisonStatus(
        comparison=str(folder),
        signals=signals,
        table=_has_table(folder, comparison),
        failures={name: dict(counted.most_common()) for name, counted in failures.items() if counted},
        at_work=at_work,
        open_trainings=seen.open_trainings,
        seconds_left=sum(known) if at_work and len(known) == len(missing) else None,
    )


def _counted(comparison: Comparison, records: Sequence[Record]) -> list[Record]:
    """Return the trainings that the table is of; an earlier one may have had a larger sample and more draws."""
    most = max(comparison.draws, SEEDS)
    return [r for r in records if r.index < comparison.run.truth and r.draw < most]


def _trained(folder: Path, name: str, seen: Look, at_once: int | None) -> SignalStatus:
    comparison = seen.comparison
    study = study_of(name, comparison)
    draws = SEEDS if name == TRUTH else draws_of(name, comparison.draws)
    done = sum(r.draw < draws for r in seen.records.get(study, ()))
    total = draws * comparison.run.truth
    owned = is_set(name) or is_total(name)
    sets = _sets(folder, name, seen) if owned else []
    made = sum(path.exists() for path in sets)
    left = None
    if at_once is not None:
        making = _making_left(folder, name, comparison, sets, made)
        each = _training_seconds(folder, name, seen) if done < total else 0.0
        left = None if making is None or each is None else making + (total - done) * each / at_once
    return SignalStatus(name, True, made if owned else None, comparison.draws if owned else None, done, total, left)


def _sets(folder: Path, name: str, seen: Look) -> list[Path]:
    """Return the paths of a signal's sets; [] before it is known which they are."""
    if is_total(name):
        per_class = seen.per_class.get(study_of(name, seen.comparison))
        if per_class is None:
            return []
        name = more_name(per_class)
    return [set_path(folder, name, draw) for draw in range(seen.comparison.draws)]


def _making_left(folder: Path, name: str, comparison: Comparison, sets: Sequence[Path], made: int) -> float | None:
    """Return about how long making the missing sets of a signal takes."""
    missing = comparison.draws - made if sets else 0
    if not missing or not is_made(name):
        return 0.0
    steps = recipe_of(name, comparison.run.condense).steps
    begun = [condensing(checkpoint_path(folder, name, draw), steps) for draw in range(comparison.draws)]
    done, left = max(begun, key=lambda state: state[0])
    if left is not None:
        return left + (missing - 1) * left * steps / max(steps - done, 1)
    known = _making_seconds(sets)
    return None if known is None else missing * known


def _making_seconds(sets: Sequence[Path]) -> float | None:
    known = [float(str(ImageSet.load_metadata(path)["seconds"])) for path in sets if path.exists()]
    return sum(known) / len(known) if known else None


def _training_seconds(folder: Path, name: str, seen: Look) -> float | None:
    """Return the mean seconds of a training: a signal's own, or of another one of as many image passes."""
    comparison = seen.comparison
    own = _mean_seconds(seen.records.get(study_of(name, comparison), ()))
    if own is not None or name == TRUTH:
        return own
    if is_total(name):  # as long as its target's, with the making shared, by its definition
        target = target_of(name, comparison.signals)
        each = _training_seconds(folder, target, seen)
        making = _making_seconds(_sets(folder, target, seen))
        return None if each is None or making is None else each + making / comparison.sharing
    others = [other for other in comparison.signals if is_trained(other) and not is_total(other)]
    known = [_mean_seconds(seen.records.get(other, ())) for other in [RANDOM, *others]]
    return next((seconds for seconds in known if seconds is not None), None)


def _mean_seconds(records: Sequence[Record]) -> float | None:
    known = [r.seconds for r in records if r.complete]
    return sum(known) / len(known) if known else None


def _computed(folder: Path, comparison: Comparison) -> dict[str, dict[str, str | None]]:
    """Return the reasons of failure of the computed scores that there are, by signal and key; None where there is."""
    scores = _read(folder / "computed.json").get("scores", {})
    found = {name: scores.get(name, {}).get("of", {}) for name in comparison.signals if not is_trained(name)}
    # Those of the sample come first; an earlier comparison may have had a larger one.
    return {
        name: {key: reason for key, (_, _, reason) in list(of.items())[: comparison.run.truth]}
        for name, of in found.items()
    }


def _has_table(folder: Path, comparison: Comparison) -> bool:
    """Return whether the table is there and holds all that is compared."""
    if not all((folder / name).is_file() for name in TABLE):
        return False
    ranking = _read(folder / TABLE[0])
    settings = ranking.get("settings", {})
    wanted = {row for name in comparison.signals for row in rows_of(name, comparison.score)}
    wanted |= {"combined"} if comparison.combine else set()
    return (
        ranking.get("sample") == comparison.run.truth
        and settings.get("draws") == comparison.draws
        and settings.get("candidates") == comparison.sharing
        and wanted <= set(ranking.get("signals", {}))
    )


def _read(path: Path) -> dict[str, Any]:
    """Return an object of a JSON file; {} where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
