"""A surrogate of many trainings: some stand for all, in bounded time, and few are all there."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_proxy.ranking import surrogate
from nas_proxy.ranking.calibration import features_of
from nas_proxy.ranking.encoding import encode
from nas_proxy.ranking.thinning import best_and_others, representative


@given(st.integers(0, 60), st.integers(0, 60), st.integers(2, 50), st.randoms(use_true_random=False))
def test_either_fidelity_has_half_of_the_places_and_what_the_other_leaves(cheap, fully, most, random):
    full = np.array([0.0] * cheap + [1.0] * fully)
    y = np.array([random.random() for _ in full])
    for found in (representative(full, most), best_and_others(full, y, most)):
        assert len(found) == min(most, len(full))
        assert (np.diff(found) > 0).all()
        assert (full[found] == 0).sum() >= min(cheap, most // 2)
        assert (full[found] == 1).sum() >= min(fully, most // 2)


def test_the_best_are_kept_and_the_others_spread():
    y = np.random.default_rng(0).standard_normal(400)
    found = best_and_others(np.repeat([0.0, 1.0], 200), y, 40)
    for first in (0, 200):
        best = first + np.argsort(-y[first : first + 200])[:10]
        assert set(best) <= set(found)
        others = np.setdiff1d(found[(found >= first) & (found < first + 200)], best)
        assert np.diff(others).max() < 200 / 9 + 11


@pytest.fixture(scope="module")
def many() -> tuple[surrogate.Features, np.ndarray, np.ndarray]:
    """3,000 architectures, their accuracies after cheap and after full training."""
    rng = np.random.default_rng(0)
    chosen = rng.integers(4, size=(3000, 6))
    quality = rng.standard_normal((6, 4))[np.arange(6), chosen].sum(axis=1)
    quality = (quality - quality.mean()) / quality.std()
    architectures = [{name: int(n) for name, n in zip("abcdef", row, strict=True)} for row in chosen]
    features = features_of((quality + rng.standard_normal(3000))[:, None], ("x",), encode(architectures))
    return features, 0.6 + 0.05 * (quality + 0.4 * rng.standard_normal(3000)), 0.8 + 0.03 * quality


def observed(many, cheap: int, fully: int) -> tuple[dict[int, float], dict[int, float]]:
    _, below, full = many
    return {row: below[row] for row in range(cheap)}, {row: full[row] for row in range(fully)}


@pytest.fixture
def sizes(monkeypatch) -> list[int]:
    """The numbers of trainings of which covariances are made: the cube of each is what a fit takes."""
    found: list[int] = []
    made = surrogate._covariance
    monkeypatch.setattr(
        surrogate,
        "_covariance",
        lambda theta, parts, full, known: (found.append(len(full)), made(theta, parts, full, known))[1],
    )
    return found


def test_a_fit_of_thousands_is_bounded_and_tells_what_it_should(many, sizes, monkeypatch):
    monkeypatch.setattr(surrogate, "LEARNT", 60)
    monkeypatch.setattr(surrogate, "CONDITIONED", 200)
    features, _, full = many
    fitted = surrogate.fit(features, *observed(many, 2400, 1200), images=1000)
    assert max(sizes[:-1]) == 60
    assert sizes[-1] == len(fitted.rows) == 200
    assert set(fitted.trained) == set(range(1200))
    assert int(np.argmax(full[:1200])) in fitted.rows
    belief = surrogate.believe(fitted, np.arange(2400, 3000))
    truth = fitted.warp(full[2400:])
    assert np.corrcoef(belief.mean, truth)[0, 1] > 0.95
    of_few = surrogate.fit(features, *observed(many, 40, 20))
    fewer = surrogate.believe(of_few, np.arange(2400, 3000)).mean
    error, of_fewer = np.abs(belief.mean - truth).mean(), np.abs(fewer - of_few.warp(full[2400:])).mean()
    assert error < 0.8 * of_fewer


def test_a_fit_of_a_few_hundred_rests_on_all(many, sizes):
    fitted = surrogate.fit(many[0], *observed(many, 30, 30))
    assert fitted.rows.tolist() == [*range(30), *range(30)]
    assert set(sizes) == {60}
    assert surrogate.LEARNT >= 300


def test_beliefs_of_a_large_pool_are_made_part_by_part(many, monkeypatch):
    fitted = surrogate.fit(many[0], *observed(many, 30, 30))
    whole = surrogate.believe(fitted, np.arange(100))
    monkeypatch.setattr(surrogate, "AT_ONCE", 30 * 60)
    parted = surrogate.believe(fitted, np.arange(100))
    for name in ("mean", "std", "informs"):
        assert getattr(parted, name) == pytest.approx(getattr(whole, name))
    assert len(surrogate.believe(fitted, np.arange(0)).mean) == 0
