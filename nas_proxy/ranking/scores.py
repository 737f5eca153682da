"""The two scores of a training on the proxy, and which of them ranks and picks the candidates.

In: records of trainings, and the name of a score. Out: numbers, higher for better: the validation accuracy, or the
negated sum of the training losses, which needs no validation images (Ru et al., NeurIPS 2021, "Speedy performance
estimation for neural architecture search"). A training that diverged has the accuracy of chance, and by its losses
counts as worse than any other. Guarantee: the order of the records changes no number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from nas_proxy.spaces.objectives import front
from nas_proxy.storage.records import Record

if TYPE_CHECKING:
    from nas_proxy.training.train import Outcome

SCORES = ("accuracy", "loss_sum")


def other(score: str) -> str:
    """Return the name of the score that is not `score`."""
    return next(name for name in SCORES if name != score)


def score_of(record: Record, by: str) -> float:
    """Return the score of a record: NaN where there is none, minus infinity by the losses of a diverged training."""
    if record.score is None:
        return math.nan
    if by == "accuracy":
        return record.score
    return -math.inf if record.loss_sum is None else -record.loss_sum


def column(records: Sequence[Record], by: str) -> list[float]:
    """Return the score of each record; NaN where there is none, as after a failure.

    By losses, a diverged training gets the next number below the lowest of all others.
    """
    found = [score_of(r, by) for r in records]
    lowest = min((value for value in found if math.isfinite(value)), default=0.0)
    below = math.nextafter(lowest, -math.inf)
    return [below if value == -math.inf else value for value in found]


def value_of(outcome: Outcome, by: str) -> float | None:
    """Return the score of one training; None where it was pruned, or diverged and is judged by its losses."""
    if outcome.pruned_at is not None or (outcome.diverged and by == "loss_sum"):
        return None
    return outcome.score if by == "accuracy" else -sum(outcome.losses)


def shown(value: float | None, by: str) -> str:
    """Return a score as a reader sees it: a share of the images, or a sum of losses with its minus sign."""
    if value is None:
        return "–"
    return f"{value:.1%}" if by == "accuracy" else f"{value:.4g}".replace("-", "−")


def best_first(records: Iterable[Record], by: str = "accuracy") -> list[Record]:
    """Return the completed records, the best by the score `by` first; ties go to the other score, then to the key."""
    complete = [r for r in records if r.complete]
    columns = [column(complete, name) for name in (by, other(by))]
    order = sorted(range(len(complete)), key=lambda i: (-columns[0][i], -columns[1][i], complete[i].key))
    return [complete[i] for i in order]


def values_of(record: Record, objectives: Sequence[str], believed: Mapping[str, float] | None = None) -> list[float]:
    """Return a completed record's values of the objectives, in their order: the accuracy first.

    believed: what the accuracy after full training is believed to be, by key; the record's own score without it.
    """
    accuracy = record.score if believed is None else believed.get(record.key)
    return [math.nan if accuracy is None else accuracy, *record.costs.known(objectives)]


def pareto_front(
    on_proxy: Iterable[Record],
    objectives: Sequence[str],
    fully: Iterable[Record] = (),
    believed: Mapping[str, float] | None = None,
) -> list[Record]:
    """Return the architectures, a record each, that no other one beats in all objectives, the cheapest first.

    fully: those of full training, which count where something is `believed`, as `values_of` has it.
    """
    known = [*on_proxy, *(() if believed is None else fully)]
    whole = [r for r in known if r.complete and None not in r.costs.values(objectives)]
    complete = best_first({r.key: r for r in reversed(whole)}.values())
    columns = zip(*(values_of(r, objectives, believed) for r in complete), strict=True)
    return [complete[row] for row in front(dict(zip(objectives, columns, strict=False)))] if complete else []
