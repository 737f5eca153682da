"""How a run stands: its folder in; progress, best, failures and the time that is left out. It only reads.

What a stage has to do is known when the stages before it are done, and until then an estimate. The time left is
the mean of the finished trainings of a kind times those that are missing, over those that run at once.
"""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState
from safetensors import SafetensorError, safe_open

from nas_proxy.dashboard.storage import Reader
from nas_proxy.pipeline import heartbeat
from nas_proxy.pipeline.ground_truth import BEST, DRAWS, SEEDS
from nas_proxy.pipeline.run_folder import RunFolder, is_held, open_run
from nas_proxy.ranking.scores import best_first
from nas_proxy.storage.job_queue import Worker
from nas_proxy.storage.location import Database, existing, study_name
from nas_proxy.storage.records import TRAINED, Record, finished


@dataclass(frozen=True)
class Stage:
    """One stage: `done` of `total` steps, trainings or files; seconds_left is None where nothing tells it."""

    name: str
    done: int
    total: int
    complete: bool
    seconds_left: float | None = None


@dataclass(frozen=True)
class Status:
    """How a run stands.

    stages: all five, in their order. best: key, score and, once known, test accuracy of the best candidate;
        the sum of its losses where the run ranks by it.
    failures: the reasons and how often, by signal. at_work: whether a command holds the folder.
    open_trainings: begun and not finished; left by a command that was killed where nothing is at work.
    workers: the commands that train: the one that holds the folder, and whoever has joined it, where a database knows
        whose hearts beat; the first coordinates the others.
    seconds_left: to the end of the run; None where nothing is at work or a stage's time is not known.
    pruned, seconds_saved: candidates that a pruner ended, and about how long the rest of them would have taken.
    """

    run: str
    stages: tuple[Stage, ...]
    best: Mapping[str, Any] | None
    failures: Mapping[str, Mapping[str, int]]
    at_work: bool
    open_trainings: int
    seconds_left: float | None
    workers: tuple[Worker, ...] = ()
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
    """Looks at one run as often as it is asked; finished trials are read from the storage once."""

    def __init__(self, path: Path) -> None:
        self._run = open_run(path)
        self._reader = Reader(self._run.path)

    def look(self) -> Status:
        """Return how the run stands now. Raises RunFolderError where its files cannot be read."""
        run = self._run = open_run(self._run.path)
        at_work = is_held(run.path)
        trials = self._trials(at_work)
        workers = self._workers(trials)
        return status_of(run, trials, at_work or any(worker.coordinates for worker in workers), workers)

    def _workers(self, trials: Mapping[str, Sequence[FrozenTrial]]) -> tuple[Worker, ...]:
        if isinstance(existing(self._run.path), Database):
            return self._reader.workers()
        command = heartbeat.alive(self._run)
        return () if command is None else (replace(command, jobs=_running(trials)),)

    def _trials(self, at_work: bool) -> dict[str, list[FrozenTrial]]:
        place = existing(self._run.path)
        there = self._reader.studies(at_work=at_work)
        if place is None:
            return {}
        names = {signal: study_name(place, signal) for signal in TRAINED}
        return {signal: self._reader.trials(there[name]) for signal, name in names.items() if name in there}


def status_of(
    run: RunFolder, trials: Mapping[str, Sequence[FrozenTrial]], at_work: bool, workers: tuple[Worker, ...] = ()
) -> Status:
    """Return how a run stands, from its files and the trials of its studies."""
    records = {signal: finished(trials.get(signal, ())) for signal in TRAINED}
    running = _running(trials)
    stages = _stages(run, trials, records, max(running, 1) if at_work else None)
    missing = [stage.seconds_left for stage in stages if not stage.complete]
    known = [seconds for seconds in missing if seconds is not None]
    failures = {signal: Counter(r.reason or "no score" for r in found if r.failed) for signal, found in records.items()}
    return Status(
        run=str(run.path),
        stages=stages,
        best=_best(records, run.config.score),
        failures={signal: dict(counted.most_common()) for signal, counted in failures.items() if counted},
        at_work=at_work,
        open_trainings=running,
        seconds_left=sum(known) if at_work and missing and len(known) == len(missing) else None,
        workers=workers,
        pruned=sum(r.pruned_at is not None for r in records["proxy"]),
        seconds_saved=sum(r.seconds_saved for r in records["proxy"]),
    )


def _running(trials: Mapping[str, Sequence[FrozenTrial]]) -> int:
    return sum(trial.state == TrialState.RUNNING for found in trials.values() for trial in found)


def _stages(
    run: RunFolder,
    trials: Mapping[str, Sequence[FrozenTrial]],
    records: Mapping[str, Sequence[Record]],
    at_once: int | None,
) -> tuple[Stage, ...]:
    """at_once: how many trainings run now; None where no command is at work."""
    proxy, truth = records["proxy"], run.config.truth
    sample = [r.key for r in proxy if r.complete and r.phase == "sample"][:truth]
    total = max(run.config.trials, truth)
    done = min(len(sample) + sum(r.phase == "search" for r in proxy), total)
    searched = done == total or _went_on(run, trials)
    best = [r.key for r in best_first(proxy, run.config.score)[:BEST] if r.key not in sample]

    def seconds(signal: str, missing: int) -> float | None:
        # The controls cost as many image passes as the proxy.
        known = [r for r in records[signal] or (proxy if signal != "truth" else []) if r.complete]
        if at_once is None or not known:
            return None
        return missing * sum(r.seconds for r in known) / len(known) / at_once

    def trained(signal: str, keys: Sequence[str], draws: int) -> tuple[int, int]:
        there = sum(r.key in keys and r.draw < draws for r in records[signal])
        return there, draws * (len(keys) if searched else max(len(keys), truth))

    fully, full = trained("truth", [*sample, *best], SEEDS)
    controls = {signal: trained(signal, sample, draws) for signal, draws in (("random", DRAWS), ("early_stop", 1))}
    controlled, control = (sum(numbers) for numbers in zip(*controls.values(), strict=True))
    control_seconds = [seconds(signal, of - there) for signal, (there, of) in controls.items()]
    known = [each for each in control_seconds if each is not None]
    ranked = searched and fully >= full and controlled >= control and (run / "ranking.json").exists()
    return (
        _condense(run, at_once is not None),
        Stage("search", done, total, searched, seconds("proxy", total - done)),
        Stage("truth", fully, full, searched and fully >= full, seconds("truth", full - fully)),
        Stage("rank", controlled, control, ranked, sum(known) if len(known) == len(control_seconds) else None),
        _report(run, ranked),
    )


def _condense(run: RunFolder, at_work: bool) -> Stage:
    steps = run.config.condense.steps
    if (run / "proxy.safetensors").exists():
        return Stage("condense", steps, steps, True)
    done, left = condensing(run.checkpoint, steps)
    return Stage("condense", done, steps, False, left if at_work else None)


def condensing(checkpoint: Path, steps: int) -> tuple[int, float | None]:
    """Return the steps that a condensation has done, and about how many seconds the rest of `steps` takes."""
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            told = file.metadata() or {}
        done, seconds = int(told["step"]), float(told["seconds"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return 0, None
    return done, (steps - done) * seconds / done if done else None


def _report(run: RunFolder, ranked: bool) -> Stage:
    try:
        there = ranked and (run / "report.html").stat().st_mtime >= (run / "ranking.json").stat().st_mtime
    except FileNotFoundError:
        there = False
    return Stage("report", int(there), 1, there, None if there else 0.0)


def _went_on(run: RunFolder, trials: Mapping[str, Sequence[FrozenTrial]]) -> bool:
    """Return whether a search that found fewer architectures than it was to train has ended, as in a small space."""
    begun = [t.datetime_start.timestamp() for name in TRAINED[1:] for t in trials.get(name, ()) if t.datetime_start]
    ended = [t.datetime_complete.timestamp() for t in trials.get("proxy", ()) if t.datetime_complete]
    asked = (run / "run.toml").stat().st_mtime
    if begun and max(begun) > max([asked, *ended]):
        return True
    with contextlib.suppress(FileNotFoundError):
        return (run / "ranking.json").stat().st_mtime > asked
    return False


def _best(records: Mapping[str, Sequence[Record]], by: str) -> dict[str, Any] | None:
    found = best_first(records["proxy"], by)
    if not found:
        return None
    truth = [r.score for r in records["truth"] if r.key == found[0].key and r.score is not None]
    return {
        "key": found[0].key,
        "score": found[0].score,
        **({"loss_sum": found[0].loss_sum} if by == "loss_sum" else {}),
        "test_accuracy": sum(truth) / len(truth) if truth else None,
    }
