"""Repeatability from architectures published under several names: against known noise, what is refused, a whole run."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

import nas_proxy
from conftest import TINY_SPACE, blobs
from nas_proxy import Choice, DataShape, Space, load_space
from nas_proxy.ranking import repeatability
from nas_proxy.ranking.repeatability import LEAST_GROUPS, repeated
from nas_proxy.ranking.truth_table import load_truth_table
from nas_proxy.report.page import report_html
from nas_proxy.report.run_contents import read_run
from nas_proxy.report.verdict import verdict

PUBLIC = Path(__file__).parents[2] / "shared" / "data" / "benchmarks" / "nas_bench_201_public.csv"
PAIRS = Space(
    "pairs",
    Choice("width", tuple(range(30))) & Choice("name", ("a", "b", "c")),
    lambda _, __: None,
    valid=lambda architecture: architecture["name"] == "a",
    name_of=lambda architecture: f"{architecture['name']}{architecture['width']}",
    function_of=lambda architecture: str(architecture["width"]),
)


@pytest.fixture(autouse=True, scope="module")
def fewer_simulations():
    with pytest.MonkeyPatch.context() as patch:
        for name, number in (("SIMULATIONS", 60), ("OF_GROUPS", 50), ("WITH_EACH", 4), ("RESAMPLES", 20)):
            patch.setattr(repeatability, name, number)
        yield


def noise(quality):
    """The worse, the noisier, as published accuracies are."""
    return 0.003 + 0.05 * (0.92 - quality)


def drawn(n, rng, worst):
    return rng.uniform(worst, 0.92, n)


def trained(quality, rng):
    return quality + noise(quality) * rng.standard_normal(len(quality))


def test_the_estimate_is_the_correlation_of_two_trainings():
    """The groups are worse architectures than the sample, and noisier: their own correlation would be too high."""
    found, naive, actual = [], [], []
    for trial in range(12):
        rng = np.random.default_rng(trial)
        quality, others = drawn(100, rng, 0.85), drawn(150, rng, 0.5)
        groups = list(zip(trained(others, rng), trained(others, rng), strict=True))
        sample = trained(quality, rng)
        found.append(repeated(sample, groups, 0).spearman.value)
        naive.append(spearmanr(groups).statistic)
        actual.append(np.mean([spearmanr(sample, trained(quality, rng)).statistic for _ in range(15)]))
    assert np.mean(found) == pytest.approx(np.mean(actual), abs=0.012)
    assert np.mean(naive) > np.mean(actual) + 0.02


@pytest.mark.parametrize("n", [24, 100])
def test_the_interval_covers_the_correlation_of_two_trainings(n):
    rng = np.random.default_rng(n)
    pairs = [(q, trained(q, rng), trained(q, rng)) for q in (drawn(n, rng, 0.8) for _ in range(600))]
    target = np.mean([spearmanr(a, b).statistic for _, a, b in pairs])
    covered = 0
    for trial in range(25):
        others = drawn(60, rng, 0.8)
        groups = list(zip(trained(others, rng), trained(others, rng), strict=True))
        interval = repeated(pairs[trial][1], groups, trial).spearman
        assert interval.low < interval.value < interval.high and interval.n == n
        covered += interval.low <= target <= interval.high
    assert covered >= 21  # of 25; 95 % would give fewer once in 140 times


groups_of = st.lists(st.integers(100, 900).map(lambda x: x / 1000), min_size=2, max_size=4)


@settings(max_examples=4, deadline=None)
@given(groups=st.lists(groups_of, min_size=LEAST_GROUPS, max_size=25), seed=st.integers(0, 99))
def test_units_do_not_matter_and_the_seed_decides(groups, seed):
    groups[0] = [0.1, 0.2]  # not all agree
    sample = np.linspace(0.1, 0.9, 12)
    first = repeated(sample, groups, seed)
    if first.note == "":
        return
    assert repeated(sample, groups, seed) == first
    exact = [[4 * x for x in group] for group in groups]  # a power of two keeps every tie
    assert repeated(4 * sample, exact, seed).spearman == first.spearman
    assert -1 <= first.spearman.low <= first.spearman.high <= 1


def test_trainings_without_noise_repeat_themselves():
    sample = np.linspace(0.5, 0.9, 10)
    groups = [[x, x + 1e-9] for x in np.linspace(0.5, 0.9, LEAST_GROUPS)]
    found = repeated(sample, groups, 0)
    assert found.spearman.value == 1
    assert found.spearman.reason == "all resamples give 1, so they do not show the spread"


def test_too_few_groups_copies_and_a_constant_truth_are_refused():
    sample = np.linspace(0.5, 0.9, 10)
    pairs = [[x, x + 0.01] for x in np.linspace(0.5, 0.9, LEAST_GROUPS)]
    copies = [[x, x] for x in np.linspace(0.5, 0.9, LEAST_GROUPS + 1)]
    for accuracies, groups, reason in (
        (sample, pairs[1:], "only 19 of its architectures were published more than once; 20 would tell"),
        (
            sample,
            pairs + copies,
            "21 of the 41 architectures that were published more than once have the same accuracy",
        ),
        (np.full(10, 0.5), pairs, "the truth is constant"),
    ):
        row = repeated(accuracies, groups, 0).row()
        assert list(row) == ["spearman", "spearman_top_half"]
        assert row["spearman"]["value"] is None and reason in row["spearman"]["reason"]
    assert repeated(sample, pairs + copies[1:], 0).note == (
        "from 40 architectures published twice or more, 20 of them with the same accuracy each time"
    )


def table(tmp_path, columns: int = 1) -> str:
    rng = np.random.default_rng(0)
    rows = {f"{name}{w}": list(60 + w + rng.normal(0, 1, columns)) for w in range(30) for name in "abc"[: 1 + w % 3]}
    (tmp_path / "t.json").write_text(json.dumps({key: {"test_acc": found} for key, found in rows.items()}))
    return str(tmp_path / "t.json")


def test_a_table_tells_what_was_published_twice_even_where_the_space_leaves_it_out(tmp_path):
    found = load_truth_table(table(tmp_path), PAIRS, 10)
    assert len(found.scores) == 30
    assert sorted(map(len, found.isomorphic)) == [2] * 10 + [3] * 10
    assert found.scores.loc["a1", 0] in found.isomorphic[0] and min(found.isomorphic[0]) > 0.55
    assert load_truth_table(table(tmp_path, 2), PAIRS, 10).isomorphic == ()


def test_the_published_table():
    if not PUBLIC.exists():
        pytest.skip(f"{PUBLIC.name} is not here")
    space = load_space("nas_bench_201", DataShape(3, 32, 32, 10))
    found = load_truth_table(f"{PUBLIC}:cifar10_valid_200ep", space, 10)
    assert len(found.isomorphic) == 255
    sample = found.scores[0].sample(100, random_state=0).to_numpy()
    estimate = repeated(sample, found.isomorphic, 0)
    assert estimate.spearman.value == pytest.approx(0.97, abs=0.02)
    assert estimate.note.startswith("from 255 architectures published twice or more, ")


@pytest.mark.slow
def test_a_run_with_one_seed_says_how_far_full_training_repeats_itself(tmp_path):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    text = TINY_SPACE.replace("WIDTHS", repr(tuple(range(4, 28)))).replace(
        '("relu", "tanh")), build)', '("relu", "tanh")), build, function_of=lambda a: str(a["width"]))'
    )
    (tmp_path / "tiny.py").write_text(text)
    rng = np.random.default_rng(0)
    rows = {f"width={w},act={act}": 60 + w / 2 + rng.normal() for w in range(4, 28) for act in ("relu", "tanh")}
    (tmp_path / "truth.json").write_text(json.dumps(rows))
    finished = nas_proxy.run(
        f"npz:{tmp_path / 'blobs.npz'}",
        str(tmp_path / "tiny.py"),
        out=tmp_path / "run",
        truth_table=str(tmp_path / "truth.json"),
        trials=8,
        truth=8,
        judge=8,
        workers=1,
        device="cpu",
        condense={"method": "random", "images_per_class": 2},
        proxy_training={"epochs": 1},
    )
    row = finished.ranking["signals"]["repeatability"]
    assert 0.5 < row["spearman"]["value"] < 1 and row["spearman"]["n"] == 8
    assert row["spearman_note"] == "from 24 architectures published twice or more"
    assert row["seconds"] is None and row["regret"] is None
    told = "(estimated from 24 architectures published twice or more)"
    assert told in verdict(finished.ranking)
    page = report_html(read_run(finished.folder))
    assert told in page and "how far it repeats itself is estimated" in page and "is not known" not in page
