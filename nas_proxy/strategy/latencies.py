"""The latencies of a run: each architecture is timed once, and what was measured is kept beside the trainings.

In: the run's trial store, space and device. Out: milliseconds, or why there are none. Guarantees: what is stored, a
failure too, is never measured again, so a run that goes on, or a ranking made anew, sees the numbers that it has seen.
They are measured one by one, before the trainings of a round begin, so that no worker of the run is busy meanwhile,
and in a worker process, so that a network that hangs, crashes or fills the memory costs no more than itself.

They are kept as a study of their own, in which those above the limit are infeasible trials.
"""

import functools
import time
from collections.abc import Callable

from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from nas_proxy.environment import environment
from nas_proxy.spaces.measured import Latency
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.storage.records import LATENCY, latency_of, told_latency
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.jobs import Failure

# How long one may take, from building the network on, where the run sets candidates no limit.
MINUTES = 1.0
SECONDS = "seconds"


class Latencies:
    """Times the architectures of `space` on `device`, `batch` images at once.

    timed: measures one, wherever that is best done. limit: the most milliseconds that are allowed, None for any.
    """

    def __init__(
        self,
        store: TrialStore,
        space: SearchSpace,
        timed: Callable[[Architecture], Latency | Failure],
        device: str,
        batch: int = 1,
        limit: float | None = None,
    ) -> None:
        self._store = store
        self._space = space
        self._timed = timed
        self._device = device
        self._batch = batch
        self._limit = limit
        # Told how many have been measured, whenever one more has.
        self.tell: Callable[[int], None] = lambda count: None

    def of(self, architecture: Architecture) -> Latency | None:
        """Return the latency of an architecture, None where its network cannot be built or run.

        Raises RunFolderError where the run's latencies were measured on another kind of device.
        """
        found = self._found(architecture)
        return found if isinstance(found, Latency) else None

    def failure(self, architecture: Architecture) -> str | None:
        """Return why an architecture has no latency; None for one that has."""
        found = self._found(architecture)
        return found.reason if isinstance(found, Failure) else None

    def _found(self, architecture: Architecture) -> Latency | Failure:
        key = self._space.key(architecture)
        if key not in self._known:
            self._known[key] = self._measured(key, architecture)
            self.tell(len(self._known))
        return self._known[key]

    @functools.cached_property
    def _known(self) -> dict[str, Latency | Failure]:
        self._store.bind(LATENCY, "device of the latencies", self._device.partition(":")[0])
        self._store.bind(LATENCY, "number of images of a latency", str(self._batch))
        trials = self._store.study(LATENCY).get_trials(deepcopy=False)
        return {key: latency or Failure(reason) for key, latency, reason in map(latency_of, trials)}

    @property
    def seconds(self) -> float:
        """What all measurements took by the clock, failures included; those of earlier versions are not known."""
        trials = self._store.study(LATENCY).get_trials(deepcopy=False)
        return sum(float(trial.user_attrs.get(SECONDS, 0.0)) for trial in trials)

    def _measured(self, key: str, architecture: Architecture) -> Latency | Failure:
        start = time.monotonic()
        found = self._timed(architecture)
        trial = self._trial(key, architecture, found, time.monotonic() - start)
        self._store.study(LATENCY).add_trial(trial)
        return found

    def _trial(self, key: str, architecture: Architecture, found: Latency | Failure, seconds: float) -> FrozenTrial:
        latency = found if isinstance(found, Latency) else None
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
                SECONDS: round(seconds, 3),
                "images": self._batch,
                "device": environment(self._device, 1)["cpu" if self._device == "cpu" else "device"],
                **({"reason": found.reason} if isinstance(found, Failure) else {}),
            },
            system_attrs=None if above is None else {"constraints": above},
        )
