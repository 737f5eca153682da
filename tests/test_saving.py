"""What a search saved: as many trainings as random search needs, however many rivals the pick has."""

import numpy as np
import pytest
from scipy import stats

from nas_proxy.pipeline.saved import uniform
from nas_proxy.ranking import surrogate
from nas_proxy.ranking.calibration import features_of
from nas_proxy.ranking.encoding import encode
from nas_proxy.storage.records import Record
from nas_proxy.strategy import saving as module
from nas_proxy.strategy.saving import saving

POOL = 500


@pytest.fixture(scope="module")
def uninformed() -> surrogate.Fit:
    """What is believed of a pool whose signals and choices tell nothing, after 24 full trainings of 400 images."""
    rng = np.random.default_rng(0)
    architectures = [
        {name: int(n) for name, n in zip("abcdef", row, strict=True)} for row in rng.integers(4, size=(POOL, 6))
    ]
    features = features_of(rng.standard_normal((POOL, 3)), ("x", "y", "z"), encode(architectures))
    return surrogate.fit(features, {}, {row: rng.binomial(400, rng.normal(0.8, 0.03)) / 400 for row in range(24)}, 400)


@pytest.fixture(scope="module")
def pick(uninformed) -> int:
    return int(surrogate.believe(uninformed, np.arange(24)).mean.argmax())


@pytest.mark.parametrize("exact", [False, True])
def test_rivals_beyond_those_drawn_together_count_as_they_are_believed(uninformed, pick, exact, monkeypatch):
    whole = saving(uninformed, np.arange(POOL), 0, pick, exact=exact)
    monkeypatch.setattr(module, "MOST_DRAWN", 60)
    monkeypatch.setattr(module, "AT_ONCE", 150)
    parted = saving(uninformed, np.arange(POOL), 1, pick, exact=exact)
    assert whole.low < (POOL + 1) / 62  # the fewest that sixty rivals and the pick can tell
    for one, other in ((parted.trainings, whole.trainings), (parted.low, whole.low), (parted.high, whole.high)):
        assert one == pytest.approx(other, rel=0.25)


def test_as_many_rivals_are_better_as_their_probabilities_add_up_to(uninformed, pick, monkeypatch):
    monkeypatch.setattr(module, "MOST_DRAWN", 40)
    rivals = np.setdiff1d(np.arange(POOL), [pick])
    mean, between = surrogate.joint(uninformed, np.concatenate([[pick], rivals]))
    spread = np.sqrt(np.diag(between)[1:] + between[0, 0] - 2 * between[0, 1:])
    expected = stats.norm.cdf((mean[1:] - mean[0]) / spread).sum()
    found = module._better(uninformed, rivals, pick, 4_000, np.random.default_rng(0))
    assert expected > 60
    assert found.mean() == pytest.approx(expected, rel=0.05)


def test_random_search_needs_what_is_said(uninformed, pick):
    """Accuracies are drawn from what is believed, and a random search is made among them."""
    rng, found = np.random.default_rng(2), []
    mean, between = surrogate.joint(uninformed, np.arange(POOL))
    for values in rng.multivariate_normal(mean, between, 400, check_valid="ignore"):
        tried = values[rng.permutation(POOL)]
        found.append(np.argmax(tried >= values[pick]) + 1)
    better = module._better(uninformed, np.setdiff1d(np.arange(POOL), [pick]), pick, 4_000, rng)
    assert np.mean(found) == pytest.approx(np.mean((POOL + 1) / (better + 2)), rel=0.25)


def test_what_failed_is_no_rival_but_is_tried(uninformed, pick):
    rivals = np.setdiff1d(np.arange(POOL), [pick])
    mean = surrogate.believe(uninformed, rivals).mean
    likely = rivals[np.argsort(-mean)[:400]].tolist()
    every = saving(uninformed, np.arange(POOL), 0, pick)
    found = saving(uninformed, np.arange(POOL), 0, pick, failed=likely)
    assert found.trainings > 2 * every.trainings
    assert saving(uninformed, np.arange(POOL), 0, pick, failed=rivals).trainings == (POOL + 1) / 2


def test_what_is_seen_to_be_as_good_in_a_table_is_found_as_well():
    features = features_of(np.arange(6.0)[:, None], ("x",), encode([{"a": n} for n in range(6)]))
    fitted = surrogate.fit(features, {}, dict.fromkeys(range(4), 1.0))
    found = saving(fitted, np.arange(6), 0, 0, exact=True, equal=[0, 1, 2, 3])
    assert found.high == 7 / 5  # of six, any of four will do, and the others may as well
    assert saving(fitted, np.arange(6), 0, 0, exact=True).high == 7 / 2


def test_random_search_draws_from_what_is_uniform_alone(uninformed, pick):
    """Mutations of the best crowd around the pick, and random search meets them no sooner."""
    mean = surrogate.believe(uninformed, np.arange(POOL)).mean
    worse = np.flatnonzero(mean < np.median(mean))
    assert saving(uninformed, worse, 0, pick).trainings > saving(uninformed, np.arange(POOL), 0, pick).trainings
    assert saving(uninformed, np.array([], dtype=np.intp), 0, pick).trainings == 1
    alone = np.array([pick])
    assert saving(uninformed, alone, 0, pick).trainings == 1


def test_a_training_of_random_search_costs_what_those_of_the_uniform_sample_do():
    """A search favours large networks, whose time follows their FLOPs."""
    rng = np.random.default_rng(0)
    flops = rng.lognormal(0, 1, 2_000)
    priced = []
    for _ in range(200):
        order = rng.permutation(2_000)
        sample, chosen = order[:16], order[16:][np.argsort(-flops[order[16:]])[:8]]
        records = [Record(f"{row}", {}, "search", 0, 0, 0, 0, seconds=flops[row]) for row in (*chosen, *sample)]
        found = uniform(records, [f"{row}" for row in sample])
        priced.append(np.mean([record.seconds for record in found]))
    assert np.mean(priced) == pytest.approx(flops.mean(), rel=0.1)
    assert uniform(records, []) == records
