"""A run in a PostgreSQL database: the same results as in a file, beside other runs, after earlier versions."""

import csv
import json
from dataclasses import replace

import optuna
import pytest
from optuna.exceptions import StorageInternalError
from sqlalchemy import text

from conftest import write_space
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.dashboard.notes import shown_names
from nas_proxy.dashboard.server import application
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.stages import run_all
from nas_proxy.progress import SILENT
from nas_proxy.runs.folder import open_run
from nas_proxy.runs.settings import RunConfig
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
        judge=6,
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
    return run_all(replace(config, storage=url), tmp_path_factory.mktemp("shared") / "shared")


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
    config = replace(config, trials=36, truth=4, seeds=2, sampler="tpe", pruner="median", proxy_training=longer)
    tables = []
    for place, storage in (("file", None), ("database", postgres.url())):
        for truth in (4, 16):  # of which some were proposed and pruned before the sample came to them
            longer_sample = replace(config, truth=truth, judge=truth, storage=storage)
            found = run_all(longer_sample, tmp_path / place, names=NAMES)
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


OF_THE_PAST = """
CREATE TABLE nas_proxy_jobs (run TEXT, signal TEXT, digest TEXT, draw INTEGER, state TEXT);
CREATE TABLE nas_proxy_workers (id TEXT PRIMARY KEY, run TEXT);
CREATE TABLE nas_proxy_artifacts (id TEXT PRIMARY KEY, content BYTEA);
INSERT INTO nas_proxy_jobs VALUES ('shared', 'proxy', '0', 0, 'waiting');
"""


@pytest.mark.slow
def test_a_database_of_an_earlier_version_goes_on_with_a_sentence(config, alone, postgres, tmp_path):
    url, said = postgres.url(), list[str]()
    engine = connect(Database(url, "any"))
    with engine.begin() as connection:
        connection.execute(text(OF_THE_PAST))
    engine.dispose()

    class Told:
        stage = staticmethod(SILENT.stage)
        say = staticmethod(said.append)

    found = run_all(replace(config, storage=url), tmp_path / "run", progress=Told(), names=NAMES)
    assert without_time((found / "trials.csv").read_text()) == without_time((alone / "trials.csv").read_text())
    sentence = "has tables of an earlier version's workers, which nothing reads any more: DROP TABLE nas_proxy_"
    assert sum(sentence in line for line in said) == 1
    # The condensed set was an artifact for workers; the dashboard does not offer what it cannot show.
    proxy = existing(found.path).study("proxy")
    study = optuna.load_study(study_name=proxy, storage=open_studies(found.path, writable=True))
    study._storage.set_study_system_attr(study._study_id, "artifacts:1", '{"filename": "proxy.safetensors"}')
    studies = open_studies(found.path, told=lambda: {proxy: {}})
    shown = [one for one in studies.get_all_studies() if one.study_name == proxy]
    assert [name for name in shown[0].system_attrs if name.startswith("artifacts:")] == []
