"""Several trainings of one architecture with different seeds: their mean, their spread, and an end before the last.

In: what trains once with a seed, and how a pruner looks at it. Out: one `Outcome`. Guarantees: one seed without a
pruner gives the training itself, to the bit; a pruner changes no score of what it lets go on.
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import replace

from nas_proxy.seeds import derive
from nas_proxy.training.pruning import Judge, Pruning, marks
from nas_proxy.training.train import Outcome, Recipe, Watch

Train = Callable[[int, Watch | None], Outcome]


def repeated(train: Train, recipe: Recipe, seed: int, seeds: int = 1, pruning: Pruning | None = None) -> Outcome:
    """Train with `seeds` seeds that derive from `seed`, the first of which it is.

    Score and losses are the means, seconds and image passes the sums. It diverged where one of them did.
    """
    judge = None if pruning is None else Judge(pruning, recipe, seeds)
    length = math.ceil(recipe.epochs)
    by = "accuracy" if pruning is None else pruning.by
    done: list[Outcome] = []
    pruned_at: int | None = None
    for number in range(seeds):
        watched = judge is not None and not judge.by_seed and number == 0
        watch = Watch(marks(recipe), judge.ends, by) if judge is not None and watched else None
        done.append(train(_seed(seed, number), watch))
        pruned_at = done[-1].pruned_at
        if pruned_at is not None:
            break
        if judge is not None and (score := _so_far(done, by, single=judge.by_seed)) is not None:
            step = number + 1 if judge.by_seed else length * (number + 1)
            if judge.ends(step, score) and number + 1 < seeds:
                pruned_at = step
                break
    found = _mean(done)
    if judge is None:
        return found
    found = replace(found, curve=tuple(sorted(judge.points.items())), pruned_at=pruned_at)
    if pruned_at is None:
        return found
    of = f"{pruned_at} of {seeds} seeds" if judge.by_seed else f"{pruned_at} of {length * seeds} epochs"
    share = sum(len(outcome.losses) for outcome in done) / (length * seeds)
    return replace(found, reason=f"pruned after {of}", seconds_saved=found.seconds * (1 - share) / share)


def spread(values: list[float]) -> float | None:
    """Return the standard deviation (n - 1) of several values, None of one."""
    return statistics.stdev(values) if len(values) > 1 else None


def _seed(seed: int, number: int) -> int:
    return seed if number == 0 else derive(seed, "repeat", number)


def _so_far(done: list[Outcome], by: str, *, single: bool) -> float | None:
    """Return the mean score of the trainings, or that of the last; None by losses where one of them diverged."""
    used = done[-1:] if single else done
    if by == "accuracy":
        return statistics.fmean(outcome.score for outcome in used)
    if any(outcome.diverged for outcome in used):
        return None
    return -statistics.fmean(statistics.fmean(outcome.losses) for outcome in used)


def _mean(done: list[Outcome]) -> Outcome:
    if len(done) == 1:
        return done[0]
    # A training that diverged is shorter than the others.
    losses = tuple(statistics.fmean(epoch) for epoch in zip(*(outcome.losses for outcome in done), strict=False))
    return Outcome(
        score=statistics.fmean(outcome.score for outcome in done),
        losses=losses,
        diverged=any(outcome.diverged for outcome in done),
        seconds=sum(outcome.seconds for outcome in done),
        image_passes=sum(outcome.image_passes for outcome in done),
        note=next((outcome.note for outcome in done if outcome.note), ""),
        seeds=tuple(done),
        validation=None if done[0].validation is None else statistics.fmean(o.validation or 0.0 for o in done),
    )
