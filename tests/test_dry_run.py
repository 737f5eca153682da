"""--dry-run: what would be trained, an estimate that says how sure it is, and nothing written."""

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from conftest import blobs
from nas_proxy.cli.app import main
from nas_proxy.pipeline import work
from nas_proxy.pipeline.dry_run import (
    Estimate,
    Span,
    Speed,
    estimate_run,
    estimate_text,
    predicted,
)
from nas_proxy.pipeline.run_folder import open_run, prepare_run
from nas_proxy.pipeline.settings import resolve
from nas_proxy.pipeline.stages import STAGES, run_stages
from nas_proxy.spaces.measured import Latency
from nas_proxy.training.jobs import Failure

SETTINGS = {
    "trials": 10,
    "truth": 6,
    "workers": 2,
    "device": "cpu",
    "seeds": 2,
    "condense": {"images_per_class": 2, "steps": 30, "width": 8},
    "proxy_training": {"epochs": 3, "batch_size": 6},
    "full_training": {"epochs": 2, "batch_size": 12},
}


@pytest.fixture
def given(tmp_path, tiny_space) -> dict[str, object]:
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    return {"dataset": f"npz:{tmp_path / 'blobs.npz'}", "space": str(tiny_space), **SETTINGS}


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_predictions_by_hand():
    # Mean 3, standard deviation 1, 3 measured; 100 trainings on 2 workers.
    found = predicted([2.0, 3.0, 4.0], 100, 2)
    arm = student.ppf(0.975, 2) * math.sqrt(1 / 3 + 1 / 100)
    assert found.value == pytest.approx(150)
    assert found.high == pytest.approx(50 * (3 + arm))
    assert found.low == pytest.approx(50 * max(0, 3 - arm))
    assert predicted([2.0], 3, 8) == Span(2.0, None, None)  # three at once
    assert Speed([0.5, 1.0], [0.1, 0.2], [1, 1]).seconds(10) == [1.5, 3.0]


def test_a_run_that_is_new_is_counted_measured_and_not_made(given, tmp_path):
    before = files(tmp_path)
    found = estimate_run(resolve(given), tmp_path / "run", tuple(STAGES))
    assert files(tmp_path) == before
    assert not (tmp_path / "run").exists()
    # Two seeds a candidate and a control; the truth has its own two, of the sample and of the search's best three.
    assert {name: part.trainings for name, part in found.parts.items()} == {
        **{"proxy": 10, "random": 18, "early_stop": 6, "truth": 18}
    }
    passes = {name: part.image_passes for name, part in found.parts.items()}
    assert passes["proxy"] == 10 * 2 * 6 * 3
    assert passes["random"] == 18 * 2 * 6 * 3
    assert passes["truth"] == 18 * 2 * 36
    assert found.condense["steps"] == 30
    assert found.condense["seconds"] > found.condense["seconds_per_step"] * 28
    total = found.condense["seconds"] + sum(part.seconds.value for part in found.parts.values())
    assert found.seconds.value == pytest.approx(total)
    assert found.seconds.low <= found.seconds.value <= found.seconds.high
    assert 0 <= found.memory_mb.low <= found.memory_mb.value <= found.memory_mb.high < 500
    assert (found.measured, found.workers, list(found.failed)) == (5, 2, [])


def test_latencies_are_measured_for_the_estimate_alone(given, tmp_path, monkeypatch):
    def by_width(problem, executor, architecture):
        width = architecture["width"]
        return Failure("took longer than 1 minute") if width == 6 else Latency(width, width, width, 9)

    monkeypatch.setattr(work, "timed", by_width)
    limited = resolve({**given, "max_latency_ms": 8, "trials": 6})
    before = files(tmp_path)
    found = estimate_run(limited, tmp_path / "run", ("search",))
    assert files(tmp_path) == before
    assert not (tmp_path / "run").exists()
    # Widths 1, 2, 4 and 8, and 6, which is not trained, with two activations each.
    assert (found.measured, set(found.failed)) == (5, {"took longer than 1 minute"})
    assert found.parts["proxy"].trainings == 6


def test_what_is_done_does_not_count_and_failures_are_told(given, tmp_path):
    space = tmp_path / "failing.py"
    space.write_text(Path(given["space"]).read_text().replace("(1, 2, 4, 6, 8, 12, 16)", "(2, 3, 4, 6)"))
    run = prepare_run(tmp_path / "run", resolve({**given, "space": str(space), "trials": 7, "truth": 5}))
    run_stages(run, ("condense", "search"))
    before = files(tmp_path)
    larger = resolve({"trials": 8}, run / "run.toml")
    found = estimate_run(larger, run.path, tuple(STAGES))
    assert files(tmp_path) == before
    assert found.condense is None
    assert found.parts["truth"].trainings == 2 * (5 + 3)
    assert found.parts["random"].trainings == 15
    assert set(found.failed) <= {"ValueError: three is not a width"}
    assert "proxy" not in found.parts or found.parts["proxy"].trainings <= 1


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command(given, tmp_path, monkeypatch, capsys, as_json):
    run = prepare_run(tmp_path / "run", resolve(given))
    run_stages(run, ("condense",))
    before = files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nas-proxy", "search", str(run.path), "--dry-run", *["--json"] * as_json])
    with pytest.raises(SystemExit, match="0"):
        main()
    told = capsys.readouterr().out
    assert files(tmp_path) == before
    assert open_run(run.path).config == run.config
    if as_json:
        found = json.loads(told)
        assert set(found["parts"]) == {"proxy"}
        assert found["parts"]["proxy"]["trainings"] == 10
        assert found["condense"] is None
    else:
        assert told.startswith("Nothing is trained but for measuring. It would be:\n  Proxy ")
        assert "10 trainings" in told
        assert "Measured on 5 architectures of the sample, a few steps each." in told


def test_a_finished_command_has_nothing_to_do():
    nothing = Estimate(None, {}, Span(0.0, 0.0, 0.0), None, 2, 0, ())
    assert estimate_text(nothing).splitlines()[1:] == ["  nothing: all is done"]


def test_mistakes_are_told_as_without(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["nas-proxy", "run", "--dry-run", "--space", "absent.py", "--out", str(tmp_path / "a")]
    )
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "absent.py does not exist" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
