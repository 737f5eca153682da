"""The ledger: what it opens and closes is one file, read the same whenever it is read."""

import gc
import sqlite3
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from optuna.distributions import CategoricalDistribution

from nas_proxy.errors import RunFolderError
from nas_proxy.spaces.measured import Size
from nas_proxy.storage import trial_store
from nas_proxy.storage.location import Database
from nas_proxy.storage.read_only import open_studies
from nas_proxy.storage.records import Candidate
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.jobs import Failure
from nas_proxy.training.train import Outcome


def candidate(index: int) -> Candidate:
    distributions = {"width": CategoricalDistribution(tuple(range(10)))}
    return Candidate(f"width={index}", {"width": index}, "sample", index, Size(10, 20), distributions)


def outcome(score: float) -> Outcome:
    return Outcome(score=score, losses=(2.0, 1.0), diverged=False, seconds=1.5, image_passes=100)


def test_trials_are_numbered_and_recorded_as_they_end(tmp_path):
    ledger = TrialStore(tmp_path / "study.db")
    numbers = [ledger.begin("proxy", candidate(index), 0) for index in range(3)]
    assert numbers == [0, 1, 2]
    told = ledger.finish("proxy", 1, outcome(0.25))
    assert [told] == ledger.records("proxy")
    assert [(r.key, r.score, r.loss_sum) for r in ledger.records("proxy")] == [("width=1", 0.25, 3.0)]
    failed = ledger.finish("proxy", 0, Failure("too wide", seconds=2.5))
    assert (failed.reason, failed.seconds) == ("too wide", 2.5)
    before = ledger.records("proxy")
    assert [(r.key, r.score, r.reason) for r in before] == [("width=0", None, "too wide"), ("width=1", 0.25, None)]
    ledger.close_interrupted()  # the third, whose training was cut off, counts for nothing
    assert ledger.records("proxy") == before
    again = TrialStore(tmp_path / "study.db")
    assert again.records("proxy") == before
    assert again.begin("proxy", candidate(3), 0) == 3


def test_what_is_closed_is_one_file_that_can_be_read_without_writing(tmp_path):
    path = tmp_path / "study.db"
    ledger = TrialStore(path)
    ledger.finish("proxy", ledger.begin("proxy", candidate(0), 0), outcome(0.5))
    ledger.close()
    assert [p.name for p in tmp_path.iterdir()] == ["study.db"]
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)
    assert connection.execute("SELECT value FROM trial_values").fetchall() == [(0.5,)]
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


def test_a_reader_is_no_reason_to_fail(tmp_path):
    path = tmp_path / "study.db"
    ledger = TrialStore(path)
    reader = sqlite3.connect(path)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM studies").fetchone()
    ledger.finish("proxy", ledger.begin("proxy", candidate(0), 0), outcome(0.5))
    ledger.close()
    reader.close()
    assert [r.score for r in TrialStore(path).records("proxy")] == [0.5]


HALF_WAY = """
import sys, time
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[2])))
from nas_proxy.storage.trial_store import TrialStore
from test_trial_store import candidate, outcome
ledger = TrialStore(Path(sys.argv[1]))
ledger.finish("proxy", ledger.begin("proxy", candidate(0), 0), outcome(0.5))
ledger.begin("proxy", candidate(1), 0)
print("begun", flush=True)
time.sleep(600)
"""


def test_what_was_recorded_before_a_kill_is_there(tmp_path):
    path = tmp_path / "study.db"
    command = [sys.executable, "-c", HALF_WAY, str(path), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.kill()
    ledger = TrialStore(path)
    ledger.close_interrupted()
    assert [(r.key, r.score) for r in ledger.records("proxy")] == [("width=0", 0.5)]
    assert ledger.begin("proxy", candidate(1), 0) == 2
    ledger.close()
    assert [p.name for p in tmp_path.iterdir()] == ["study.db"]


def test_what_is_open_is_closed_in_all_studies_of_the_run_and_in_no_other(tmp_path, monkeypatch):
    file = tmp_path / "shared.db"
    opened = trial_store._open
    monkeypatch.setattr(trial_store, "_open", lambda place, patience: opened(file, patience))
    ours, others = (TrialStore(Database("postgresql+psycopg://me@here/data", name)) for name in ("run", "run-2"))
    for signal in ("proxy", "herding@equal", "latency"):
        ours.begin(signal, candidate(0), 0)
    others.begin("proxy", candidate(0), 0)
    again = TrialStore(ours.place)
    assert sorted(again.names()) == ["run/herding@equal", "run/latency", "run/proxy"]
    again.close_interrupted()
    states = {name: again._storage.get_all_trials(study) for name, study in ids(again)}
    told = {name: [trial.state.name for trial in trials] for name, trials in states.items()}
    assert told == {name: ["FAIL"] for name in again.names()} | {"run-2/proxy": ["RUNNING"]}


def ids(store: TrialStore) -> list[tuple[str, int]]:
    return [(study.study_name, study._study_id) for study in store._storage.get_all_studies()]


@pytest.mark.parametrize("name", ["a?1", "x%2Fy", "100%", "b?timeout=0"])
def test_a_folder_may_have_any_name(tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    ledger = TrialStore(folder / "study.db")
    ledger.finish("proxy", ledger.begin("proxy", candidate(0), 0), outcome(0.5))
    reader = open_studies(folder)
    assert len(reader.get_all_studies()) == 1
    reader.engine.dispose()
    ledger.close()
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*")] == [Path(name), Path(name, "study.db")]
    assert [record.score for record in TrialStore(folder / "study.db").records("proxy")] == [0.5]


@pytest.mark.parametrize("opened", [TrialStore, lambda path: open_studies(path.parent)])
@pytest.mark.parametrize("spoilt", ["head", "tables"])
def test_a_file_that_cannot_be_read_is_not_left_open(opened, spoilt, tmp_path):
    path = tmp_path / "study.db"
    ledger = TrialStore(path)
    ledger.study("proxy")
    ledger.close()
    whole = path.read_bytes()
    path.write_bytes(b"x" * len(whole) if spoilt == "head" else whole[:4096] + b"x" * (len(whole) - 4096))
    gc.disable()  # a lock must not depend on when the rest of an error is collected
    try:
        with pytest.raises(RunFolderError, match="not a study database"):
            opened(path)
        assert not [file for file in psutil.Process().open_files() if Path(file.path).parent == tmp_path]
    finally:
        gc.enable()
