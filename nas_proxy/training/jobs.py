"""What a worker can perform: trainings of an architecture, or the timing of its forward pass.

Each kind names everything by value or by path and its result depends on nothing else, so where and in which order
jobs are performed changes no result. Whatever a network raises becomes a `Failure` with the reason; what it does to
the process that performs it is the affair of `nas_proxy.training.worker_pool`.
"""

import functools
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar, cast, runtime_checkable

import torch

from nas_proxy import libraries
from nas_proxy.data.images import DataShape
from nas_proxy.errors import CodeChangedError
from nas_proxy.process_state import restored
from nas_proxy.spaces.latency import measure_latency
from nas_proxy.spaces.loading import SpaceFile, Spec, load_space
from nas_proxy.spaces.measured import Latency
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.training.cuda_graph import RecordingError
from nas_proxy.training.memory_limit import limited
from nas_proxy.training.pruning import Pruning
from nas_proxy.training.seed_average import repeated
from nas_proxy.training.set_cache import SetCache
from nas_proxy.training.train import Outcome, Recipe, Watch, train
from nas_proxy.untrusted import safe, said

REASON_LENGTH = 500
_SETS = SetCache()
Result = TypeVar("Result")
_Result_co = TypeVar("_Result_co", covariant=True)


@dataclass(frozen=True)
class Failure:
    """A job that raised, ran out of memory or time, or took its process down with it.

    spoilt: whether it left its process unable to use the GPU, as an index out of range does there.
    recording: whether what broke off is the recording of its steps, so that it can be done without, elsewhere.
    memory: whether a GPU had too little memory left. seconds: of work until then, which is spent as well.
    """

    reason: str
    spoilt: bool = False
    recording: bool = False
    memory: bool = False
    seconds: float = field(default=0.0, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", safe(self.reason))  # it goes into files, databases and terminals

    def shared(self, share: float) -> Self:
        """Return the failure with that share of the seconds, for a GPU that the job had with others."""
        return replace(self, seconds=share * self.seconds)


@runtime_checkable
class Work(Protocol[_Result_co]):
    """A job of any kind: a dataclass that can be pickled.

    Its fields that are paths are files, and its field `space`, if any, names a search space: both travel with it to
    other machines, see `moved`.
    """

    @property
    def device(self) -> str:
        """Where it computes."""

    @property
    def minutes(self) -> float | None:
        """How long it may take before it is ended; None for as long as it likes."""

    @property
    def megabytes(self) -> float | None:
        """How much memory it may need, see `nas_proxy.training.memory_limit`; None for as much as there is."""

    def on(self, device: str) -> Self:
        """Return the same job on another device."""

    def perform(self) -> _Result_co:
        """Do it. Raises what the network raises."""


@runtime_checkable
class Timed(Protocol):
    """A result that tells its seconds."""

    def shared(self, share: float) -> Self:
        """Return it with that share of the seconds, for a GPU that it had with others."""


@dataclass(frozen=True)
class Job:
    """Trainings of `architecture` of the space `space` on the images in `data`, scored on those in `evaluation`.

    validation: other images on which a search sees it, where `evaluation` has those that only judge.
    seeds: trainings whose mean is wanted; their seeds derive from `seed`. pruning: what may end it early.
    unrecorded: why its steps must not be recorded on a GPU, see `train`.
    device, minutes, megabytes: as of any `Work`; with a limit on memory, the outcome tells how much was needed.
    """

    space: Spec
    architecture: Architecture
    data: Path
    evaluation: Path
    recipe: Recipe
    seed: int
    device: str
    minutes: float | None = None
    megabytes: float | None = None
    seeds: int = 1
    pruning: Pruning | None = None
    unrecorded: str = ""
    validation: Path | None = None

    def on(self, device: str) -> Self:
        """Return the same trainings on another device."""
        return replace(self, device=device)

    def perform(self) -> Outcome:
        """Train."""
        data, evaluation = _SETS.get(self.data, self.device), _SETS.get(self.evaluation, self.device)
        validation = None if self.validation is None else _SETS.get(self.validation, self.device)
        space = loaded(self.space, data.shape)

        def once(seed: int, watch: Watch | None) -> Outcome:
            build = lambda: space.build(self.architecture, data.shape)  # noqa: E731
            images = (data, evaluation)
            more = {"unrecorded": self.unrecorded, "validation": validation}
            return train(build, *images, self.recipe, seed, self.device, watch, **more)  # type: ignore[arg-type]

        if self.megabytes is None:
            return repeated(once, self.recipe, self.seed, self.seeds, self.pruning)
        with limited(self.megabytes, self.device) as use:
            found = repeated(once, self.recipe, self.seed, self.seeds, self.pruning)
        return replace(found, memory=use.most)


@dataclass(frozen=True)
class Timing:
    """The latency of `architecture` of the space `space` for `batch` images of `shape`, as `measure_latency` has it."""

    space: Spec
    architecture: Architecture
    shape: DataShape
    device: str
    batch: int
    minutes: float | None
    megabytes: float | None = None

    def on(self, device: str) -> Self:
        """Return the same timing on another device."""
        return replace(self, device=device)

    def perform(self) -> Latency:
        """Time."""
        space = loaded(self.space, self.shape)
        if self.megabytes is None:
            return measure_latency(space, self.architecture, self.shape, self.device, self.batch)
        with limited(self.megabytes, self.device):
            return measure_latency(space, self.architecture, self.shape, self.device, self.batch)


def performed(job: Work[Result]) -> Result | Failure:
    """Perform a job, turn whatever the network raises into a reason, and put back what it changes of the process.

    Raises CodeChangedError where the space's file is not the one that is meant: then no job can be performed.
    """
    began = time.perf_counter()
    with restored():
        found = _performed(job)
    return replace(found, seconds=time.perf_counter() - began) if isinstance(found, Failure) else found


def _performed(job: Work[Result]) -> Result | Failure:
    try:
        if job.device.startswith("cuda:"):
            torch.cuda.set_device(job.device)  # nothing is left on another one by the way
        return job.perform()
    except torch.OutOfMemoryError:
        # It may have broken off a recording, after which the process is of no use.
        reason = f"out of memory on {job.device}" if job.megabytes is None else too_much(job)
        return Failure(reason, spoilt=True, memory=True)
    except CodeChangedError:
        raise
    except MemoryError:
        return Failure("out of memory")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            raise  # somebody's at the keyboard; worker processes hear none, so there it is the network's own
        text = " ".join(said(error).split())
        if "can't allocate memory" in text:
            return Failure("out of memory")
        reason = f"{safe(type(error).__name__)}: {text}".removesuffix(": ")[:REASON_LENGTH]
        recording = isinstance(error, RecordingError)
        return Failure(reason, spoilt=recording or isinstance(error, torch.AcceleratorError), recording=recording)


def without_recording(job: Work[Result], failure: Failure) -> Work[Result] | None:
    """Return a job that is to be done again without recording its steps, None where that is not what went wrong."""
    if not failure.recording or not isinstance(job, Job) or job.unrecorded:
        return None
    return cast("Work[Result]", replace(job, unrecorded=failure.reason.partition(": ")[2]))


def files_of(job: Work[Any]) -> list[Path]:
    """Return the files that a job names."""
    return [value for value in _fields(job).values() if isinstance(value, Path)]


def space_of(job: Work[Any]) -> str | None:
    """Return the search space that a job names; None where it needs none."""
    found = _fields(job).get("space")
    return found.name if isinstance(found, SpaceFile) else found if isinstance(found, str) else None


def moved(job: Work[Result], files: Mapping[Path, Path], space: str | None) -> Work[Result]:
    """Return the same job on a machine where its files, and the space, have other places."""
    places: dict[str, Any] = {n: files[value] for n, value in _fields(job).items() if isinstance(value, Path)}
    if space is not None:
        known = _fields(job)["space"]
        places["space"] = replace(known, name=space) if isinstance(known, SpaceFile) else space
    return cast("Work[Result]", replace(cast("Any", job), **places)) if places else job


def _fields(job: Work[Any]) -> dict[str, Any]:
    return {f.name: getattr(job, f.name) for f in fields(cast("Any", job))}


def too_much(job: Work[Any]) -> str:
    """Return why a job failed that needed more memory than it may."""
    return f"needed more than {job.megabytes:g} MB of memory{'' if job.device == 'cpu' else f' on {job.device}'}"


@functools.lru_cache(maxsize=16)
def loaded(spec: Spec, shape: DataShape) -> SearchSpace:
    """Return a space for many jobs: what it changes of the process when it is imported is the same for all of them."""
    with restored():
        space = load_space(spec, shape)
    libraries.note()
    return space
