"""Runs for several objectives and with a limit on latency: what is recorded, kept, shown and refused."""

import contextlib
import io
import json
import shutil
from dataclasses import replace

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from rich.console import Console

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.cli.app import main
from nas_proxy.dashboard.notes import Notes
from nas_proxy.errors import ConfigError, RunFolderError, SpaceError
from nas_proxy.pipeline import work
from nas_proxy.pipeline.final import train_final
from nas_proxy.pipeline.stages import run_all
from nas_proxy.ranking.scores import pareto_front
from nas_proxy.report import pareto
from nas_proxy.report.run_contents import read_run
from nas_proxy.report.terminal import ranking_table
from nas_proxy.runs.folder import open_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.measured import UNMEASURED, Latency, Size
from nas_proxy.storage.records import INTERRUPTED, Candidate
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.jobs import Failure
from nas_proxy.training.train import Outcome

SETTINGS = {
    "trials": 10,
    "truth": 4,
    "workers": 1,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 1, "batch_size": 6},
    "full_training": {"epochs": 1, "batch_size": 12},
}
OBJECTIVES = ("accuracy", "latency", "params")


@pytest.fixture
def timed(monkeypatch):
    """Milliseconds by width instead of by a clock, and the list of what was timed."""
    asked = []

    def by_width(problem, executor, architecture):
        asked.append(problem.whole_space.key(architecture))
        if architecture["width"] == 3:
            return Failure("ValueError: three is not a width")
        return Latency(float(architecture["width"]), architecture["width"] - 0.5, architecture["width"] + 0.5, 9)

    monkeypatch.setattr(work, "timed", by_width)
    return asked


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("objectives")
    images = blobs(per_class=30)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    space = write_space(folder / "tiny.py", (1, 2, 3, 4, 6, 8, 12, 16))
    return {"dataset": f"npz:{folder / 'blobs.npz'}", "space": str(space)}


def searched(places, folder, *names, **settings):
    config = resolve({**places, **SETTINGS, **settings})
    return run_all(config, folder, names=("condense", "search", *names))


def trials(run) -> pd.DataFrame:
    return pd.read_csv(run / "trials.csv")


def run_records(run, name):
    with contextlib.closing(TrialStore(run / "study.db", objectives=OBJECTIVES)) as store:
        return [r for r in store.records(name) if r.complete]


def study(run, name) -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{run / 'study.db'}")


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("nsga2", marks=pytest.mark.slow)])
def test_a_search_for_several_goes_on_the_same_and_times_nothing_twice(places, tmp_path, timed, sampler):
    whole = trials(searched(places, tmp_path / "whole", objective=OBJECTIVES, sampler=sampler))
    assert (whole["state"] == "complete").sum() >= 8
    assert sorted(timed) == sorted(whole["key"])
    first = trials(searched(places, tmp_path / "parts", objective=OBJECTIVES, sampler=sampler, trials=6))
    timed.clear()
    parts = trials(searched(places, tmp_path / "parts", objective=OBJECTIVES, sampler=sampler))
    assert sorted(timed) == sorted(set(parts["key"]) - set(first["key"]))
    same = ["key", "score", "latency_ms", "latency_low_ms", "latency_high_ms", "params"]
    assert parts[same].equals(whole[same])


def test_what_a_run_for_several_tells(places, tmp_path, timed):
    run = searched(places, tmp_path / "run", "truth", "rank", "report", objective=OBJECTIVES)
    found = study(run, "proxy")
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE", "MINIMIZE"]
    assert found.metric_names == ["validation accuracy", "latency, ms", "parameters"]
    table = trials(run).set_index("key")
    for trial in found.get_trials(states=(TrialState.COMPLETE,)):
        row = table.loc[trial.user_attrs["key"]]
        assert trial.values == [row["score"], row["latency_ms"], row["params"]]
        assert trial.user_attrs["latency_quartiles_ms"] == [row["latency_low_ms"], row["latency_high_ms"]]
    # Before full trainings Optuna's own front is ours; with them, what is believed of them counts.
    ranking = json.loads((run / "ranking.json").read_text())
    records = run_records(run, "proxy")
    assert {r.key for r in pareto_front(records, OBJECTIVES)} == {t.user_attrs["key"] for t in found.best_trials}
    believed = {one["key"]: one["mean"] for one in json.loads((run / "search.json").read_text())["order"]}
    costs = {r.key: (-believed[r.key], r.latency.ms, r.params) for r in [*records, *run_records(run, "truth")]}
    beaten = {
        key
        for key, ours in costs.items()
        for theirs in costs.values()
        if ours != theirs and all(a >= b for a, b in zip(ours, theirs, strict=True))
    }
    assert {row["key"] for row in ranking["pareto"]} == costs.keys() - beaten
    assert [row["accuracy"] for row in ranking["pareto"]] == [believed[row["key"]] for row in ranking["pareto"]]
    final = train_final(open_run(run.path), front=len(ranking["pareto"]))
    assert final.told["key"] == ranking["pareto"][-1]["key"]
    report = pareto.of_run(read_run(run.path))
    assert report[report["place"].notna()]["key"].tolist() == [row["key"] for row in ranking["pareto"]]
    assert [row["latency"] for row in ranking["pareto"]] == sorted(row["latency"] for row in ranking["pareto"])
    assert set(ranking["pareto"][0]) == {"key", *OBJECTIVES, "truth_mean"}
    full = pd.read_csv(run / "truth.csv").set_index("key")["accuracy"]
    assert ranking["pick"]["truth_mean"] == pytest.approx(full[ranking["pick"]["key"]])
    for row in ranking["pareto"]:
        known = row["key"] in full.index
        assert row["truth_mean"] == (pytest.approx(full[row["key"]]) if known else None)
    assert optuna.load_study(study_name="truth", storage=found._storage).direction.name == "MAXIMIZE"
    # Objectives are part of what a run is.
    with pytest.raises(RunFolderError, match=r"holds another run \(objective: \('accuracy', 'latency', 'params'\) → "):
        searched(places, tmp_path / "run", objective=("accuracy", "flops"))


@pytest.mark.slow
def test_a_run_for_accuracy_alone_times_nothing(places, tmp_path, timed):
    run = searched(places, tmp_path / "run", "truth", "rank")
    assert timed == []
    assert "pareto" not in json.loads((run / "ranking.json").read_text())
    assert "latency_ms" not in trials(run)
    assert "latency" not in optuna.get_all_study_names(f"sqlite:///{run / 'study.db'}")
    assert all("constraints" not in trial.system_attrs for trial in study(run, "proxy").trials)
    with pytest.raises(ConfigError, match=r"--front is 1, but the run has one objective, accuracy; choose with --rank"):
        train_final(open_run(run.path), front=1)


@pytest.mark.slow
def test_what_is_too_slow_is_neither_sampled_nor_proposed_and_is_visible(places, tmp_path, timed):
    run = searched(places, tmp_path / "run", "truth", "rank", max_latency_ms=4, max_params=411)
    # Widths 1, 2 and 4 with two activations each; 3 cannot be timed, and fails without being trained.
    found = trials(run)
    assert sorted(found["width"]) == [1, 1, 2, 2, 3, 3, 4, 4]
    assert set(found[found["state"] == "failed"]["width"]) == {3}
    reason = "its latency could not be measured: ValueError: three is not a width"
    assert set(found[found["width"] == 3]["reason"]) == {reason}
    assert json.loads((run / "ranking.json").read_text())["subset"] == (
        "uniform sample of the architectures within --max-params 411 and --max-latency-ms 4 "
        "(4 of an unknown number; the space has 16)"
    )
    # What is too large is not timed at all.
    assert {key.partition(",")[0] for key in timed} == {f"width={width}" for width in (1, 2, 3, 4, 6)}
    proxy = [trial for trial in study(run, "proxy").trials if trial.params["width"] == 4]
    assert {tuple(trial.constraints.values()) for trial in proxy} == {(-136.0, 0.0)}
    slow = [trial for trial in study(run, "latency").trials if any(value > 0 for value in trial.constraints.values())]
    assert {(trial.params["width"], trial.value) for trial in slow} == {(6, 6.0)}
    failed = [trial for trial in study(run, "latency").trials if trial.state == TrialState.FAIL]
    assert {trial.user_attrs["reason"] for trial in failed} == {"ValueError: three is not a width"}
    note = " ".join(map(str, Notes(run.path)()["latency"].values()))
    assert "holds for the `device` that a trial names; what is too slow is infeasible here" in note
    note = " ".join(map(str, Notes(run.path)()["proxy"].values()))
    assert "- **constraints**: max\\_params 411, max\\_latency\\_ms 4; a trial's constraints are its distances" in note
    # A clock that runs otherwise changes nothing that is known.
    timed.clear()
    run_all(replace(run.config, trials=12), run.path, names=("search", "truth", "rank"))
    assert timed == []


def test_mistakes_that_measuring_shows(places, tmp_path, timed):
    with pytest.raises(SpaceError, match=r"no architecture of the space 'tiny' was found within --max-latency-ms 0.5;"):
        space = str(write_space(tmp_path / "tiny.py", (1, 2)))
        searched({**places, "space": space}, tmp_path / "none", max_latency_ms=0.5)
    with pytest.raises(ConfigError, match=r"--enqueue names width=8,act=relu, which takes 8 ms, more than --max"):
        searched(places, tmp_path / "one", max_latency_ms=4, enqueue=("width=8,act=relu",))
    timed.clear()
    with pytest.raises(ConfigError, match=r"--sampler evolution has one objective, but --objective names 3"):
        searched(places, tmp_path / "evolved", objective=OBJECTIVES, sampler="evolution")
    assert timed == []
    assert not (tmp_path / "evolved").exists()


@pytest.mark.slow
def test_latencies_of_another_kind_of_device_are_not_mixed(places, tmp_path, timed):
    run = searched(places, tmp_path / "run", objective=OBJECTIVES, trials=6)
    study(run, "latency").set_user_attr("device of the latencies", "cuda")
    with pytest.raises(RunFolderError, match=r"device of the latencies has changed .* \(fingerprint cuda, now cpu\)"):
        searched(places, tmp_path / "run", objective=OBJECTIVES)


def test_the_clock_itself(places, tmp_path):
    run = searched(places, tmp_path / "run", objective=("accuracy", "latency"), trials=4, latency_batch=8)
    found = study(run, "latency").get_trials(states=(TrialState.COMPLETE,))
    assert all(0 < trial.value < 1000 for trial in found)
    assert {trial.user_attrs["images"] for trial in found} == {8}
    assert all(trial.user_attrs["latency_repeats"] > 1 for trial in found)


@pytest.fixture
def template(places, tmp_path_factory, timed):
    return searched(places, tmp_path_factory.mktemp("template") / "run", objective=OBJECTIVES)


@pytest.mark.slow
def test_the_final_network_from_the_front(template, tmp_path, monkeypatch):
    monkeypatch.setattr("nas_proxy.pipeline.export.find_spec", lambda _: None)
    shutil.copytree(template.path, tmp_path / "run")
    run = open_run(tmp_path / "run")
    keys = [trial.user_attrs["key"] for trial in study(run, "proxy").best_trials]
    cheapest = train_final(run, front=1)
    assert cheapest.told["key"] in keys
    latency = {trial.user_attrs["key"]: trial.value for trial in study(run, "latency").trials if trial.values}
    assert latency[cheapest.told["key"]] == min(latency[key] for key in keys)
    last = train_final(run, front=len(keys), out=tmp_path / "last")
    better = trials(run)["score"] > float(trials(run).set_index("key").loc[last.told["key"], "score"])
    assert last.told["rank"] > better.sum()
    with pytest.raises(ConfigError, match=rf"--front is 0; it must be between 1 and {len(keys)}, the architectures on"):
        train_final(run, front=0)
    with pytest.raises(ConfigError, match=r"--rank and --front both name an architecture; give one of them"):
        train_final(run, front=1, rank=2)


def test_an_objective_that_is_not_known_fails_the_trial(tmp_path):
    ledger = TrialStore(tmp_path / "study.db", objectives=("accuracy", "flops", "latency"))
    distributions = {"width": optuna.distributions.IntDistribution(0, 9)}
    timed = Latency(2.0, 1.0, 3.0, 4)
    candidates = [
        Candidate("whole", {"width": 0}, "sample", 0, Size(10, 20), distributions, timed),
        Candidate("untimed", {"width": 1}, "sample", 1, Size(10, 20), distributions),
        Candidate("unmeasured", {"width": 2}, "sample", 2, UNMEASURED, distributions, timed),
        Candidate("failed", {"width": 3}, "sample", 3, UNMEASURED, distributions),
        Candidate("cut off", {"width": 4}, "sample", 4, Size(10, 20), distributions, timed),
    ]
    numbers = [ledger.begin("proxy", candidate, 0) for candidate in candidates]
    outcome = Outcome(0.5, (1.0,), False, 1.0, 10)
    for number, result in zip(numbers, [outcome, outcome, outcome, Failure("raised")], strict=False):
        ledger.finish("proxy", number, result)
    ledger.close_interrupted()
    records = ledger.records("proxy")
    assert [(r.key, r.score, r.reason) for r in records] == [
        ("whole", 0.5, None),
        ("untimed", None, "its latency could not be measured, which is an objective"),
        ("unmeasured", None, "its FLOPs of one image could not be measured, which is an objective"),
        ("failed", None, "raised"),
    ]
    assert records[0].latency == timed
    assert [t.user_attrs["reason"] for t in ledger.study("proxy").trials[4:]] == [INTERRUPTED]
    assert ledger.study("proxy").trials[0].values == [0.5, 20.0, 2.0]
    # The same trial of another study has one value.
    number = ledger.begin("truth", candidates[1], 0)
    ledger.finish("truth", number, outcome)
    assert [r.score for r in ledger.records("truth")] == [0.5]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--objective", "flops"], "--objective begins with 'flops'; it must begin with 'accuracy'"),
        (["--objective", "accuracy,latncy"], "--objective holds 'latncy'; did you mean 'latency'?"),
        (["--max-latency-ms", "0"], "--max-latency-ms is 0; it must be above 0"),
        (["--latency-batch", "x"], "--latency-batch is 'x'; it must be a whole number"),
        (
            ["--objective", "accuracy,flops", "--sampler", "evolution"],
            "evolution has one objective, but --objective na",
        ),
    ],
)
def test_a_mistake_on_the_command_line(places, tmp_path, monkeypatch, capsys, options, sentence):
    given = ["--dataset", places["dataset"], "--space", places["space"], "--out", str(tmp_path / "run")]
    monkeypatch.setattr("sys.argv", ["nas-proxy", "run", *given, *options])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_from_python(places, tmp_path):
    run = nas_proxy.run(
        places["dataset"], places["space"], out=tmp_path / "run", **SETTINGS, objective=["accuracy", "params"]
    )
    keys = [row["key"] for row in run.ranking["pareto"]]
    assert len(keys) == len(set(keys)) >= 1
    console = Console(width=100, file=io.StringIO())
    console.print(ranking_table(run.ranking))
    assert f"Pareto front (accuracy, params): {len(keys)} architecture" in console.file.getvalue()
    assert (tmp_path / "run" / "report.html").exists()
