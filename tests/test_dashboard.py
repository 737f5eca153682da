"""The dashboard: what it shows of a run, what it refuses, and that looking changes nothing."""

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard import get_note
from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

from made_up_runs import HOSTILE, ODD_RUNS, Builder, get_ranking, ordinary
from nas_proxy.dashboard import storage as storage_module
from nas_proxy.dashboard.annotations import annotate, markdown
from nas_proxy.dashboard.server import ServerError, application, is_local, read_only, serving
from nas_proxy.dashboard.storage import open_studies
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.run_folder import RunFolder
from nas_proxy.pipeline.settings import RunConfig
from nas_proxy.pipeline.stages import annotated as annotate_session
from nas_proxy.report.verdict import verdict
from nas_proxy.spaces.measured import Size
from nas_proxy.storage.records import TRAINED, Candidate
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.jobs import Failure
from nas_proxy.training.train import Outcome


def candidate(key: str, index: int = 0) -> Candidate:
    distributions = {"width": optuna.distributions.IntDistribution(1, 9)}
    return Candidate(key, {"width": 1 + index % 9}, "sample", index, Size(1200, 34_000), distributions)


def fill(folder: Path, scores: dict[str, float | str]) -> TrialStore:
    """Record trainings on the proxy, by key: a score, or the reason of the failure."""
    ledger = TrialStore(folder / "study.db")
    for index, (key, score) in enumerate(scores.items()):
        number = ledger.begin("proxy", candidate(key, index), 0)
        failed = isinstance(score, str)
        ledger.finish("proxy", number, Failure(score) if failed else outcome(score))
    return ledger


def outcome(score: float) -> Outcome:
    return Outcome(score=score, losses=(2.0, 1.0), diverged=False, seconds=1.5, image_passes=80)


@pytest.fixture(scope="module")
def annotated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("annotated") / "a run"
    ordinary(folder)
    annotate(folder, fill(folder, {"width=1": 0.5, "width=2": "ValueError: no [b] *such* width", "width=3": 0.75}))
    return folder


@pytest.fixture
def run(annotated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(annotated, tmp_path / annotated.name))


def study_of(folder: Path, signal: str) -> optuna.Study:
    return optuna.load_study(study_name=signal, storage=open_studies(folder))


def attrs_of(study: optuna.Study) -> dict[str, Any]:
    return study._storage.get_study_system_attrs(study._study_id)


def call(app: Any, method: str, path: str) -> tuple[str, dict[str, str], bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
    setup_testing_defaults(environ)
    told: list[Any] = []
    with contextlib.ExitStack() as stack:
        body = app(environ, lambda status, headers, error=None: told.extend([status, dict(headers)]))
        if hasattr(body, "close"):
            stack.callback(body.close)
        return told[0], told[1], b"".join(body)


def get(app: Any, path: str) -> Any:
    status, _, body = call(app, "GET", path)
    assert status == "200 OK", body
    return json.loads(body)


def content(path: Path) -> list[str]:
    with sqlite3.connect(path) as connection:
        return list(connection.iterdump())


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "PROXY", ""])
def test_only_reading_passes(method: str) -> None:
    reached = []
    guarded = read_only(lambda environ, start: reached.append(environ) or [b""])
    status, headers, body = call(guarded, method, "/api/studies/1")
    assert (status, headers["Allow"]) == ("405 Method Not Allowed", "GET, HEAD")
    assert body == b"This dashboard is read-only; start it with --writable to change what it shows.\n"
    assert reached == []


def test_reading_reaches_the_dashboard_and_writing_does_not(run: Path) -> None:
    before = content(run / "study.db")
    app = application(run)
    assert [study["study_name"] for study in get(app, "/api/studies")["study_summaries"]] == [
        "Proxy · a run",
        "Random images · a run",
        "Early stop · a run",
        "Full training · a run",
    ]
    assert call(app, "HEAD", "/dashboard")[0] == "200 OK"
    for method, path in (
        ("DELETE", "/api/studies/1"),
        ("POST", "/api/studies"),
        ("POST", "/api/studies/1/rename"),
        ("PUT", "/api/studies/1/note"),
        ("POST", "/incompatible-rdb-schema"),
        ("POST", "/api/trials/1/user-attrs"),
    ):
        assert call(app, method, path)[0] == "405 Method Not Allowed"
    for page in ("studies/1", "studies/1/param_importances", "studies/1/plot/slice", "studies/4", "meta"):
        get(app, f"/api/{page}")
    assert call(app, "GET", "/csv/1")[2].startswith(b"Number,State,validation accuracy,Param width")
    assert content(run / "study.db") == before


def test_the_storage_itself_refuses_to_write(run: Path) -> None:
    study = study_of(run, "proxy")
    with pytest.raises(optuna.exceptions.StorageInternalError):
        study.set_user_attr("a", 1)
    with pytest.raises(optuna.exceptions.StorageInternalError):
        optuna.delete_study(study_name="proxy", storage=open_studies(run))
    assert len(study_of(run, "proxy").trials) == 3


def test_a_writable_dashboard_writes(run: Path) -> None:
    app = application(run, writable=True)
    assert call(app, "DELETE", "/api/studies/2")[0].startswith("204")
    assert "random" not in optuna.get_all_study_names(open_studies(run))


def test_looking_leaves_open_trials_and_the_lock_alone(run: Path) -> None:
    ledger = TrialStore(run / "study.db")
    ledger.begin("proxy", candidate("width=4", 3), 0)
    (run / ".lock").unlink(missing_ok=True)
    detail = get(application(run), "/api/studies/1")
    assert [trial["state"] for trial in detail["trials"]] == ["Complete", "Fail", "Complete", "Running"]
    assert not (run / ".lock").exists()
    ledger.finish("proxy", 3, outcome(0.9))
    assert study_of(run, "proxy").trials[-1].state == TrialState.COMPLETE


def test_what_the_studies_say_of_themselves(run: Path) -> None:
    ranking = get_ranking(run)
    for signal in TRAINED:
        study = study_of(run, signal)
        assert study.metric_names == ["test accuracy" if signal == "truth" else "validation accuracy"]
        body = get_note(study)
        assert markdown(verdict(ranking)) in body
        assert body.count("](/dashboard/studies/") == 3
        assert f"/studies/{study._study_id})" not in body
        assert set(get_plotly_graph_objects(attrs_of(study))) == {
            "proxy": {"rank", "signals"},
            "truth": {"rank"},
        }.get(signal, set())
    body = get_note(study_of(run, "proxy"))
    assert "- **trainings**: 2 complete, 1 failed" in body
    assert "- **best**: 75.00 %: width=3" in body
    assert "- **Spearman with full training**: 0.91, 95 % interval 0.85 to 0.94" in body
    assert r"- 1 × ValueError: no \[b\] \*such\* width" in body
    assert "**draw**" not in body
    assert "- **draw**: which seed of full training" in get_note(study_of(run, "truth"))
    detail = get(application(run), "/api/studies/1")
    failed = detail["trials"][1]
    assert failed["note"]["body"] == "Failed: ValueError: no \\[b\\] \\*such\\* width\n"
    told = {attr["key"]: attr["value"] for attr in failed["user_attrs"]}
    assert (told["reason"], told["params"], told["flops"]) == (
        "ValueError: no [b] *such* width",
        "1200",
        "34000",
    )
    figure = json.loads(next(f["graph_object"] for f in detail["plotly_graph_objects"] if f["id"] == "rank"))
    assert figure["layout"]["title"]["text"] == "Where proxy and full training agree"
    assert len(figure["data"][1]["hovertext"]) == 23  # the sample of 24, less one that failed


def test_the_image_is_an_artifact_and_is_stored_once(run: Path) -> None:
    def images() -> list[dict[str, Any]]:
        return get(application(run), "/api/studies/1")["artifacts"]

    (first,) = images()
    assert (first["filename"], first["mimetype"]) == ("proxy.png", "image/png")
    picture = (run / "proxy.png").read_bytes()
    assert call(application(run), "GET", f"/artifacts/1/{first['artifact_id']}")[2] == picture
    annotate(run, TrialStore(run / "study.db"))
    assert images() == [first]
    (run / "proxy.png").write_bytes(picture + b"\0")
    for _ in range(3):
        annotate(run, TrialStore(run / "study.db"))
    (second,) = images()
    assert second["artifact_id"] != first["artifact_id"]
    assert [path.name for path in (run / "artifacts").iterdir()] == [second["artifact_id"]]
    (run / "artifacts" / second["artifact_id"]).unlink()  # as a kill between attribute and file leaves it
    annotate(run, TrialStore(run / "study.db"))
    (third,) = images()
    assert call(application(run), "GET", f"/artifacts/1/{third['artifact_id']}")[2] == picture + b"\0"


@pytest.fixture(scope="module")
def hostile_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    failing = {f"{HOSTILE} {number}": f"{HOSTILE} {number}" for number in range(8)}
    fill(folder, {HOSTILE: 0.5, "a": 0.0, **failing}).close()
    return folder / "study.db"


@pytest.mark.parametrize("build", ODD_RUNS)
def test_an_odd_run_has_notes_and_a_second_time_writes_nothing(
    build: Builder, tmp_path: Path, hostile_database: Path
) -> None:
    build(tmp_path)
    path = tmp_path / "study.db"
    shutil.copy(hostile_database, path)
    ledger = TrialStore(path)
    annotate(tmp_path, ledger)
    before = content(path)
    annotate(tmp_path, ledger)
    assert content(path) == before
    study = ledger.study("proxy")
    body = get_note(study)
    assert "</script>" not in body.replace(r"\</script\>", "")
    assert "- **trainings**: 2 complete, 8 failed" in body
    assert "- 3 other reasons" in body
    assert len(body) < 10_000
    for figure in get_plotly_graph_objects(attrs_of(study)).values():
        assert "<img" not in json.dumps(json.loads(figure), ensure_ascii=False)


def test_that_notes_cannot_be_written_costs_no_run(run: Path) -> None:
    told: list[str] = []
    session: Any = SimpleNamespace(
        run=RunFolder(run, RunConfig()), ledger=TrialStore(run / "study.db"), progress=SimpleNamespace(say=told.append)
    )
    annotate_session(session)
    assert told == []
    shutil.rmtree(run / "artifacts")
    (run / "artifacts").write_text("a file where a folder must be")
    annotate_session(session)
    (sentence,) = told
    assert sentence.startswith("The dashboard's notes and figures could not be written (")


@pytest.mark.parametrize("text", [HOSTILE, "a_b_c *d* `e` [f](g) <h> | $i$ ~~j~~ &amp; ![k](l)", "1. x", "# x"])
def test_text_is_no_markup(text: str) -> None:
    shown = markdown(text)
    assert "\n" not in shown
    assert shown.replace("\\", "") == " ".join(text.split()).replace("\\", "")


def test_what_cannot_be_shown_gets_a_sentence_and_no_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "run"
    ordinary(folder)
    files = sorted(path.name for path in folder.iterdir())
    path = folder / "study.db"
    with pytest.raises(RunFolderError) as error:
        application(folder)
    assert str(error.value) == (
        f"{folder} holds no trainings yet (it has no study.db); first run: nas-proxy search {folder}"
    )
    assert sorted(path.name for path in folder.iterdir()) == files
    for broken in (b"", b"no database at all, but long enough to be read as one" * 20):
        path.write_bytes(broken)
        with pytest.raises(
            RunFolderError, match=r"study\.db is not a study database that this version of Optuna reads"
        ):
            application(folder)
        assert path.read_bytes() == broken
    path.unlink()
    fill(folder, {"a": 0.5}).close()
    monkeypatch.setattr(storage_module, "PATIENCE", 0.05)
    with sqlite3.connect(path, isolation_level=None) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        with pytest.raises(RunFolderError, match=r"study\.db is locked by another program \(database is locked\)"):
            application(folder)
        writer.execute("ROLLBACK")


@pytest.fixture
def served(run: Path) -> Iterator[str]:
    with serving(application(run), "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_over_http(served: str) -> None:
    with urllib.request.urlopen(f"{served}/api/studies") as answer:
        assert len(json.load(answer)["study_summaries"]) == 4
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(f"{served}/api/studies/1", method="DELETE"))
    assert (error.value.code, error.value.headers["Allow"]) == (405, "GET, HEAD")
    error.value.close()


def test_an_address_that_cannot_be_served(served: str, run: Path) -> None:
    port = int(served.rpartition(":")[2])
    with pytest.raises(ServerError) as error, serving(application(run), "127.0.0.1", port):
        pass
    assert str(error.value) == (
        f"port {port} of 127.0.0.1 is in use by another program; give another with --port, or 0 for any free one"
    )
    sentence = r"^192\.0\.2\.1:0 cannot be served \(.+\); give an address of this machine"
    with pytest.raises(ServerError, match=sentence), serving(application(run), "192.0.2.1", 0):
        pass


def test_local_addresses() -> None:
    assert all(map(is_local, ("127.0.0.1", "localhost", "::1", "127.9.9.9")))
    assert not any(map(is_local, ("0.0.0.0", "::", "example.org", "192.168.0.1", "")))


def test_the_command_prints_the_address_warns_and_ends_quietly(run: Path) -> None:
    (run / "run.toml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "nas_proxy", "dashboard", str(run), "--port", "0", "--no-browser"]
    with subprocess.Popen([*command, "--host", "0.0.0.0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        warning, address = process.stderr.readline(), process.stderr.readline()
        process.send_signal(2)
        rest = process.stderr.read()
        code = process.wait(30)
    assert warning.startswith("Warning: the dashboard has no login; whoever reaches 0.0.0.0:")
    assert address.startswith("http://0.0.0.0:")
    assert address.endswith(f"shows {run}; Ctrl-C ends it.\n")
    assert (rest, code) == ("", 0)
