"""Which score ranks and picks, and several seeds a candidate."""

import io
import json
import statistics
import sys

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import spearmanr

import nas_proxy
from conftest import blobs
from nas_proxy.cli.app import main
from nas_proxy.errors import RunFolderError
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.ranking.scores import best_first, column, shown
from nas_proxy.report.terminal import ranking_table
from nas_proxy.seeds import derive
from nas_proxy.storage.records import Record
from nas_proxy.training.seed_average import repeated
from nas_proxy.training.train import Outcome, Recipe

SETTINGS = {
    "trials": 10,
    "truth": 6,
    "judge": 6,
    "workers": 1,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 3, "batch_size": 6},
    "full_training": {"epochs": 1, "batch_size": 12},
}


@pytest.fixture
def go(tiny_space, tmp_path):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())

    def run(out: str, **changes):
        data = f"npz:{tmp_path / 'blobs.npz'}"
        return nas_proxy.run(data, str(tiny_space), out=tmp_path / out, **{**SETTINGS, **changes})

    return run


def record(key: str, score: float | None, loss_sum: float | None, **more) -> Record:
    return Record(key, {}, "sample", 0, 0, 1, 1, score=score, loss_sum=loss_sum, **more)


RECORDS = [
    record("a", 0.5, 9.0),
    record("b", 0.5, 7.0),
    record("c", 0.1, None, diverged=True),
    record("d", None, None, reason="raised"),
    record("e", 0.9, 8.0),
]


def test_the_two_scores_by_hand():
    assert column(RECORDS, "accuracy") == pytest.approx([0.5, 0.5, 0.1, np.nan, 0.9], nan_ok=True)
    losses = column(RECORDS, "loss_sum")
    assert losses[0::4] == [-9.0, -8.0]
    assert -9.001 < losses[2] < -9.0
    assert np.isnan(losses[3])
    assert [r.key for r in best_first(RECORDS)] == ["e", "b", "a", "c"]
    assert [r.key for r in best_first(RECORDS, "loss_sum")] == ["b", "e", "a", "c"]
    assert (shown(0.937, "accuracy"), shown(-12.3456, "loss_sum"), shown(None, "accuracy")) == ("93.7%", "−12.35", "–")


@given(st.permutations(RECORDS), st.sampled_from(["accuracy", "loss_sum"]))
def test_the_order_of_records_changes_nothing(records, by):
    assert best_first(records, by) == best_first(RECORDS, by)
    assert sorted(zip([r.key for r in records], map(str, column(records, by)), strict=True)) == sorted(
        zip([r.key for r in RECORDS], map(str, column(RECORDS, by)), strict=True)
    )


@pytest.mark.slow
def test_both_scores_are_ranked_and_either_may_pick(go):
    by_accuracy, by_losses = go("a"), go("b", score="loss_sum")
    signals = by_accuracy.ranking["signals"]
    swapped = by_losses.ranking["signals"]
    # From the same trainings of the same sample.
    assert signals["proxy:loss_sum"]["spearman"] == swapped["proxy"]["spearman"]
    assert signals["proxy"]["spearman"] == swapped["proxy:accuracy"]["spearman"]
    assert signals["random:loss_sum"]["minus_random"]["reason"] == "this is the control itself"
    assert signals["random:loss_sum"]["image_passes"] == signals["random"]["image_passes"]
    trials = pd.read_csv(by_losses.folder / "trials.csv")
    # What full trainings showed picks; by what the proxy ranks is another matter.
    assert by_losses.pick["key"] in set(pd.read_csv(by_losses.folder / "truth.csv")["key"])
    sample = trials[trials["phase"] == "sample"].merge(pd.read_csv(by_losses.folder / "truth.csv"), on="key")
    expected = np.mean([-spearmanr(sample["loss_sum"], sample[f"accuracy_{s}"]).statistic for s in (0, 1)])
    assert swapped["proxy"]["spearman"]["value"] == pytest.approx(expected)
    scores = pd.read_csv(by_accuracy.folder / "scores.csv").set_index("key")
    same = trials.set_index("key").loc[scores.index]
    assert list(scores["proxy:loss_sum"]) == pytest.approx(list(-same["loss_sum"]))
    page = by_losses.report.read_text(encoding="utf-8")
    assert "Proxy, by accuracy" in page
    assert "picked by its sum of training losses" in page
    assert "Proxy, by loss sum" in by_accuracy.report.read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_score_may_change_until_something_is_proposed(go, tmp_path, monkeypatch, capsys):
    go("a", trials=6)
    assert go("a", trials=6, score="loss_sum").ranking["score"] == "loss_sum"
    go("a", trials=7, score="loss_sum")
    with pytest.raises(RunFolderError, match=r"score: 'loss_sum' → 'accuracy'"):
        go("a", trials=7)
    monkeypatch.setattr(sys, "argv", ["nas-proxy", "search", str(tmp_path / "a"), "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    told = json.loads(capsys.readouterr().out)
    trials = pd.read_csv(tmp_path / "a" / "trials.csv")
    assert told["loss_sum"] == trials["loss_sum"].min()


def outcome(score: float, *losses: float, diverged: bool = False) -> Outcome:
    return Outcome(score, losses, diverged, seconds=2.0, image_passes=10)


def test_one_seed_is_the_training_itself():
    only = outcome(0.5, 2.0, 1.0)
    assert repeated(lambda seed, watch: only, Recipe(epochs=2), 7) is only


def test_several_seeds_by_hand():
    seen = []
    trainings = [outcome(0.5, 2.0, 1.0), outcome(0.8, 4.0, 2.0), outcome(0.2, 3.0, 3.0)]

    def train(seed, watch):
        assert watch is None
        seen.append(seed)
        return trainings[len(seen) - 1]

    found = repeated(train, Recipe(epochs=2), 7, seeds=3)
    assert seen == [7, derive(7, "repeat", 1), derive(7, "repeat", 2)]
    assert found == Outcome(pytest.approx(0.5), (3.0, 2.0), False, 6.0, 30, seeds=tuple(trainings))
    diverged = iter([outcome(0.5, 2.0, 1.0), outcome(0.1, float("inf"), diverged=True)])
    assert repeated(lambda seed, watch: next(diverged), Recipe(epochs=2), 7, seeds=2).diverged


@pytest.mark.slow
def test_several_seeds_in_a_run(go):
    one, three = go("one"), go("three", seeds=3)
    first, mean = (pd.read_csv(run.folder / "trials.csv").set_index("key") for run in (one, three))
    assert "score_std" not in first
    storage = f"sqlite:///{three.folder / 'study.db'}"
    trials = optuna.load_study(study_name="proxy", storage=storage).trials
    for trial in trials:
        told = trial.user_attrs
        row = mean.loc[told["key"]]
        assert row["score"] == pytest.approx(statistics.fmean(told["scores"]))
        assert row["score_std"] == pytest.approx(statistics.stdev(told["scores"]), abs=1e-5)
        assert row["loss_sum"] == pytest.approx(statistics.fmean(told["loss_sums"]), abs=1e-3)
        assert (told["seeds"], row["image_passes"]) == (3, 3 * first["image_passes"].iloc[0])
        if told["phase"] == "sample":  # the first of three is the one of one
            assert told["scores"][0] == first.loc[told["key"], "score"]
    signals = three.ranking["signals"]
    training = 6 * 3 * 6 * 3
    assert signals["random"]["image_passes"] == signals["proxy"]["cost"]["training_passes"] == training
    assert signals["proxy"]["image_passes"] == training + signals["proxy"]["cost"]["making_passes"]
    assert "Each candidate is the mean of 3 trainings with different seeds" in three.report.read_text(encoding="utf-8")
    with pytest.raises(RunFolderError, match="seeds: 3 → 1"):
        go("three")


def test_in_the_terminal_the_other_score_stands_under_its_signal():
    estimate = {"value": -0.91, "low": -0.94, "high": -0.95}
    row = dict.fromkeys(("spearman", "spearman_top_half", "minus_random"), estimate) | {"seconds": 23.9}
    names = ["proxy", "random", "params", "proxy:loss_sum", "random:loss_sum", "odd:loss_sum", "repeatability"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(ranking_table(Ranking.of({"signals": dict.fromkeys(names, row)})))
    heads = [line[:13].rstrip() for line in console.export_text().splitlines()[1:8]]
    assert heads[:4] == ["Proxy", "  by loss sum", "Random images", "  by loss sum"]
    assert heads[4:] == ["Parameters", "odd:loss_sum", "Full training"]
