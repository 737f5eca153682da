"""The latencies of a run: each architecture is timed once, and what was measured is kept beside the trainings.

In: the run's ledger, space and device. Out: milliseconds. Guarantees: what the ledger holds is never measured again,
so a run that goes on, or a ranking made anew, sees the numbers that it has seen. They are measured in the
coordinating process, before the trainings of a round begin, so that no worker of the run is busy meanwhile.

They are kept as a study of their own, in which those above the limit are infeasible trials.
"""

import functools
from collections.abc import Callable

from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from nas_proxy.data.images import DataShape
from nas_proxy.environment import environment
from nas_proxy.pipeline.ledger import Ledger
from nas_proxy.pipeline.records import LATENCY, read_latency, told_latency
from nas_proxy.spaces.latency import Latency, measure_latency
from nas_proxy.spaces.space import Architecture, SearchSpace


class Latencies:
    """Times the architectures of `space` on `device`, `batch` images at once.

    ledger: gives the ledger when the first one is needed. limit: the most milliseconds that are allowed, None for any.
    """

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        space: SearchSpace,
        shape: DataShape,
        device: str,
        batch: int = 1,
        limit: float | None = None,
    ) -> None:
        self._ledger = ledger
        self._space = space
        self._shape = shape
        self._device = device
        self._batch = batch
        self._limit = limit

    def of(self, architecture: Architecture) -> Latency | None:
        """Return the latency of an architecture, None where its network cannot be built or run.

        Raises RunFolderError where the run's latencies were measured on another kind of device.
        """
        key = self._space.key(architecture)
        if key not in self._known:
            self._known[key] = self._measured(key, architecture)
        return self._known[key]

    @functools.cached_property
    def _known(self) -> dict[str, Latency | None]:
        ledger = self._ledger()
        ledger.bind(LATENCY, "device of the latencies", self._device.partition(":")[0])
        trials = ledger.study(LATENCY).get_trials(deepcopy=False)
        return {trial.user_attrs["key"]: read_latency(trial.user_attrs) for trial in trials}

    def _measured(self, key: str, architecture: Architecture) -> Latency | None:
        latency, reason = None, ""
        try:
            latency = measure_latency(self._space, architecture, self._shape, self._device, self._batch)
        except Exception as error:  # noqa: BLE001 (a candidate may raise anything; its training gives the reason)
            reason = f"{type(error).__name__}: {error}"
        self._ledger().study(LATENCY).add_trial(self._trial(key, architecture, latency, reason))
        return latency

    def _trial(self, key: str, architecture: Architecture, latency: Latency | None, reason: str) -> FrozenTrial:
        fixed = FixedTrial(dict(architecture))
        self._space.suggest(fixed)
        above = None if latency is None or self._limit is None else [latency.ms - self._limit]
        return create_trial(
            state=TrialState.FAIL if latency is None else TrialState.COMPLETE,
            values=None if latency is None else [latency.ms],
            params=dict(architecture),
            distributions=fixed.distributions,
            user_attrs={
                "key": key,
                **told_latency(latency),
                "images": self._batch,
                "device": environment(self._device, 1)["cpu" if self._device == "cpu" else "device"],
                **({"reason": reason} if reason else {}),
            },
            system_attrs=None if above is None else {"constraints": above},
        )
