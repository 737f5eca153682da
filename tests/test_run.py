"""Whole runs on tiny images: what is written, that it repeats, grows, and goes on after any death."""

import dataclasses
import json
import logging
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import RunFailedError, RunFolderError
from nas_proxy.pipeline import image_files
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.runs.folder import prepare_run
from nas_proxy.runs.resolving import resolve

SETTINGS = {
    "trials": 12,
    "truth": 9,
    "judge": 6,
    "signals": ["params", "flops"],
    "workers": 1,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 10, "width": 8},
    "proxy_training": {"epochs": 4, "batch_size": 6},
    "full_training": {"epochs": 2, "batch_size": 12},
}


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    images = blobs(per_class=30)
    path = tmp_path / "blobs.npz"
    np.savez(path, images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    return f"npz:{path}"


@pytest.fixture
def go(dataset, tiny_space, tmp_path):
    def run(out: str = "run", **changes):
        settings = {**SETTINGS, **changes}
        space = settings.pop("space", str(tiny_space))
        return nas_proxy.run(dataset, space, out=tmp_path / out, **settings)

    return run


def comparable(value):
    """Leave out what time and hardware change."""
    value = value.as_json() if isinstance(value, Ranking) else value
    if isinstance(value, dict):
        return {
            name: comparable(inner)
            for name, inner in value.items()
            if not any(part in name for part in ("second", "speedup", "pays_from", "latency_ms"))
            and name
            not in {"environment", "saving", "decision"}  # what was saved decides first, and is a matter of time
        }
    return value


def trained(folder: Path) -> pd.DataFrame:
    """A row a trial of any study: signal, key, draw, state."""
    storage = f"sqlite:///{folder / 'study.db'}"
    rows = []
    for name in optuna.get_all_study_names(storage):
        for trial in optuna.load_study(study_name=name, storage=storage).trials:
            told = trial.user_attrs
            rows.append((name, told["key"], told["draw"], trial.state.name, told.get("reason")))
    return pd.DataFrame(rows, columns=["signal", "key", "draw", "state", "reason"])


def test_a_run_writes_what_it_promises(go):
    run = go()
    names = "run.toml proxy.safetensors proxy.png real.png study.db "
    names += "trials.csv truth.csv scores.csv ranking.json report.html computed.jsonl pool.json search.json sets"
    assert set(names.split()) | {".lock"} == {path.name for path in run.folder.iterdir()}
    ranking = run.ranking
    assert list(ranking["signals"]) == [
        *("proxy", "random", "early_stop", "params", "flops"),
        *("proxy:loss_sum", "random:loss_sum", "early_stop:loss_sum", "calibrated", "repeatability"),
    ]
    assert ranking["n"] == 6
    trials, truth, scores = (pd.read_csv(run.folder / f"{name}.csv") for name in ("trials", "truth", "scores"))
    assert trials["key"].is_unique
    assert len(trials) == 12
    assert (trials["phase"] == "sample").sum() == 6
    assert trials["score"].between(0, 1).all()
    assert truth["accuracy"].between(0, 1).all()
    assert len(truth) == 9
    assert set(truth["key"]) > set(trials[trials["phase"] == "sample"]["key"])
    assert ranking["pick"]["key"] in set(truth["key"])
    assert ranking["saving"]["sentence"].startswith("Random search would have found")
    assert [len(ranking["curves"][0][of]) for of in ("proxy", "truth")] == [4, 2]  # epochs
    told = ranking["pick"]
    assert sum(block["params"] for block in told["blocks"]) == told["params"] > 0
    assert told["blocks"][-1]["shape"] == [3]
    assert told["latency_ms"] > 0
    assert all(
        value * told["test_images"] == pytest.approx(round(value * told["test_images"])) for value in told["truth"]
    )
    # The ranking can be recomputed from the tables.
    both = scores.merge(truth, on="key")
    expected = np.mean([spearmanr(both["proxy"], both[f"accuracy_{seed}"]).statistic for seed in (0, 1)])
    assert ranking["signals"]["proxy"]["spearman"]["value"] == pytest.approx(expected)
    repeat = spearmanr(both["accuracy_0"], both["accuracy_1"]).statistic
    assert ranking["signals"]["repeatability"]["spearman"]["value"] == pytest.approx(repeat)
    cost = ranking["cost"]
    speedup = both["seconds"].sum() / 2 / (cost["condense_seconds"] + cost["proxy_seconds"])
    assert cost["speedup"] == pytest.approx(speedup, rel=1e-3)


@pytest.mark.slow
def test_costs_of_the_controls_are_equal_and_counted(go):
    run = go()
    signals = run.ranking["signals"]
    proxy = ImageSet.load(run.folder / "proxy.safetensors")
    # 6 images, 4 epochs, 6 architectures; and 12 real and 2 synthetic images of 3 classes in each of 10 steps.
    assert signals["proxy"]["cost"]["training_passes"] == signals["random"]["image_passes"] == 6 * 4 * 6
    assert signals["proxy"]["image_passes"] == 6 * 4 * 6 + 10 * 3 * (12 + 2)
    assert signals["early_stop"]["image_passes"] == pytest.approx(6 * 4 * 6, rel=0.05)
    assert signals["proxy"]["stored_bytes"] == signals["random"]["stored_bytes"] == proxy.images.numel()
    assert signals["early_stop"]["stored_bytes"] > signals["proxy"]["stored_bytes"]
    assert signals["params"]["image_passes"] == 0
    metadata = ImageSet.load_metadata(run.folder / "proxy.safetensors")
    assert metadata["seed"] == 0
    assert metadata["recipe"]["steps"] == 10
    assert set(metadata["versions"]) == {"nas_proxy", "python", "torch"}


@pytest.mark.processes
@pytest.mark.slow
def test_the_same_seed_repeats_with_any_number_of_workers_and_another_seed_differs(go):
    alone, spread, other = go("a"), go("b", workers=2), go("c", seed=1)
    assert comparable(alone.ranking) == comparable(spread.ranking)
    tables = [pd.read_csv(run.folder / "trials.csv").drop(columns="seconds") for run in (alone, spread, other)]
    pd.testing.assert_frame_equal(tables[0], tables[1])
    assert not tables[0].equals(tables[2])


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_a_larger_one_extends_it(go):
    first = go()
    before = trained(first.folder)
    assert comparable(go().ranking) == comparable(first.ranking)
    assert trained(first.folder).equals(before)
    larger = go(trials=14, truth=11, judge=8)
    after = trained(first.folder)
    assert not after.duplicated(["signal", "key", "draw"]).any()
    assert (after["state"] == "COMPLETE").all()
    assert larger.ranking["n"] == 8
    kept = before.merge(after, on=["signal", "key", "draw"])
    assert len(kept) == len(before)
    with pytest.raises(RunFolderError, match=r"holds another run .*judge: 8 → 6.*--overwrite"):
        go()


def test_the_truth_alone_opens_the_test_images(go, monkeypatch, tmp_path):
    def closed(*_args, **_options):
        raise AssertionError("opened")

    monkeypatch.setattr(image_files, "held_out_test", closed)
    with pytest.raises(AssertionError, match="opened"):
        go()
    # Condensation and search were through before.
    assert len(pd.read_csv(tmp_path / "run" / "trials.csv")) == 12


def test_failures_are_counted_and_the_next_sampled_architecture_takes_their_place(go, tmp_path):
    space = write_space(tmp_path / "failing.py", (1, 3, 4, 6, 8))
    run = go(space=str(space), trials=9, truth=7, judge=7)
    trials = pd.read_csv(run.folder / "trials.csv")
    failed = trials[trials["state"] == "failed"]
    assert set(failed["key"]) == {"width=3,act=relu", "width=3,act=tanh"}
    assert set(failed["reason"]) == {"ValueError: three is not a width"}
    assert run.ranking["n"] == 7
    assert run.ranking["failures"]["proxy"] == 2
    assert "three is not a width" in run.report.read_text()
    states = trained(run.folder)
    assert not states.duplicated(["signal", "key", "draw"]).any()


def test_a_run_in_which_all_fail_ends_with_the_reason(go, tmp_path):
    space = write_space(tmp_path / "broken.py", (3, 4))
    text = (
        space.read_text()
        .replace("width == 3", "width > 2")
        .replace('raise ValueError("three is not a width")', "return Unlucky(64, shape.classes)")
    )
    space.write_text(
        text
        + """

class Unlucky(nn.Linear):
    def forward(self, x):
        if self.training and len(x) > 4:  # more than a space is tried with
            raise RuntimeError("out of luck")
        return super().forward(x.flatten(1))
"""
    )
    with pytest.raises(
        RunFailedError, match=r"all 4 candidates failed; the last one, .*, with: RuntimeError: out of luck"
    ):
        go(space=str(space), trials=4, truth=4, judge=4)


@pytest.mark.slow
def test_a_space_smaller_than_the_budget_is_trained_whole_once(go):
    run = go(trials=40, truth=14, judge=14)
    assert run.ranking["n"] == 14
    assert len(pd.read_csv(run.folder / "trials.csv")) == 14
    assert run.ranking["pick"]["phase"] == "sample"


@pytest.mark.slow
def test_a_divergence_stays_in_the_ranking(go):
    run = go(proxy_training={"epochs": 4, "learning_rate": 1e20})
    trials = pd.read_csv(run.folder / "trials.csv")
    assert trials["diverged"].all()
    assert trials["score"].unique().tolist() == [pytest.approx(1 / 3)]
    spearman = run.ranking["signals"]["proxy"]["spearman"]
    assert spearman["value"] is None
    assert spearman["reason"]
    json.loads((run.folder / "ranking.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.slow
def test_a_configuration_repeats_its_run(go, tmp_path):
    first = go()
    second = nas_proxy.run(config=first.folder / "run.toml", out=tmp_path / "again")
    assert comparable(second.ranking) == comparable(first.ranking)


@pytest.mark.slow
def test_the_stages_one_by_one_make_the_same_run(go, dataset, tiny_space, tmp_path):
    whole = go()
    folder = prepare_run(tmp_path / "stages", resolve({"dataset": dataset, "space": str(tiny_space), **SETTINGS}))
    with pytest.raises(RunFolderError, match=r"proxy.safetensors does not exist; condense first"):
        run_stages(folder, ("search",))
    run_stages(folder, ("condense",))
    with pytest.raises(RunFolderError, match=r"only 0 of the 6 sampled architectures .* first run: nas-proxy search"):
        run_stages(folder, ("truth",))
    for stage in ("search", "truth", "rank", "report"):
        run_stages(folder, (stage,))
    assert comparable(json.loads((folder / "ranking.json").read_text())) == comparable(whole.ranking)


@pytest.mark.slow
def test_a_define_by_run_space_works(go, tmp_path):
    space = tmp_path / "function.py"
    space.write_text(
        "from torch import nn\n"
        "def space(trial, shape):\n"
        "    width = trial.suggest_int('width', 1, 12)\n"
        "    act = {'relu': nn.ReLU, 'tanh': nn.Tanh}[trial.suggest_categorical('act', ['relu', 'tanh'])]\n"
        "    pixels = shape.channels * shape.height * shape.width\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), act(), nn.Linear(width, shape.classes))\n"
    )
    run = go(space=str(space), workers=2)
    assert run.ranking["n"] == 6
    assert run.ranking["subset"] == "uniform sample of the space (6 of unknown many architectures)"


def trials_of(folder: Path, signal_name: str) -> int:
    """How many trials a running process has finished in one study."""
    try:
        with sqlite3.connect(f"file:{folder / 'study.db'}?mode=ro", uri=True) as connection:
            of_study = "FROM trials JOIN studies USING (study_id) WHERE study_name = ? AND state = 'COMPLETE'"
            found: int = connection.execute(f"SELECT count(*) {of_study}", (signal_name,)).fetchone()[0]
        connection.close()
    except sqlite3.OperationalError:
        return 0
    return found


@pytest.mark.processes
@pytest.mark.slow
def test_a_run_killed_in_each_stage_goes_on_and_ends_with_the_same_ranking(dataset, tiny_space, tmp_path):
    settings = dict(SETTINGS, condense={"images_per_class": 2, "steps": 2000, "width": 8})
    settings |= {"proxy_training": {"epochs": 60, "batch_size": 6}, "full_training": {"epochs": 15, "batch_size": 6}}
    expected = nas_proxy.run(dataset, str(tiny_space), out=tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    config = expected.folder / "run.toml"
    command = [sys.executable, "-m", "nas_proxy", "run", "--config", config, "--out", folder, "--json"]
    moments = {
        "condense": (folder / ".work" / "condense.safetensors").exists,
        "sample": lambda: trials_of(folder, "proxy") >= 2,
        "search": lambda: trials_of(folder, "proxy") >= 8,
        "truth": lambda: trials_of(folder, "truth") >= 3,
        "random": lambda: trials_of(folder, "random") >= 3,
    }
    for moment, reached in moments.items():
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 60
            while not reached() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            assert process.poll() is None, f"{moment}: {process.stderr.read()}"
            process.send_signal(signal.SIGKILL)
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert comparable(json.loads(result.stdout)) == comparable(expected.ranking)
    states = trained(folder)
    assert (states["state"] != "RUNNING").all()
    assert not states[states["state"] == "COMPLETE"].duplicated(["signal", "key", "draw"]).any()
    assert set(states[states["state"] == "FAIL"]["reason"]) <= {"interrupted"}


@pytest.mark.slow
def test_logging_and_warnings_stay_as_the_user_set_them(go, capfd):
    def settings() -> list[object]:
        loggers = [logging.getLogger(), logging.getLogger("optuna"), logging.getLogger("nas_proxy")]
        return [(logger.level, list(logger.handlers), list(logger.filters)) for logger in loggers]

    before = settings(), optuna.logging.get_verbosity(), warnings.filters[:], torch.get_num_threads()
    go()
    assert (settings(), optuna.logging.get_verbosity(), warnings.filters[:], torch.get_num_threads()) == before
    told = capfd.readouterr()
    assert told.out == told.err == ""


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        resolve({}).seed = 3
