"""Looking at a comparison: what is counted, what is estimated, what the dashboard says of it; nothing is written."""

import contextlib
import json
import sqlite3
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna
import pytest
from optuna_dashboard import save_note
from typer.testing import CliRunner

from comparisons import Bench, few_resamples
from nas_proxy.cli.app import app
from nas_proxy.dashboard.server import application
from nas_proxy.dashboard.status import Watcher
from nas_proxy.dashboard.status_text import status_text
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import RunFolderError
from nas_proxy.runs.folder import RunFolder, claim, open_run
from nas_proxy.runs.settings import write_config
from nas_proxy.signals.score_file import KeptScore, ScoreFile
from nas_proxy.signals.signal import plan_of
from nas_proxy.signals.stored_names import score_name
from nas_proxy.spaces.measured import Size
from nas_proxy.storage.records import Candidate
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.train import Outcome
from nas_proxy.training.worker_pool import Failure

WIDTH = {"width": optuna.distributions.IntDistribution(1, 99)}
SMALL: dict[str, Any] = {"table": True, "signals": ["dm", "random", "early_stop", "params"], "draws": 2}


@pytest.fixture(scope="module", autouse=True)
def _few():
    yield from few_resamples()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("watch"))


@pytest.fixture(scope="module")
def finished(bench):
    run, _ = bench.compare("finished", **SMALL)
    return run.path


@pytest.fixture
def begun(bench, tmp_path):
    """A folder in which nothing is done yet."""
    folder = tmp_path / "begun"
    folder.mkdir()
    claim(RunFolder(folder, bench.settings(**SMALL)))
    return folder


def record(ledger: TrialStore, study: str, index: int, result: float | str | None, draw: int = 0, seconds: float = 2.0):
    number = ledger.begin(study, Candidate(f"a{index}", {"width": index + 1}, "sample", index, Size(1, 2), WIDTH), draw)
    if result is not None:
        failed = isinstance(result, str)
        ledger.finish(study, number, Failure(result) if failed else Outcome(result, (1.0,), False, seconds, 24))


def looked(folder: Path) -> dict[str, tuple[Any, ...]]:
    return {s.name: (s.sets, s.sets_total, s.done, s.total, s.complete) for s in Watcher(folder).look().stages}


def get(served: Any, path: str, method: str = "GET") -> tuple[str, Any]:
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
    setup_testing_defaults(environ)
    told: list[str] = []
    with contextlib.ExitStack() as stack:
        body = served(environ, lambda status, headers, error=None: told.append(status))
        if hasattr(body, "close"):
            stack.callback(body.close)
        content = b"".join(body)
    return told[0], json.loads(content) if told[0] == "200 OK" else content


def test_a_finished_comparison(finished):
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert looked(finished) == {
        "dm": (2, 2, 10, 10, True),
        "random": (2, 2, 10, 10, True),
        "early_stop": (None, None, 5, 5, True),
        "params": (None, None, 5, 5, True),
        "random_total": (2, 2, 10, 10, True),
        "report": (None, None, 1, 1, True),
    }
    shown = CliRunner().invoke(app, ["status", str(finished), "--watch"])
    assert (shown.exit_code, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[0] == f"{finished}: done"
    assert lines[2] == "  Condensed           2/2   ████████████████████       10/10  done"
    assert lines[-1] == "  report                    ████████████████████         1/1  done"
    told = json.loads(CliRunner().invoke(app, ["status", str(finished), "--json"]).stdout)
    assert (told["complete"], told["at_work"], told["seconds_left"]) == (True, False, None)
    assert told["failures"] == {}
    assert told["stages"][0]["name"] == "dm"
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_nothing_is_done_yet(begun):
    status = Watcher(begun).look()
    assert looked(begun)["dm"] == (0, 2, 0, 10, False)
    assert looked(begun)["params"] == (None, None, 0, 5, False)
    assert looked(begun)["random_total"] == (0, 2, 0, 10, False)
    assert status_text(status).splitlines()[0] == f"{begun}: not done, and no command is at work"
    assert looked(begun)["report"] == (None, None, 0, 1, False)
    assert [path.name for path in begun.iterdir()] == ["compare.toml"]


def test_half_way(begun, finished):
    (begun / "sets").mkdir()
    for name in ("dm-0", "dm-1", "random-0", "random-1"):
        (begun / "sets" / f"{name}.safetensors").write_bytes((finished / "sets" / f"{name}.safetensors").read_bytes())
    ledger = TrialStore(begun / "study.db")
    for index in range(5):
        for draw in (0, 1):
            record(ledger, "random", index, 0.5, draw)
        record(ledger, "early_stop", index, "E: no" if index < 2 else 0.5)
    for index in range(3):
        record(ledger, "dm", index, 0.5, seconds=4.0)
    record(ledger, "dm", 3, None)
    record(ledger, "dm", 9, 0.5, seconds=4.0)  # of an earlier, larger sample
    with open_run(begun).lock():
        status = Watcher(begun).look()
    signals = {stage.name: stage for stage in status.stages}
    assert (signals["dm"].done, signals["dm"].seconds_left) == (3, pytest.approx(7 * 4.0))
    assert (signals["early_stop"].complete, status.failures) == (True, {"early_stop": {"E: no": 2}})
    # As long as a training on dm, with the making of its set shared by five candidates.
    making = open_sets(finished, "dm")
    assert signals["random_total"].seconds_left == pytest.approx(10 * (4.0 + making / 5))
    assert status.seconds_left == pytest.approx(17 * 4.0 + 10 * making / 5)
    assert (status.at_work, status.open_trainings, status.complete) == (True, 1, False)
    text = status_text(status)
    assert text.startswith(f"{begun}: at work, 1 training open, about ")
    assert "Failed, early stop: 2\n  2 × E: no" in text
    later = Watcher(begun).look()
    assert (later.at_work, later.seconds_left) == (False, None)
    assert "; 1 training cut off" in status_text(later)


def open_sets(folder: Path, name: str) -> float:
    found = [ImageSet.load_metadata(path)["seconds"] for path in sorted((folder / "sets").glob(f"{name}-*"))]
    assert len(found) == 2
    return sum(float(str(seconds)) for seconds in found) / 2


def test_full_training_and_what_cannot_be_computed(bench, tmp_path):
    folder = tmp_path / "fully"
    folder.mkdir()
    claim(RunFolder(folder, bench.settings(signals=["random", "params"], draws=1)))
    record(TrialStore(folder / "study.db"), "truth", 0, "E: no", draw=1)
    scores = {"params": {"images": 0, "of": {"a": [1.0, 0.1, None], "b": [None, 0.1, "E: too large"]}}}
    (folder / "computed.json").write_text(json.dumps({"data": "", "space": "", "scores": scores}))
    assert looked(folder)["truth"] == (None, None, 1, 10, False)
    assert looked(folder)["params"] == (None, None, 2, 5, False)
    text = status_text(Watcher(folder).look())
    assert "  Full training        ██··" in text
    assert "Failed, full training: 1\n  1 × E: no" in text
    assert "Failed, parameters: 1\n  1 × E: too large" in text


def test_own_scores_are_counted_by_the_code_that_made_them_and_tables_are_there(bench, tmp_path):
    folder, file = tmp_path / "own", tmp_path / "own.py"
    folder.mkdir()
    file.write_text("def grad(network, images):\n    return 1.0\n")
    (tmp_path / "scores.csv").write_text("key,mine\na,1\n")
    own = [f"{file}:grad", f"table:{tmp_path / 'scores.csv'}:mine"]
    claim(RunFolder(folder, bench.settings(table=True, signals=["random", *own], draws=1)))
    grad = next(signal for signal in plan_of(open_run(folder).config).computed if signal.name == "grad")
    scores = ScoreFile(folder, {"data": "", "space": ""})
    for key in "abcde":
        failed = "E: no" if key == "a" else None
        scores.add(KeptScore(score_name(grad), key, None if failed else 1.0, 0.1, failed))
    assert looked(folder)["grad"] == (None, None, 5, 5, True)
    assert looked(folder)["mine"] == (None, None, 5, 5, True)
    assert Watcher(folder).look().failures == {"grad": {"E: no": 1}}
    file.write_text("def grad(network, images):\n    return 2.0\n")
    assert looked(folder)["grad"] == (None, None, 0, 5, False)  # is computed anew
    file.unlink()  # as of a folder that was moved to another machine
    assert looked(folder)["grad"] == (None, None, 5, 5, True)


def test_a_table_of_less_is_not_the_table(finished, bench, tmp_path):
    assert Watcher(finished).look().complete
    before = (finished / "compare.toml").read_text()
    try:
        write_config(bench.settings(**{**SMALL, "sample": 6}), finished / "compare.toml")
        assert not Watcher(finished).look().stages[-1].complete
    finally:
        (finished / "compare.toml").write_text(before)


def test_the_dashboard_of_a_finished_comparison(finished):
    with sqlite3.connect(finished / "study.db") as connection:
        before = list(connection.iterdump())
    served = application(finished)
    _, told = get(served, "/api/studies")
    names = {study["study_name"]: study["study_id"] for study in told["study_summaries"]}
    assert set(names) == {
        "Condensed · finished",
        "Random images · finished",
        "Early stop · finished",
        "Random, equal cost · finished",
    }
    for number in names.values():
        _, study = get(served, f"/api/studies/{number}")
        body = study["note"]["body"]
        assert "- **sample**: 5 architectures drawn uniformly" in body
        assert "truth.csv" in body
        assert "blobs.npz" in body
        assert "tiny.py" in body
        assert "[The report](/report.html)" in body
        assert body.count("](/dashboard/studies/") == 3
        assert f"/studies/{number})" not in body
        assert {figure["id"] for figure in study["plotly_graph_objects"]} == {"signals", "cost"}
        assert study["objective_names"] == ["validation accuracy"]
    _, study = get(served, f"/api/studies/{names['Condensed · finished']}")
    ranking = json.loads((finished / "ranking.json").read_text())
    value = ranking["signals"]["dm"]["spearman"]["value"]
    assert f"**Spearman of condensed with full training**: {value:.2f}".replace("-", "−") in study["note"]["body"]
    figure = json.loads(next(f["graph_object"] for f in study["plotly_graph_objects"] if f["id"] == "cost"))
    assert len(figure["data"]) > 3
    assert get(served, f"/api/studies/{names['Condensed · finished']}", "DELETE")[0] == "405 Method Not Allowed"
    with sqlite3.connect(finished / "study.db") as connection:
        assert list(connection.iterdump()) == before
    assert not (finished / "artifacts").exists()


def test_the_dashboard_while_it_is_made(begun):
    with pytest.raises(
        RunFolderError, match=r"holds no trainings yet \(it has no study.db\); first run: nas-proxy comp"
    ):
        application(begun)
    ledger = TrialStore(begun / "study.db")
    record(ledger, "random", 0, "E: no [b] *such* width")
    record(ledger, "random", 1, 0.5)
    _, study = get(application(begun), "/api/studies/1")
    body = study["note"]["body"]
    assert "Not judged yet" in body
    assert "- **trainings**: 1 complete, 1 failed" in body
    assert r"- 1 × E: no \[b\] \*such\* width" in body
    assert "Other studies: none yet." in body
    assert study["trials"][0]["note"]["body"] == "Failed: E: no \\[b\\] \\*such\\* width\n"
    assert study["plotly_graph_objects"] == []


def test_a_note_that_somebody_wrote_stays(begun):
    ledger = TrialStore(begun / "study.db")
    record(ledger, "random", 1, 0.5)
    _, study = get(application(begun, writable=True), "/api/studies/1")
    assert study["note"]["version"] == 0
    save_note(ledger.study("random"), "mine")
    _, study = get(application(begun), "/api/studies/1")
    assert study["note"] == {"version": 1, "body": "mine"}


@pytest.mark.parametrize("command", ["status", "dashboard"])
def test_a_folder_that_holds_nothing(tmp_path, command):
    told = CliRunner().invoke(app, [command, str(tmp_path)])
    assert told.exception is not None
    assert str(told.exception) == (
        f"{tmp_path} holds no run (it has no run.toml); make one with: nas-proxy run --out {tmp_path}"
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a = ", r"compare\.toml is not a TOML file"),
        ("seed = 1", r"compare\.toml holds no settings of a comparison; restore it or use --overwrite"),
        ("compare = {other = 1}", r"compare\.toml: unknown setting 'compare\.other'; known: calibrate, candidates"),
    ],
)
def test_settings_that_cannot_be_read(tmp_path, text, sentence):
    (tmp_path / "compare.toml").write_text(text)
    with pytest.raises(RunFolderError, match=sentence):
        Watcher(tmp_path)
