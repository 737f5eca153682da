"""Rows of the ranking: by hand, against scipy, and where something is undefined."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from nas_proxy.errors import UserError
from nas_proxy.ranking.agreement import ScoredSignal, precision_at, rank, ranked, regret
from nas_proxy.ranking.baseline import Pair, Plan, minus_control

SETTINGS = {"truth_seconds": 60.0, "truth_image_passes": 900, "truth_stored_bytes": 70, "resamples": 500}


def table(keys, **columns):
    return pd.DataFrame({name: np.asarray(values, dtype=float) for name, values in columns.items()}, index=keys)


def signal(name, keys, *draws, pick=None):
    scores = table(keys, **{f"draw {i + 1}": draw for i, draw in enumerate(draws)})
    return ScoredSignal(name, scores, seconds=2.0, image_passes=30, stored_bytes=4, pick=pick)


def example(n=12, seed=0, draws=3):
    """Return signals, the truth and the sample's keys; two architectures of the truth were searched."""
    rng = np.random.default_rng(seed)
    keys = [f"depth={i}" for i in range(n + 2)]
    quality = rng.standard_normal(n + 2)

    def measured(noise):
        return 0.9 + 0.02 * (quality + noise * rng.standard_normal(n + 2))

    truth = table(keys, a=measured(0.2), b=measured(0.2))
    signals = [
        signal("proxy", keys, measured(0.4), pick=keys[-1]),
        signal("random", keys, *(measured(1.0) for _ in range(draws))),
        signal("flops", keys[:n], rng.integers(1, 5, n)),
    ]
    return signals, truth, keys[:n]


def rows_of(signals, truth, sample, seed=0):
    rows = rank(signals, truth, sample, seed=seed, **SETTINGS)
    json.dumps(rows, allow_nan=False)
    return rows


def test_correlations_are_means_over_draws_and_seeds():
    signals, truth, sample = example()
    rows = rows_of(signals, truth, sample)
    assert list(rows) == ["proxy", "random", "flops", "repeatability"]
    for each in signals:
        for name, function in (("spearman", stats.spearmanr), ("kendall", stats.kendalltau)):
            values = [
                function(each.scores.loc[sample, draw], truth.loc[sample, column])[0]
                for draw in each.scores
                for column in truth
            ]
            found = rows[each.name][name]
            assert found["value"] == pytest.approx(np.mean(values))
            assert found["low"] < found["value"] < found["high"]
            assert (found["method"], found["n"]) == ("BCa", 12)
    a, b = truth.loc[sample, "a"], truth.loc[sample, "b"]
    assert rows["repeatability"]["spearman"]["value"] == pytest.approx(stats.spearmanr(a, b)[0])
    assert rows["repeatability"]["kendall"]["value"] == pytest.approx(stats.kendalltau(a, b)[0])


def test_full_training_is_compared_with_random_images_by_the_score_that_is_shown():
    (proxy, random, _), truth, sample = example()
    signals = [proxy, replace(random, name="random:loss_sum")]
    rows = rank(signals, truth, sample, seed=0, control="random:loss_sum", **SETTINGS)
    assert rows["repeatability"]["minus_random"]["value"] is not None
    assert rows["proxy"]["minus_random"]["reason"] == "there is no signal named 'random'"


def test_top_half_is_chosen_by_the_seed_compared_with():
    keys = list("abcdefgh")
    truth = table(keys, a=[8, 7, 6, 5, 4, 3, 2, 1], b=[1, 2, 3, 4, 5, 6, 7, 8])
    proxy = signal("proxy", keys, [8, 7, 5, 6, 1, 2, 3, 4], pick="a")
    rows = rows_of([proxy], truth, keys)
    # By a: abcd with one swap, 0.8. By b: efgh in the right order, 1.
    assert rows["proxy"]["spearman_top_half"]["value"] == pytest.approx(0.9)
    assert rows["proxy"]["spearman_top_half"]["n"] == 4
    # The two seeds rank their own better halves in opposite orders.
    assert rows["repeatability"]["spearman_top_half"]["value"] == pytest.approx(-1)


def test_top_half_of_fewer_than_four_has_no_bounds():
    signals, truth, sample = example(6)
    found = rows_of(signals, truth, sample)["proxy"]["spearman_top_half"]
    assert found["n"] == 3
    assert found["value"] is not None
    assert found["low"] is None
    assert found["reason"] == "an interval needs at least 4 architectures"


def test_precision_by_hand_with_ties():
    truth = np.arange(8.0)
    assert precision_at(3, np.array([0.0, 0, 0, 0, 0, 1, 2, 3]), truth) == 1
    # 7 is in; 4, 5 and 0 tie for two places, so 5 is in with probability 2 / 3.
    assert precision_at(3, np.array([2.0, 0, 0, 0, 2, 2, 0, 3]), truth) == pytest.approx((1 + 2 / 3) / 3)
    # Ties on both sides: truth gives 5 and 6 half a place each, the score 5 a whole one.
    tied = np.array([0.0, 0, 0, 0, 0, 6, 6, 7])
    assert precision_at(2, np.array([0.0, 0, 0, 0, 0, 2, 0, 1]), tied) == pytest.approx((1 + 0.5) / 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=5, max_size=9), st.integers(1, 5), st.data())
def test_precision_is_the_mean_over_random_tie_breaking(values, most, data):
    score, truth = np.array(values, dtype=float).T
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))

    def broken_ties(column):
        jitter = rng.permuted(np.tile(np.linspace(0, 0.5, len(column)), (3000, 1)), axis=1)
        ranks = stats.rankdata(-(column + jitter), axis=1)
        return ranks <= most

    overlap = (broken_ties(score) & broken_ties(truth)).sum(axis=1).mean() / most
    assert precision_at(most, score, truth) == pytest.approx(overlap, abs=0.05)


def test_precision_of_a_constant_score_is_chance():
    signals, truth, sample = example()
    constant = signal("params", sample, np.full(12, 7))
    row = rows_of([*signals, constant], truth, sample)["params"]
    assert row["precision_at_5"] == pytest.approx(5 / 12)
    assert row["precision_at_5_chance"] == pytest.approx(5 / 12)


def test_precision_among_four_architectures_is_of_all():
    signals, truth, sample = example(4)
    row = rows_of(signals, truth, sample)["proxy"]
    assert (row["precision_at_5"], row["precision_at_5_chance"]) == (1, 1)


def test_regret_by_hand():
    trained = table(list("xyz"), a=[0.9, 0.8, 0.7], b=[0.85, 0.95, 0.6])
    # x is the best by a and reads 0.85 on b; y is the best by b and reads 0.8 on a.
    assert regret(trained, ["z"]) == pytest.approx(((0.85 - 0.6) + (0.8 - 0.7)) / 2)
    assert regret(trained, ["x"]) == pytest.approx(((0.85 - 0.85) + (0.8 - 0.9)) / 2)
    assert regret(trained, ["y", "z"]) == pytest.approx((regret(trained, ["y"]) + regret(trained, ["z"])) / 2)
    # x and y tie for the best by a: their mean on b counts.
    tied = table(list("xyz"), a=[0.9, 0.9, 0.7], b=[0.85, 0.95, 0.6])
    assert regret(tied, ["z"]) == pytest.approx(((0.9 - 0.6) + (0.9 - 0.7)) / 2)
    assert regret(trained[["a"]], ["z"]) == pytest.approx(0.2)
    # By the first seed a search has chosen x: off that x is not read, neither as the best nor as a pick.
    assert regret(trained, ["z"], "x", {0}) == pytest.approx(((0.85 - 0.6) + (0.8 - 0.7)) / 2)
    assert regret(trained, ["z"], "y", {0}) == pytest.approx(((0.85 - 0.6) + (0.9 - 0.7)) / 2)
    assert regret(trained, ["x"], "x", {0}) == pytest.approx(0.85 - 0.85)
    assert regret(trained[["a"]], ["x"], "x", {0}) == pytest.approx(0.0)
    assert regret(trained.loc[["x"]], ["x"], "x", {0}) == pytest.approx(0.0)


def test_luck_by_which_an_architecture_was_chosen_is_not_its_quality():
    rng = np.random.default_rng(0)
    told = {False: [], True: []}
    for _ in range(400):
        accuracy = 0.9 + 0.01 * rng.standard_normal((24, 2))  # all of one quality
        trained = pd.DataFrame(accuracy)
        chosen = int(accuracy[:, 0].argmax())
        for unseen, found in told.items():
            found.append(regret(trained, [chosen], chosen, {0} if unseen else ()))
    assert np.mean(told[True]) == pytest.approx(0, abs=0.002)
    assert np.mean(told[False]) < -0.007


def test_regret_counts_searched_architectures_and_the_sample_gives_the_other_picks():
    keys = ["a", "b", "c", "d", "searched"]
    truth = table(keys, a=[0.7, 0.6, 0.5, 0.4, 0.9], b=[0.7, 0.6, 0.5, 0.4, 0.9])
    proxy = signal("proxy", keys, [4, 3, 2, 1, 5], pick="searched")
    random = signal("random", keys, [1, 3, 2, 0, 9], [1, 3, 2, 0, 9])
    params = signal("params", keys[:4], [2, 2, 1, 1])
    rows = rows_of([proxy, random, params], truth, keys[:4])
    assert (rows["proxy"]["pick"], rows["proxy"]["regret"]) == ("searched", 0)
    assert (rows["random"]["pick"], rows["random"]["regret"]) == ("b", pytest.approx(0.3))
    assert (rows["params"]["pick"], rows["params"]["regret"]) == ("a", pytest.approx(0.25))
    assert rows["params"]["pick_note"] == "2 architectures tie for the best score; the regret is their mean"
    assert "pick_note" not in rows["random"]
    assert (rows["repeatability"]["pick"], rows["repeatability"]["regret"]) == (None, 0)


def test_pick_without_full_training_has_no_regret():
    signals, truth, sample = example()
    row = rows_of(signals, truth.drop(index="depth=13"), sample)["proxy"]
    assert (row["regret"], row["regret_reason"]) == (None, "the pick has no full training")
    assert row["pick"] == "depth=13"
    truth.loc["depth=13", "b"] = np.nan
    row = rows_of(signals, truth, sample)["proxy"]
    assert (row["regret"], row["regret_reason"]) == (None, "the pick is not fully trained with all 2 seeds")


def test_one_seed_of_the_truth():
    signals, truth, sample = example()
    rows = rows_of(signals, truth[["a"]], sample)
    missing = "the truth has one seed, so no second full training is there to compare it with"
    for name in ("spearman", "kendall", "spearman_top_half", "minus_random"):
        found = rows["repeatability"][name]
        assert (found["value"], found["low"], found["reason"]) == (None, None, missing)
    for name in ("precision_at_5", "regret"):
        assert rows["repeatability"][name] is None
        assert rows["repeatability"][f"{name}_reason"] == missing
    assert rows["proxy"]["regret"] == pytest.approx(truth["a"].max() - truth.loc["depth=13", "a"])
    assert rows["proxy"]["regret_note"].endswith("which biases the regret upwards")


def test_constant_columns_are_named():
    signals, truth, sample = example()
    rng = np.random.default_rng(1)
    stuck = signal("random", sample, rng.random(12), np.full(12, 0.1))
    rows = rows_of([signals[0], stuck], truth, sample)
    for name in ("spearman", "kendall"):
        assert rows["random"][name]["reason"] == "random (draw 2) is constant over the 12 architectures"
        assert rows["random"][name]["value"] is None
    assert rows["proxy"]["minus_random"]["reason"] == "the correlation of random is undefined"
    half_tied = truth.assign(b=[1.0] * 6 + [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0, 0])
    rows = rows_of(signals, half_tied, sample)
    assert rows["proxy"]["spearman"]["value"] is not None
    reason = "the truth (b) is constant over the best 50% of the 12 architectures"
    assert rows["proxy"]["spearman_top_half"]["reason"] == reason


def test_perfect_signal_has_value_one_without_bounds():
    _, truth, sample = example()
    same = truth.assign(b=truth["a"])
    rows = rows_of([signal("proxy", sample, truth.loc[sample, "a"] ** 3)], same, sample)
    for name in ("spearman", "kendall", "spearman_top_half"):
        found = rows["proxy"][name]
        assert found["value"] == 1
        assert found["low"] is None
        assert found["reason"] == "all resamples give 1, so they do not show the spread"
    assert rows["proxy"]["precision_at_5"] == 1


def test_many_architectures_take_the_jackknife_for_kendall():
    signals, truth, sample = example(301)
    row = rows_of(signals, truth, sample)["proxy"]
    assert row["kendall"]["method"] == "jackknife, Fisher z"
    assert row["spearman"]["method"] == "BCa"


def test_what_a_signal_cost_is_passed_on():
    rows = rows_of(*example())
    cost = ("seconds", "image_passes", "stored_bytes")
    assert [rows["flops"][name] for name in cost] == [2.0, 30, 4]
    assert [rows["repeatability"][name] for name in cost] == [60.0, 900, 70]


def test_neither_the_order_of_rows_nor_other_signals_change_anything():
    signals, truth, sample = example()
    rows = rows_of(signals, truth, sample, seed=3)
    shuffled = [ScoredSignal(**{**vars(each), "scores": each.scores.iloc[::-1]}) for each in signals]
    assert rows_of(shuffled, truth.sample(frac=1, random_state=1), sample[::-1], seed=3) == rows
    fewer = rows_of(signals[:2], truth, sample, seed=3)
    assert fewer == {name: rows[name] for name in ("proxy", "random", "repeatability")}
    assert rows_of(signals, truth, sample, seed=4) != rows


def test_architectures_without_every_value_are_left_out():
    signals, truth, sample = example()
    signals[1].scores.loc["depth=2", "draw 3"] = np.nan
    truth.loc["depth=5", "b"] = np.inf
    flops = ScoredSignal(**{**vars(signals[2]), "scores": signals[2].scores.drop(index="depth=7")})
    used = ranked([*signals[:2], flops], truth, [*sample, "never scored"])
    assert used == sorted(set(sample) - {"depth=2", "depth=5", "depth=7"})
    row = rows_of([*signals[:2], flops], truth, sample)["proxy"]
    expected = [stats.spearmanr(signals[0].scores.loc[used, "draw 1"], truth.loc[used, seed])[0] for seed in "ab"]
    assert row["spearman"]["value"] == pytest.approx(np.mean(expected))
    assert row["spearman"]["n"] == 9
    assert row["precision_at_5_chance"] == pytest.approx(5 / 9)


def test_too_few_architectures_are_the_user_s_to_mend():
    signals, truth, sample = example(4)
    with pytest.raises(UserError) as caught:
        rank(signals, truth.drop(index=sample[0]), sample, seed=0, **SETTINGS)
    assert str(caught.value) == (
        "only 3 of the 4 sampled architectures have both a score from every signal and a full training, and a "
        "ranking needs at least 4; a larger sample or fewer failures would work"
    )


def test_minus_random_is_the_difference_of_means_with_bounds():
    rows = rows_of(*example())
    for name in ("proxy", "flops", "repeatability"):
        found = rows[name]["minus_random"]
        assert found["value"] == pytest.approx(rows[name]["spearman"]["value"] - rows["random"]["spearman"]["value"])
        assert found["low"] < found["value"] < found["high"]
        assert found["method"] == "percentile"
        assert "reason" not in found
    found = rows["random"]["minus_random"]
    assert (found["value"], found["reason"]) == (None, "this is the control itself")


def test_minus_random_without_a_control():
    signals, truth, sample = example()
    found = rows_of(signals[:1], truth, sample)["proxy"]["minus_random"]
    assert (found["value"], found["reason"]) == (None, "there is no signal named 'random'")


def test_minus_random_resamples_architectures_in_pairs():
    signals, truth, sample = example(draws=1)
    control = signals[1].scores["draw 1"]
    rows = rows_of([*signals, signal("same", control.index, control)], truth, sample)
    assert rows["same"]["minus_random"]["value"] == 0
    assert rows["same"]["minus_random"]["reason"] == "all resamples give 0, so they do not show the spread"
    assert rows["proxy"]["minus_random"]["low"] is not None
    reason = "random has one draw, so the bounds leave out how much draws differ"
    assert rows["proxy"]["minus_random"]["reason"] == reason


def test_minus_random_resamples_the_draws_of_both():
    signals, truth, sample = example()
    three = [signals[1].scores[draw] for draw in signals[1].scores]
    rows = rows_of([*signals, signal("same", three[0].index, *three)], truth, sample)
    found = rows["same"]["minus_random"]
    assert found["value"] == pytest.approx(0)
    assert found["low"] < -0.01 < 0.01 < found["high"]


def test_minus_random_takes_one_draw_fewer_than_there_are():
    # Draws of 0, 0, 0 and 1: the mean of three exceeds 2/3 once in 64 times, that of four would in 1 of 20.
    plan = Plan(n=8, seed=0, resamples=4000)
    perfect = Pair("proxy", np.arange(8.0), "the truth", np.arange(8.0))
    poor = Pair("random", np.array([3.0, 1, 2, 0, 7, 5, 4, 6]), "the truth", np.arange(8.0))
    control = np.tile([0.0, 0, 0, 1], (4000, 1))
    found = minus_control("proxy", {"proxy": [[perfect]], "random": [[poor]] * 4}, control, plan)
    assert (found.low, found.high) == pytest.approx((1 - 2 / 3, 1))


@pytest.mark.slow
def test_nine_in_ten_and_more_intervals_of_minus_random_cover_the_population():
    target = 6 / np.pi * (np.arcsin(0.9 / 2) - np.arcsin(0.6 / 2))
    keys = [f"{i:02d}" for i in range(24)]
    covered = 0
    for trial in range(60):
        rng = np.random.default_rng(trial)
        quality = rng.standard_normal(24)
        scores = [r * quality + np.sqrt(1 - r**2) * rng.standard_normal(24) for r in (0.9, 0.6, 0.6, 0.6)]
        signals = [signal("proxy", keys, scores[0]), signal("random", keys, *scores[1:])]
        found = rows_of(signals, table(keys, a=quality), keys, seed=trial)["proxy"]["minus_random"]
        covered += found["low"] <= target <= found["high"]
    assert covered / 60 >= 0.92
