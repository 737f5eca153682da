"""The dashboard: what it shows of a run, what it refuses, and that looking changes nothing."""

import contextlib
import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna.trial import TrialState
from optuna_dashboard import save_note, save_plotly_graph_object
from plotly.graph_objects import Figure

from made_up_runs import HOSTILE, ODD_RUNS, Builder, ordinary
from nas_proxy.dashboard import notes as notes_module
from nas_proxy.dashboard import server as server_module
from nas_proxy.dashboard.note_text import markdown
from nas_proxy.dashboard.server import ServerError, application, for_host, is_local, read_only, serving
from nas_proxy.errors import RunFolderError
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.report.verdict import verdict
from nas_proxy.spaces.measured import Size
from nas_proxy.storage import read_only as storage_module
from nas_proxy.storage.read_only import OURS, open_studies
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
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("filled") / "a run"
    ordinary(folder)
    (folder / "run.toml").write_text("trials = 40\n", encoding="utf-8")
    store = fill(folder, {"width=1": 0.5, "width=2": "ValueError: no [b] *such* width", "width=3": 0.75})
    for signal in TRAINED:
        store.study(signal)
    return folder


@pytest.fixture
def run(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / filled.name))


def study_of(folder: Path, signal: str) -> optuna.Study:
    return optuna.load_study(study_name=signal, storage=open_studies(folder))


def call(app: Any, method: str, path: str, **more: str) -> tuple[str, dict[str, str], bytes]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path, **more}
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
    # The page shows the list from its end on.
    assert [study["study_name"] for study in get(app, "/api/studies")["study_summaries"]][::-1] == [
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
    ranking = Ranking.read(run / "ranking.json")
    app = application(run)
    studies = get(app, "/api/studies")["study_summaries"]
    details = {study["study_name"]: get(app, f"/api/studies/{study['study_id']}") for study in studies}
    for name, detail in details.items():
        assert detail["objective_names"] == ["test accuracy" if "Full" in name else "validation accuracy"]
        body = detail["note"]["body"]
        assert markdown(verdict(ranking)) in body
        assert body.count("](/dashboard/studies/") == 3
        shown = {"proxy": {"rank"}, "full training": {"rank"}}.get(name.split(" ·")[0].lower(), set())
        assert {figure["id"] for figure in detail["plotly_graph_objects"]} == {"signals", "cost"} | shown
    detail = details["Proxy · a run"]
    body = detail["note"]["body"]
    assert "- **trainings**: 2 complete, 1 failed" in body
    assert "- **best**: 75.00 %: width=3" in body
    assert r"- **Spearman of proxy with full training**: 0.91 \[0.85, 0.94\]" in body
    assert r"- 1 × ValueError: no \[b\] \*such\* width" in body
    assert "with itself**: 0.97" in details["Full training · a run"]["note"]["body"]
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


def test_notes_follow_the_folder_and_what_somebody_wrote_stays(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "FRESH", 0.0)
    app, store = application(run), TrialStore(run / "study.db")

    def note() -> str:
        body: str = get(app, "/api/studies/1")["note"]["body"]
        return body

    (run / "ranking.json").write_text("{", encoding="utf-8")
    assert "Not judged yet" in note()
    store.begin("proxy", candidate("width=4", 3), 0)
    store.finish("proxy", 3, outcome(0.9))
    assert "- **best**: 90.00 %: width=4" in note()
    (run / "run.toml").write_text("seed = ", encoding="utf-8")
    assert "- **best**: 90.00 %: width=4" in note()  # until the folder can be read again
    # Earlier versions kept their notes and figures in the storage.
    save_note(store.study("proxy"), f"an old note, {OURS}")
    save_plotly_graph_object(store.study("proxy"), Figure(), graph_object_id="old")
    assert "an old note" not in note()
    assert "old" not in [figure["id"] for figure in get(app, "/api/studies/1")["plotly_graph_objects"]]
    save_note(store.study("proxy"), "mine")
    assert note() == "mine"


def test_the_image_is_an_artifact_of_its_content(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "FRESH", 0.0)
    app = application(run)

    def images() -> list[dict[str, Any]]:
        return get(app, "/api/studies/1")["artifacts"]

    (first,) = images()
    assert (first["filename"], first["mimetype"]) == ("proxy.png", "image/png")
    picture = (run / "proxy.png").read_bytes()
    assert call(app, "GET", f"/artifacts/1/{first['artifact_id']}")[2] == picture
    assert images() == [first]
    (run / "proxy.png").write_bytes(picture + b"\0")
    (second,) = images()
    assert second["artifact_id"] != first["artifact_id"]
    assert call(app, "GET", f"/artifacts/1/{second['artifact_id']}")[2] == picture + b"\0"
    (run / "proxy.png").unlink()
    assert images() == []
    assert not (run / "artifacts").exists()


@pytest.fixture(scope="module")
def hostile_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    failing = {f"{HOSTILE} {number}": f"{HOSTILE} {number}" for number in range(8)}
    fill(folder, {HOSTILE: 0.5, "a": 0.0, **failing}).close()
    return folder / "study.db"


@pytest.mark.parametrize("build", ODD_RUNS)
def test_an_odd_run_has_notes_and_looking_writes_nothing(
    build: Builder, tmp_path: Path, hostile_database: Path
) -> None:
    build(tmp_path)
    (tmp_path / "run.toml").write_text("truth = 8\n", encoding="utf-8")
    path = tmp_path / "study.db"
    shutil.copy(hostile_database, path)
    files = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    before = content(path)
    study = get(application(tmp_path), "/api/studies/1")
    body = study["note"]["body"]
    assert "</script>" not in body.replace(r"\</script\>", "")
    assert "- **trainings**: 2 complete, 8 failed" in body
    assert "- 3 other reasons" in body
    assert len(body) < 10_000
    for figure in study["plotly_graph_objects"]:
        assert "<img" not in figure["graph_object"]
    assert content(path) == before
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == files


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
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.port}"
    thread.join(10)
    assert not thread.is_alive()


def refused(request: urllib.request.Request | str) -> tuple[int, Any]:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    error.value.close()
    return error.value.code, error.value.headers


def test_over_http(served: str) -> None:
    with urllib.request.urlopen(f"{served}/api/studies") as answer:
        assert len(json.load(answer)["study_summaries"]) == 4
    code, headers = refused(urllib.request.Request(f"{served}/api/studies/1", method="DELETE"))
    assert (code, headers["Allow"]) == (405, "GET, HEAD")
    for path in ("/static/../", "/static/..%2f..%2fapp.py", "/static/", "/static/x%00y", "/..", "/static/img/../../x"):
        assert refused(served + path)[0] in (403, 404)
    assert refused(urllib.request.Request(f"{served}/api/studies", headers={"Host": "evil.example"}))[0] == 403


@pytest.mark.parametrize(
    ("host", "named", "answered"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "[::1]:8080", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example:8080", False),
        ("127.0.0.1", "192.168.0.7", False),
        ("127.0.0.1", "", False),
        ("lab.example", "LAB.example:80", True),
        ("lab.example", "other.example", False),
        ("0.0.0.0", "192.168.0.7:80", True),
        ("::", "[fe80::1]", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", socket.gethostname(), True),
    ],
)
def test_only_names_of_its_own_are_answered(host: str, named: str, answered: bool) -> None:
    app = for_host(lambda environ, start: start("200 OK", []) or [b""], host)
    assert (call(app, "GET", "/", HTTP_HOST=named)[0] == "200 OK") is answered


@pytest.mark.slow
def test_connections_that_say_nothing_are_limited_and_closed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SILENCE", 2)
    monkeypatch.setattr(server_module, "CONNECTIONS", 20)
    with serving(application(run), "127.0.0.1", 0) as server:
        threading.Thread(target=server.run, daemon=True).start()
        threads = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        for connection in silent[:10]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert threading.active_count() <= threads + server_module.THREADS
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/studies", timeout=60) as answer:
            assert answer.status == 200
        for connection in silent:
            connection.close()


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


@pytest.mark.parametrize(("host", "address"), [("::1", "http://[::1]:80/"), ("127.0.0.1", "http://127.0.0.1:80/")])
def test_the_address_that_is_told_can_be_opened(
    run: Path, monkeypatch: pytest.MonkeyPatch, host: str, address: str
) -> None:
    opened, said = list[str](), list[str]()
    monkeypatch.setattr(server_module, "serving", lambda *_: contextlib.nullcontext(Mock(port=80)))
    monkeypatch.setattr(server_module.webbrowser, "open", opened.append)
    server_module.serve(run, host=host, port=0, writable=False, browser=True, say=said.append)
    assert opened == [f"{address}dashboard"]
    assert said == [f"{address}dashboard shows {run}; Ctrl-C ends it."]


@pytest.mark.slow
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
