"""A run that searches: what it chooses, that it goes on as it was, what it picks, and what it says that it saved."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from optuna import load_study

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.errors import UserError
from nas_proxy.pipeline import full_trainings, stages
from nas_proxy.pipeline.choosing import SPENT
from nas_proxy.pipeline.stages import run_all, run_stages
from nas_proxy.ranking.believed import NAME
from nas_proxy.report import pareto
from nas_proxy.report.run_contents import read_run
from nas_proxy.runs.folder import open_run, with_changes
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy.trainer import Trainer
from nas_proxy.training.jobs import Failure

SETTINGS = {
    "trials": 12,
    "truth": 10,
    "judge": 5,
    "round": 2,
    "workers": 1,
    "device": "cpu",
    "signals": ["params"],
    "condense": {"method": "random", "images_per_class": 2},
    "proxy_training": {"epochs": 3, "batch_size": 6},
    "full_training": {"epochs": 1, "batch_size": 12},
}


@pytest.fixture
def go(tmp_path):
    images = blobs(per_class=20)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    space = write_space(tmp_path / "tiny.py", (1, 2, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24))

    def run(out: str = "run", **changes):
        return nas_proxy.run(f"npz:{tmp_path / 'blobs.npz'}", str(space), out=tmp_path / out, **{**SETTINGS, **changes})

    return run


def rows(folder: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(folder / name)


def test_full_trainings_are_the_sample_and_what_is_chosen(go):
    run = go()
    truth, trials = rows(run.folder, "truth.csv"), rows(run.folder, "trials.csv")
    assert len(trials) == 12
    assert (truth["phase"] == "sample").sum() == 5
    assert (truth["phase"] == "search").sum() == 5
    # What judges has two seeds, the pick too; the others have one.
    twice = set(truth["key"][truth["accuracy_1"].notna()])
    assert twice == set(truth["key"][truth["phase"] == "sample"]) | {run.pick["key"]}
    # The search has seen the first seed of its pick, so how good that is, the second tells.
    (second,) = truth["accuracy_1"][truth["key"] == run.pick["key"]]
    assert (run.pick["truth_mean"], run.pick["truth_chosen_by"]) == (pytest.approx(second), 1)
    assert run.ranking["n"] == run.ranking["sample"] == 5


@pytest.mark.slow
def test_the_pick_is_the_best_by_posterior_mean_and_no_test_image_chooses(go, monkeypatch):
    run = go()
    found = json.loads((run.folder / "search.json").read_text())
    seen = [one for one in found["order"] if one["validation"] is not None]
    assert len(seen) == 10
    assert found["pick"] == run.pick["key"] == max(seen, key=lambda one: one["mean"])["key"]
    assert run.pick["posterior_low"] <= run.pick["posterior_mean"] <= run.pick["posterior_high"]
    # Other test accuracies change nothing that is chosen.
    finish = TrialStore.finish

    def blind(self, signal, number, result):
        if signal == "truth" and hasattr(result, "score"):
            result = nas_proxy_replace(result, score=1.0 - result.score)
        return finish(self, signal, number, result)

    from dataclasses import replace as nas_proxy_replace

    monkeypatch.setattr(TrialStore, "finish", blind)
    other = go("other")
    assert json.loads((other.folder / "search.json").read_text()) == found


@pytest.mark.slow
@pytest.mark.parametrize("deaths", [{3}, {8, 15}, {14, 16, 19}])
def test_a_run_that_is_cut_off_proposes_the_same_again(go, monkeypatch, deaths):
    whole = go()
    finish, count = TrialStore.finish, 0

    def dying(self, *arguments):
        nonlocal count
        count += 1
        if count in deaths:
            raise KeyboardInterrupt
        return finish(self, *arguments)

    monkeypatch.setattr(TrialStore, "finish", dying)
    for _ in deaths:
        with pytest.raises(KeyboardInterrupt):
            go("cut")
    again = go("cut")
    for name in ("truth.csv", "trials.csv"):
        pd.testing.assert_frame_equal(
            *(rows(run.folder, name).drop(columns="seconds") for run in (whole, again)), check_like=True
        )
    assert (whole.folder / "search.json").read_text() == (again.folder / "search.json").read_text()


@pytest.mark.slow
def test_a_round_that_is_cut_off_after_a_failure_is_proposed_again(go, monkeypatch):
    """What failed in the round itself was not known when it was chosen."""
    finish, job, cut = TrialStore.finish, Trainer.job, set[int]()

    def failing(self, signal, candidate, *more):
        of = job(self, signal, candidate, *more)
        fails = signal == "truth" and candidate.phase == "search" and candidate.index in {0, 3}
        return replace(of, architecture={"width": 3, "act": "relu"}) if fails else of

    def dying(self, signal, number, result):
        record = finish(self, signal, number, result)
        if isinstance(result, Failure) and len(cut) < 2:
            cut.add(number)
            raise KeyboardInterrupt
        return record

    monkeypatch.setattr(Trainer, "job", failing)
    whole = go(round=4)
    monkeypatch.setattr(TrialStore, "finish", dying)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            go("cut", round=4)
    again = go("cut", round=4)
    assert (rows(again.folder, "truth.csv")["accuracy_0"].isna()).sum() == 2
    told = [rows(run.folder, "truth.csv").drop(columns="seconds") for run in (whole, again)]
    pd.testing.assert_frame_equal(*told, check_like=True)


@pytest.mark.slow
def test_a_larger_run_extends_a_smaller_one(go):
    first = set(rows(go(truth=8, judge=4).folder, "truth.csv")["key"])
    larger = rows(go(truth=12, judge=5).folder, "truth.csv")
    assert first <= set(larger["key"])
    assert len(larger) == 12


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"trials": 15, "truth": 13}, {"round": 3, "trials": 13, "truth": 12}])
def test_what_is_trained_already_is_not_chosen_again_where_rounds_move(go, change):
    run = go(judge=4)
    go(judge=4, **change)
    storage = f"sqlite:///{run.folder / 'study.db'}"
    for name in ("proxy", "truth"):
        trials = load_study(study_name=name, storage=storage).trials
        known = [(t.user_attrs["key"], t.user_attrs["draw"]) for t in trials]
        assert len(known) == len(set(known)), name


@pytest.mark.slow
def test_test_images_that_change_do_not_judge_beside_those_before(go, tmp_path):
    whole = dict(np.load(tmp_path / "blobs.npz"))
    own = {"test_images": whole["images"], "test_labels": whole["labels"]}
    np.savez(tmp_path / "blobs.npz", **whole, **own)
    go(truth=5, judge=5)
    np.savez(tmp_path / "blobs.npz", **whole, **own | {"test_images": 255 - whole["images"]})
    with pytest.raises(UserError, match="the test data has changed since the trainings of this run"):
        go(truth=8, judge=5)
    np.savez(tmp_path / "blobs.npz", **whole, **own)
    assert len(rows(go(truth=8, judge=5).folder, "truth.csv")) == 8


@pytest.mark.slow
def test_another_ranking_writes_its_order_too(go):
    run = go()
    (run.folder / "search.json").unlink()
    run_all(with_changes(run.folder, {"signals": ["flops"]}), run.folder, names=("rank",))
    assert full_trainings_of(run.folder)[0]["key"] == run.ranking["pick"]["key"]


def test_what_is_proposed_says_why(go):
    run = go()
    storage = f"sqlite:///{run.folder / 'study.db'}"
    why = [t.user_attrs.get("why") for t in load_study(study_name="proxy", storage=storage).trials]
    assert why[:5] == [None] * 5  # the sample
    assert {"vote", "upper third", "expected improvement"} >= set(why[5:])
    fully = load_study(study_name="truth", storage=storage).trials
    assert sum(t.user_attrs.get("why") == "expected improvement" for t in fully) >= 5
    assert all("validation" in t.user_attrs for t in fully)


@pytest.mark.slow
def test_other_samplers_propose_for_the_proxy_and_the_pool_for_full_training(go):
    run = go(sampler="tpe")
    assert len(rows(run.folder, "trials.csv")) == 12
    assert len(rows(run.folder, "truth.csv")) == 10


@pytest.mark.slow
def test_a_pool_smaller_than_the_space_grows_by_mutation(go):
    run = go(pool=8)
    pool = json.loads((run.folder / "pool.json").read_text())
    assert set(pool["generations"]) == {"1", "2"}
    assert 1 <= len(pool["generations"]["1"]) <= 2
    order = json.loads((run.folder / "search.json").read_text())["order"]
    assert 8 < len(order) <= 8 + 4 + 5


@pytest.mark.slow
def test_with_published_accuracies_nothing_is_trained_fully(go, tmp_path, monkeypatch):
    keys = [f"width={w},act={a}" for w in (1, 2, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24) for a in ("relu", "tanh")]
    accuracy = {key: 0.5 + int(key.split(",")[0][6:]) / 100 + 0.01 * key.endswith("tanh") for key in keys}
    table = tmp_path / "published.csv"
    pd.DataFrame({"key": keys, "accuracy": accuracy.values()}).to_csv(table, index=False)
    run = go(truth_table=str(table))
    seen = [one["validation"] for one in full_trainings_of(run.folder) if one["validation"] is not None]
    assert len(seen) == 10
    assert run.pick["truth_mean"] == pytest.approx(max(seen))
    assert run.ranking["saving"]["estimated"] is True
    study = {"study_name": "proxy", "storage": f"sqlite:///{run.folder / 'study.db'}"}
    took = load_study(**study).user_attrs[SPENT]
    with monkeypatch.context() as patch:
        patch.setattr(full_trainings, "counted", lambda _: pytest.fail("it is finished"))
        go(truth_table=str(table))  # looks up again, which is no part of what the run took
    assert load_study(**study).user_attrs[SPENT] == took > 0
    assert run.ranking["signals"]["calibrated"]["pick"] == run.pick["key"]
    # The pick, which may never have been trained, is what the final network is of, and stays in the table.
    assert nas_proxy.final(run).told["key"] == run.pick["key"]
    trained = set(rows(run.folder, "trials.csv")["key"])
    chosen = [one["key"] for one in full_trainings_of(run.folder) if one["validation"] and one["key"] not in trained]
    assert chosen
    assert nas_proxy.final(run, key=chosen[0], out=tmp_path / "chosen").told["search_score"] == accuracy[chosen[0]]
    before = set(rows(run.folder, "truth.csv")["key"])
    run_stages(open_run(run.folder), ("search",))
    assert set(rows(run.folder, "truth.csv")["key"]) == before
    # What ends a larger search is told, and not that its sample is not trained yet.
    monkeypatch.setattr(stages, "search", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        go(truth_table=str(table), judge=6)


@pytest.mark.slow
def test_a_table_and_several_objectives_have_one_front(go, tmp_path):
    keys = [f"width={w},act={a}" for w in (1, 2, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24) for a in ("relu", "tanh")]
    table = tmp_path / "published.csv"
    pd.DataFrame({"key": keys, "accuracy": np.linspace(0.3, 0.9, len(keys))}).to_csv(table, index=False)
    run = go(truth_table=str(table), objective=["accuracy", "params"])
    front = [row["key"] for row in run.ranking["pareto"]]
    shown = pareto.of_run(read_run(run.folder))
    assert shown[shown["place"].notna()]["key"].tolist() == front
    assert nas_proxy.final(run, front=len(front)).told["key"] == front[-1]


def test_several_objectives_are_searched_for_the_front(go):
    run = go(objective=["accuracy", "params"])
    chosen = rows(run.folder, "truth.csv")
    assert len(chosen) == 10
    assert chosen["params"].min() < chosen["params"].median() < chosen["params"].max()
    assert run.ranking["pareto"]


def test_own_scores_take_part(go, tmp_path):
    keys = [f"width={w},act={a}" for w in (1, 2, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24) for a in ("relu", "tanh")]
    pd.DataFrame({"key": keys, "mine": range(len(keys))}).to_csv(tmp_path / "scores.csv", index=False)
    (tmp_path / "own.py").write_text(
        "def weights(network, images):\n"
        "    assert images.shape[1:] == (1, 8, 8)\n"
        "    return sum(p.abs().sum() for p in network.parameters())\n"
    )
    named = [f"table:{tmp_path / 'scores.csv'}:mine", f"{tmp_path / 'own.py'}:weights"]
    run = go(signals=["params", *named], combine=["proxy", named[0]])
    signals = run.ranking["signals"]
    assert signals["mine"]["spearman"]["n"] == signals["weights"]["spearman"]["n"] == 5
    assert {"mine", "weights"} <= set(signals["calibrated"]["calibration"]["weights"])
    assert "combined" in signals
    assert rows(run.folder, "scores.csv")["mine"].notna().all()
    kept = [json.loads(line) for line in (run.folder / "computed.jsonl").read_text().splitlines()[1:]]
    assert sum(line["signal"].startswith("weights#") for line in kept) == 24  # of the whole pool


@pytest.mark.parametrize(
    ("named", "mistake"),
    [
        ("table:scores.csv:yours", "scores.csv has no column 'yours'; known: "),
        ("table:none.csv:mine", "none.csv does not exist"),
        ("table:others.csv:mine", "'mine' of .*others.csv has a number for none of 24 architectures of the space"),
        ("own.py:missing", "own.py defines no function 'missing'"),
        ("own.py:broken_import", "no function 'broken_import'"),
        ("broken.py:score", "broken.py.*no such luck"),
        ("table:scores.csv:proxy", "'proxy' is the name of another signal; rename the column"),
    ],
)
def test_mistakes_in_own_scores_are_told_before_the_work(go, tmp_path, named, mistake):
    pd.DataFrame({"key": ["width=1,act=relu"], "mine": [1.0], "proxy": [1.0]}).to_csv(tmp_path / "scores.csv")
    pd.DataFrame({"key": ["a"], "mine": [1.0]}).to_csv(tmp_path / "others.csv", index=False)
    (tmp_path / "own.py").write_text("def score(network, images):\n    return 1.0\n")
    (tmp_path / "broken.py").write_text("raise ValueError('no such luck')\n")
    kind, _, rest = named.rpartition("table:")
    with pytest.raises(UserError, match=mistake):
        go(signals=[f"{'table:' if kind or named.startswith('table:') else ''}{tmp_path / rest}"])
    assert not (tmp_path / "run" / "proxy.safetensors").exists()


@pytest.mark.slow
def test_a_score_that_fails_has_its_reason_and_the_run_goes_on(go, tmp_path):
    (tmp_path / "own.py").write_text("def odd(network, images):\n    raise RuntimeError('no luck')\n")
    run = go(signals=["params", f"{tmp_path / 'own.py'}:odd"])
    assert "no luck" in run.ranking["signals"]["odd"]["spearman_note"]
    assert run.pick["key"]


@pytest.mark.slow
def test_old_folders_whose_full_trainings_a_search_may_not_see_go_on(go, monkeypatch):
    finish = TrialStore.finish

    def without_validation(self, signal, number, result):
        from dataclasses import replace

        if hasattr(result, "validation"):
            result = replace(result, validation=None)
        return finish(self, signal, number, result)

    monkeypatch.setattr(TrialStore, "finish", without_validation)
    go(truth=5, judge=5)
    monkeypatch.undo()
    run = go(truth=8, judge=5)
    seen = [one for one in full_trainings_of(run.folder) if one["validation"] is not None]
    assert len(seen) == 3
    assert run.pick["key"] in {one["key"] for one in seen}


def full_trainings_of(folder: Path) -> list[dict]:
    return json.loads((folder / NAME).read_text())["order"]
