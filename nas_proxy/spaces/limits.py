"""Limits on architectures: the part of a space whose networks are small and fast enough, as a search space.

In: a space and the most parameters, FLOPs or milliseconds. Out: a space, so that the limits hold for the sample, the
proposals and the pick alike, before anything is trained, and the ranking is measured on what may be chosen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import optuna
from torch import nn

from nas_proxy.data.shape import DataShape
from nas_proxy.errors import SpaceError
from nas_proxy.spaces.measured import Latency, Size
from nas_proxy.spaces.space import PATIENCE, Architecture, SearchSpace


@dataclass(frozen=True, eq=False)
class Limited:
    """The architectures of `whole` within the limits, as a search space; they keep the order of its stream.

    params, flops, latency_ms: the most of each; None for no limit. measured, timed: tell what an architecture has,
    None where that cannot be told. patience: how many in a row may be beyond the limits before the stream ends.
    An architecture that cannot be measured is let through: it fails, with its reason, when it is trained.
    """

    whole: SearchSpace
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    measured: Callable[[Architecture], Size | None] = lambda _: None
    timed: Callable[[Architecture], Latency | None] = lambda _: None
    patience: int = PATIENCE
    _known: dict[str, bool] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The name of the whole space."""
        return self.whole.name

    @property
    def size(self) -> int | None:
        """Unknown: every architecture would have to be measured."""
        return None

    def key(self, architecture: Architecture) -> str:
        """Return the canonical name."""
        return self.whole.key(architecture)

    def allows(self, architecture: Architecture) -> bool:
        """Whether the architecture is within the limits; each is measured once."""
        key = self.key(architecture)
        if key not in self._known:
            self._known[key] = self._small(architecture) and self._fast(architecture)
        return self._known[key]

    def _small(self, architecture: Architecture) -> bool:
        if self.params is None and self.flops is None:
            return True
        size = self.measured(architecture)
        if size is None:
            return True
        limits = (size.params, self.params), (size.flops, self.flops)
        return all(limit is None or value <= limit for value, limit in limits)

    def _fast(self, architecture: Architecture) -> bool:
        if self.latency_ms is None:
            return True
        found = self.timed(architecture)
        return found is None or found.ms <= self.latency_ms

    def left_out(self) -> str | None:
        """Return how many of the architectures asked for so far are beyond the limits, in words; None for none."""
        beyond = sum(not allowed for allowed in self._known.values())
        if not beyond:
            return None
        within = limits_text(self.params, self.flops, self.latency_ms)
        return f"{beyond} of {len(self._known)} architectures drawn are not {within} and were not trained"

    def sample(self, seed: int) -> Iterator[Architecture]:
        """Yield the architectures within the limits; ends as well when `patience` in a row are not."""
        rejected = 0
        for architecture in self.whole.sample(seed):
            if self.allows(architecture):
                rejected = 0
                yield architecture
            else:
                rejected += 1
                if rejected == self.patience:
                    return

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture | None:
        """Let an Optuna trial choose; None when it chose one beyond the limits."""
        architecture = self.whole.suggest(trial)
        return architecture if architecture is not None and self.allows(architecture) else None

    def build(self, architecture: Architecture, shape: DataShape) -> nn.Module:
        """Return a freshly initialised network."""
        return self.whole.build(architecture, shape)


def small_part(
    space: SearchSpace, params: int | None, flops: int | None, measured: Callable[[Architecture], Size | None]
) -> SearchSpace:
    """Return the part of `space` within the limits, by `measured`. Raises SpaceError where nothing is found there."""
    if params is None and flops is None:
        return space
    part = Limited(space, params, flops, measured=measured)
    if next(part.sample(0), None) is None:
        raise SpaceError(
            f"no architecture of the space {space.name!r} was found {limits_text(params, flops)}; raise it"
        )
    return part


def limits_text(params: int | None, flops: int | None, latency_ms: float | None = None) -> str:
    """Return "within --max-params 1,000" and so on, "" for no limit."""
    given = [("--max-params", params), ("--max-flops", flops), ("--max-latency-ms", latency_ms)]
    found = " and ".join(f"{option} {limit:,.12g}" for option, limit in given if limit is not None)
    return f"within {found}" if found else ""


def constraints(
    size: Size, latency: Latency | None, params: int | None, flops: int | None, latency_ms: float | None
) -> tuple[float, ...]:
    """Return how far a value is above its limit, for each limit that is given; 0 and less is allowed, as in Optuna."""
    ms = None if latency is None else latency.ms
    found = ((size.params, params), (size.flops, flops), (ms, latency_ms))
    return tuple(float(value - limit) for value, limit in found if value is not None and limit is not None)


# Architectures in a row that may be too slow before there are said to be no more: each takes a fraction of a second.
SLOW_IN_A_ROW = 200


def fast_part(space: SearchSpace, latency_ms: float, timed: Callable[[Architecture], Latency | None]) -> SearchSpace:
    """Return the part of `space` that answers within `latency_ms`, by `timed`, which is asked when needed."""
    return Limited(space, latency_ms=latency_ms, timed=timed, patience=SLOW_IN_A_ROW)
