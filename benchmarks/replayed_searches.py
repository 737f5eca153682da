"""Searches replayed on a table of finished trainings: what each trains, in its order, with the true seconds.

In: rows of `convnet_table.py`. Out: the events of each repeat of an arm; `live_replay.py` says which arms there are.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from convnet_table import columns, lowest, truth_of
from nas_proxy.seeds import derive, numpy_generator
from nas_proxy.strategy.evolution import RegularisedEvolutionSampler
from small_convnets import space

POPULATION, TOURNAMENT = 10, 3
# Proposals in a row that are no new architecture of the table, after which a random one is taken.
TRIES = 20


@dataclass(frozen=True)
class Training:
    """What the table knows of an architecture's full training.

    seen: what a search sees of it. test: what it is judged by; both shares. seconds: of all of it, the look included.
    curve: after each epoch, what is seen and the seconds spent up to there, that look included, earlier ones too.
    """

    key: str
    architecture: dict[str, Any]
    seen: float
    test: float
    seconds: float
    curve: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Event:
    """Work that took so many `seconds`; `pick` is what the search would hand out after it, None for nothing yet."""

    seconds: float
    pick: str | None


Table = dict[str, Training]
Arm = Callable[[Table, int, float], list[Event]]  # table, seed, and the seconds after which it may stop


def table_of(rows: Sequence[dict[str, Any]], sees: str) -> Table:
    """Return the trainings by key, in the order of the rows."""
    return {row["key"]: _training(row, sees) for row in rows}


def _training(row: dict[str, Any], sees: str) -> Training:
    full = row["full"]
    look = full["validation_seconds"]
    validation = 0.1 if full["validation"] is None else full["validation"]
    curve = tuple((point["validation"] or 0.1, point["seconds"] + n * look) for n, point in enumerate(full["curve"], 1))
    seen = validation if sees == "validation" else truth_of(row)
    # Without pruning nobody has to look before the end.
    return Training(row["key"], row["architecture"], seen, truth_of(row), full["seconds"] + look, curve)


class History:
    """What a search has trained so far, from which its events come."""

    def __init__(self, table: Table) -> None:
        self.events: list[Event] = []
        self.seen: set[str] = set()
        self.seconds = 0.0
        self._table = table
        self._best: Training | None = None

    def trained(self, key: str) -> float:
        """Note a full training and return what is seen of it."""
        training = self._table[key]
        self.seen.add(key)
        if self._best is None or training.seen > self._best.seen:
            self._best = training
        self._note(training.seconds)
        return training.seen

    def spent(self, seconds: float, key: str | None = None) -> None:
        """Note work that ends in no full training; the architecture `key` is not looked at again."""
        if key is not None:
            self.seen.add(key)
        self._note(seconds)

    def _note(self, seconds: float) -> None:
        self.seconds += seconds
        self.events.append(Event(seconds, self._best and self._best.key))


def in_order(table: Table, keys: Sequence[str], before: float = 0.0) -> list[Event]:
    """Return the events of full trainings one after another, `before` seconds of other work first."""
    history = History(table)
    if before > 0:
        history.spent(before)
    for key in keys:
        history.trained(key)
    return history.events


def random_search(table: Table, seed: int, horizon: float = math.inf) -> list[Event]:
    del horizon
    return in_order(table, numpy_generator(seed, "random").permutation(list(table)).tolist())


def tpe(table: Table, seed: int, horizon: float = math.inf) -> list[Event]:
    return _asked(table, optuna.samplers.TPESampler(seed=derive(seed, "tpe") % 2**32), seed, horizon)


def evolution(table: Table, seed: int, horizon: float = math.inf) -> list[Event]:
    return _asked(
        table, RegularisedEvolutionSampler(POPULATION, TOURNAMENT, seed=derive(seed, "evolution")), seed, horizon
    )


def tpe_hyperband(table: Table, seed: int, horizon: float = math.inf) -> list[Event]:
    sampler = optuna.samplers.TPESampler(seed=derive(seed, "tpe_hyperband") % 2**32)
    epochs = max(len(training.curve) for training in table.values())
    # The smallest factor, since the curve has few epochs.
    pruner = optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=2)
    return _asked(table, sampler, seed, horizon, pruner)


def _asked(
    table: Table,
    sampler: optuna.samplers.BaseSampler,
    seed: int,
    horizon: float,
    pruner: optuna.pruners.BasePruner | None = None,
) -> list[Event]:
    """Return the events of an Optuna study; with a pruner, looks after each epoch are paid for."""
    named = f"replay{seed}"  # by which Hyperband deals its brackets
    study = optuna.create_study(
        study_name=named, direction="maximize", sampler=sampler, pruner=pruner or optuna.pruners.NopPruner()
    )
    history = History(table)
    spare = iter(numpy_generator(seed, "spare").permutation(list(table)).tolist())
    while len(history.seen) < len(table) and history.seconds <= horizon:
        trial = _new(study, table, history, spare)
        key = space.key(space.suggest(trial))
        if pruner is not None and (ended := _pruned(trial, table[key])) is not None:
            history.spent(ended, key)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            value = history.trained(key)
            if pruner is not None:  # the looks that it did not need
                history.spent(max(0.0, table[key].curve[-1][1] - table[key].seconds))
            study.tell(trial, value)
    return history.events


def _new(study: optuna.Study, table: Table, history: History, spare: Iterator[str]) -> optuna.Trial:
    """Return a trial of an architecture that is in the table and was not trained yet."""
    for _ in range(TRIES):
        trial = study.ask()
        key = space.key(space.suggest(trial))
        if key in table and key not in history.seen:
            return trial
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
    key = next(key for key in spare if key not in history.seen)
    study.enqueue_trial(dict(table[key].architecture))
    trial = study.ask()
    space.suggest(trial)
    return trial


def _pruned(trial: optuna.Trial, training: Training) -> float | None:
    """Show the pruner the curve; return the seconds after which it ended the training, None where it did not."""
    for epoch, (seen, seconds) in enumerate(training.curve[:-1], 1):
        trial.report(seen, epoch)
        if trial.should_prune():
            return seconds
    return None


def ordered(name: str, rows: Sequence[dict[str, Any]]) -> Arm:
    """Return the arm that trains in the order of a signal, equal scores at random."""
    values, seconds = columns(rows)[name]
    scores = lowest(values)

    def arm(table: Table, seed: int, horizon: float = math.inf) -> list[Event]:
        del horizon
        ties = numpy_generator(seed, "ties").permutation(len(scores))
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], ties[i]))
        return in_order(table, [rows[i]["key"] for i in order], seconds)

    return arm


def live(folder: Path) -> list[Arm]:
    """Return an arm for each run in `folder`. Raises ValueError for a folder without one."""
    files = sorted(folder.rglob("events.jsonl"))
    if not files:
        raise ValueError(f"{folder} holds no events.jsonl; give the folder of finished runs")
    return [_one_run(file) for file in files]


def _one_run(file: Path) -> Arm:
    def arm(table: Table, seed: int, horizon: float = math.inf) -> list[Event]:
        del seed, horizon
        events, best, pick = [], -math.inf, None
        for line in file.read_text(encoding="utf-8").splitlines():
            event = json.loads(line)
            key = event.get("key")
            if event["fidelity"] == "full" and key in table and (score := event.get("score", table[key].seen)) > best:
                best, pick = score, key
            events.append(Event(event["seconds"], event.get("pick", pick)))
            if events[-1].pick is not None and events[-1].pick not in table:
                raise ValueError(f"{file} picks {events[-1].pick}, which the table does not know")
        return events

    return arm


NAMED: dict[str, Arm] = {"random": random_search, "tpe": tpe, "tpe_hyperband": tpe_hyperband, "evolution": evolution}


def repeats_of(
    arm: str, rows: Sequence[dict[str, Any]], table: Table, repeats: int, horizon: float
) -> list[list[Event]]:
    """Return the events of each repeat of an arm. Raises ValueError for an unknown one."""
    kind, _, rest = arm.partition(":")
    if kind == "events":
        return [one(table, 0, horizon) for one in live(Path(rest.partition("=")[2]))]
    if kind == "order" and rest in columns(rows):
        one = ordered(rest, rows)
    elif arm in NAMED:
        one = NAMED[arm]
    else:
        raise ValueError(f"unknown arm {arm!r}; there are {', '.join(NAMED)}, order:SIGNAL and events:NAME=FOLDER")
    return [one(table, seed, horizon) for seed in range(repeats)]
