"""Values against scipy and by hand, the intervals' coverage, and what happens where they are undefined."""

import warnings
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.ranking import intervals as estimates
from nas_proxy.ranking.intervals import (
    Interval,
    best_part,
    bootstrap_interval,
    counts_of,
    jackknife_interval,
    kendall,
    percentile_interval,
    resampled_counts,
    spearman,
    undefined,
    value_of,
)

few_values = st.integers(-3, 3).map(float)
many_values = st.floats(-1e6, 1e6, width=32)


@st.composite
def columns_and_resamples(draw):
    n = draw(st.integers(2, 12))
    column = st.lists(draw(st.sampled_from([few_values, many_values])), min_size=n, max_size=n)
    index = st.lists(st.lists(st.integers(0, n - 1), min_size=n, max_size=n), min_size=1, max_size=4)
    return np.array(draw(column)), np.array(draw(column)), np.array(draw(index))


def scipy_value(function, x, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        return function(x, y)[0]


@pytest.mark.parametrize(
    ("own", "reference"),
    [(spearman, stats.spearmanr), (kendall, stats.kendalltau)],
    ids=["spearman", "kendall"],
)
@settings(max_examples=150, deadline=None)
@given(case=columns_and_resamples())
def test_every_resample_has_the_value_of_scipy(own, reference, case):
    x, y, index = case
    found = own(x, y, counts_of(index, len(x)))
    expected = [scipy_value(reference, x[row], y[row]) for row in index]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(case=columns_and_resamples())
def test_ranks_alone_count(case):
    x, y, index = case
    counts = counts_of(index, len(x))
    for correlation in (spearman, kendall):
        expected = correlation(x, y, counts)
        # Ranks first: a bend of the values themselves could round two of them to a tie.
        bent = np.arctan(stats.rankdata(x)), stats.rankdata(y) ** 3
        np.testing.assert_array_equal(correlation(*bent, counts), expected)
        np.testing.assert_allclose(correlation(-x, y, counts), -expected, atol=1e-12)


def test_spearman_by_hand():
    # Differences of ranks are ±1 four times: 1 - 6 * 4 / (4 * 15).
    assert value_of(lambda c: spearman(np.arange(4.0), np.array([2.0, 1, 4, 3]), c), 4) == pytest.approx(0.6)


def test_kendall_by_hand_with_a_tie():
    # Of the 10 pairs 8 agree, (4, 5) disagrees and (2, 3) tie in y: (8 - 1) / sqrt(10 * 9).
    found = value_of(lambda c: kendall(np.arange(5.0), np.array([1.0, 2, 2, 4, 3]), c), 5)
    assert found == pytest.approx(7 / sqrt(90))


def test_best_half_of_an_odd_number_is_the_larger_half():
    truth = np.array([0.5, 0.9, 0.7, 0.6, 0.8])
    np.testing.assert_array_equal(best_part(truth, np.ones((1, 5))), [[0, 1, 1, 0, 1]])
    np.testing.assert_array_equal(best_part(truth, np.ones((1, 5)), fraction=0.2), [[0, 1, 0, 0, 0]])


def test_all_that_tie_at_the_cut_stay_in_the_best_half():
    truth = np.array([0.9, 0.7, 0.7, 0.7, 0.6, 0.5])
    np.testing.assert_array_equal(best_part(truth, np.ones((1, 6))), [[1, 1, 1, 1, 0, 0]])


def test_best_half_is_selected_again_in_every_resample():
    truth = np.array([4.0, 3, 2, 1])
    resamples = np.array([[0, 0, 3, 3], [1, 2, 2, 3], [2, 3, 3, 3]])
    expected = [[2, 0, 0, 0], [0, 1, 2, 0], [0, 0, 1, 3]]
    np.testing.assert_array_equal(best_part(truth, counts_of(resamples, 4)), expected)


@settings(max_examples=50, deadline=None)
@given(case=columns_and_resamples(), fraction=st.sampled_from([0.2, 0.5, 1.0]))
def test_best_part_is_what_sorting_gives(case, fraction):
    truth, _, index = case
    found = best_part(truth, counts_of(index, len(truth)), fraction)
    for row, kept in zip(index, found, strict=True):
        cut = sorted(truth[row])[-int(np.ceil(fraction * len(row)))]
        expected = counts_of(row[truth[row] >= cut][None], len(truth))[0]
        np.testing.assert_array_equal(kept, expected)


def data(n, rho, seed, levels=None):
    """Draw bivariate normal data with population Spearman `rho`; with `levels`, then cut into that many."""
    rng = np.random.default_rng(seed)
    pearson = 2 * np.sin(np.pi * rho / 6)
    x = rng.standard_normal(n)
    y = pearson * x + sqrt(1 - pearson**2) * rng.standard_normal(n)
    if levels is None:
        return x, y
    edges = stats.norm.ppf(np.arange(1, levels) / levels)
    return np.digitize(x, edges).astype(float), np.digitize(y, edges).astype(float)


def test_interval_is_what_scipy_gives_for_copied_data():
    x, y = data(20, 0.7, seed=0)
    found = bootstrap_interval(lambda c: spearman(x, y, c), 20, np.random.default_rng(1), resamples=400)
    expected = stats.bootstrap(
        (x, y),
        lambda a, b: stats.spearmanr(a, b)[0],
        paired=True,
        vectorized=False,
        n_resamples=400,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)
    assert (found.method, found.reason, found.n) == ("BCa", None, 20)


def test_interval_follows_from_the_seed_and_not_from_the_batches(monkeypatch):
    x, y = data(12, 0.5, seed=3)

    def interval(seed):
        return bootstrap_interval(lambda c: kendall(x, y, c), 12, np.random.default_rng(seed), resamples=500)

    first = interval(0)
    assert interval(1) != first
    monkeypatch.setattr(estimates, "BATCH_ELEMENTS", 100)
    assert interval(0) == first


def test_resampled_counts_are_of_n_with_replacement():
    batches = list(resampled_counts(6, np.random.default_rng(0), resamples=1000))
    counts = np.concatenate(batches)
    assert counts.shape == (1000, 6)
    assert (counts.sum(axis=1) == 6).all()
    assert counts.var() == pytest.approx(5 / 6, rel=0.1)  # binomial(6, 1/6)


@pytest.mark.parametrize("levels", [None, 6], ids=["untied", "tied"])
@pytest.mark.parametrize(("n", "rho"), [(24, 0.3), (24, 0.9), (100, 0.7)])
def test_nine_in_ten_and_more_intervals_cover_the_population(n, rho, levels):
    target = rho if levels is None else stats.spearmanr(*data(300_000, rho, 0, levels))[0]
    covered = 0
    for trial in range(300):
        x, y = data(n, rho, (1, trial), levels)
        rng = np.random.default_rng(trial)
        found = bootstrap_interval(lambda c, x=x, y=y: spearman(x, y, c), n, rng, resamples=600)
        covered += found.low <= target <= found.high
    assert 0.92 <= covered / 300 <= 0.98


def test_jackknife_by_leaving_out_one_at_a_time(monkeypatch):
    x, y = data(12, 0.6, seed=5)
    left_out = [stats.kendalltau(np.delete(x, i), np.delete(y, i))[0] for i in range(12)]
    error = sqrt(11 / 12 * np.sum((np.arctanh(left_out) - np.mean(np.arctanh(left_out))) ** 2))
    centre = np.arctanh(stats.kendalltau(x, y)[0])
    monkeypatch.setattr(estimates, "BATCH_ELEMENTS", 60)
    found = jackknife_interval(lambda c: kendall(x, y, c), 12)
    bounds = np.tanh([centre - 1.959964 * error, centre + 1.959964 * error])
    assert (found.low, found.high) == pytest.approx(tuple(bounds), abs=1e-6)
    assert found.method == "jackknife, Fisher z"


def test_jackknife_and_bootstrap_agree_where_there_is_much_data():
    x, y = data(300, 0.7, seed=6)
    jackknife = jackknife_interval(lambda c: kendall(x, y, c), 300)
    bootstrap = bootstrap_interval(lambda c: kendall(x, y, c), 300, np.random.default_rng(0), resamples=2000)
    assert (jackknife.low, jackknife.high) == pytest.approx((bootstrap.low, bootstrap.high), abs=0.01)


def test_perfect_order_has_a_value_and_no_bounds():
    x = np.arange(10.0)
    found = bootstrap_interval(lambda c: spearman(x, x, c), 10, np.random.default_rng(0), resamples=200)
    reason = "all resamples give 1, so they do not show the spread"
    assert found == Interval(1.0, None, None, None, reason, 10)
    found = jackknife_interval(lambda c: kendall(x, -x, c), 10)
    assert found == Interval(-1.0, None, None, None, "the jackknife is undefined for these values", 10)


def test_constant_column_has_no_value():
    x = np.arange(6.0)
    reason = "the statistic is undefined for these architectures"
    for correlation in (spearman, kendall):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = bootstrap_interval(lambda c, f=correlation: f(x, 0 * x, c), 6, np.random.default_rng(0))
        assert found == undefined(reason, 6)
        assert jackknife_interval(lambda c, f=correlation: f(x, 0 * x, c), 6) == undefined(reason, 6)


def test_three_architectures_have_no_bounds():
    x = np.array([1.0, 3, 2])
    found = bootstrap_interval(lambda c: spearman(x, np.arange(3.0), c), 3, np.random.default_rng(0))
    assert found == undefined("an interval needs at least 4 architectures", 3, value=0.5)


def test_undefined_resamples_lead_to_named_percentiles():
    def first_alone(counts):
        return np.where(counts[:, 0] > 0, counts[:, 0], np.nan)

    found = bootstrap_interval(first_alone, 8, np.random.default_rng(0), resamples=500)
    drawn = counts_of(np.random.default_rng(0).integers(0, 8, (500, 8)), 8)[:, 0]
    assert found.method == "percentile"
    assert found.reason == f"{(drawn == 0).sum()} of 500 resamples have a constant column and are left out"
    assert (found.low, found.high) == tuple(np.quantile(drawn[drawn > 0], [0.025, 0.975]))


def test_degenerate_bca_leads_to_named_percentiles():
    # Every resample but the identity lies below the value, so the bias correction is infinite.
    found = bootstrap_interval(lambda c: -c.var(axis=1), 8, np.random.default_rng(0), resamples=500)
    assert (found.value, found.method) == (0.0, "percentile")
    assert found.reason == "BCa is undefined for these values"
    assert found.low < found.high < 0


def test_no_bounds_where_most_resamples_are_undefined():
    found = percentile_interval(0.5, np.array([0.1, 0.2, np.nan, np.nan, np.nan]), 9)
    assert found == undefined("only 2 of 5 resamples are free of constant columns", 9, value=0.5)


def test_json_names_method_and_reason_only_where_there_are_some():
    found = Interval(0.9, 0.8, 0.95, "BCa", None, 24).as_json()
    assert found == {"value": 0.9, "low": 0.8, "high": 0.95, "method": "BCa", "n": 24}
    found = undefined("flops is constant", 24).as_json()
    assert found == {"value": None, "low": None, "high": None, "reason": "flops is constant", "n": 24}
