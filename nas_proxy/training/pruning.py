"""Whether a training is worth finishing: curves of earlier trainings in, the word of one of Optuna's pruners out.

A pruner looks at a study. Here that study lives in memory, beside the training, and holds what its job brought: the
curves of trainings that were known when its own was proposed. Those that run at the same time are not in it, so
neither the number of workers nor a kill changes what is pruned.

Steps: "median" and "hyperband" look at the first training of a candidate a few times, step = epochs done, and then
after each of its seeds, step = epochs of all of them. "wilcoxon" looks after each seed alone, step = its number: it
tests whether the seeds so far are worse than those of the best candidate.
"""

import math
from dataclasses import dataclass

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, WilcoxonPruner
from optuna.trial import FrozenTrial, TrialState, create_trial

from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.training.train import Recipe

PRUNERS = ("none", "median", "hyperband", "wilcoxon")
# How often a training is looked at, at most; each look scores the network on the evaluation images.
LOOKS = 5
# Of Hyperband, as of its paper and of Optuna: a rung of the ladder keeps one in so many.
REDUCTION = 3
# Seeds below which the Wilcoxon test cannot reach its level of 0.1 before the last one.
WILCOXON_LEAST = 5


@dataclass(frozen=True)
class Curve:
    """What one training that has ended showed: (step, score so far), and the final score, None if pruned."""

    points: tuple[tuple[int, float], ...]
    score: float | None


@dataclass(frozen=True)
class Pruning:
    """What decides whether a training goes on.

    pruner: one of `PRUNERS` but "none". by: the score that is looked at. history: of what was known when the training
    was proposed, in order. ahead: how many trainings are numbered before this one and not in the history; Hyperband
    deals its brackets by number.
    may_end: False for a training that is looked at, so that others are compared with it, and never ended.
    """

    pruner: str
    by: str = "accuracy"
    history: tuple[Curve, ...] = ()
    ahead: int = 0
    may_end: bool = True


def marks(recipe: Recipe, looks: int = LOOKS) -> frozenset[int]:
    """Return after how many whole epochs a training is looked at, at most `looks` times, evenly, not at its end."""
    return frozenset(math.floor(k * recipe.epochs / (looks + 1)) for k in range(1, looks + 1)) - {0}


class Judge:
    """A training's trial in a study of its own, which the pruner is asked about."""

    def __init__(self, pruning: Pruning, recipe: Recipe, seeds: int) -> None:
        self._pruning = pruning
        last = math.ceil(recipe.epochs) * seeds
        self.points: dict[int, float] = {}
        self._trial = _trial(pruning, min(marks(recipe), default=last), last) if pruning.may_end else None

    @property
    def by_seed(self) -> bool:
        """Whether only whole trainings are looked at, each for itself."""
        return self._pruning.pruner == "wilcoxon"

    def ends(self, step: int, score: float) -> bool:
        """Note the score at a step, and return whether the pruner ends the training there."""
        self.points[step] = score
        if self._trial is None:
            return False
        self._trial.report(score, step)
        return self._trial.should_prune()


def _trial(pruning: Pruning, first: int, last: int) -> optuna.Trial:
    """Return a running trial in a study that holds the history. first, last: the first and the last step."""
    with without_announcements():
        pruner = _pruner(pruning.pruner, first, last)
        study = optuna.create_study(study_name="proposals", direction="maximize", pruner=pruner)
    for number, curve in enumerate(pruning.history):
        finished = create_trial(
            state=TrialState.PRUNED if curve.score is None else TrialState.COMPLETE,
            value=curve.score,
            intermediate_values=dict(curve.points),
        )
        finished.number = number
        if isinstance(pruner, HyperbandPruner):
            finished.system_attrs.update(_rungs(pruner, study, finished, first))
        study.add_trial(finished)
    for _ in range(pruning.ahead):
        study.add_trial(create_trial(state=TrialState.FAIL))
    return study.ask()


def _pruner(name: str, first: int, last: int) -> BasePruner:
    if name == "median":
        return MedianPruner()
    if name == "wilcoxon":
        return WilcoxonPruner()
    return HyperbandPruner(min_resource=first, max_resource=last, reduction_factor=REDUCTION)


def _rungs(pruner: HyperbandPruner, study: optuna.Study, trial: FrozenTrial, first: int) -> dict[str, float]:
    """Return what the pruner would have left at a finished trial while it ran: its score at each rung it reached.

    The rungs belong to a bracket, and that to the trial's number, so they are found anew rather than kept.
    """
    if not pruner._pruners:
        pruner._try_initialization(study)
    lowest = pruner._get_bracket_id(study, trial)
    rungs: dict[str, float] = {}
    for step, score in sorted(trial.intermediate_values.items()):
        while step >= first * REDUCTION ** (lowest + len(rungs)):
            rungs[f"completed_rung_{len(rungs)}"] = score
    return rungs
