"""What is known of a training before and after it: a candidate in, a record out of a trial of Optuna's.

In: the trials of a study. Out: a `Record` for each finished one. Guarantees: what was interrupted counts for nothing;
nothing here reads or writes a storage.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from nas_proxy.errors import StorageError
from nas_proxy.names import TRUTH
from nas_proxy.spaces.measured import UNMEASURED, Latency, Size
from nas_proxy.spaces.objectives import METRICS, Costs
from nas_proxy.untrusted import checked, cleaned

if TYPE_CHECKING:
    from nas_proxy.spaces.space import Architecture

TRAINED = ("proxy", "random", "early_stop", "truth")
# The study of what was timed, not trained: see `nas_proxy.pipeline.latencies`.
LATENCY = "latency"
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Candidate:
    """An architecture to be trained.

    phase: "sample" (uniform) or "search" (proposed).
    index: its position in the sample's stream, or its number among the proposals.
    distributions: Optuna's, of the architecture's parameters.
    latency: how long it takes to answer, where that was measured.
    constraints: how far it is above each limit of the run, see `nas_proxy.spaces.limits.constraints`.
    why: it was proposed, in words; None where nothing chose it.
    unmeasured: why it is not worth a training: what the run needs to know of it could not be measured; None where it
        could or need not.
    """

    key: str
    architecture: Architecture
    phase: str
    index: int
    size: Size
    distributions: Mapping[str, BaseDistribution]
    latency: Latency | None = None
    constraints: tuple[float, ...] = ()
    unmeasured: str | None = None
    why: str | None = None

    @property
    def costs(self) -> Costs:
        """What it costs when it is used."""
        known = self.size != UNMEASURED
        ms = None if self.latency is None else self.latency.ms
        return Costs(self.size.params if known else None, self.size.flops if known else None, ms)


@dataclass(frozen=True)
class Record:
    """A finished training. `score`, `loss_sum`, … are None where it failed, `reason` where it did not.

    One that was pruned has neither score nor loss sum, a reason, and `pruned_at`, the step after which it ended.

    draw: which random images, or which seed of full training; 0 for other signals.
    score: accuracy, a fraction. validation: of full training, the accuracy that a search may see, where `score` is that
        on the test images. loss_sum: the sum of the epochs' mean training losses. Of several seeds both are
        means, and score_std and loss_sum_std the standard deviations (n - 1).
    losses: mean training loss of each epoch. curve: (step, score so far), where a pruner looked, see
        `nas_proxy.training.pruning`.
    """

    key: str
    architecture: Architecture
    phase: str
    index: int
    draw: int
    params: int
    flops: int
    score: float | None = None
    loss_sum: float | None = None
    diverged: bool = False
    seconds: float = 0.0
    image_passes: int = 0
    reason: str | None = None
    score_std: float | None = None
    loss_sum_std: float | None = None
    losses: tuple[float, ...] = ()
    curve: tuple[tuple[int, float], ...] = ()
    pruned_at: int | None = None
    seconds_saved: float = 0.0
    latency: Latency | None = None
    validation: float | None = None
    why: str | None = None

    @property
    def costs(self) -> Costs:
        """What the architecture costs when it is used."""
        return Costs(self.params, self.flops, None if self.latency is None else self.latency.ms)

    @property
    def complete(self) -> bool:
        """Whether the training ended with a score."""
        return self.score is not None

    @property
    def failed(self) -> bool:
        """Whether the training ended without a score, but not because a pruner ended it."""
        return self.score is None and self.pruned_at is None


def metric_names(signal: str, objectives: Sequence[str]) -> list[str]:
    """Return what the values of the trials of a signal's study are called."""
    return ["test accuracy"] if signal == TRUTH else [METRICS[name] for name in objectives]


def finished(trials: Iterable[FrozenTrial], known: dict[int, Record] | None = None) -> list[Record]:
    """Return the finished trainings among the trials of a study, in the order of `TrialStore.records`.

    known: records by trial number that need not be made again; new ones are added.
    """
    known = {} if known is None else known
    for trial in trials:
        ended = trial.state.is_finished()
        if ended and trial.number not in known and trial.user_attrs.get("reason") != INTERRUPTED:
            known[trial.number] = record_of(trial)
    return sorted(known.values(), key=lambda r: (r.phase != "sample", r.index, r.draw))


@dataclass(frozen=True)
class _Told:
    """The attributes of a trial, which are read from a file or a database and not believed."""

    key: str
    phase: str
    index: int
    draw: int
    params: int
    flops: int
    losses: tuple[float | None, ...] = ()
    diverged: bool = False
    seconds: float = 0.0
    image_passes: int = 0
    reason: str | None = None
    score_std: float | None = None
    loss_sum_std: float | None = None
    pruned_at: int | None = None
    seconds_saved: float = 0.0
    latency_ms: float | None = None
    latency_quartiles_ms: tuple[float, float] | None = None
    latency_repeats: int = 0
    validation: float | None = None
    why: str | None = None


@dataclass(frozen=True)
class _ToldLatency:
    """The attributes of a trial of the study LATENCY, read alike."""

    key: str
    latency_ms: float | None = None
    latency_quartiles_ms: tuple[float, float] | None = None
    latency_repeats: int = 0
    reason: str | None = None


def record_of(trial: FrozenTrial) -> Record:
    """Return what a finished trial tells. Raises StorageError for what no training has written."""
    with _believed(trial, "training"):
        told = checked(_Told, cleaned(trial.user_attrs))
        score = _score(trial)
        latency = _latency(told)
    losses = [loss for loss in told.losses if loss is not None]
    summed = score is not None and losses and len(losses) == len(told.losses) and not told.diverged
    return Record(
        key=told.key,
        architecture=trial.params,
        phase=told.phase,
        index=told.index,
        draw=told.draw,
        params=told.params,
        flops=told.flops,
        score=score,
        loss_sum=sum(losses) if summed else None,
        diverged=told.diverged,
        seconds=told.seconds,
        image_passes=told.image_passes,
        reason=told.reason,
        losses=tuple(losses),
        score_std=told.score_std,
        loss_sum_std=told.loss_sum_std,
        curve=tuple(sorted(trial.intermediate_values.items())),
        pruned_at=told.pruned_at,
        seconds_saved=told.seconds_saved,
        latency=latency,
        validation=told.validation,
        why=told.why,
    )


def _score(trial: FrozenTrial) -> float | None:
    if trial.state != TrialState.COMPLETE or not trial.values:  # Optuna gives a pruned trial its last value
        return None
    score: float = trial.values[0]
    if not math.isfinite(score):
        raise ValueError(f"its score is {score}")
    return score


def told_latency(latency: Latency | None) -> dict[str, Any]:
    """Return the attributes of a trial that tell a latency."""
    if latency is None:
        return {}
    quartiles = [latency.low, latency.high]
    return {"latency_ms": latency.ms, "latency_quartiles_ms": quartiles, "latency_repeats": latency.repeats}


def latency_of(trial: FrozenTrial) -> tuple[str, Latency | None, str]:
    """Return the key of a trial of the study LATENCY, its latency, and the reason where it has none.

    Raises StorageError for what no measurement has written.
    """
    with _believed(trial, "latency"):
        told = checked(_ToldLatency, cleaned(trial.user_attrs))
        return told.key, _latency(told), told.reason or ""


def _latency(told: _Told | _ToldLatency) -> Latency | None:
    if told.latency_ms is None:
        return None
    if told.latency_quartiles_ms is None:
        raise ValueError("latency_quartiles_ms: missing")
    return Latency(told.latency_ms, *told.latency_quartiles_ms, told.latency_repeats)


@contextlib.contextmanager
def _believed(trial: FrozenTrial, what: str) -> Iterator[None]:
    """Raise StorageError where a trial tells what is not to be believed."""
    try:
        yield
    except ValueError as error:
        raise StorageError(
            f"{what} {trial.number} of the run's studies is damaged ({error}); restore the studies, or start again "
            "with --overwrite"
        ) from None
