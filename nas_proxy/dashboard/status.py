"""How a run or a comparison stands: its folder in; progress, best, failures and the time that is left out.

It only reads. A run has five stages; in a comparison each signal is one, then full training and the page. What a stage
has to do is known when the stages before it are done, and until then an estimate. The time left is the mean of the
finished trainings of a kind times those that are missing, over those that run at once, and the mean of a signal's sets
times those to be made. Computed signals take seconds; their time is not told.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nas_proxy.dashboard.folder import Look, study_names
from nas_proxy.dashboard.set_files import condensing, making_seconds
from nas_proxy.errors import RunFolderError
from nas_proxy.names import COMBINED, PROXY, RANDOM, TRUTH
from nas_proxy.ranking.believed import is_finished
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.ranking.scores import best_first
from nas_proxy.runs import heartbeat
from nas_proxy.runs.folder import is_held, open_run
from nas_proxy.runs.heartbeat import Command
from nas_proxy.runs.settings import RUN_FILE
from nas_proxy.signals.signal import EqualCost, Signal, SmallSet
from nas_proxy.signals.stored_names import checkpoint_path, equal_cost_name, set_path
from nas_proxy.storage.location import existing
from nas_proxy.storage.read_only import Reader
from nas_proxy.storage.records import Record


@dataclass(frozen=True)
class Stage:
    """One stage: `done` of `total` steps, trainings, scores or files; seconds_left is None where nothing tells it.

    sets, sets_total: image sets that are made, and are to be; None where it has none of its own.
    """

    name: str
    done: int
    total: int
    complete: bool
    seconds_left: float | None = None
    sets: int | None = None
    sets_total: int | None = None


@dataclass(frozen=True)
class Status:
    """How a run or a comparison stands.

    stages: in their order. best: of a run: key, score on the proxy and, once known, test accuracy of its pick, or until
        there is one of the best on the proxy; the sum of its losses where the run ranks by it. failures: the reasons
        and how often, by signal.
    at_work: whether a command holds the folder. open_trainings: begun and not finished; left by a command that was
        killed where nothing is at work.
    command: the one that holds the folder, and the machines that it has at work; None where it trains nothing yet.
    seconds_left: to the end; None where nothing is at work or a stage's time is not known.
    pruned, seconds_saved: candidates that a pruner ended, and about how long the rest of them would have taken.
    """

    folder: str
    stages: tuple[Stage, ...]
    best: Mapping[str, Any] | None
    failures: Mapping[str, Mapping[str, int]]
    at_work: bool
    open_trainings: int
    seconds_left: float | None
    command: Command | None = None
    pruned: int = 0
    seconds_saved: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether every stage is done."""
        return all(stage.complete for stage in self.stages)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `nas-proxy status --json` prints."""
        return {**asdict(self), "complete": self.complete}


class Watcher:
    """Looks at one folder as often as it is asked; finished trials are read from the storage once."""

    def __init__(self, path: Path) -> None:
        self._path = open_run(path).path
        self._reader = Reader(self._path)

    def see(self) -> Look:
        """Return what the folder holds now. Raises RunFolderError where its files cannot be read."""
        run, at_work = open_run(self._path), is_held(self._path)
        there, place = self._reader.studies(at_work=at_work), existing(self._path)
        names = {} if place is None else study_names(run, place)
        studies = {signal: there[name] for signal, name in names.items() if name in there}
        trials = {signal: self._reader.trials(study) for signal, study in studies.items()}
        plans = {name: study.user_attrs["plan"] for name, study in studies.items() if "plan" in study.user_attrs}
        command = heartbeat.alive(run)
        return Look(
            run,
            {signal: study._study_id for signal, study in studies.items()},
            trials,
            plans,
            at_work or command is not None,
            command,
        )

    def look(self) -> Status:
        """Return how it stands now. Raises RunFolderError where its files cannot be read."""
        return status_of(self.see())


def status_of(look: Look) -> Status:
    """Return how what a folder holds stands."""
    at_once = max(look.open_trainings, 1) if look.at_work else None
    stages = _run_stages(look, at_once) if look.run.config.compare is None else _signal_stages(look, at_once)
    missing = [stage.seconds_left for stage in stages if not stage.complete]
    known = [seconds for seconds in missing if seconds is not None]
    failures = {name: Counter(r.reason or "no score" for r in of if r.failed) for name, of in look.records.items()}
    failures |= {name: Counter(reason for reason in of if reason is not None) for name, of in look.computed.items()}
    return Status(
        folder=str(look.run.path),
        stages=tuple(stages),
        best=_best(look),
        failures={name: dict(counted.most_common()) for name, counted in failures.items() if counted},
        at_work=look.at_work,
        open_trainings=look.open_trainings,
        seconds_left=sum(known) if look.at_work and missing and len(known) == len(missing) else None,
        command=look.command,
        pruned=sum(r.pruned_at is not None for r in look.of(PROXY)),
        seconds_saved=sum(r.seconds_saved for r in look.of(PROXY)),
    )


def _run_stages(look: Look, at_once: int | None) -> list[Stage]:
    """at_once: how many trainings run now; None where no command is at work."""
    run, plan, proxy, sample = look.run, look.plan, look.of(PROXY), look.sample
    total = max(run.config.trials, run.config.sample)
    done = min(len(sample) + sum(r.phase == "search" for r in proxy), total)
    searched = done == total or _went_on(look)
    least = 0 if searched else run.config.sample
    fully, full = _fully(look, max(len(sample), least), done if searched and done < total else None)
    others = [(s, _counted(look.of(s.name), sample, s.draws)) for s in plan.trained if s.name != PROXY]
    wanted = max(len(sample), least)
    trained, to_train = sum(there for _, there in others), sum(signal.draws * wanted for signal, _ in others)
    ranked = searched and fully >= full and trained >= to_train and (run / "ranking.json").exists()
    left = [_left(look, signal, signal.draws * wanted - there, at_once) for signal, there in others]
    known = [seconds for seconds in left if seconds is not None]
    return [
        _condense(look, at_once is not None),
        Stage("search", done, total, searched, _left(look, plan[PROXY], total - done, at_once)),
        Stage("truth", fully, full, searched and fully >= full, _left(look, None, full - fully, at_once)),
        Stage("rank", trained, to_train, ranked, sum(known) if len(known) == len(left) else None),
        _page(look, "report.html", ready=ranked),
    ]


def _fully(look: Look, sample: int, most: int | None) -> tuple[int, int]:
    """Return how many full trainings have ended, and how many there are to be: further seeds of what judges too.

    most: architectures of a space that has no more.
    """
    config, done = look.run.config, len(look.of(TRUTH))
    if config.truth_table:
        return 0, 0
    wanted = max(config.truth, sample) if most is None else min(max(config.truth, sample), most)
    total = wanted + (config.seeds_of_truth - 1) * sample
    if _is_finished(look):  # fewer in a small space
        return done, done
    if (look.run / "ranking.json").exists() and not (look.run / "search.json").exists():
        return done, min(done, total)  # of an earlier version
    return min(done, total), total


def _signal_stages(look: Look, at_once: int | None) -> list[Stage]:
    run, stages = look.run, list[Stage]()
    for signal in look.plan.signals:
        if signal.trained:
            stages.append(_trained(look, signal, at_once))
        else:
            done = len(look.computed[signal.name])
            stages.append(Stage(signal.name, done, run.config.sample, done >= run.config.sample, 0.0))
    if not run.config.truth_table:
        seeds = run.config.seeds_of_truth
        total = seeds * run.config.sample
        done = _counted(look.of(TRUTH), look.sample or None, seeds)
        stages.append(Stage(TRUTH, done, total, done >= total, _left(look, None, total - done, at_once)))
    return [*stages, _page(look, "compare.html", ready=all(s.complete for s in stages) and _ranks_all(look))]


def _trained(look: Look, signal: Signal, at_once: int | None) -> Stage:
    total = signal.draws * look.run.config.sample
    done = _counted(look.of(signal.name), look.sample, signal.draws)
    sets = _sets(look, signal)
    made = sum(path.exists() for path in sets)
    making, training = _making_left(look, signal, sets, made), _left(look, signal, total - done, at_once)
    left = None if making is None or training is None else making + training
    complete = done >= total and made >= len(sets)
    numbers = (made, signal.draws) if signal.owns_sets else (None, None)
    return Stage(signal.name, done, total, complete, left, *numbers)


def _counted(records: Sequence[Record], keys: Sequence[str] | set[str] | None, draws: int) -> int:
    """Return how many trainings of `keys` have ended; an earlier sample may have been larger, with more draws."""
    wanted = None if keys is None else set(keys)
    return sum(r.draw < draws and (wanted is None or r.key in wanted) for r in records)


def _left(look: Look, signal: Signal | None, missing: int, at_once: int | None) -> float | None:
    """Return about how long the missing trainings of a signal take, or those in full; None where nothing tells it."""
    if missing <= 0 and at_once is not None:
        return 0.0
    each = _mean_seconds(look.of(TRUTH)) if signal is None else _training_seconds(look, signal)
    return None if at_once is None or each is None else missing * each / at_once


def _training_seconds(look: Look, signal: Signal) -> float | None:
    """Return the mean seconds of a training: a signal's own, or of another one of as many image passes."""
    own = _mean_seconds(look.of(signal.name))
    if own is not None:
        return own
    if isinstance(signal.source, EqualCost):  # as long as its target's, with the making shared, by its definition
        target = look.plan[signal.source.target]
        each, making = _training_seconds(look, target), making_seconds(_sets(look, target))
        return None if each is None or making is None else each + making / look.plan.sharing
    others = [other.name for other in look.plan.trained if not isinstance(other.source, EqualCost)]
    known = (_mean_seconds(look.of(name)) for name in [RANDOM, *others])
    return next((seconds for seconds in known if seconds is not None), None)


def _mean_seconds(records: Sequence[Record]) -> float | None:
    known = [r.seconds for r in records if r.complete]
    return sum(known) / len(known) if known else None


def _sets(look: Look, signal: Signal) -> list[Path]:
    """Return the paths of a signal's sets; [] before it is known which they are."""
    name = signal.name
    if isinstance(signal.source, EqualCost):
        if name not in look.plans:
            return []
        name = equal_cost_name(look.plans[name]["per_class"])
    return [set_path(look.run.path, name, draw) for draw in range(signal.draws)] if signal.owns_sets else []


def _making_left(look: Look, signal: Signal, sets: Sequence[Path], made: int) -> float | None:
    """Return about how long making the missing sets of a signal takes."""
    missing = len(sets) - made
    if not missing or not signal.made or not isinstance(signal.source, SmallSet):
        return 0.0
    steps = signal.source.recipe.steps
    begun = [condensing(checkpoint_path(look.run.path, signal.name, d), steps) for d in range(signal.draws)]
    done, left = max(begun, key=lambda state: state[0])
    if left is not None:
        return left + (missing - 1) * left * steps / max(steps - done, 1)
    known = making_seconds(sets)
    return None if known is None else missing * known


def _condense(look: Look, at_work: bool) -> Stage:
    recipe = look.run.config.condense
    steps = recipe.steps if recipe.learnt else 1
    if set_path(look.run.path, PROXY, 0).exists():
        return Stage("condense", steps, steps, True)
    done, left = condensing(checkpoint_path(look.run.path, PROXY, 0), steps)
    return Stage("condense", done, steps, False, left if at_work else None)


def _page(look: Look, name: str, *, ready: bool) -> Stage:
    """Return the stage of the page, which must be of the ranking that is there."""
    there = False
    with contextlib.suppress(FileNotFoundError):
        there = ready and (look.run / name).stat().st_mtime >= (look.run / "ranking.json").stat().st_mtime
    return Stage("report", int(there), 1, there, None if there else 0.0)


def _went_on(look: Look) -> bool:
    """Return whether a search that found fewer architectures than it was to train has ended, as in a small space."""
    if _is_finished(look):
        return True
    begun = [t for name, trials in look.trials.items() if name != PROXY for t in trials if t.datetime_start]
    ended = [t.datetime_complete.timestamp() for t in look.trials.get(PROXY, ()) if t.datetime_complete]
    asked = (look.run / RUN_FILE).stat().st_mtime
    starts = [t.datetime_start.timestamp() for t in begun if t.datetime_start and "draw" in t.user_attrs]
    if starts and max(starts) > max([asked, *ended]):
        return True
    with contextlib.suppress(FileNotFoundError):
        return (look.run / "ranking.json").stat().st_mtime > asked
    return False


def _is_finished(look: Look) -> bool:
    return is_finished(look.run.path, look.run.config.reach, look.run / RUN_FILE)


def _best(look: Look) -> dict[str, Any] | None:
    by = look.plan.primary
    found = best_first(look.of(PROXY), by)
    if look.pick is not None:
        on_proxy = next((r for r in found if r.key == look.pick), None)
        fully = [r for r in look.of(TRUTH) if r.key == look.pick and r.score is not None]
        return {
            "key": look.pick,
            "score": None if on_proxy is None else on_proxy.score,
            **({"loss_sum": on_proxy.loss_sum} if by == "loss_sum" and on_proxy is not None else {}),
            "validation": next((r.validation for r in fully if r.draw == 0), None),
            "test_accuracy": sum(r.score or 0.0 for r in fully) / len(fully) if fully else None,
        }
    if not found:
        return None
    truth = [r.score for r in look.of(TRUTH) if r.key == found[0].key and r.score is not None]
    return {
        "key": found[0].key,
        "score": found[0].score,
        **({"loss_sum": found[0].loss_sum} if by == "loss_sum" else {}),
        "test_accuracy": sum(truth) / len(truth) if truth else None,
    }


def _ranks_all(look: Look) -> bool:
    """Return whether the ranking is there and holds all that is compared."""
    config, plan = look.run.config, look.plan
    try:
        ranking = Ranking.read(look.run / "ranking.json")
    except RunFolderError:
        return False
    wanted = {row for signal in plan.signals for row in plan.rows(signal)} | ({COMBINED} if plan.combine else set())
    draws = None if config.compare is None else config.compare.draws
    settings = {"draws": draws, "candidates": plan.sharing}
    same = all(ranking.settings.get(name) == value for name, value in settings.items())
    return same and ranking.sample == config.sample and wanted <= set(ranking.signals)
