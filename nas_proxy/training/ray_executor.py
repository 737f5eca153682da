"""The executor of many machines: a Ray cluster performs the jobs, each in a process of its own on its node.

In: jobs of any kind, as of every executor. Out: their results, or a `Failure`. Guarantees: a job whose node or Ray
worker is lost is performed again elsewhere, up to `REPEATS` times, and has one result; what a job does to its process
fails that job alone; files and the space that jobs name travel to each node once, see `nas_proxy.training.ray_node`;
what is under way when this ends is cancelled, and Ray ends it where this process is killed.

Nothing is imported of Ray before there is such an executor.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from nas_proxy.errors import ClusterError
from nas_proxy.spaces.code_digest import files_beside
from nas_proxy.spaces.loading import files_of as files_of_space
from nas_proxy.spaces.loading import split_spec
from nas_proxy.training import ray_node
from nas_proxy.training.deaths import REPEATS
from nas_proxy.training.executor import Jobs, run_all
from nas_proxy.training.jobs import Failure, Result, Work, files_of, space_of
from nas_proxy.training.node import Node
from nas_proxy.training.ray_node import Answer, Luggage, Parcel, Refusal

try:
    import ray
    from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
except ImportError:
    raise ClusterError("--ray needs Ray, which is not installed; pip install -e '.[ray]'") from None

# Seconds after which the machines of the cluster are counted anew.
FRESH = 1.0
# Seconds that a cluster has to accept a connection.
ANSWER = 10.0
_Tag = TypeVar("_Tag")


class RayExecutor:
    """Jobs on a Ray cluster, an `Executor`.

    address: "auto" for the one that RAY_ADDRESS names or that this machine belongs to; or its host and port.
    workers: how many jobs at a time; 0 for as many as the cluster's machines have CPUs, and GPUs, for. With more than
        that, those that wait let an autoscaler add machines. gpus: of each job, such as 0.25; 0 for jobs on the CPU.
    Raises ClusterError where there is no such cluster, or a machine of it has other versions than this one.
    """

    devices: tuple[str, ...] = ()

    def __init__(self, address: str = "auto", workers: int = 0, gpus: float = 0.0) -> None:
        # To a process Ray shows the GPUs that it has, and no others.
        self._workers, self._gpus, self._device = workers, gpus, "cuda:0" if gpus else "cpu"
        self._ours = not ray.is_initialized()
        if self._ours:
            _connect(address)
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus, "max_retries": REPEATS, "max_calls": 0}
        self._perform = ray.remote(**options)(ray_node.perform)
        self._versions = ray_node.versions()
        self._open: dict[Any, Any] = {}  # tags by references to answers
        self._sent: dict[Any, Parcel] = {}
        self._done: Counter[str] = Counter()
        self._counted, self._slots = -FRESH, 0
        if not self.count:
            self.close()
            wanted = f"a CPU and {gpus:g} GPUs" if gpus else "a CPU"
            raise ClusterError(f"no machine of the Ray cluster has {wanted} for a candidate; add some to it")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is under way and leave the cluster, where this joined it."""
        for answer in self._open:
            with contextlib.suppress(RayError, ValueError):
                ray.cancel(answer, force=True)
        self._open.clear()
        self._sent.clear()
        if self._ours:
            ray.shutdown()

    @property
    def count(self) -> int:
        """How many jobs are performed at a time."""
        if self._workers:
            return self._workers
        if time.monotonic() - self._counted > FRESH:
            self._slots = sum(self._fitting(node["Resources"]) for node in _alive())
            self._counted = time.monotonic()
        return self._slots

    @property
    def free(self) -> int:
        """How many more jobs may be submitted now; none where the cluster has just become smaller.

        One where there is no machine and no job: it waits in the cluster, and lets an autoscaler add a machine.
        """
        return max(0 if self._open else 1, self.count - len(self._open))

    def _fitting(self, resources: dict[str, float]) -> int:
        cpus = resources.get("CPU", 0.0)
        return int(min(cpus, resources.get("GPU", 0.0) / self._gpus + 1e-6) if self._gpus else cpus)

    def nodes(self) -> tuple[Node, ...]:
        """Return the machines that have room for jobs."""
        if not ray.is_initialized():
            return ()
        found = [node for node in _alive() if self._fitting(node["Resources"])]
        nodes = [Node(n["NodeManagerHostname"], _words(n["Resources"]), self._done[n["NodeID"]]) for n in found]
        return tuple(sorted(nodes, key=lambda node: (node.host, node.workers)))

    def submit(self, tag: object, job: Work[Any]) -> None:
        """Hand a job to the cluster."""
        self._submit(tag, job, {})

    def _submit(self, tag: object, job: Work[Any], options: dict[str, Any]) -> None:
        luggage = Luggage({path: self._file(path) for path in files_of(job)}, self._space(space_of(job)))
        task = self._perform.options(name=type(job).__name__, **options)
        self._open[task.remote(job.on(self._device), luggage, self._versions)] = tag

    def _file(self, path: Path) -> Parcel:
        key = path, path.stat().st_mtime_ns  # a file that is written again is another file
        if key not in self._sent:
            beside = sorted(files_beside(path)) if path.suffix == ".py" else ()  # it imports them there too
            self._sent[key] = Parcel.of(path.parent, (path, *beside), ray.put)
        return self._sent[key]

    def _space(self, spec: str | None) -> Parcel | None:
        files = files_of_space(spec) if spec is not None and spec not in self._sent else ()
        if spec is not None and files:
            self._sent[spec] = Parcel.of(files[0].parent, files, ray.put, split_spec(spec)[1])
        return None if spec is None else self._sent.get(spec)

    def results(self, timeout: float | None = None) -> Iterator[tuple[Any, Any]]:
        """Yield what has been submitted and is done: at least one, unless none is within `timeout` seconds."""
        if not self._open:
            return
        ready, _ = ray.wait(list(self._open), num_returns=1, timeout=timeout)
        if ready:
            ready, _ = ray.wait(list(self._open), num_returns=len(self._open), timeout=0)
        for answer in ready:
            yield self._open.pop(answer), self._result(answer)

    def _result(self, reference: Any) -> Any:
        try:
            answer = ray.get(reference)
        except RayTaskError as error:
            raise ClusterError(f"a machine of the Ray cluster cannot perform jobs: {_last_line(error)}") from None
        except OutOfMemoryError:
            return Failure(f"out of memory on its machine, {REPEATS + 1} times")
        except RayError as error:
            return Failure(f"its machine or Ray's worker there was lost {REPEATS + 1} times ({type(error).__name__})")
        assert isinstance(answer, Answer)
        if isinstance(answer.result, Refusal):
            raise ClusterError(answer.result.reason)
        self._done[answer.node] += 1
        return answer.result

    def run(self, jobs: Jobs[_Tag, Result]) -> Iterator[tuple[_Tag, Result | Failure]]:
        """Perform the jobs, taking the next from `jobs` only when there is room for it."""
        return run_all(self, jobs)

    def run_apart(self, job: Work[Result]) -> Result | Failure:
        """Perform one job while no other is performed, always on the same machine as long as that is there."""
        while self._open:  # what is done only now is wanted no more
            list(self.results())
        nodes = [node["NodeID"] for node in _alive() if self._fitting(node["Resources"])]
        where = {"scheduling_strategy": NodeAffinitySchedulingStrategy(min(nodes), soft=True)} if nodes else {}
        self._submit(None, job, where)
        ((_, result),) = self.results()
        found: Result | Failure = result
        return found


def _connect(address: str) -> None:
    """Join the cluster. Raises ClusterError."""
    os.environ.setdefault("RAY_SCHEDULER_EVENTS", "0")  # which an autoscaler prints among a command's results
    main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)} if main else {}
    named = os.environ.get("RAY_ADDRESS", address) if address == "auto" else address
    try:
        if (place := named.rpartition(":"))[2].isdigit():  # Ray itself tries for minutes
            socket.create_connection((place[0], int(place[2])), timeout=ANSWER).close()
        ray.init(address=address, namespace="nas-proxy", configure_logging=False)
    except OSError as error:  # ConnectionError, where Ray finds none
        found = "no Ray cluster was found" if named == "auto" else f"no Ray cluster answers at {named}"
        raise ClusterError(
            f"{found} ({_last_line(error)}); start one with `ray start --head`, or give its HOST:PORT with --ray"
        ) from None
    except (RuntimeError, ValueError) as error:  # RuntimeError: other versions of Python or of Ray
        raise ClusterError(f"the Ray cluster {address} cannot be joined: {' '.join(str(error).split())}") from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def _words(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources[kind]:g} {kind}" for kind in ("CPU", "GPU") if resources.get(kind))


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
