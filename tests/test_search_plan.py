"""How a search spreads its trainings: rounds, openings, scores left out, mutations, and what a saving is said to be."""

import numpy as np
import pytest

from nas_proxy.pipeline.choosing import Rounds, opening_of
from nas_proxy.pipeline.pool import costs_too_much
from nas_proxy.pipeline.saved import against_random
from nas_proxy.spaces.choices import Choice
from nas_proxy.spaces.space import Space
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
