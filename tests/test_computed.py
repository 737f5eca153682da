"""Signals that need no training: missing scores, whole runs, the command line, and published correlations."""

import csv
import functools
import json
import math
import random
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from typer.testing import CliRunner

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.cli.app import app
from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.names import ZERO_COST
from nas_proxy.ranking.agreement import ScoredSignal, mean_rank, rank
from nas_proxy.runs.resolving import resolve
from nas_proxy.signals.computed import Column, computed
from nas_proxy.signals.zero_cost import IMAGES, Score
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.loading import load_space
from search_spaces.nas_bench_201 import EDGES, edge, parse

PUBLIC = Path(__file__).parents[2] / "shared" / "data" / "benchmarks" / "nas_bench_201_public.csv"
CIFAR = DataShape(3, 32, 32, 10)
SIZES = ["params", "flops"]
BY_LOSS_SUM = ["proxy:loss_sum", "random:loss_sum", "early_stop:loss_sum"]


def column(*values: float, reason: str = "it has no weights") -> Column:
    return Column(tuple(Score(v, 0.5, reason if math.isnan(v) else None) for v in values))


def test_a_missing_score_counts_as_the_lowest():
    for low in (-3.0, 1e300, 5e-324):
        values = column(7e301, math.nan, low, math.nan).ranked()
        assert values[1] == values[3] < low
        assert (values[0], values[2]) == (7e301, low)
    assert len(set(column(math.nan, math.nan).ranked())) == 1


def test_a_missing_score_is_told():
    assert column(1.0, 1.0).note() is None
    some = column(1.0, math.nan, math.nan, 1.0)
    assert some.missing == 2
    assert some.note() == "2 of 4 have no score and count as the lowest (it has no weights)"
    more = Column((*some.scores, Score(math.nan, 0.5, "ValueError: no")))
    assert more.note() == "3 of 5 have no score and count as the lowest (it has no weights, and 1 more reason)"


def test_what_is_computed_does_not_depend_on_what_else_is(tiny_space):
    data = blobs(per_class=40)
    space = load_space(str(tiny_space), data.shape)
    architectures = [a for a, _ in zip(space.sample(0), range(4), strict=False)]
    told: list[int] = []
    everything = computed(ZERO_COST, space, architectures, data, 0, progress=told.append)
    assert told == list(range(1, 4 * len(ZERO_COST) + 1))
    assert list(everything) == list(ZERO_COST)
    alone = computed(["jacob_cov"], space, architectures[::-1], data, 0)["jacob_cov"]
    assert alone.values == everything["jacob_cov"].values[::-1]
    assert everything["params"].values == [measure(space, a, data.shape).params for a in architectures]
    passes = {name: found.image_passes for name, found in everything.items()}
    assert passes == {"params": 0, "flops": 0, "synflow": 0, "jacob_cov": 4 * IMAGES, "naswot": 4 * IMAGES, "az_nas": 0}
    assert all(found.seconds > 0 for found in everything.values())
    other = computed(["jacob_cov"], space, architectures, data, 1)["jacob_cov"]
    assert other.values != everything["jacob_cov"].values


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    # With fewer units than images, no kernel of their codes would be regular.
    space = write_space(folder / "wide.py", (100, 120, 140, 160))
    images = blobs(per_class=60)
    path = folder / "blobs.npz"
    np.savez(path, images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    settings: dict[str, Any] = {
        "trials": 6,
        "truth": 6,
        "judge": 6,
        "signals": list(SIZES),
        "workers": 1,
        "device": "cpu",
    }
    settings |= {"condense": {"method": "random", "images_per_class": 2}}
    settings |= {"proxy_training": {"epochs": 1}, "full_training": {"epochs": 1}}
    return nas_proxy.run(f"npz:{path}", str(space), out=folder / "run", **settings)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, and its ranking."""
    shutil.copytree(finished.folder, tmp_path / "run")
    return SimpleNamespace(folder=tmp_path / "run", ranking=finished.ranking)


@pytest.mark.slow
def test_rank_takes_other_signals_and_trains_nothing_again(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert list(run.ranking["signals"])[3:5] == SIZES
    before = pd.read_csv(run.folder / "scores.csv")
    names = ["synflow", "params", "naswot", "jacob_cov"]
    done = CliRunner().invoke(app, ["rank", str(run.folder), "--signals", ", ".join(names)], catch_exceptions=False)
    assert done.exit_code == 0
    for word in ("SynFlow", "Jacob_cov", "NASWOT", "Parameters"):
        assert word in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    # The space has networks with tanh, which have no rectifiers.
    scores = pd.read_csv(run.folder / "scores.csv")
    tanh = scores["key"].str.contains("tanh")
    assert 0 < tanh.sum() < len(scores)
    assert (scores["naswot"].isna() == tanh).all()
    assert [name for name in scores if name in names] == names
    others = [name for name in before if name not in SIZES and not name.startswith("calibrated")]
    pd.testing.assert_frame_equal(scores[others], before[others])
    ranking = json.loads((run.folder / "ranking.json").read_text())
    assert list(ranking["signals"]) == [
        "proxy",
        "random",
        "early_stop",
        *names,
        *BY_LOSS_SUM,
        "calibrated",
        "repeatability",
    ]
    assert ranking["n"] == run.ranking["n"]
    note = f"{tanh.sum()} of {len(scores)} have no score and count as the lowest (it has no rectifiers (ReLU))"
    assert ranking["signals"]["naswot"]["spearman_note"] == note
    assert ranking["failures"]["naswot"] == tanh.sum()
    assert f"naswot {tanh.sum()}" in done.stdout
    assert ranking["failures"]["synflow"] == 0
    for name in ("proxy", "random", "params"):
        kept = {**run.ranking["signals"][name], "seconds": None}
        assert {**ranking["signals"][name], "seconds": None} == kept
    assert ranking["signals"]["jacob_cov"]["image_passes"] == len(scores) * IMAGES
    one = ImageSet.load(run.folder / "proxy.safetensors").stored_bytes // 6
    assert ranking["signals"]["jacob_cov"]["stored_bytes"] == one * IMAGES
    assert ranking["signals"]["synflow"]["stored_bytes"] == 0
    assert json.loads((run.folder / "search.json").read_text())["finished"]  # though the settings are newer
    # The choice stays, also in the report.
    assert resolve({}, run.folder / "run.toml").signals == tuple(names)
    assert CliRunner().invoke(app, ["report", str(run.folder)]).exit_code == 0
    assert note in (run.folder / "report.html").read_text()


def test_a_signal_without_any_score_is_undefined_with_its_reason():
    keys = list("abcd")
    truth = pd.DataFrame({0: [0.1, 0.2, 0.3, 0.4]}, index=keys)
    nowhere = column(*[math.nan] * 4)
    signal = ScoredSignal("naswot", pd.DataFrame({0: nowhere.ranked()}, index=keys), 1.0, 0, 0, note=nowhere.note())
    costs = {"truth_seconds": None, "truth_image_passes": None, "truth_stored_bytes": None}
    row = rank([signal], truth, keys, seed=0, **costs)["naswot"]
    assert row["spearman"]["value"] is None
    assert row["spearman"]["reason"] == "naswot is constant over the 4 architectures"
    assert row["spearman_note"] == "4 of 4 have no score and count as the lowest (it has no weights)"


def test_the_mean_rank_is_that_of_the_keys_alone_and_costs_what_its_members_cost():
    def of(name: str, *values: float) -> ScoredSignal:
        return ScoredSignal(name, pd.DataFrame({0: values}, index=list("abcde")), 2.0, 30, 4)

    # Ranks 1 2.5 2.5 4 and 4 2 3 1; "e" is not to be ranked.
    found = mean_rank([of("proxy", 0.1, 0.2, 0.2, 0.9, 0.15), of("flops", 9, 2, 5, 1, 7)], list("abcd"))
    assert found.scores[0].to_dict() == {"a": 2.5, "b": 2.25, "c": 2.75, "d": 2.5}
    assert (found.name, found.seconds, found.image_passes, found.stored_bytes) == ("combined", 4.0, 60, 8)
    assert found.note == "the mean rank of proxy, flops"


@pytest.mark.slow
def test_rank_adds_the_mean_rank_of_several(run):
    for names, rows in (("proxy,synflow", ["synflow", *BY_LOSS_SUM, "combined"]), ("", BY_LOSS_SUM)):
        arguments = ["rank", str(run.folder), "--combine", names, "--json"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0
        signals = json.loads(done.stdout)["signals"]
        assert list(signals) == ["proxy", "random", "early_stop", *SIZES, *rows, "calibrated", "repeatability"]
        assert {k: v for k, v in signals["proxy"].items() if k != "seconds"} == {
            k: v for k, v in run.ranking["signals"]["proxy"].items() if k != "seconds"
        }
        if names:
            scores, truth = (pd.read_csv(run.folder / f"{name}.csv").set_index("key") for name in ("scores", "truth"))
            mean = scores["proxy"].rank() + scores["synflow"].rank()
            accuracies = [truth.loc[mean.index, f"accuracy_{seed}"] for seed in (0, 1)]
            expected = np.mean([spearmanr(mean, accuracy).statistic for accuracy in accuracies])
            assert signals["combined"]["spearman"]["value"] == pytest.approx(expected)
            assert signals["combined"]["spearman_note"] == "the mean rank of proxy, synflow"


@pytest.mark.slow
def test_az_nas_is_a_signal_to_combine_and_says_what_it_lacks(run):
    arguments = ["rank", str(run.folder), "--combine", "params,az_nas", "--json"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    ranking = json.loads(done.stdout)
    assert list(ranking["signals"])[3:-1] == [*SIZES, "az_nas", *BY_LOSS_SUM, "combined", "calibrated"]
    # Its linear networks have no maps of features.
    n = ranking["failures"]["az_nas"]
    assert n == len(pd.read_csv(run.folder / "scores.csv"))
    assert ranking["signals"]["az_nas"]["spearman_note"] == (
        f"a score is a rank among these {n} architectures; {n} of {n} have no score and count as the lowest "
        "(it has 0 of the 2 blocks with feature maps that AZ-NAS needs)"
    )
    of_one, of_both = (ranking["signals"][name]["spearman"]["value"] for name in ("params", "combined"))
    assert of_one == of_both  # a constant signal moves no rank


def published(count: int) -> list[tuple[str, float]]:
    if not PUBLIC.exists():
        pytest.skip(f"{PUBLIC.name} is not here")
    with PUBLIC.open() as file:
        rows = [(row["arch_str"], float(row["cifar10_valid_200ep"])) for row in csv.DictReader(file)]
    return random.Random(0).sample(rows, count)


def test_parameters_rank_the_published_cells_as_known():
    space = load_space("nas_bench_201", CIFAR)

    @functools.cache
    def parameters(convolutions: tuple[str, ...]) -> int:
        # Nothing else in a cell has parameters, so one network serves all cells with the same ones.
        cell = dict(zip((edge(*e) for e in EDGES), [*convolutions, *["none"] * 6], strict=False))
        with torch.device("meta"):
            return sum(p.numel() for p in space.build(cell, CIFAR).parameters())

    names, accuracy = zip(*published(2_000), strict=True)
    found = [parameters(tuple(sorted(re.findall(r"nor_conv_\dx\d", name)))) for name in names]
    assert found[7] == measure(space, parse(names[7]), CIFAR).params
    assert spearmanr(found, accuracy).statistic == pytest.approx(0.70, abs=0.02)


@pytest.mark.slow
def test_synflow_ranks_the_published_cells_as_known():
    # Known: 0.74 of another 491 cells, give or take the error of each.
    names, accuracy = zip(*published(400), strict=True)
    labels = torch.arange(10)  # synflow sees no images, but their shape
    data = ImageSet(torch.zeros(10, 3, 32, 32, dtype=torch.uint8), labels, torch.ones(3), torch.zeros(3), ("",) * 10)
    found = computed(["synflow"], load_space("nas_bench_201", CIFAR), [parse(n) for n in names], data, 0)["synflow"]
    assert spearmanr(found.ranked(), accuracy).statistic == pytest.approx(0.74, abs=0.08)


@pytest.mark.slow
def test_az_nas_ranks_the_published_cells_as_known():
    # One cell a stage keeps it short; of five, 600 cells gave 0.88 (benchmarks/results).
    names, accuracy = zip(*published(40), strict=True)
    data = ImageSet(
        torch.zeros(10, 3, 32, 32, dtype=torch.uint8), torch.arange(10), torch.ones(3), torch.zeros(3), ("",) * 10
    )
    space = load_space("nas_bench_201:cells=1", DataShape(3, 16, 16, 10))
    found = computed(["az_nas"], space, [parse(n) for n in names], data, 0)["az_nas"]
    assert spearmanr(found.ranked(), accuracy).statistic > 0.7
