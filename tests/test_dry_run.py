"""--dry-run: what would be trained, an estimate that says how sure it is, and nothing written."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import blobs
from nas_proxy.cli.app import main
from nas_proxy.data.splits import Counts
from nas_proxy.pipeline import dry_run
from nas_proxy.pipeline.dry_run import Outlook, estimate_run
from nas_proxy.pipeline.forecast import NOTHING, Done, Span, Speeds, forecast, within
from nas_proxy.pipeline.forecast_text import told
from nas_proxy.pipeline.shortening import shortened
from nas_proxy.pipeline.speeds import across
from nas_proxy.pipeline.stages import STAGES, run_all, run_stages
from nas_proxy.runs.folder import open_run, prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.training import worker_pool
from nas_proxy.training.executor import InlineExecutor
from nas_proxy.training.probe import Pace, Probe

SETTINGS = {
    "trials": 10,
    "truth": 6,
    "judge": 6,
    "signals": [],
    "workers": 2,
    "device": "cpu",
    "seeds": 2,
    "condense": {"images_per_class": 2, "steps": 30, "width": 8},
    "proxy_training": {"epochs": 3, "batch_size": 6},
    "full_training": {"epochs": 2, "batch_size": 12},
}
# Two bounds that are easy to follow through the arithmetic.
SPEEDS = Speeds(
    image=Span(0.01, 0.005, 0.02),
    start=NOTHING,
    embedded=Span(0.001, 0.001, 0.001),
    condense_start=Span(1, 1, 1),
    taught=Span(0.003, 0.003, 0.003),
    timing=Span(0.5, 0.5, 0.5),
    read=Span(2, 1, 4),
    judging=Span(10, 5, 20),
    workers=2,
)
COUNTS = Counts(train=1000, validation=200, test=400, smallest=90)


@pytest.fixture
def given(tmp_path, tiny_space) -> dict[str, object]:
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    return {"dataset": f"npz:{tmp_path / 'blobs.npz'}", "space": str(tiny_space), **SETTINGS}


@pytest.fixture
def measuring(monkeypatch):
    """Measure in this process, however short the run."""
    monkeypatch.setattr(dry_run, "SHORT", 0.0)
    monkeypatch.setattr(dry_run, "open_executor", lambda config, device: InlineExecutor())


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in found}


def test_the_arithmetic_by_hand():
    config = resolve({"trials": 12, "truth": 8, "judge": 5, "full_training": {"epochs": 3, "batch_size": 50}})
    found = forecast(config, COUNTS, 10, None, SPEEDS, tuple(STAGES), Done({}))
    # 3 epochs of 1,000 images and a third of a step for each of test and validation that is scored; 8 trainings, second
    # seeds of the five that judge and of the pick, on 2 workers.
    assert found.parts["truth"].trainings == 14
    assert found.parts["truth"].seconds.value == pytest.approx(7 * 0.01 * (3000 + 600 / 3))
    assert found.parts["truth"].seconds.low == pytest.approx(found.parts["truth"].seconds.value / 2)
    assert {name: part.trainings for name, part in found.parts.items()} == {
        **{"proxy": 12, "random": 15, "early_stop": 5, "truth": 14}
    }
    # 100 real images a class, since there are no more, and ten synthetic ones, there and back.
    assert found.condense.trainings == 200
    assert found.condense.seconds.value == pytest.approx(200 * 10 * (100 + 30) * 0.001 + 1)
    stages = found.by_stage
    assert sum(span.value for span in stages.values()) == pytest.approx(found.seconds.value)
    assert sum(span.high for span in stages.values()) == pytest.approx(found.seconds.high)


def test_a_comparison_has_its_signals_and_draws():
    given = {"truth": 8, "compare": {"signals": ("dm", "herding"), "draws": 2}}
    found = forecast(resolve(given), COUNTS, 10, None, SPEEDS, tuple(STAGES), Done({}))
    trainings = {name: part.trainings for name, part in found.parts.items()}
    assert trainings == {"dm": 16, "random": 16, "herding": 16, "random_total": 16, "truth": 16}
    # For herding a network is trained for five epochs of 1,000 images in 39 steps, and sees all of them once more.
    assert found.condense.trainings == 2 * 200 + 2 * 39
    herding = 2 * 0.003 * (39 * 128 + 1000 / 3)
    assert found.condense.seconds.value == pytest.approx(2 * (200 * 10 * (100 + 30) * 0.001 + 1) + herding)
    # Random images at the whole cost of the condensed ones take their making, shared over the sample, more.
    extra = found.parts["random_total"].seconds.value - found.parts["random"].seconds.value
    assert extra == pytest.approx((found.condense.seconds.value - herding) / 2 / 8 * 16 / 2)


def test_what_chooses_real_images_cannot_be_made_shorter():
    config = resolve({"condense": {"method": "kcenter"}})
    slow = replace(SPEEDS, taught=within(10.0, 2))
    changed, _ = shortened(config, COUNTS, lambda c, n: forecast(c, n, 10, None, slow, tuple(STAGES), Done({})))
    assert not [name for name in changed if name.startswith("condense")]


def test_choosing_patches_takes_a_teacher_and_a_look_at_crops():
    given = {"truth": 8, "compare": {"signals": ("patches",), "draws": 2}, "condense": {"teacher_epochs": 3}}
    found = forecast(resolve(given), COUNTS, 10, None, SPEEDS, tuple(STAGES), Done({}))
    # Three epochs of 1,000 images in steps of 50, and five crops of each; twice.
    assert found.condense.trainings == 2 * 60
    assert found.condense.seconds.value == pytest.approx(2 * 0.003 * (3000 + 5000 / 3))
    extra = found.parts["random_total"].seconds.value - found.parts["random"].seconds.value
    assert extra == pytest.approx(found.condense.seconds.value / 2 / 8 * 16 / 2)


def test_a_run_with_patches_is_shorter_by_fewer_epochs_of_the_teacher():
    config = resolve({"condense": {"method": "patches", "teacher_epochs": 4000}})

    def estimate_of(config, counts):
        return forecast(config, counts, 10, None, SPEEDS, tuple(STAGES), Done({}))

    changed, then = shortened(config, COUNTS, estimate_of)
    assert changed["condense.teacher_epochs"] < 4000
    assert "condense.steps" not in changed
    assert f"--teacher-epochs {changed['condense.teacher_epochs']:g}" in told(
        estimate_of(config, COUNTS), changed, then
    )


@pytest.mark.slow
def test_the_teacher_of_patches_is_timed(given, tmp_path, measuring):
    patches = {**given, "condense": {"images_per_class": 2, "width": 8, "method": "patches", "teacher_epochs": 2}}
    found = estimate_run(resolve(patches), tmp_path / "run", tuple(STAGES)).estimate
    assert found.speeds.taught.high < 4 * found.speeds.taught.low  # from FLOPs alone it would be 36 times
    assert found.condense.trainings == 2
    assert found.condense.seconds.value > 0


def test_what_is_done_does_not_count():
    config = resolve({"trials": 12, "truth": 8, "judge": 8})
    done = Done({"proxy": 12, "random": 20, "truth": 99}, frozenset({"proxy"}))
    found = forecast(config, COUNTS, 10, None, SPEEDS, tuple(STAGES), done)
    assert found.condense is None
    assert {name: part.trainings for name, part in found.parts.items()} == {"random": 4, "early_stop": 8}


def test_a_small_space_has_no_more_trainings_than_architectures():
    config = resolve({"trials": 48, "truth": 24, "judge": 24})
    found = forecast(config, COUNTS, 10, 12, SPEEDS, tuple(STAGES), Done({}))
    trainings = {name: part.trainings for name, part in found.parts.items()}
    assert trainings == {"proxy": 12, "random": 36, "early_stop": 12, "truth": 24}


def test_condensing_that_costs_more_than_it_saves_is_told():
    config = resolve({"full_training": {"epochs": 6.5}})
    found = forecast(config, COUNTS, 10, None, SPEEDS, tuple(STAGES), Done({}))
    assert not found.pays
    text = told(found, {}, None)
    assert "Condensing takes longer than the full training it saves" in text
    assert "--method random" in text
    short = forecast(resolve({"full_training": {"epochs": 0.5}}), COUNTS, 10, None, SPEEDS, tuple(STAGES), Done({}))
    assert "Full training takes no longer than training on the condensed set;" in told(short, {}, None)
    longer = resolve({"full_training": {"epochs": 500}})
    found = forecast(longer, COUNTS, 10, None, SPEEDS, tuple(STAGES), Done({}))
    assert found.pays
    assert "--method random" not in told(found, {}, None)


def test_a_long_run_is_told_how_to_be_shorter():
    config = resolve({"full_training": {"epochs": 100}, "condense": {"steps": 20_000}})

    def estimate_of(config, counts):
        return forecast(config, counts, 10, None, SPEEDS, tuple(STAGES), Done({}))

    before = estimate_of(config, COUNTS)
    assert before.seconds.value > 1800
    changed, then = shortened(config, COUNTS, estimate_of)
    assert then.seconds.value <= 1800
    assert changed["full_training.epochs"] < 100
    assert changed["condense.steps"] < 20_000
    text = told(before, changed, then)
    assert f"--truth-epochs {changed['full_training.epochs']:g}" in text
    assert max(map(len, text.splitlines())) <= 80
    # What the flags say is what the settings mean.
    values = {"condense": {"steps": int(changed["condense.steps"])}, "full_training": {}, "proxy_training": {}}
    for name, value in changed.items():
        table, _, field = name.rpartition(".")
        assert table or field in {"truth", "trials", "limit", "pool"}
        if table:
            values[table][field] = value
        else:
            values[field] = int(value)
    if "limit" not in values:
        again = estimate_of(resolve(values), COUNTS)
        assert again.seconds.value == pytest.approx(then.seconds.value)


def test_nothing_shortens_a_run_for_ever():
    slow = replace(SPEEDS, image=Span(1e6, 1e6, 1e6))
    changed, then = shortened(
        resolve({}), COUNTS, lambda config, counts: forecast(config, counts, 10, None, slow, tuple(STAGES), Done({}))
    )
    assert changed["full_training.epochs"] >= 5
    assert then.seconds.value > 1800


def test_a_run_that_is_new_is_counted_measured_and_not_made(given, tmp_path, measuring):
    before = files(tmp_path)
    found = estimate_run(resolve(given), tmp_path / "run", tuple(STAGES)).estimate
    assert files(tmp_path) == before
    assert not (tmp_path / "run").exists()
    # Two seeds a candidate and a control; the truth has its own two.
    assert {name: part.trainings for name, part in found.parts.items()} == {
        **{"proxy": 10, "random": 18, "early_stop": 6, "truth": 12}
    }
    passes = {name: part.image_passes for name, part in found.parts.items()}
    assert passes["proxy"] == 10 * 2 * 6 * 3
    assert passes["random"] == 18 * 2 * 6 * 3
    assert passes["truth"] == 12 * 2 * 36
    assert found.condense.trainings == 30
    assert found.seconds.low < found.seconds.value < found.seconds.high
    assert (found.speeds.measured, found.speeds.failed) == (4, ())
    assert found.speeds.condense_mb > 0


def test_without_time_to_measure_flops_do(given, tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "measured", lambda *_: pytest.fail("the run is short"))
    found = estimate_run(resolve(given), tmp_path / "run", tuple(STAGES)).estimate
    assert found.speeds.measured == 0
    assert found.parts["proxy"].seconds.high > 10 * found.parts["proxy"].seconds.low


def test_a_slow_network_is_measured_on_fewer_images(given, tmp_path, measuring, monkeypatch):
    probed: list[int] = []

    def perform(probe: Probe) -> Pace:
        from nas_proxy.data.images import ImageSet

        probed.append(len(ImageSet.load(probe.data)))
        return Pace(1.0, 0.0, probed[-1])

    monkeypatch.setattr(Probe, "perform", perform)
    monkeypatch.setattr("nas_proxy.pipeline.speeds._rate", lambda device: 1.0)  # one FLOP a second
    found = estimate_run(resolve(given), tmp_path / "run", ("search",)).estimate
    assert probed == [2] * 4
    assert found.speeds.image.value == pytest.approx(0.5)


def test_a_network_that_hangs_leaves_the_coarse_estimate(given, tmp_path, measuring, monkeypatch):
    from nas_proxy.training.jobs import Failure

    monkeypatch.setattr("nas_proxy.training.executor.performed", lambda job: Failure("took longer than 0.3 minutes"))
    found = estimate_run(resolve(given), tmp_path / "run", ("search",)).estimate
    assert found.speeds.measured == 0
    assert "FLOPs alone; 4 more failed: took longer" in told(found, {}, None)


def test_only_a_few_images_are_read(given, tmp_path, monkeypatch):
    monkeypatch.setattr("nas_proxy.pipeline.problem.read_data", lambda *_: pytest.fail("all images were read"))
    estimate_run(resolve(given), tmp_path / "run", tuple(STAGES))


@pytest.mark.slow
def test_what_is_done_does_not_count_and_failures_are_told(given, tmp_path, measuring):
    space = tmp_path / "failing.py"
    space.write_text(Path(given["space"]).read_text().replace("(1, 2, 4, 6, 8, 12, 16)", "(2, 3, 4, 6)"))
    run = prepare_run(tmp_path / "run", resolve({**given, "space": str(space), "trials": 7, "truth": 5, "judge": 5}))
    run_stages(run, ("condense", "search"))
    before = files(tmp_path)
    larger = resolve({"trials": 8}, run / "run.toml")
    found = estimate_run(larger, run.path, tuple(STAGES)).estimate
    assert files(tmp_path) == before
    assert found.condense is None
    assert found.parts["truth"].trainings == 2 * 5
    assert found.parts["random"].trainings == 15
    assert set(found.speeds.failed) <= {"ValueError: three is not a width"}
    assert "proxy" not in found.parts or found.parts["proxy"].trainings <= 1


def test_the_first_lines_of_a_run_tell_its_time(given, tmp_path, monkeypatch):
    said: list[str] = []

    class Told:
        stage = staticmethod(dry_run.SILENT.stage)
        say = staticmethod(said.append)

    monkeypatch.setattr(worker_pool.ProcessExecutor, "submit", InlineExecutor.submit)
    monkeypatch.setattr("nas_proxy.pipeline.work.ProcessExecutor", lambda *_: InlineExecutor())
    small = {**given, "trials": 4, "truth": 4, "judge": 4, "seeds": 1}
    run_all(resolve(small), tmp_path / "run", progress=Told(), names=("condense", "search"))
    assert said[0].startswith("It takes about ")
    assert "Condensation" in said[0]
    assert "4 trainings" in said[0]


@pytest.mark.parametrize("as_json", [False, True])
def test_the_command(given, tmp_path, monkeypatch, capsys, as_json):
    run = prepare_run(tmp_path / "run", resolve(given))
    run_stages(run, ("condense",))
    before = files(tmp_path)
    monkeypatch.setattr(sys, "argv", ["nas-proxy", "search", str(run.path), "--dry-run", *["--json"] * as_json])
    with pytest.raises(SystemExit, match="0"):
        main()
    printed = capsys.readouterr().out
    assert files(tmp_path) == before
    assert open_run(run.path).config == run.config
    if as_json:
        found = json.loads(printed)
        assert set(found["parts"]) == {"proxy"}
        assert found["parts"]["proxy"]["trainings"] == 10
        assert found["condense"] is None
        seconds = [found[of]["proxy"]["seconds"]["value"] for of in ("parts", "choices")]
        assert found["stages"]["search"]["value"] == pytest.approx(sum(seconds))
    else:
        assert printed.startswith("It takes about ")
        assert "10 trainings" in printed


def test_a_finished_command_has_nothing_to_do():
    done = Done({"proxy": 99, "random": 99, "early_stop": 99, "truth": 99}, frozenset({"proxy"}))
    found = forecast(resolve({}), COUNTS, 10, None, SPEEDS, tuple(STAGES), done)
    assert Outlook(found, {}, None).text() == ("Nothing is left to be trained; the rest takes about 10 s [5 s, 20 s].")


def test_places_across_a_sample_have_its_mean():
    assert across(3, 4) == [0, 1, 2]
    places = across(24, 4)
    assert places == [3, 9, 15, 21]
    assert abs(sum(places) / 4 - 11.5) <= 0.5
    assert within(6.0, 2.0) == Span(6.0, 3.0, 12.0)


def test_mistakes_are_told_as_without(given, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", ["nas-proxy", "run", "--dry-run", "--space", "absent.py", "--out", str(tmp_path / "a")]
    )
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "absent.py does not exist" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
