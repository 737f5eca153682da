"""How a search spreads its trainings, and what it believes: rounds, openings, mutations, picks, what a saving is."""

import numpy as np
import pytest

from nas_proxy.pipeline.choosing import Rounds, choose, opening_of, standing
from nas_proxy.pipeline.pool import Pool, costs_too_much
from nas_proxy.pipeline.saved import against_random
from nas_proxy.ranking.calibration import features_of
from nas_proxy.ranking.warp import FLOOR
from nas_proxy.spaces.choices import Choice
from nas_proxy.spaces.space import Space
from nas_proxy.strategy.acquisition import Observed
from nas_proxy.strategy.pool import grown


def test_rounds_spread_the_sample_evenly():
    dealt = list(Rounds(total=36, sample=24, size=4))
    assert sum(len(positions) for positions, _ in dealt) == 24
    assert [number for _, numbers in dealt for number in numbers] == list(range(12))
    assert all(len(positions) + len(numbers) == 4 for positions, numbers in dealt)
    assert {len(numbers) for _, numbers in dealt} == {1, 2}


@pytest.mark.parametrize(("proposals", "opening"), [(0, (0, 0)), (1, (1, 0)), (4, (2, 1)), (24, (6, 5))])
def test_half_of_the_proposals_at_most_follow_the_vote(proposals, opening):
    assert opening_of(proposals) == opening


def test_a_score_is_left_out_that_costs_more_than_it_tells():
    order = list(map(float, range(24)))
    assert costs_too_much("x", 1000, 0.3, 1000.0, order, order) is None  # 30 %, and tells all
    noise = [float(value) for value in np.random.default_rng(0).permutation(24)]
    assert costs_too_much("x", 1000, 0.15, 1000.0, noise, order) is None  # 15 %
    left_out = costs_too_much("x", 1000, 0.3, 1000.0, noise, order)
    assert left_out is not None
    assert left_out.startswith("x is not computed for the pool: 1,000 scores would take 30% of what")
    assert costs_too_much("x", 1000, 1.1, 1000.0, order, order) is not None  # more than the trainings


def test_what_is_saved_is_said_and_what_is_not_too():
    spent = {"condensing": 600.0, "full": 2400.0, "judging": 600.0}
    found = against_random((60.0, 20.0, 200.0), 120.0, spent, 1000)
    assert found.ratio == pytest.approx(2.0)
    assert found.interval == pytest.approx((2 / 3, 20 / 3))
    assert found.spent_hours == pytest.approx(1.0)
    assert found.sentence == (
        "Random search would have found as good a one in 2.0 h [40 min, 6.7 h], 2.0 [0.67, 6.7] times the "
        "1.0 h that this run took, 10 min of them to judge."
    )
    nothing = against_random((10.0, 5.0, 20.0), 120.0, spent, 1000)
    assert nothing.ratio == pytest.approx(1 / 3)
    assert nothing.sentence.endswith("10 min of them to judge; this run saved nothing.")
    with pytest.raises(ValueError, match="nothing was spent"):
        against_random((1.0, 1.0, 1.0), 1.0, {}, 10)


def test_mutations_differ_in_one_choice_and_are_new():
    choices = Choice("a", tuple(range(5))) & Choice("b", tuple(range(5))) & Choice("c", tuple(range(5)))
    space = Space("toy", choices, lambda a, shape: None)
    parents = [({"a": 0, "b": 0, "c": i}, float(i)) for i in range(5)]
    known = {space.key(parent) for parent, _ in parents}
    found = grown(space, parents, known, 20, seed=1)
    assert len({space.key(one) for one in found} - known) == len(found) > 10
    for one in found:
        assert any(sum(one[name] != parent[name] for name in "abc") == 1 for parent, _ in parents)
    assert found == grown(space, parents, known, 20, seed=1)
    assert found != grown(space, parents, known, 20, seed=2)


def pool_of(scores: np.ndarray) -> Pool:
    """A pool of scores (n, s), whole and without costs."""
    features = features_of(scores, [f"s{column}" for column in range(scores.shape[1])])
    return Pool({f"k{row}": {"x": row} for row in range(len(scores))}, features, None, len(scores), whole=True)


@pytest.mark.parametrize("images", [36, 1000])
def test_where_most_are_perfect_none_that_is_not_is_picked(images):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        pool = pool_of(rng.normal(size=(60, 3)))
        cheap = {row: float(np.clip(0.6 + 0.1 * rng.normal(), 0, 1)) for row in range(30)}
        full = {row: 0.5 if row < 3 else 1.0 for row in range(16)}
        pick = standing(pool, Observed(cheap=cheap, full=full), images).pick
        assert pick is not None
        assert pick.validation == 1.0


def test_where_most_stay_at_chance_what_is_like_those_that_work_is_chosen():
    rng, n = np.random.default_rng(1), 200
    accuracy = np.where(rng.random(n) < 0.2, 0.6 + 0.3 * rng.random(n), 0.1)
    pool = pool_of(np.stack([accuracy + 0.15 * rng.normal(size=n) for _ in range(3)], axis=1))
    working, others = np.flatnonzero(accuracy > 0.2), np.flatnonzero(accuracy < 0.2)
    full = {int(row): float(accuracy[row]) for row in (*working[:2], *others[:10])}
    chosen = choose(pool, Observed(full=full), 0, 5, 4)
    assert sum(accuracy[architecture["x"]] > 0.2 for architecture, _ in chosen) >= 3


def test_of_bad_ones_it_is_believed_what_was_seen_and_nothing_better():
    rng, n = np.random.default_rng(0), 120
    quality = rng.standard_normal(n)
    accuracy = np.where(quality < -1.2, 0.4, 0.93 + 0.02 * quality)
    pool = pool_of(np.stack([quality + 0.3 * rng.standard_normal(n) for _ in range(3)], axis=1))
    full = {row: float(accuracy[row]) for row in range(30)}
    bad = [row for row in full if accuracy[row] == 0.4]
    assert bad
    found = standing(pool, Observed(full=full), 1000)
    believed, cut = {b.key: b for b in found.order}, float(found.fit.warp.inverse(np.array(FLOOR)))
    for row in bad:
        assert (believed[f"k{row}"].mean, believed[f"k{row}"].low) == (0.4, 0.0)
    assert all(b.low == 0 or b.low > cut for b in believed.values())
    assert any(b.low == 0 and b.validation is None for b in believed.values())
    exact = {b.key: b for b in standing(pool, Observed(full=full), None).order}
    assert all((exact[f"k{row}"].low, exact[f"k{row}"].high) == (value, value) for row, value in full.items())


def test_what_was_pruned_is_believed_in_and_what_failed_is_not():
    pool = pool_of(np.random.default_rng(0).standard_normal((12, 2)))
    seen = Observed(full={0: 0.8, 1: 0.9}, closed=frozenset({2, 3}), failed=frozenset({3}))
    found = standing(pool, seen, 100)
    assert {b.key for b in found.order} == set(pool.keys) - {"k3"}
    assert found.failed == {3}
