"""The statistics and the wording of the paper's table: hand-worked cases, names, costs, text."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.condensation.proxy_set import ProxySet, forward_passes
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.ranking.agreement import ScoredSignal, mean_rank, rank
from nas_proxy.ranking.baseline import beats
from nas_proxy.ranking.intervals import Interval, partial_spearman
from nas_proxy.signals.equal_cost import Cost, cost_of, pays_from, plan_total, together
from nas_proxy.storage.records import Record


def residual_correlation(x, y, fixed):
    """Spearman with `fixed` held fixed, the other way: what a regression of ranks on ranks leaves, correlated."""
    ranks = [stats.rankdata(column) for column in (x, y, fixed)]
    left = []
    for column in ranks[:2]:
        slope, offset = np.polyfit(ranks[2], column, 1)
        left.append(column - slope * ranks[2] - offset)
    return np.corrcoef(*left)[0, 1]


def test_partial_spearman_by_hand():
    x, y, z = np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 4, 3]), np.array([2.0, 1, 3, 4])
    # Spearman: x and y 0.8, x and z 0.8, y and z 0.6: (0.8 - 0.8 * 0.6) / sqrt((1 - 0.64) (1 - 0.36)).
    found = partial_spearman(x, y, z, np.ones((1, 4)))[0]
    assert found == pytest.approx(0.32 / math.sqrt(0.36 * 0.64))
    assert found == pytest.approx(residual_correlation(x, y, z))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 9)] * 3), min_size=6, max_size=20))
def test_partial_spearman_is_the_correlation_of_residuals(rows):
    x, y, z = np.array(rows, dtype=float).T
    found = partial_spearman(x, y, z, np.ones((1, len(rows))))[0]
    known = [np.ptp(column) > 0 for column in (x, y, z)]
    if not all(known) or any(abs(stats.spearmanr(column, z)[0]) > 1 - 1e-9 for column in (x, y)):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(residual_correlation(x, y, z), abs=1e-9)


def signal(name, columns, keys, **more):
    return ScoredSignal(name, pd.DataFrame(columns, index=keys, dtype=float), 1.0, 10, 100, **more)


def rows(signals, truth, flops=None, **more):
    keys = list(truth.index)
    cost = {"truth_seconds": None, "truth_image_passes": None, "truth_stored_bytes": None}
    return rank(signals, truth, keys, seed=0, **cost, given=flops, resamples=999, **more)


KEYS = [f"k{i:02}" for i in range(20)]
TRUTH = pd.DataFrame({0: np.arange(20.0)}, index=KEYS)


def test_flops_given_flops_is_undefined_and_others_are_not():
    noise = np.random.default_rng(0).permutation(20).astype(float)
    flops = pd.Series(noise, index=KEYS)
    found = rows([signal("flops", {0: noise}, KEYS), signal("dm", {0: np.arange(20.0) % 7}, KEYS)], TRUTH, flops)
    assert found["flops"]["partial_spearman"]["value"] is None
    assert "same order" in found["flops"]["partial_spearman"]["reason"]
    expected = residual_correlation(np.arange(20.0) % 7, np.arange(20.0), noise)
    assert found["dm"]["partial_spearman"]["value"] == pytest.approx(expected)
    constant = rows([signal("dm", {0: np.arange(20.0)}, KEYS)], TRUTH, pd.Series(1.0, index=KEYS))
    assert constant["dm"]["partial_spearman"]["reason"] == "what is held fixed is constant"


def test_the_top_20_percent_is_of_the_best_by_the_truth():
    score = np.arange(20.0)
    score[16:] = [19, 18, 17, 16]  # the four best, backwards
    found = rows([signal("dm", {0: score}, KEYS)], TRUTH)["dm"]["spearman_top_20"]
    assert (found["value"], found["n"]) == (pytest.approx(-1), 4)
    few = rows([signal("dm", {0: score[:12]}, KEYS[:12])], TRUTH[:12])["dm"]["spearman_top_20"]
    assert few["n"] == 3
    assert few["reason"] == "an interval needs at least 4 architectures"


def test_a_perfect_signal_beats_noise_and_noise_does_not_beat_it():
    rng = np.random.default_rng(1)
    noise = {draw: rng.permutation(20) for draw in range(3)}
    found = rows([signal("dm", {0: np.arange(20)}, KEYS), signal("random", noise, KEYS)], TRUTH)
    assert found["dm"]["beats_random"] == "yes"
    assert found["dm"]["more_architectures"] is None
    assert found["random"]["beats_random"] is None
    assert found["random"]["beats_random_reason"] == "this is the control itself"
    bad = signal("dm", {0: -np.arange(20)}, KEYS)
    assert rows([bad, signal("random", {0: np.arange(20) ^ 1}, KEYS)], TRUTH)["dm"]["beats_random"] == "no"
    alone = rows([signal("dm", {0: np.arange(20)}, KEYS)], TRUTH)["dm"]
    assert alone["beats_random_reason"] == "there is no signal named 'random'"


def test_a_signal_can_have_another_control():
    signals = [
        signal("dm:loss_sum", {0: np.arange(20)}, KEYS, baseline="random:loss_sum"),
        signal("random", {0: np.arange(20)}, KEYS),
        signal("random:loss_sum", {0: np.arange(20) % 3}, KEYS, baseline="random:loss_sum"),
    ]
    found = rows(signals, TRUTH)
    expected = 1 - stats.spearmanr(np.arange(20) % 3, np.arange(20))[0]
    assert found["dm:loss_sum"]["minus_random"]["value"] == pytest.approx(expected)
    assert found["random:loss_sum"]["beats_random"] is None


def test_how_many_more_would_tell():
    # The arm beyond zero is 0.75, the difference 0.25: three times shorter takes nine times as many.
    found = beats(Interval(0.25, -0.5, 1.0, "percentile", None, 24))
    assert found == {"beats_random": "cannot tell", "more_architectures": 8 * 24}
    below = beats(Interval(-0.25, -1.0, 0.25, "percentile", None, 10))
    assert below == {"beats_random": "cannot tell", "more_architectures": 30}
    zero = beats(Interval(0.01, -0.2, 0.2, "percentile", None, 24))
    assert (zero["more_architectures"], zero["more_architectures_reason"]) == (None, "the difference is about zero")
    assert beats(Interval(0.0, -0.2, 0.2, "percentile", None, 24))["more_architectures"] is None
    unbounded = beats(Interval(0.1, None, None, None, "all resamples agree", 24))
    assert (unbounded["beats_random"], unbounded["more_architectures_reason"]) == ("cannot tell", "all resamples agree")


def test_the_mean_rank_of_several_draws():
    keys = list("abcd")
    dm = signal("dm", {0: [1, 2, 3, 4], 1: [4, 3, 2, 1]}, keys)
    params = signal("params", {0: [1, 2, 3, 4]}, keys)
    found = mean_rank([dm, params], keys).scores
    assert found[0].tolist() == [1, 2, 3, 4]
    assert found[1].tolist() == [2.5, 2.5, 2.5, 2.5]


def record(key, seconds, draw=0, passes=100, **more):
    return Record(key, {}, "sample", 0, draw, 1, 1, score=0.5, seconds=seconds, image_passes=passes, **more)


def made(seconds, passes):
    return ProxySet(Path("set"), "f", 20, 20, 2000, seconds, passes, (), "dm", "data")


def test_costs_are_those_of_one_draw():
    records = [record(key, 2.0, draw) for key in "abc" for draw in range(2)]
    found = cost_of(records, {"a", "b"}, 2, [made(10.0, 500), made(20.0, 700)])
    assert found == Cost(4.0, 15.0, 200, 600, 20, 2000)
    assert (found.seconds, found.passes) == (19.0, 800)
    assert together([found, Cost(1.0, 0.0, 5, 0, 1, 10)]) == Cost(5.0, 15.0, 205, 600, 21, 2010)


def test_random_images_at_the_whole_cost():
    # Equally many passes, so 2 s are the time of either.
    trained, random = ([record(key, seconds, passes=1000) for key in "abcd"] for seconds in (3.0, 1.0))
    # 2 s of training and 16 s shared by 4 candidates are 6 s, three times a training on random images.
    options = {"candidates": 4, "per_class": 10, "passes": 1000}
    plan = plan_total("dm", trained, [made(16.0, 0)], random, **options, most=100)
    assert (plan.factor, plan.per_class, plan.passes) == (3.0, 30, 3000)
    # A class has no more than 20 images: then they are seen more often.
    assert plan_total("dm", trained, [made(16.0, 0)], random, **options, most=20).per_class == 20
    cheap = plan_total("dm", random, [made(0.0, 0)], trained, **options, most=100)
    assert (cheap.factor, cheap.passes) == (1.0, 1000)


def test_when_condensing_pays():
    cost = Cost(8.0, 100.0, 0, 0, 0, 0)
    # A candidate takes 2 s on the set and 12 s in full: 100 s are back with the eleventh.
    assert pays_from(cost, 4, 12.0) == {"pays_from": 11}
    assert pays_from(cost, 4, 2.0)["pays_from"] is None
    assert "nothing tells" in str(pays_from(cost, 4, None)["pays_from_reason"])


def test_forward_passes_are_counted(images):
    assert forward_passes(Condensation(method="random"), images) == 0
    # 12 images a class: 12 of them and 2 synthetic ones, 3 classes, 5 steps.
    assert forward_passes(Condensation(images_per_class=2, steps=5), images) == 5 * 3 * (12 + 2)
    assert forward_passes(Condensation(images_per_class=1, steps=5, formation=2, real_batch=4), images) == 5 * 3 * 8
    assert forward_passes(Condensation(method="herding"), images) == 5 * 36 + 36
