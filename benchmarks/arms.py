"""Ways to search a table: a task, a seed and a budget in, what was fully trained and at what cost out.

A trace is a list of (cost so far in full-training equivalents, index), one entry a full training. Optuna's samplers
propose freely from the choices of the space; what they propose stands for the nearest architecture of the table (by
the number of differing choices, ties at random) that was not trained yet, and they learn its true choices. So no
proposal is wasted on what is unknown or seen already, which is kinder to them than failing it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import Trial, TrialState

from nas_proxy.ranking.calibration import features_of
from nas_proxy.ranking.surrogate import Features
from nas_proxy.seeds import derive, numpy_generator
from nas_proxy.strategy.acquisition import Observed, Plan, after, next_actions
from nas_proxy.strategy.evolution import RegularisedEvolutionSampler
from published_tables import FREE, Task
from whole_run import whole_run

Trace = list[tuple[float, int]]
Arm = Callable[[Task, int, float, float], Trace]
"""Takes a task, a seed, a budget in full trainings, and the cost of one score of one architecture."""

# The scores that vote where they are there: the best unfitted mean rank that the field knows.
VOTERS = ("naswot", "synflow", "flops", "jacob_cov")
WARM = 10
EPOCHS = (12, 200)


def pool_of(task: Task) -> Features:
    return features_of(task.scores, task.names, task.encoding, voters=VOTERS)


def scored(task: Task, cost: float, voters: bool) -> float:
    """Return what the scores of the pool took; what a count of operations gives is free."""
    paid = [n for n in task.names if n not in FREE and (not voters or n in VOTERS)]
    return cost * len(paid) * len(task.keys)


def ours(task: Task, seed: int, budget: float, cost: float) -> Trace:
    features, plan = pool_of(task), Plan(cheap=task.mid is not None)
    spent, observed, trace, number = scored(task, cost, voters=False), Observed(), [], 0
    while spent <= budget and (actions := next_actions(features, observed, plan, seed, number)):
        results = []
        for action in actions:
            full = action.fidelity == "full"
            spent += 1.0 if full else task.share
            column = task.truth if full or task.mid is None else task.mid
            results.append((action, float(column[action.index])))
            trace += [(spent, action.index)] if full else []
        observed, number = after(observed, results), number + 1
    return trace


def run(task: Task, seed: int, budget: float, cost: float) -> Trace:
    return whole_run(task, pool_of(task), seed, budget, scored(task, cost, voters=False))


def _in_order(order: Sequence[int], budget: float, spent: float = 0.0) -> Trace:
    return [(spent + 1 + i, int(index)) for i, index in enumerate(order[: max(int(budget - spent), 0)])]


def random(task: Task, seed: int, budget: float, cost: float) -> Trace:
    return _in_order(numpy_generator(seed, "random").permutation(len(task.keys)).tolist(), budget)


def vote(task: Task, seed: int, budget: float, cost: float) -> Trace:
    order = np.lexsort((numpy_generator(seed, "ties").random(len(task.keys)), -pool_of(task).vote))
    return _in_order(order.tolist(), budget, scored(task, cost, voters=True))


def flops(task: Task, seed: int, budget: float, cost: float) -> Trace:
    values = task.scores[:, task.names.index("flops")]
    order = np.lexsort((numpy_generator(seed, "ties").random(len(task.keys)), -values))
    return _in_order(order.tolist(), budget)


def tpe(task: Task, seed: int, budget: float, cost: float) -> Trace:
    return _asked(task, seed, budget, TPESampler(seed=seed % 2**32))


def gp(task: Task, seed: int, budget: float, cost: float) -> Trace:
    return _asked(task, seed, budget, GPSampler(seed=seed % 2**32))


def evolution(task: Task, seed: int, budget: float, cost: float) -> Trace:
    return _asked(task, seed, budget, RegularisedEvolutionSampler(WARM, 5, seed=seed))


def evolution_warm(task: Task, seed: int, budget: float, cost: float) -> Trace:
    first = [index for _, index in vote(task, seed, WARM, 0.0)]
    sampler = RegularisedEvolutionSampler(WARM, 5, seed=seed)
    return _asked(task, seed, budget, sampler, first=first, spent=scored(task, cost, voters=True))


def hyperband(task: Task, seed: int, budget: float, cost: float) -> Trace:
    return _with_hyperband(task, seed, budget, 3)  # Optuna's default


def hyperband_16(task: Task, seed: int, budget: float, cost: float) -> Trace:
    return _with_hyperband(task, seed, budget, 16)


def _with_hyperband(task: Task, seed: int, budget: float, factor: int) -> Trace:
    """Return the trace of TPE with Hyperband between two numbers of epochs.

    With the factor 3 its brackets wait at epochs for which tables have no accuracy, and prune little; 16 is the step
    from the one to the other, and the best of 2, 3 and 16.
    """
    low, high = EPOCHS
    pruner = optuna.pruners.HyperbandPruner(low, high, reduction_factor=factor)
    return _asked(task, seed, budget, TPESampler(seed=seed % 2**32), pruner=pruner)


def _asked(
    task: Task,
    seed: int,
    budget: float,
    sampler: BaseSampler,
    *,
    first: Sequence[int] = (),
    spent: float = 0.0,
    pruner: optuna.pruners.BasePruner | None = None,
) -> Trace:
    """Return the trace of an Optuna study; with a pruner, trials report after the cheap training, and go on from it."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    # Hyperband draws a trial's bracket from the study's name, which would be random.
    study = optuna.create_study(
        study_name=str(seed), direction="maximize", sampler=sampler, pruner=pruner or optuna.pruners.NopPruner()
    )
    trace: Trace = []
    for trial, index in _trials(task, study, seed, first):
        if pruner is not None and task.mid is not None:
            spent += task.share
            trial.report(float(task.mid[index]), EPOCHS[0])
            if trial.should_prune():
                study.tell(trial, state=TrialState.PRUNED)
                if spent > budget:
                    break
                continue
            spent -= task.share
        spent += 1
        trace.append((spent, index))
        study.tell(trial, float(task.truth[index]))
        if spent >= budget:
            break
    return trace


def _trials(task: Task, study: optuna.Study, seed: int, first: Sequence[int]) -> Iterator[tuple[Trial, int]]:
    """Yield trials and the architectures that they stand for, each once."""
    options, codes = _codes(task)
    left = np.ones(len(codes), dtype=bool)
    queue = list(first)
    while left.any():
        trial = None
        if queue:
            index = queue.pop(0)
        else:
            trial = study.ask()
            proposed = np.array([o.index(trial.suggest_categorical(n, o)) for n, o in options.items()])
            index = _nearest(codes, left, proposed, derive(seed, "nearest", trial.number))
            if (codes[index] != proposed).any():
                study.tell(trial, state=TrialState.FAIL)
                trial = None
        if trial is None:
            study.enqueue_trial({n: o[c] for (n, o), c in zip(options.items(), codes[index], strict=True)})
            trial = study.ask()
            for name, values in options.items():
                trial.suggest_categorical(name, values)
        left[index] = False
        yield trial, index


def _codes(task: Task) -> tuple[dict[str, list[str]], NDArray[np.int64]]:
    """Return the options of each choice, and the number of the chosen one: (n, choices)."""
    names = sorted({name for a in task.architectures for name in a})
    rows = [[a.get(name, "") for name in names] for a in task.architectures]
    options = {name: sorted({row[i] for row in rows}) for i, name in enumerate(names)}
    return options, np.array([[o.index(v) for o, v in zip(options.values(), row, strict=True)] for row in rows])


def _nearest(codes: NDArray[np.int64], left: NDArray[np.bool_], proposed: NDArray[np.int64], seed: int) -> int:
    distance = (codes != proposed).sum(axis=1).astype(float) + np.where(left, 0, np.inf)
    ties = np.flatnonzero(distance == distance.min())
    return int(ties[np.random.default_rng(seed).integers(len(ties))])


ARMS: dict[str, Arm] = {
    "ours": ours,
    "run": run,
    "random": random,
    "tpe": tpe,
    "gp": gp,
    "hyperband": hyperband,
    "hyperband_16": hyperband_16,
    "evolution": evolution,
    "evolution_warm": evolution_warm,
    "vote": vote,
    "flops": flops,
}
# What plans for its budget, so that half of its trace is not what half of the budget would have found.
PLANNED = ("run",)
OPTUNA, TUNED = ("tpe", "gp", "hyperband"), ("hyperband_16",)


def lacks(arm: str, task: Task) -> str | None:
    """Return what an arm needs and the task has not; None where it has all."""
    needs = {
        "hyperband": (task.mid is not None, "a cheap training (--mid)"),
        "hyperband_16": (task.mid is not None, "a cheap training (--mid)"),
        "vote": (bool(task.names), "scores"),
        "evolution_warm": (bool(task.names), "scores"),
        "flops": ("flops" in task.names, "a column flops among the scores"),
    }
    there, what = needs.get(arm, (True, ""))
    return None if there else what
