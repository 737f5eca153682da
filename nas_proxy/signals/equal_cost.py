"""What signals cost, and random images at equal cost.

In: finished trainings and what making the sets took. Out: a `Cost` of each signal; what `random_total` trains on, so
that its seconds equal those of training on a condensed set with the making shared over the candidates; and from how
many candidates on making the set pays. Seconds are those of one core, or of the GPU. Image passes are forward passes:
those of training, and those of making the set.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields

from nas_proxy.condensation.proxy_set import ProxySet
from nas_proxy.signals.stored_names import total_study
from nas_proxy.storage.records import Record


@dataclass(frozen=True)
class Cost:
    """What one draw of a signal cost, for all architectures together: training them, and making its set."""

    training_seconds: float
    making_seconds: float
    training_passes: int
    making_passes: int
    stored_images: int
    stored_bytes: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.training_seconds + self.making_seconds

    @property
    def passes(self) -> int:
        """All of them."""
        return self.training_passes + self.making_passes

    def as_json(self) -> dict[str, object]:
        """Return the fields, with the sums."""
        return {"seconds": self.seconds, "passes": self.passes, **asdict(self)}


@dataclass(frozen=True)
class EqualCostPlan:
    """What random images train on at the whole cost of `target`: so many a class, for so many image passes.

    factor: times the cost of a training on `random`. candidates: share the making of the target's set.
    """

    target: str
    candidates: int
    factor: float
    per_class: int
    passes: int

    @property
    def study(self) -> str:
        """The name of the study; another plan has another."""
        return total_study(self.target, self.candidates)

    def sentence(self) -> str:
        """Return what the plan is, for a reader."""
        return (
            f"{self.per_class} images a class and {self.passes:,} image passes, {self.factor:.2f} times a training on "
            f"random: the seconds of one on {self.target} with its making shared over {self.candidates} candidates"
        )


def seconds_a_pass(records: Sequence[Record]) -> float:
    """Return the seconds of a training for each of its image passes, evaluation included; NaN where there is none."""
    done = [r for r in records if r.complete and r.image_passes > 0]
    return sum(r.seconds for r in done) / sum(r.image_passes for r in done) if done else math.nan


def cost_of(records: Sequence[Record], keys: Collection[str], draws: int, sets: Sequence[ProxySet]) -> Cost:
    """Return the mean cost of a draw; `keys` are the architectures that count."""
    used = [r for r in records if r.key in keys and r.draw < draws]
    return Cost(
        training_seconds=sum(r.seconds for r in used) / draws,
        making_seconds=sum(made.seconds for made in sets) / len(sets) if sets else 0.0,
        training_passes=sum(r.image_passes for r in used) // draws,
        making_passes=sum(made.passes or 0 for made in sets) // len(sets) if sets else 0,
        stored_images=sets[0].stored if sets else 0,
        stored_bytes=sets[0].stored_bytes if sets else 0,
    )


def together(costs: Sequence[Cost]) -> Cost:
    """Return what several signals cost together."""
    return Cost(**{field.name: sum(getattr(cost, field.name) for cost in costs) for field in fields(Cost)})


def plan_total(
    target: str,
    trained: Sequence[Record],
    sets: Sequence[ProxySet],
    random: Sequence[Record],
    *,
    candidates: int,
    per_class: int,
    passes: int,
    most: int,
) -> EqualCostPlan:
    """Return what random images train on at the cost of `target`.

    trained, sets: the target's. random: trainings on `per_class` random images; both are of `passes` image passes, so
    their speed is taken from all of them, and other work on the machine favours neither. most: images that each class
    has. There are more images for as many epochs; when a class has no more, more epochs.
    """
    making = sum(made.seconds for made in sets) / len(sets)
    speed = seconds_a_pass([*trained, *random])
    factor = 1.0 + (making / candidates / (passes * speed) if speed > 0 else 0.0)
    return EqualCostPlan(
        target, candidates, factor, min(most, max(per_class, round(per_class * factor))), round(passes * factor)
    )


def pays_from(cost: Cost, candidates: int, full_seconds: float | None) -> dict[str, object]:
    """Return from how many candidates on training on a made set, its making included, is shorter than full training.

    candidates: those that `cost` is of. full_seconds: of one full training; None where nothing tells.
    """
    if full_seconds is None or not math.isfinite(full_seconds):
        return {"pays_from": None, "pays_from_reason": "nothing tells how long full training takes"}
    each = cost.training_seconds / candidates
    if each >= full_seconds:
        return {"pays_from": None, "pays_from_reason": "a training on the set takes as long as full training here"}
    return {"pays_from": math.floor(cost.making_seconds / (full_seconds - each)) + 1}
