"""Curves of condensing, of candidates and of the final training for whoever watches them elsewhere.

In: values as they come. Out: TensorBoard's event files in `RUN/tensorboard`, or runs of MLflow, in `RUN/mlflow.db` or
where MLFLOW_TRACKING_URI says. Runs are grouped: by what was trained on (a folder, or a parent run), a run a training.
Nothing depends on it: what Optuna's studies hold stays the record. Raises ConfigError where the library is missing.
"""

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from nas_proxy.errors import ConfigError

FILES = {"tensorboard": "tensorboard", "mlflow": "mlflow.db"}
# Of the name of a folder; file systems take 255 bytes.
LONGEST = 200


class Tracker(Protocol):
    """Where curves go; `group` is what was trained on, `run` a training of it."""

    def point(self, group: str, run: str, tag: str, step: int, value: float) -> None:
        """Add a point of a curve."""

    def end(self, group: str, run: str) -> None:
        """Tell that a run has no more points."""


class _Nowhere:
    def point(self, group: str, run: str, tag: str, step: int, value: float) -> None:
        pass

    def end(self, group: str, run: str) -> None:
        pass


NOWHERE: Tracker = _Nowhere()


def training(tracker: Tracker, group: str, run: str, losses: Sequence[float], accuracy: float | None) -> None:
    """Log a finished training: its loss of each epoch, and its accuracy at the end."""
    if tracker is NOWHERE:
        return
    for epoch, loss in enumerate(losses, 1):
        tracker.point(group, run, "loss", epoch, loss)
    if accuracy is not None:
        tracker.point(group, run, "accuracy", max(1, len(losses)), accuracy)
    tracker.end(group, run)


@contextlib.contextmanager
def open_tracker(kind: str, folder: Path) -> Iterator[Tracker]:
    """Yield where the curves of the run in `folder` go, by `kind`: "none", "tensorboard" or "mlflow"."""
    if kind == "none":
        yield NOWHERE
        return
    check_installed(kind)
    tracker = _TensorBoard(folder) if kind == "tensorboard" else _MLflow(folder)
    try:
        yield tracker
    finally:
        tracker.close()


def check_installed(kind: str) -> None:
    """Raise ConfigError where the library of `kind` is missing."""
    from importlib.util import find_spec

    if kind != "none" and find_spec(kind) is None:
        raise ConfigError([f"--log {kind} needs {kind}, which is not installed: pip install {kind}"])


class _TensorBoard:
    def __init__(self, folder: Path) -> None:
        self._folder = folder / FILES["tensorboard"]
        self._writers: dict[tuple[str, str], Any] = {}

    def point(self, group: str, run: str, tag: str, step: int, value: float) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if (group, run) not in self._writers:
            place = self._folder / _named(group) / _named(run)
            self._writers[group, run] = SummaryWriter(str(place))
        self._writers[group, run].add_scalar(tag, value, step)

    def end(self, group: str, run: str) -> None:
        if (writer := self._writers.pop((group, run), None)) is not None:
            writer.close()

    def close(self) -> None:
        for group, run in list(self._writers):
            self.end(group, run)


class _MLflow:
    def __init__(self, folder: Path) -> None:
        from mlflow.tracking import MlflowClient

        folder.mkdir(parents=True, exist_ok=True)
        own = f"sqlite:///{folder.resolve() / FILES['mlflow']}"  # MLflow 3 keeps no new runs as plain files
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # which tells how it makes its tables
        self._client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI", own))
        name = folder.resolve().name
        known = self._client.get_experiment_by_name(name)
        self._experiment = self._client.create_experiment(name) if known is None else known.experiment_id
        self._parents: dict[str, str] = {}
        self._runs: dict[tuple[str, str], str] = {}

    def point(self, group: str, run: str, tag: str, step: int, value: float) -> None:
        if group not in self._parents:
            self._parents[group] = self._begun(group, {})
        if (group, run) not in self._runs:
            self._runs[group, run] = self._begun(run, {"mlflow.parentRunId": self._parents[group]})
        self._client.log_metric(self._runs[group, run], tag, value, step=step)

    def _begun(self, name: str, tags: dict[str, str]) -> str:
        made = self._client.create_run(self._experiment, tags={"mlflow.runName": name, **tags}, run_name=name)
        return str(made.info.run_id)

    def end(self, group: str, run: str) -> None:
        if (number := self._runs.pop((group, run), None)) is not None:
            self._client.set_terminated(number)

    def close(self) -> None:
        for group, run in list(self._runs):
            self.end(group, run)
        for number in self._parents.values():
            self._client.set_terminated(number)
        self._parents.clear()


def _named(text: str) -> str:
    """Return a text as the name of a folder; a digest keeps those apart that are too long for one."""
    name = "".join(c if c.isalnum() or c in "=,.-_+" else "_" for c in text).lstrip(".") or "_"
    if len(name) <= LONGEST:
        return name
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
