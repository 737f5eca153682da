"""How a run stands: what is counted, what is estimated, and that looking disturbs no search."""

import itertools
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from typer.testing import CliRunner

from conftest import blobs, write_space
from nas_proxy.cli.app import app
from nas_proxy.dashboard.status import Stage, Status, Watcher
from nas_proxy.dashboard.status_text import status_text
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.ranking.believed import write_order
from nas_proxy.runs import heartbeat
from nas_proxy.runs.folder import RunFolder, is_held, prepare_run
from nas_proxy.runs.heartbeat import Command
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import write_config
from nas_proxy.spaces.measured import Size
from nas_proxy.storage.records import Candidate
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.jobs import Failure
from nas_proxy.training.node import Node
from nas_proxy.training.train import Outcome

WIDTH = {"width": optuna.distributions.IntDistribution(1, 99)}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return prepare_run(tmp_path / "run", resolve({"trials": 6, "truth": 4, "condense": {"steps": 30}}))


def record(run: RunFolder, signal: str, index: int, result: float | str | None, *, phase: str, draw: int = 0) -> None:
    """Record a training of 2 s: its score, the reason of its failure, or that it is open."""
    ledger = ledgers.setdefault(run.path, None) or TrialStore(run / "study.db")
    ledgers[run.path] = ledger
    architecture = Candidate(f"{phase}{index}", {"width": index + 1}, phase, index, Size(10, 20), WIDTH)
    number = ledger.begin(signal, architecture, draw)
    if isinstance(result, str):
        ledger.finish(signal, number, Failure(result))
    elif result is not None:
        ledger.finish(signal, number, Outcome(result, (1.0,), False, 2.0, 40))


ledgers: dict[Path, TrialStore | None] = {}  # one a run, since opening one takes longer than writing to it


def look(run: RunFolder) -> Status:
    return Watcher(run.path).look()


def stages(status: Status) -> dict[str, tuple[int, int, bool]]:
    return {stage.name: (stage.done, stage.total, stage.complete) for stage in status.stages}


def test_a_run_that_has_not_begun(run: RunFolder) -> None:
    status = look(run)
    assert stages(status) == {
        "condense": (0, 30, False),
        "search": (0, 6, False),
        "truth": (0, 8, False),
        "rank": (0, 16, False),
        "report": (0, 1, False),
    }
    assert (status.best, status.failures, status.at_work, status.open_trainings) == (None, {}, False, 0)
    assert not (run / "study.db").exists()
    assert status_text(status).splitlines()[0] == f"{run.path}: not done, and no command is at work"


@pytest.mark.parametrize("method", ["random", "patches"])
def test_choosing_images_has_no_steps(tmp_path: Path, method: str) -> None:
    run = prepare_run(tmp_path / "run", resolve({"condense": {"steps": 30, "method": method}}))
    assert stages(look(run))["condense"] == (0, 1, False)
    (run / "proxy.safetensors").write_bytes(b"")
    assert stages(look(run))["condense"] == (1, 1, True)


def test_a_search_half_way(run: RunFolder) -> None:
    (run / "proxy.safetensors").write_bytes(b"")
    for index, result in enumerate([0.5, "E: no", 0.75, "E: no", 0.25, 0.5]):
        record(run, "proxy", index, result, phase="sample")
    record(run, "proxy", 0, 0.9, phase="search")
    record(run, "proxy", 1, None, phase="search")
    with run.lock():
        status = look(run)
    assert stages(status)["condense"] == (30, 30, True)
    assert stages(status)["search"] == (5, 6, False)
    assert status.stages[1].seconds_left == pytest.approx(2.0)  # one is missing, and one trains
    assert status.seconds_left is None  # no full training has told yet what one takes
    assert status.best == {"key": "search0", "score": 0.9, "test_accuracy": None}
    assert status.failures == {"proxy": {"E: no": 2}}
    assert (status.at_work, status.open_trainings, status.complete) == (True, 1, False)
    text = status_text(status)
    assert f"{run.path}: at work, 1 training open\n" in text
    assert "  search    ████████████████····         5/6  2 s left\n" in text
    assert "Best so far: search0, proxy score 90.00 %\nFailed, proxy: 2\n  2 × E: no" in text
    later = look(run)
    assert (later.at_work, later.seconds_left, later.stages[1].seconds_left) == (False, None, None)
    assert "; 1 training cut off" in status_text(later)


def test_the_stages_after_the_search(run: RunFolder) -> None:
    (run / "proxy.safetensors").write_bytes(b"")
    for index, score in enumerate([0.9, 0.8, 0.7, 0.6]):
        record(run, "proxy", index, score, phase="sample")
    for index, score in enumerate([0.95, 0.1]):
        record(run, "proxy", index, score, phase="search")
    # Four are the sample, which has two seeds.
    for index in range(3):
        record(run, "truth", index, 0.5, phase="sample")
    record(run, "truth", 0, 0.96, phase="search")
    record(run, "truth", 0, 0.98, phase="search", draw=1)
    with run.lock():
        status = look(run)
    assert stages(status)["search"] == (6, 6, True)
    assert stages(status)["truth"] == (5, 8, False)
    assert status.seconds_left == pytest.approx(2.0 * (3 + 16))
    assert status.best == {"key": "search0", "score": 0.95, "test_accuracy": pytest.approx(0.97)}
    for index in range(4):
        for draw in (0, 1):
            record(run, "truth", index, 0.5, phase="sample", draw=draw)
        for draw in range(3):
            record(run, "random", index, 0.5, phase="sample", draw=draw)
        record(run, "early_stop", index, 0.5, phase="sample")
    assert stages(look(run))["rank"] == (16, 16, False)
    (run / "ranking.json").write_text("{}")
    assert stages(look(run))["report"] == (0, 1, False)
    (run / "report.html").write_text("")
    status = look(run)
    assert status.complete
    assert status_text(status).startswith(f"{run.path}: done\n")


def test_a_space_smaller_than_the_search_is_done_when_the_next_stage_begins(run: RunFolder) -> None:
    (run / "proxy.safetensors").write_bytes(b"")
    past = time.time() - 100
    os.utime(run / "run.toml", (past, past))
    for index in range(3):
        record(run, "proxy", index, 0.5, phase="sample")
    assert stages(look(run))["search"] == (3, 6, False)
    record(run, "truth", 0, None, phase="sample")
    assert stages(look(run))["search"] == (3, 6, True)
    assert stages(look(run))["truth"] == (0, 6, False)


def test_a_search_that_ended_early_stays_done_until_its_settings_go_further(run: RunFolder) -> None:
    (run / "proxy.safetensors").write_bytes(b"")
    for index in range(3):
        record(run, "proxy", index, 0.5, phase="sample")
        record(run, "truth", index, 0.5, phase="sample")
    write_order(run.path, (), reach=None)
    assert stages(look(run))["truth"] == (3, 6, False)

    def settings(**changes: Any) -> Status:
        write_config(replace(run.config, **changes), run / "run.toml")
        os.utime(run / "search.json", (past, past))
        return look(run)

    past = time.time() - 100
    write_order(run.path, (), reach=run.config.reach)
    for same in ({}, {"workers": 2}, {"signals": ("params",)}):  # whatever was computed or asked for since
        found = stages(settings(**same))
        assert (found["search"], found["truth"]) == ((3, 6, True), (3, 3, True))
    for further in ({"truth": 5}, {"trials": 7}, {"truth_seeds": 3}, {"budget": "2h"}):
        assert not stages(settings(**further))["truth"][2]
    # Earlier versions say that it ended, and not by which settings.
    (run / "search.json").write_text('{"pick": null, "finished": true, "order": []}')
    write_config(run.config, run / "run.toml")
    os.utime(run / "run.toml", (past, past))
    assert stages(look(run))["truth"] == (3, 3, True)
    os.utime(run / "search.json", (past - 1, past - 1))
    assert not stages(look(run))["truth"][2]


def test_looking_never_takes_the_folder(run: RunFolder) -> None:
    assert not is_held(run.path)
    with run.lock():
        assert is_held(run.path)
        assert is_held(run.path)
    assert not is_held(run.path)
    (run / ".lock").unlink(missing_ok=True)
    assert not is_held(run.path)
    assert not (run / ".lock").exists()


def test_the_command_at_work_and_its_machines(run: RunFolder) -> None:
    nodes = (Node("one", "4 CPU", 1), Node("two", "4 CPU, 1 GPU", 12))
    here = Command(platform.node(), os.getpid(), nodes)
    with run.lock():
        assert look(run).command is None  # it trains nothing yet
        with heartbeat.beating(run, lambda: nodes):
            status = look(run)
            assert status.command == here
            told = json.loads(json.dumps(status.as_json()))["command"]
            assert told == json.loads(json.dumps(asdict(here)))
            lines = "  one, 4 CPU: 1 job done\n  two, 4 CPU, 1 GPU: 12 jobs done"
            assert f"Command: process {here.pid} on {here.host}\nNodes at work: 2\n{lines}" in status_text(status)
            for change in ({"pid": ended_process()}, {"pid": None}, {"nodes": 1}):
                (run.work / heartbeat.NAME).write_text(json.dumps({**told, **change}))
                assert look(run).command is None
            (run.work / heartbeat.NAME).write_text("{")
            assert look(run).command is None
            # As earlier versions left it.
            (run.work / heartbeat.NAME).write_text('{"host": "here", "pid": 1, "devices": "cpu", "jobs": 0}')
            assert look(run).command is None
        (run.work / heartbeat.NAME).write_text(json.dumps(told))
        assert look(run).command == here
    assert look(run).command is None  # as after a kill, which leaves the file
    run_stages(run, ())  # the next command knows better
    assert not run.work.exists()


def test_a_heart_goes_on_beating(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT", 0.01)
    done = itertools.count()
    with run.lock(), heartbeat.beating(run, lambda: (Node("one", "1 CPU", next(done)),)):
        deadline = time.monotonic() + 20
        while (command := look(run).command) is None or command.nodes[0].done < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_command_on_another_machine_has_the_folder(run: RunFolder) -> None:
    run.work.mkdir(exist_ok=True)
    (run.work / heartbeat.NAME).write_text(json.dumps(asdict(Command("elsewhere", 7, ()))))
    status = look(run)
    assert status.at_work
    assert status.command == Command("elsewhere", 7, ())
    with pytest.raises(RunFolderError, match=r"a nas-proxy on elsewhere \(process 7\) is working in .*; end it there"):
        run_stages(run, ())
    past = time.time() - heartbeat.GRACE - 1
    os.utime(run.work / heartbeat.NAME, (past, past))
    assert not look(run).at_work
    run_stages(run, ())
    assert not (run.work / heartbeat.NAME).exists()


def ended_process() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_what_cannot_be_read_gets_a_sentence(run: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"the run folder .*none does not exist; make one with: nas-proxy run"):
        Watcher(tmp_path / "none")
    (run / "study.db").write_bytes(b"text" * 500)
    with pytest.raises(RunFolderError, match="is not a study database that this version of Optuna reads"):
        look(run)
    with run.lock():  # a command that makes it this moment is waited for
        assert look(run).open_trainings == 0


@pytest.mark.parametrize("reason", ["[bold]no[/bold]\nsecond line", "é" * 500])
def test_text_of_the_users_is_printed_as_it_is(reason: str) -> None:
    stage = Stage("search", 0, 0, complete=False)
    best = {"key": "[red]", "score": 0.5, "test_accuracy": None}
    text = status_text(Status("r", (stage,), best, {"truth": {reason: 7}}, False, 0, None))
    lines = text.splitlines()
    assert lines[2:4] == ["Best so far: [red], proxy score 50.00 %", "Failed, full training: 7"]
    assert lines[4] == f"  7 × {' '.join(reason.split())[:80]}"
    assert len(lines) == 5


@pytest.mark.processes
@pytest.mark.slow
def test_watching_a_search_from_outside_disturbs_nothing(tmp_path: Path) -> None:
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    settings: dict[str, Any] = {
        "dataset": f"npz:{tmp_path / 'blobs.npz'}",
        "space": str(write_space(tmp_path / "tiny.py", (1, 2, 3, 4, 8))),
        "trials": 5,
        "truth": 4,
        "workers": 1,
        "device": "cpu",
        "condense": {"images_per_class": 2, "steps": 10, "width": 8},
        "proxy_training": {"epochs": 5, "batch_size": 6},
        "full_training": {"epochs": 2, "batch_size": 12},
    }
    folder = prepare_run(tmp_path / "run", resolve(settings))
    again = ["run", "--config", str(folder / "run.toml"), "--out", str(folder.path), "--json"]
    start = [sys.executable, "-m", "nas_proxy", *again]
    with subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as search:
        looked = CliRunner().invoke(app, ["status", str(folder.path), "--watch", "--json"])
        out, error = search.communicate(timeout=120)
    assert search.returncode == 0, error
    assert (looked.exit_code, looked.stderr) == (0, "")
    seen = [json.loads(line) for line in looked.stdout.splitlines()]
    assert any(status["at_work"] for status in seen)
    commands = [status["command"] for status in seen if status["command"]]
    assert {(command["host"], command["pid"]) for command in commands} == {(platform.node(), search.pid)}
    nodes = [node for command in commands for node in command["nodes"]]
    assert {(node["host"], node["workers"]) for node in nodes} == {(platform.node(), "1 at once")}
    last = seen[-1]
    assert last["command"] is None
    assert (last["complete"], last["at_work"], last["open_trainings"], last["seconds_left"]) == (True, False, 0, None)
    assert [stage["done"] == stage["total"] for stage in last["stages"]] == [True] * 5
    assert last["best"]["key"] == json.loads(out)["pick"]["key"]
    assert last["failures"]["proxy"] == {"ValueError: three is not a width": json.loads(out)["failures"]["proxy"]}
    records = TrialStore(folder / "study.db").records("proxy")
    assert not any(record.reason == "interrupted" for record in records)
    shown = CliRunner().invoke(app, ["status", str(folder.path)]).stdout
    assert shown.startswith(f"{folder.path}: done\n  condense  ████████████████████       10/10  done\n")
