"""Calibrated ranking: what is good is found, what is missing does no harm, and nothing sees what it predicts."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.ranking import surrogate
from nas_proxy.ranking.calibration import (
    LEAST,
    calibrate,
    cross_fitted,
    features_of,
    normal_scores,
)

POOL = 300


def made_up(noises: list[float], seed: int = 0) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Accuracies of a pool, and signals that are the accuracies with noise; negative: the wrong way round."""
    rng = np.random.default_rng(seed)
    quality = rng.standard_normal(POOL)
    signals = [math.copysign(1, noise) * quality + abs(noise) * rng.standard_normal(POOL) for noise in noises]
    return 0.8 + 0.05 * quality, np.stack(signals, axis=1), tuple(f"s{i}" for i in range(len(noises)))


def drawn(truth: np.ndarray, count: int, seed: int = 1) -> dict[int, float]:
    rows = np.random.default_rng(seed).permutation(len(truth))[:count]
    return {int(row): float(truth[row]) for row in rows}


def left_out(prediction: np.ndarray, truth: np.ndarray, full: dict[int, float]) -> float:
    rest = [i for i in range(len(truth)) if i not in full]
    return float(stats.spearmanr(prediction[rest], truth[rest]).statistic)


def test_normal_scores_are_of_ranks_and_what_is_missing_is_in_the_middle():
    scores = normal_scores(np.array([3.0, np.nan, 1.0, np.inf, 2.0]))
    assert scores == pytest.approx([stats.norm.ppf(5 / 6), 0, stats.norm.ppf(1 / 6), 0, 0])
    assert not normal_scores(np.full(3, np.nan)).any()
    assert not normal_scores(np.ones(4)).any()


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_normal_scores_do_not_depend_on_the_scale(values):
    scores = normal_scores(np.array(values))
    assert normal_scores(np.array([2 * value for value in values])) == pytest.approx(scores)
    assert normal_scores(-np.array(values)) == pytest.approx(-scores)


def test_one_good_signal_among_many_useless_ones_is_found():
    truth, scores, names = made_up([0.1, *[20.0] * 9])
    full = drawn(truth, 24)
    found = calibrate(scores, names, full, seed=0)
    alone = left_out(scores[:, 0], truth, full)
    assert alone > 0.98
    assert left_out(found.prediction, truth, full) > alone - 0.02
    assert left_out(features_of(scores, names).vote, truth, full) < 0.95
    assert max(found.weights, key=lambda name: found.weights[name]) == "s0"
    assert found.centre > 0.5


def test_equally_good_signals_keep_nearly_equal_weights():
    truth, scores, names = made_up([1.0] * 6)
    full = drawn(truth, 24)
    found = calibrate(scores, names, full, seed=0)
    assert left_out(found.prediction, truth, full) > max(left_out(column, truth, full) for column in scores.T)
    assert sum(found.weights.values()) == pytest.approx(1)
    assert max(found.weights.values()) < 0.4


def test_a_signal_from_training_counts_as_much_as_all_others_together():
    truth, scores, names = made_up([0.3, *[10.0] * 9])
    alike = features_of(scores, names).vote
    halves = features_of(scores, names, trained={"s0"}).vote
    assert left_out(halves, truth, {}) > left_out(alike, truth, {}) + 0.05
    voting = features_of(scores, names, voters={"s0", "s1"}).vote
    assert voting == pytest.approx(normal_scores(normal_scores(scores[:, 0]) + normal_scores(scores[:, 1])))
    assert features_of(scores, names, voters={"s0"}).vote == pytest.approx(alike)  # one alone is no vote


def test_signals_that_order_backwards_are_learned_from():
    truth, scores, names = made_up([-0.5, -0.5, -0.5])
    found = calibrate(scores, names, drawn(truth, 24), seed=0)
    assert left_out(found.prediction, truth, drawn(truth, 24)) > 0.8
    assert all(weight >= 0 for weight in found.weights.values())


@pytest.mark.parametrize("count", range(LEAST))
def test_with_too_few_trainings_the_mean_rank_stands(count):
    truth, scores, names = made_up([1.0, 1.0, 1.0])
    full = drawn(truth, count)
    found = calibrate(scores, names, full, seed=0)
    vote = features_of(scores, names).vote
    assert stats.spearmanr(found.prediction, vote).statistic == pytest.approx(1)
    assert (found.strength, found.surrogate, found.trained) == (math.inf, 0, count)


def test_the_process_has_nearly_all_where_choices_carry_the_space_and_signals_do_not():
    rng = np.random.default_rng(3)
    choices = rng.integers(0, 2, (POOL, 6)).astype(float)
    truth = 0.8 + 0.02 * (choices @ np.array([3.0, 2.0, 1.0, -1.0, -2.0, -3.0]))
    encoding = 2 * choices - 1
    full = drawn(truth, 40)
    useless, names = rng.standard_normal((POOL, 4)), ("s0", "s1", "s2", "s3")
    of_choices = calibrate(useless, names, full, seed=0, encoding=encoding)
    assert of_choices.surrogate > 0.85
    assert left_out(of_choices.prediction, truth, full) > 0.95
    told, perfect, _ = made_up([0.05, 3.0, 3.0, 3.0])
    of_signals = calibrate(perfect, names, drawn(told, 40), seed=0, encoding=encoding)
    assert of_signals.surrogate < of_choices.surrogate - 0.1


def test_what_the_process_predicts_of_a_training_has_not_seen_it():
    truth, scores, names = made_up([0.5, 1.0])
    full = drawn(truth, 12)
    features = features_of(scores, names)
    process = surrogate.fit(features, {}, full)
    rows = np.array([*full])
    found = surrogate.left_out(process, rows)
    for place in (0, 5, 11):
        kept = np.delete(np.arange(12), place)
        parts = surrogate._parts(features, rows[kept], rows[kept])
        covariance = surrogate._covariance(process.theta, parts, np.ones(11), np.zeros(11))
        of_it = surrogate._parts(features, rows[[place]], rows[kept])
        cross = of_it.base(process.theta) + math.exp(process.theta[surrogate.DIFFERENCE]) * of_it.shape(process.theta)
        warped = process.warp(np.array([*full.values()]))[kept]
        alone = (cross + surrogate.CONSTANT) @ np.linalg.solve(covariance, warped)
        assert found[place] == pytest.approx(alone[0], abs=1e-6)
    assert np.isnan(surrogate.left_out(process, np.array([next(i for i in range(POOL) if i not in full)]))).all()


@pytest.mark.parametrize("count", [2, 24])
def test_a_signal_that_nothing_has_gets_no_weight(count):
    truth, scores, names = made_up([0.5, 0.5, 0.5])
    scores[:, 1] = np.nan
    found = calibrate(scores, names, drawn(truth, count), seed=0)
    assert found.weights["s1"] == 0
    assert sum(found.weights.values()) == pytest.approx(1)


def test_missing_scores_cost_little():
    truth, scores, names = made_up([0.3, 0.3])
    holes = scores.copy()
    holes[::10, 0] = np.nan
    full = drawn(truth, 24)
    assert left_out(calibrate(holes, names, full, seed=0).prediction, truth, full) > 0.9


def test_without_signals_the_encoding_is_what_is_left():
    rng = np.random.default_rng(0)
    encoding = rng.standard_normal((POOL, 2))
    truth = 0.8 + 0.03 * encoding[:, 0]
    full = drawn(truth, 24)
    found = calibrate(np.zeros((POOL, 0)), (), full, seed=0, encoding=encoding)
    assert left_out(found.prediction, truth, full) > 0.9
    assert found.weights == {}


def test_accuracies_are_predicted_in_their_unit():
    truth, scores, names = made_up([0.2, 0.2])
    found = calibrate(scores, names, drawn(truth, 30), seed=0)
    assert np.abs(found.accuracy - truth).mean() < 0.02
    assert found.scale > 0


def test_the_same_arguments_give_the_same_numbers():
    truth, scores, names = made_up([0.5, 1.0, 3.0])
    one, other = (calibrate(scores, names, drawn(truth, 12), seed=5) for _ in range(2))
    assert (one.prediction == other.prediction).all()
    assert one.weights == other.weights


def test_cross_fitting_has_not_seen_what_it_predicts():
    truth, scores, names = made_up([0.5, 1.0, 3.0])
    full = drawn(truth, 16)
    before = cross_fitted(scores, names, full, seed=0)
    row = next(iter(full))
    after = cross_fitted(scores, names, {**full, row: 0.1}, seed=0)
    assert list(before) == list(full)
    assert after[row] == before[row]
    assert any(after[other] != before[other] for other in full)


@pytest.mark.slow
def test_cross_fitting_of_pure_noise_promises_nothing():
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((POOL, 5))
    names = tuple("abcde")
    rho = []
    for seed in range(6):
        truth = 0.8 + 0.05 * np.random.default_rng(seed + 10).standard_normal(POOL)
        full = drawn(truth, 40, seed)
        crossed = cross_fitted(scores, names, full, seed=seed)
        rho.append(stats.spearmanr([*crossed.values()], [*full.values()]).statistic)
    assert np.mean(rho) < 0.2  # what was fitted and is judged on the same: about 0.5
