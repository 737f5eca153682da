"""A run in a PostgreSQL database: the same results as in a file, and workers that are not the run's are sent away."""

import csv
import io
import json
import threading
from dataclasses import replace

import optuna
import pytest
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.exceptions import StorageInternalError
from typer.testing import CliRunner

from conftest import write_space
from nas_proxy.cli.app import app
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.dashboard.notes import shown_names
from nas_proxy.dashboard.server import application
from nas_proxy.dashboard.status import Watcher
from nas_proxy.dashboard.status_text import status_text
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import RunFolderError, StorageError
from nas_proxy.pipeline import worker
from nas_proxy.pipeline.coordinator import RUN
from nas_proxy.pipeline.stages import run_all
from nas_proxy.pipeline.worker import Here, work
from nas_proxy.runs.folder import open_run
from nas_proxy.runs.settings import RunConfig
from nas_proxy.storage.artifacts import DatabaseStore
from nas_proxy.storage.job_queue import Jobs
from nas_proxy.storage.location import Database, existing
from nas_proxy.storage.read_only import open_studies
from nas_proxy.storage.retry import connect
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.train import Recipe

pytestmark = pytest.mark.database
OPTIONS = Recipe(epochs=1, augmentation=(), precision="float32")
NAMES = ("condense", "search")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    space = write_space(tmp_path_factory.mktemp("space") / "tiny.py", (1, 2, 3, 4, 6, 8, 12, 16))
    return RunConfig(
        space=str(space),
        trials=12,
        truth=6,
        limit=20,
        device="cpu",
        workers=1,
        condense=Condensation(method="random", images_per_class=1),
        proxy_training=OPTIONS,
        full_training=OPTIONS,
    )


@pytest.fixture(scope="module")
def url(postgres):
    return postgres.url()


@pytest.fixture(scope="module")
def run(config, url, tmp_path_factory):
    """A whole run, trained by its own process and a worker that was there first."""
    folder = tmp_path_factory.mktemp("shared") / "shared"
    told: list[worker.Tally] = []
    here = Here(device="cpu", workers=1, idle_minutes=2)
    joined = threading.Thread(target=lambda: told.append(work(url, None, here)))
    joined.start()
    found = run_all(replace(config, storage=url), folder)
    joined.join(timeout=120)
    (tally,) = told
    assert tally.ended == "the run is done"
    assert tally.trained > 0
    return found


@pytest.fixture(scope="module")
def alone(config, tmp_path_factory):
    return run_all(config, tmp_path_factory.mktemp("alone") / "alone")


def without_time(table: str) -> list[list[str]]:
    rows = list(csv.reader(table.splitlines()))
    timed = [n for n, name in enumerate(rows[0]) if "seconds" in name]
    return [[cell for n, cell in enumerate(row) if n not in timed] for row in rows]


@pytest.mark.parametrize("name", ["trials.csv", "truth.csv", "scores.csv"])
def test_it_gives_what_a_file_gives(run, alone, name):
    assert without_time((run / name).read_text()) == without_time((alone / name).read_text())
    assert not (run / "study.db").exists()
    assert not (run / "artifacts").exists()


@pytest.mark.slow
def test_seeds_and_what_is_pruned_pass_through_it(config, postgres, tmp_path):
    longer = replace(OPTIONS, epochs=6)
    config = replace(config, trials=36, truth=4, seeds=2, pruner="median", proxy_training=longer)
    tables = []
    for place, storage in (("file", None), ("database", postgres.url())):
        for truth in (4, 16):  # of which some were proposed and pruned before the sample came to them
            found = run_all(replace(config, truth=truth, storage=storage), tmp_path / place, names=NAMES)
            tables.append(without_time((found / "trials.csv").read_text()))
    assert tables[:2] == tables[2:]
    states = [[row[tables[0][0].index("state")] for row in table] for table in tables[:2]]
    assert states[0].count("pruned") > 0
    assert states[1].count("complete") > states[0].count("complete")


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(run, config):
    before = (run / "trials.csv").read_text()
    run_all(replace(config, storage=run.config.storage), run.path, names=("search", "truth"))
    assert (run / "trials.csv").read_text() == before


@pytest.mark.slow
def test_the_dashboard_shows_this_run_alone_and_refuses_to_write(run):
    studies = open_studies(run.path, names=shown_names(run))
    assert {study.study_name for study in studies.get_all_studies()} == {
        f"{name} · shared" for name in ("Proxy", "Random images", "Early stop", "Full training")
    }
    elsewhere = TrialStore(Database(run.config.storage, "another"))
    elsewhere.study("proxy")
    elsewhere.close()
    assert len(open_studies(run.path).get_all_studies()) == 4
    with pytest.raises(StorageInternalError) as error:
        optuna.delete_study(study_name=existing(run.path).study("proxy"), storage=open_studies(run.path))
    assert "read-only transaction" in str(error.value.__cause__)
    body = b"".join(application(run.path)({"REQUEST_METHOD": "GET", "PATH_INFO": "/api/studies"}, lambda *args: None))
    assert "Full training · shared" in json.dumps(json.loads(body), ensure_ascii=False)


@pytest.mark.slow
def test_status_shows_who_is_alive(run):
    place = existing(run.path)
    engine = connect(place)
    ours, theirs = Jobs(engine, place.name), Jobs(engine, place.name)
    ours.join("cuda:0, cuda:1", coordinates=True)
    theirs.join("1 × cpu")
    status = Watcher(run.path).look()
    assert status.at_work
    assert [(w.devices, w.coordinates) for w in status.workers] == [("cuda:0, cuda:1", True), ("1 × cpu", False)]
    assert "Workers alive: 2\n" in status_text(status)
    assert "cuda:0, cuda:1: 0 trainings, coordinates" in status_text(status)
    ours.leave()
    theirs.leave()
    engine.dispose()
    after = Watcher(run.path).look()
    assert (after.at_work, after.workers) == (False, ())


def published(run, changes):
    """Change what the run says of itself; return what it said."""
    ledger = TrialStore(existing(run.path))
    study = ledger.study("proxy")
    before = study._storage.get_study_system_attrs(study._study_id)[RUN]
    study._storage.set_study_system_attr(study._study_id, RUN, {**before, **changes})
    ledger.close()
    return before


def other_proxy(run, tmp_path):
    images = ImageSet.load(run / "proxy.safetensors")
    path = tmp_path / "other.safetensors"
    replace(images, images=255 - images.images).save(path)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"nas_proxy": "0.0.1"},
            "this version of nas_proxy is not the run's (here 0.1.0, in the run 0.0.1); "
            "install the run's on this machine",
        ),
        ({"data": "0123"}, "in the run 0123); give the same data with --dataset"),
        ({"space": "0123"}, "in the run 0123); give the run's with --space"),
        ({"condensed set": "0123"}, "in the run 0123); give the run's proxy.safetensors with --proxy"),
        ({"keys": ["width=7"]}, "use the run's versions of Python and Optuna"),
    ],
)
def test_a_worker_that_does_not_fit_is_sent_away(run, changes, sentence):
    before = published(run, changes)
    try:
        with pytest.raises(StorageError) as error:
            work(str(run.path), None, Here(device="cpu", idle_minutes=0.5))
        assert sentence in str(error.value)
    finally:
        published(run, before)


@pytest.mark.slow
def test_another_proxy_is_refused_and_the_right_one_taken(run, tmp_path):
    with pytest.raises(StorageError, match="the condensed set is not the run's"):
        work(str(run.path), None, Here(device="cpu", proxy=other_proxy(run, tmp_path)))
    tally = work(str(run.path), None, Here(device="cpu", proxy=run / "proxy.safetensors", idle_minutes=1))
    assert (tally.trained, tally.ended) == (0, "the run is done")


@pytest.mark.slow
def test_data_and_space_that_are_not_here(run, tmp_path):
    with pytest.raises(Exception, match=r"--dataset gives its place on this machine"):
        work(str(run.path), None, Here(device="cpu", dataset=f"folder:{tmp_path / 'absent'}"))
    with pytest.raises(Exception, match=r"--space gives its place on this machine"):
        work(str(run.path), None, Here(device="cpu", space=str(tmp_path / "absent.py")))


@pytest.mark.slow
def test_another_version_of_torch_is_told(run, capsys):
    told: list[str] = []

    class Told:
        stage = staticmethod(worker.SILENT.stage)
        say = staticmethod(told.append)

    before = published(run, {"torch": "1.13.0", "device": "cuda"})
    try:
        work(str(run.path), None, Here(device="cpu"), Told())
    finally:
        published(run, before)
    assert any(line.startswith("Warning: PyTorch is ") and "1.13.0 in the run" in line for line in told)
    assert any("this worker trains on cpu and the run's coordinator on cuda" in line for line in told)


@pytest.mark.slow
def test_several_runs_in_one_database(run, url):
    published(run, {})
    second = TrialStore(Database(url, "second"))
    study = second.study("proxy")
    study._storage.set_study_system_attr(study._study_id, RUN, {})
    first = existing(run.path).name
    with pytest.raises(StorageError) as error:
        work(url, None, Here(device="cpu", idle_minutes=0.5))
    assert str(error.value) == f"{url} holds 2 runs; choose one with --run: second, {first}"
    optuna.delete_study(study_name="second/proxy", storage=second._storage)
    second.close()


def test_a_run_that_does_not_come(postgres):
    tally = work(postgres.url(), "none", Here(device="cpu", idle_minutes=0.01))
    assert tally.ended == "no run came in 0.01 minutes"


def test_the_command(run):
    result = CliRunner().invoke(app, ["worker", str(run.path), "--device", "cpu", "--workers", "1", "--json"])
    assert json.loads(result.stdout) == {"trained": 0, "failed": 0, "ended": "the run is done"}


@pytest.mark.slow
def test_two_coordinators_do_not_get_on(run, config, monkeypatch):
    place = existing(run.path)
    engine = connect(place)
    monkeypatch.setattr("platform.node", lambda: "elsewhere")
    other = Jobs(engine, place.name)
    other.join("cpu", coordinates=True)
    monkeypatch.undo()
    try:
        with pytest.raises(StorageError, match=r"a nas-proxy on elsewhere \(process \d+\) is working on this run"):
            run_all(replace(config, storage=run.config.storage, trials=13), run.path, names=("search",))
    finally:
        other.leave()
        engine.dispose()


@pytest.mark.slow
def test_the_storage_of_trainings_does_not_change(run, alone, config, url):
    with pytest.raises(RunFolderError, match=r"storage: None → 'postgresql"):
        run_all(replace(config, storage=url), alone.path, names=("search",))
    with pytest.raises(RunFolderError, match=r"storage: 'postgresql.*' → None"):
        run_all(config, run.path, names=("search",))


@pytest.mark.slow
def test_overwriting_removes_the_run_from_the_database(config, url, tmp_path):
    shared = replace(config, storage=url, trials=2, truth=2)
    first = run_all(shared, tmp_path / "run", names=("condense", "search"))
    name = existing(first.path).name
    run_all(shared, tmp_path / "run", names=("condense", "search"), overwrite=True)
    names = optuna.get_all_study_names(open_studies(tmp_path / "run"))
    assert existing(open_run(tmp_path / "run").path).name == name  # the folder's
    assert names.count(f"{name}/proxy") == 1
    ledger = TrialStore(existing(tmp_path / "run"))
    assert len(ledger.study("proxy").trials) == 2
    ledger.close()


def test_artifacts_of_the_database(url):
    engine = connect(Database(url, "any"))
    store = DatabaseStore(engine)
    store.write("one", io.BytesIO(b"\0\1"))
    store.write("one", io.BytesIO(b"\0\1"))  # as after an answer that was lost
    assert store.open_reader("one").read() == b"\0\1"
    store.remove("one")
    store.remove("one")
    with pytest.raises(ArtifactNotFound):
        store.open_reader("one")
    engine.dispose()
