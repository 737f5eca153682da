"""The benchmarks of scale run, and end in one JSON object."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from comparisons import Bench

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def last_line(script: str, *options: str) -> dict:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_scaling():
    found = last_line("scaling", "--quick", "--steps", "2")
    rows = {"classes", "classes, ten at a time", "size", "ipc"}
    assert set(found["growth"]) == rows
    assert {point["row"] for point in found["points"]} == rows
    assert all(point["seconds_per_step"] > 0 for point in found["points"])
    # Four times the pixels; how much more memory that is depends on what the process holds anyway.
    assert found["growth"]["size"]["memory_bytes"] > 1


@pytest.mark.slow
def test_images_per_class_goes_on_where_it_was(tmp_path):
    options = ("--data", "digits", "--limit", "20", "--ipc", "1,2", "--steps", "2", "--train-steps", "2")
    more = ("--networks", "2", "--width", "4", "--out", str(tmp_path))
    found = last_line("images_per_class", *options, *more)
    assert [point["ipc"] for point in found["points"]] == [1, 2]
    assert last_line("images_per_class", *options, *more)["points"] == found["points"]


@pytest.mark.slow
def test_precision_pairs_its_sets(tmp_path):
    options = ("--data", "digits", "--limit", "20", "--ipc", "1", "--steps", "2", "--width", "4", "--real-batch", "4")
    found = last_line("precision", *options, "--epochs", "2", "--seeds", "2", "--networks", "2", "--out", str(tmp_path))
    by_seed = found["by_seed"]
    differences = [b - a for a, b in zip(by_seed["float32"], by_seed["bfloat16"], strict=True)]
    assert found["bfloat16_minus_float32"] == pytest.approx(sum(differences) / 2, abs=1e-3)
    assert len(list(tmp_path.glob("*.safetensors"))) == 4


@pytest.mark.slow
def test_rank_per_class_goes_on_where_it_was(tmp_path):
    bench = Bench(tmp_path)
    where = ("--data", f"npz:{tmp_path / 'blobs.npz'}", "--space", str(bench.space), "--out", str(tmp_path / "curve"))
    options = (*where, "--truth-table", str(bench.table), "--ipc", "1,2", "--sample", "5", "--draws", "2")
    less = ("--passes", "24", "--steps", "3", "--width", "4", "--batch", "6", "--real-batch", "6", "--workers", "1")
    found = last_line("rank_per_class", *options, *less)
    assert [point["ipc"] for point in found["points"]] == [1, 2]
    for point in found["points"]:
        for row in ("dm", "dm:loss_sum", "random", "random:loss_sum"):
            assert -1 <= point[row]["value"] <= 1
    assert last_line("rank_per_class", *options, *less)["points"] == found["points"]


@pytest.mark.slow
def test_the_estimate_finds_all_bars_of_a_run(tmp_path):
    training = {"proxy_training": {"epochs": 1}, "full_training": {"epochs": 1}}
    less = {"limit": 20, "trials": 6, "truth": 6, "pool": 6, "signals": ["params"]}
    settings = {**less, "condense": {"images_per_class": 2, "steps": 2}, **training}
    found = last_line("estimate", "--case", f"tiny=digits|{json.dumps(settings)}", "--out", str(tmp_path))
    took, bars = found["took"], found["bars"]
    assert took["truth"] == pytest.approx(bars["Full trainings"] + bars["Judge: further seeds"])
    assert sum(took.values()) - took["all"] == pytest.approx(sum(bars.values()) - bars.get("Estimate", 0.0))


@pytest.mark.slow
def test_gpu_hours_are_arithmetic():
    found = last_line("gpu_hours", "--ipc", "10,50", "--rate", "10")
    assert found["measured"] is False
    cifar, _, tiny, *_ = found["rows"]
    # ConvNet-3 of width 128, by hand: multiply-adds of an image of 32×32 pixels.
    image = 9 * 3 * 128 * 32**2 + 9 * 128 * 128 * (16**2 + 8**2)
    # Real images go forward, synthetic ones forward and back to the pixels.
    step = 100 * 2 * image * (256 + 2 * 10)
    assert cifar["step_tflop"] == pytest.approx(step / 1e12, abs=0.01)
    assert cifar["hours"] == pytest.approx(20_000 * step / 10e12 / 3600, rel=0.01)
    assert tiny["step_tflop"] == pytest.approx(2 * 4 * cifar["step_tflop"], rel=0.01)


@pytest.mark.slow
def test_scale_goes_on_behind_a_history_that_was_written_into_the_file():
    found = last_line("scale", "--total", "400", "--first", "250", "--last", "100")
    assert [(part["trials_before"], part["trials"]) for part in found["measured"]] == [(0, 250), (300, 100)]
    assert all(set(part["parts_ms"]) == set(found["measured"][0]["parts_ms"]) for part in found["measured"])
    assert all(0 < row["share"] <= 1 for row in found["busy_share"])


@pytest.mark.slow
def test_overhead_is_that_of_trials_that_train_nothing():
    found = last_line("overhead", "--count", "110")
    assert found["n"] == 110
    assert found["per_trial_ms"] > 0
    assert found["executor"] == "one local process"


@pytest.mark.slow
def test_scale_of_a_small_search():
    found = last_line("scale", "--total", "3000", "--first", "220", "--last", "60", "--window", "2000")
    assert [part["trials_before"] for part in found["measured"]] == [0, 2940]
    assert all(part["command_ms"] > 0 for part in found["measured"])
    shares = {(row["window"], row["mean"], row["spread"]): row["share"] for row in found["busy_share"]}
    assert shares[16_000, 300, 0.25] >= shares[1000, 300, 1.0]
