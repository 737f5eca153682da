"""--log: curves of condensing, candidates and the final training, in TensorBoard's files and in runs of MLflow."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import blobs
from nas_proxy.errors import ConfigError
from nas_proxy.pipeline import tracking
from nas_proxy.pipeline.final import train_final
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.folder import RunFolder
from nas_proxy.runs.resolving import resolve
from nas_proxy.training.executor import InlineExecutor

SETTINGS = {
    "trials": 4,
    "truth": 4,
    "judge": 4,
    "workers": 1,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 11, "width": 8},
    "proxy_training": {"epochs": 3, "batch_size": 6},
    "full_training": {"epochs": 2, "batch_size": 12},
}


def searched(folder: Path, space: Path, log: str) -> RunFolder:
    images = blobs(per_class=30)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    given = {"dataset": f"npz:{folder / 'blobs.npz'}", "space": str(space), "log": log, **SETTINGS}
    return run_all(resolve(given), folder / "run", names=("condense", "search"))


@pytest.fixture
def inline(monkeypatch):
    monkeypatch.setattr("nas_proxy.pipeline.work.open_executor", lambda config, device: InlineExecutor())
    monkeypatch.setattr("nas_proxy.pipeline.export.find_spec", lambda _: None)


def test_what_is_not_installed_is_told_before_the_work(tmp_path, tiny_space, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="--log mlflow needs mlflow, which is not installed: pip install mlflow"):
        searched(tmp_path, tiny_space, "mlflow")
    assert not (tmp_path / "run").exists()


def test_long_names_of_two_trainings_are_two_folders():
    key = ",".join(f"layer{n}.kernel=3,layer{n}.width=64" for n in range(9))
    names = {tracking._named(text) for text in (f"{key},last=1", f"{key},last=2", f"{key},last=2, 2", "short")}
    assert len(names) == 4
    assert "short" in names
    assert max(map(len, names)) <= 200


@pytest.mark.usefixtures("inline")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_a_run_a_training_in_a_group_a_signal(tmp_path, tiny_space):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="no tensorboard")
    run = searched(tmp_path, tiny_space, "tensorboard")
    network = train_final(run)

    def curve(folder: Path, tag: str) -> list[tuple[int, float]]:
        found = reader.EventAccumulator(str(folder)).Reload()
        return [(event.step, event.value) for event in found.Scalars(tag)]

    place = run / "tensorboard"
    assert {folder.name for folder in place.iterdir()} == {"Condensing", "Proxy", "Final_training"}
    assert curve(place / "Condensing" / "Condense", "loss")
    candidates = sorted((place / "Proxy").iterdir())
    assert len(candidates) == 4
    for folder in candidates:
        assert [step for step, _ in curve(folder, "loss")] == [1, 2, 3]
        assert len(curve(folder, "accuracy")) == 1
    (final,) = (place / "Final_training").iterdir()
    assert curve(final, "accuracy") == [(2, pytest.approx(network.accuracy))]
    assert [value for _, value in curve(final, "loss")] == pytest.approx(network.told["losses"], abs=1e-4)


class Client:
    """What `MlflowClient` is asked, kept."""

    def __init__(self, uri: str) -> None:
        self.uri, self.experiments, self.runs, self.ended = uri, [], {}, []
        Client.last = self

    def get_experiment_by_name(self, name):
        return None

    def create_experiment(self, name):
        self.experiments.append(name)
        return "1"

    def create_run(self, experiment, tags, run_name):
        number = f"r{len(self.runs)}"
        self.runs[number] = (run_name, tags.get("mlflow.parentRunId"), [])
        return SimpleNamespace(info=SimpleNamespace(run_id=number))

    def log_metric(self, run, tag, value, step):
        self.runs[run][2].append((tag, step, value))

    def set_terminated(self, run):
        self.ended.append(run)


def test_mlflow_has_a_parent_run_a_group(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "mlflow.tracking", SimpleNamespace(MlflowClient=Client))
    monkeypatch.setattr(tracking, "check_installed", lambda kind: None)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking.open_tracker("mlflow", tmp_path / "run") as log:
        tracking.training(log, "Proxy", "width=2", [3.0, 2.0], 0.5)
        tracking.training(log, "Proxy", "width=4", [1.0], None)
        log.point("Condensing", "Condense", "loss", 10, 0.25)
    client = Client.last
    assert client.uri == f"sqlite:///{(tmp_path / 'run').resolve()}/mlflow.db"
    assert client.experiments == ["run"]
    assert list(client.runs.values()) == [
        ("Proxy", None, []),
        ("width=2", "r0", [("loss", 1, 3.0), ("loss", 2, 2.0), ("accuracy", 2, 0.5)]),
        ("width=4", "r0", [("loss", 1, 1.0)]),
        ("Condensing", None, []),
        ("Condense", "r3", [("loss", 10, 0.25)]),
    ]
    assert sorted(client.ended) == ["r0", "r1", "r2", "r3", "r4"]
