"""Limits on the size of architectures: the part of a space whose networks are small enough, as a search space.

In: a space and the most parameters or FLOPs. Out: a space, so that the limits hold for the sample, the proposals and
the pick alike, before anything is trained, and the ranking is measured on the architectures that may be chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import optuna
from torch import nn

from nas_proxy.data.images import DataShape
from nas_proxy.errors import SpaceError
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.space import PATIENCE, Architecture, SearchSpace


@dataclass(frozen=True, eq=False)
class Limited:
    """The architectures of `whole` within the limits, as a search space; they keep the order of its stream.

    params, flops: the most of each, as `nas_proxy.spaces.cost` counts them for images of `shape`; None for no limit.
    An architecture that cannot be measured is let through: it fails, with its reason, when it is trained.
    """

    whole: SearchSpace
    shape: DataShape
    params: int | None
    flops: int | None
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
            try:
                size = measure(self.whole, architecture, self.shape)
            except Exception:  # noqa: BLE001 (a user's code may raise anything)
                self._known[key] = True
            else:
                within = [limit is None or value <= limit for value, limit in self._limits(size.params, size.flops)]
                self._known[key] = all(within)
        return self._known[key]

    def _limits(self, params: int, flops: int) -> tuple[tuple[int, int | None], tuple[int, int | None]]:
        return (params, self.params), (flops, self.flops)

    def sample(self, seed: int) -> Iterator[Architecture]:
        """Yield the architectures within the limits; ends as well when a thousand in a row are not."""
        rejected = 0
        for architecture in self.whole.sample(seed):
            if self.allows(architecture):
                rejected = 0
                yield architecture
            else:
                rejected += 1
                if rejected == PATIENCE:
                    return

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture | None:
        """Let an Optuna trial choose; None when it chose one beyond the limits."""
        architecture = self.whole.suggest(trial)
        return architecture if architecture is not None and self.allows(architecture) else None

    def build(self, architecture: Architecture, shape: DataShape) -> nn.Module:
        """Return a freshly initialised network."""
        return self.whole.build(architecture, shape)


def limited(space: SearchSpace, shape: DataShape, params: int | None, flops: int | None) -> SearchSpace:
    """Return the part of `space` within the limits. Raises SpaceError where nothing is found there."""
    if params is None and flops is None:
        return space
    part = Limited(space, shape, params, flops)
    if next(part.sample(0), None) is None:
        raise SpaceError(
            f"no architecture of the space {space.name!r} was found {limits_text(params, flops)}; raise it"
        )
    return part


def limits_text(params: int | None, flops: int | None) -> str:
    """Return "within --max-params 1,000" and so on, "" for no limit."""
    given = [("--max-params", params), ("--max-flops", flops)]
    found = " and ".join(f"{option} {limit:,}" for option, limit in given if limit is not None)
    return f"within {found}" if found else ""
