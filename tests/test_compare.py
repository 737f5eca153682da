"""Whole comparisons on tiny images: every file, two kinds of equal cost, going on after a kill, what a folder holds."""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import optuna
import pandas as pd
import pytest
from typer.testing import CliRunner

from comparisons import Bench, few_resamples
from nas_proxy.cli.app import app
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.folder import prepare_run
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.worker_pool import ProcessExecutor


@pytest.fixture(scope="module", autouse=True)
def _few():
    yield from few_resamples()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def finished(bench):
    """A whole comparison, with the truth trained."""
    run, ranking = bench.compare("finished")
    return run.path, ranking


def trials(folder):
    storage = f"sqlite:///{folder / 'study.db'}"
    rows = []
    for name in optuna.get_all_study_names(storage):
        found = optuna.load_study(study_name=name, storage=storage).trials
        rows += [(name, t.user_attrs["key"], t.user_attrs["draw"], t.state.name) for t in found]
    return pd.DataFrame(rows, columns=["study", "key", "draw", "state"])


def test_every_file_is_written(finished):
    folder, ranking = finished
    names = {path.name for path in folder.iterdir()}
    files = {"compare.toml", "study.db", "computed.jsonl", "sets", "scores.csv"}
    files |= {"truth.csv", "ranking.json", "table.csv", "table.md", "compare.html"}
    assert names == files | {".lock"}
    assert json.loads((folder / "ranking.json").read_text()) == ranking
    trained = ["dm", "dm+space", "random", "herding", "early_stop", "random_total"]
    expected = [row for name in trained[:5] for row in (name, f"{name}:loss_sum")] + ["params", "naswot"]
    expected += ["random_total", "random_total:loss_sum", "calibrated", "repeatability"]
    assert list(ranking["signals"]) == expected
    scores = pd.read_csv(folder / "scores.csv")
    assert len(scores) == 5
    assert set(expected) - {"repeatability"} <= set(scores)
    mean = (scores["dm_0"] + scores["dm_1"]) / 2
    np.testing.assert_allclose(scores["dm"], mean)
    assert (scores["dm:loss_sum"] < 0).all()
    table = pd.read_csv(folder / "table.csv").set_index("signal")
    assert table.loc["dm", "spearman"] == ranking["signals"]["dm"]["spearman"]["value"]
    assert table.loc["dm", "beats_random"] == ranking["signals"]["dm"]["beats_random"]
    assert (folder / "table.md").read_text().count("\n| ") == len(expected) + 1
    assert "https:" not in (folder / "compare.html").read_text().split("<script>", maxsplit=1)[0]


def test_every_row_has_what_the_paper_prints(finished):
    _, ranking = finished
    assert (ranking["n"], ranking["sample"]) == (5, 5)
    for name, row in ranking["signals"].items():
        for measure in ("spearman", "spearman_top_half", "spearman_top_20", "kendall", "partial_spearman"):
            assert {"value", "low", "high", "n"} <= set(row[measure]), (name, measure)
        assert {"precision_at_5", "precision_at_10", "regret", "beats_random", "more_architectures"} <= set(row)
        assert {"seconds", "passes", "stored_images", "stored_bytes"} <= set(row["cost"])
        assert row["beats_random"] in {None, "yes", "no", "cannot tell"}
    assert ranking["signals"]["dm:loss_sum"]["control"] == "random:loss_sum"
    assert ranking["signals"]["repeatability"]["spearman"]["n"] == 5


def test_the_two_kinds_of_equal_cost(finished):
    _, ranking = finished
    cost = {name: row["cost"] for name, row in ranking["signals"].items()}
    for name in ("dm", "dm+space", "herding", "random", "early_stop"):
        assert cost[name]["training_passes"] == 5 * 24
    for name in ("dm", "random", "herding"):
        assert (cost[name]["stored_images"], cost[name]["stored_bytes"]) == (6, 6 * 64)
    # 12 real and 2 synthetic images of each of 3 classes, in each of 3 steps.
    assert cost["dm"]["making_passes"] == 3 * 3 * (12 + 2)
    assert cost["dm"]["passes"] == cost["dm"]["training_passes"] + cost["dm"]["making_passes"]
    assert cost["random"]["making_passes"] == 0
    plan = ranking["equal_cost"]["random_total"]
    assert (plan["target"], plan["candidates"]) == ("dm", 5)
    training = (cost["dm"]["training_seconds"] + cost["random"]["training_seconds"]) / 2
    assert plan["factor"] == pytest.approx(1 + cost["dm"]["making_seconds"] / training, rel=1e-6)
    assert plan["passes"] == round(24 * plan["factor"])
    assert plan["per_class"] == min(12, max(2, round(2 * plan["factor"])))
    # A step is the least that a training can be longer by.
    assert abs(cost["random_total"]["training_passes"] / 5 - plan["passes"]) <= 6
    assert ranking["signals"]["dm"]["total_control"] == "random_total"
    assert ranking["signals"]["dm"]["minus_random_total"]["n"] == 5
    assert "pays_from" in ranking["signals"]["dm"]


def test_embedding_networks_are_not_of_the_sample(finished):
    folder, _ = finished
    sample = set(pd.read_csv(folder / "scores.csv")["key"])
    for draw in range(2):
        found = ImageSet.load_metadata(folder / "sets" / f"dm+space-{draw}.safetensors")["embedded"]
        assert len(found) == 3
        assert sample.isdisjoint(found)


def test_nothing_is_done_twice(finished, bench, monkeypatch):
    folder, ranking = finished

    def refuse(*arguments, **options):
        raise AssertionError("there was nothing to do")

    monkeypatch.setattr(ProcessExecutor, "run", lambda self, jobs: (refuse() for _ in jobs))
    monkeypatch.setattr("nas_proxy.signals.sets.make_proxy", refuse)
    before = {name: (folder / name).read_bytes() for name in ("scores.csv", "table.csv", "table.md")}
    _, again = bench.compare("finished")
    assert again["signals"] == ranking["signals"]
    assert before == {name: (folder / name).read_bytes() for name in before}


@pytest.mark.slow
def test_it_goes_on_where_it_was_interrupted(finished, bench, monkeypatch):
    folder, _ = finished
    finish, count = TrialStore.finish, 0

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if count in {2, 13, 15, 60}:  # in the truth, in random images, at once again, in the last signal
            raise KeyboardInterrupt
        return finish(self, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(TrialStore, "finish", dying)
        for _ in range(4):
            with pytest.raises(KeyboardInterrupt):
                bench.compare("cut")
    bench.compare("cut")
    columns = [name for name in pd.read_csv(folder / "scores.csv") if not name.startswith("random_total")]
    whole, cut = (pd.read_csv(path / "scores.csv")[columns] for path in (folder, bench.folder / "cut"))
    pd.testing.assert_frame_equal(whole, cut)  # how long random_total trains depends on the clock
    done = trials(bench.folder / "cut").query("state == 'COMPLETE'")
    assert not done.duplicated(["study", "key", "draw"]).any()
    assert len(done) == 5 * (2 * 5 + 1 + 2)


@pytest.mark.slow
def test_killed_outright_it_goes_on(bench):
    folder = bench.folder / "killed"
    command = [sys.executable, "-m", "nas_proxy", *bench.arguments("killed")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (folder / "study.db").exists() and list(folder.glob("sets/dm-*.safetensors")):
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = CliRunner().invoke(app, [*bench.arguments("killed"), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    assert json.loads(done.stdout)["n"] == 5
    complete = trials(folder).query("state == 'COMPLETE'")
    assert len(complete) == len(complete.drop_duplicates(["study", "key", "draw"])) == 5 * (2 * 5 + 1 + 2)


@pytest.mark.slow
def test_the_terminal_has_100_columns(bench, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    arguments = bench.arguments("killed")
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    for text in ("Spearman", "Better half (3)", "Minus random", "Condensed, dm+space", "by loss sum", "Calibrated"):
        assert text in done.stdout


@pytest.mark.slow
def test_a_comparison_grows(bench):
    small = {"signals": ["dm+space", "early_stop"], "sample": 4, "draws": 1}
    run, _ = bench.compare("grows", table=True, **small)
    first = set(pd.read_csv(run / "scores.csv")["key"])
    before = trials(run.path)
    larger = {"signals": ["early_stop", "params", "kcenter"], "sample": 5, "draws": 2, "combine": ["params", "kcenter"]}
    _, ranking = bench.compare("grows", table=True, **larger)
    after = trials(run.path)
    pd.testing.assert_frame_equal(after.merge(before), before)
    assert {"kcenter", "combined", "params"} <= set(ranking["signals"])
    assert ranking["signals"]["combined"]["spearman_note"] == "the mean rank of params, kcenter"
    embedded = ImageSet.load_metadata(run / "sets" / "dm+space-0.safetensors")["embedded"]
    scores = pd.read_csv(run / "scores.csv")
    assert set(scores["key"]).isdisjoint(embedded)
    assert first <= set(scores["key"])


def test_a_truth_of_one_column_has_no_repeatability(bench):
    _, ranking = bench.compare("table", table=True, signals=["params", "flops"], sample=6)
    assert list(ranking["signals"]) == ["params", "flops", "calibrated", "repeatability"]
    assert ranking["signals"]["repeatability"]["spearman"]["value"] is None
    assert "the truth has one seed, so its repeatability is not known" in ranking["remarks"]
    assert ranking["signals"]["params"]["beats_random_reason"] == "there is no signal named 'random'"
    assert ranking["truth"]["source"] == "table"
    assert "truth table" in ranking["subset"]
    assert not list((bench.folder / "table").glob("sets/*"))


def test_one_way_of_scoring(bench):
    _, ranking = bench.compare("loss", table=True, signals=["random", "params"], score="loss_sum", draws=1)
    assert list(ranking["signals"]) == ["random:loss_sum", "params", "calibrated", "repeatability"]
    assert ranking["signals"]["params"]["control"] == "random:loss_sum"
    assert all(ranking["signals"][name]["minus_random"]["value"] is not None for name in ("params", "calibrated"))


@pytest.mark.slow
def test_packed_images_have_packed_controls(bench):
    _, ranking = bench.compare("packed", table=True, signals=["dm+formation"], draws=1, score="accuracy")
    signals = ranking["signals"]
    assert list(signals) == [
        "dm+formation",
        "random",
        "random+formation",
        "random_total",
        "calibrated",
        "repeatability",
    ]
    assert signals["dm+formation"]["control"] == "random+formation"
    assert {signals[name]["cost"]["stored_images"] for name in list(signals)[:3]} == {6}
    assert {signals[name]["cost"]["training_passes"] for name in list(signals)[:3]} == {5 * 24}
    assert len(ImageSet.load(bench.folder / "packed" / "sets" / "random+formation-0.safetensors").unpacked()) == 24


def test_a_folder_holds_one_thing(finished, bench, tmp_path):
    with pytest.raises(RunFolderError, match=r"holds another comparison \(compare.passes: 24 → 48\)"):
        bench.compare("finished", passes=48)
    settings = dataclasses.replace(bench.settings(), compare=None)
    with pytest.raises(RunFolderError, match=r"holds a comparison \(it has a compare.toml\); choose another folder"):
        prepare_run(finished[0], settings)
    prepare_run(tmp_path, settings)
    (tmp_path / "study.db").write_text("a run's")
    for overwrite in (False, True):
        with pytest.raises(
            RunFolderError, match=r"holds a run \(it has a run.toml\); choose another folder with --out"
        ):
            run_all(bench.settings(), tmp_path, overwrite=overwrite)
    assert (tmp_path / "study.db").read_text() == "a run's"


@pytest.mark.slow
def test_overwrite_replaces_a_comparison(bench):
    run, _ = bench.compare("replaced", table=True, signals=["random"], draws=1, score="accuracy")
    assert len(list((run / "sets").iterdir())) == 1
    settings = bench.settings(table=True, signals=["params"], passes=48)
    run_all(settings, run.path, overwrite=True)
    assert list(json.loads((run / "ranking.json").read_text())["signals"]) == ["params", "repeatability"]
    assert not (run / "sets").exists()


def test_another_set_under_the_trainings_is_refused(finished, bench):
    folder = bench.folder / "foreign"
    shutil.copytree(finished[0], folder)
    shutil.copy(folder / "sets" / "dm-1.safetensors", folder / "sets" / "dm-0.safetensors")
    with pytest.raises(RunFolderError, match="the set 0 has changed since the trainings"):
        bench.compare("foreign")


@pytest.mark.slow
@pytest.mark.browser
def test_the_page_in_a_browser(finished, browser, screenshot):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((finished[0] / "compare.html").as_uri())
    known = [row for row in finished[1]["signals"].values() if row["spearman"]["value"] is not None]
    page.get_by_text("Every number of every signal").click()
    page.wait_for_selector("#figure-cost-passes .main-svg")
    assert page.locator("#figure-cost-seconds .trace.scatter").count() == len(known) + 1
    assert wrong == []
    screenshot(page, "compare")
    page.close()
