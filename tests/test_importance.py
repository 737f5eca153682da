"""Where the choices of a space matter, in trials whose scores are known functions of the choices."""

import numpy as np
import pandas as pd
import pytest

from nas_proxy.report.importance import LEAST, importances


def trials(**columns: object) -> pd.DataFrame:
    """100 scored trials; `matters`, `little` and `nothing` are drawn independently."""
    draw = np.random.default_rng(0)
    a, b, c = (draw.integers(4, size=100) for _ in range(3))
    frame = pd.DataFrame({"key": [f"k{i}" for i in range(100)], "state": "complete", "score": 0.1 * a + 0.02 * b})
    frame = frame.assign(seconds="1", matters=a, little=b, nothing=c, fixed="one")
    return frame.assign(**columns).astype(dict.fromkeys(("matters", "little", "nothing"), str))


def test_shares_follow_the_variance() -> None:
    shares = importances(trials())
    assert list(shares) == ["matters", "little", "nothing"]
    assert sum(shares.values()) == pytest.approx(1)
    # The variances of 0.1 a and 0.02 b are as 25 to 1.
    assert shares["matters"] == pytest.approx(25 / 26, abs=0.03)
    assert shares["nothing"] < 0.02
    assert importances(trials()) == shares


def test_a_choice_that_was_not_always_open_counts() -> None:
    frame = trials()
    frame["matters"] = frame["matters"].replace("0", "")
    assert next(iter(importances(frame))) == "matters"


def test_many_numbers_are_a_range_and_many_words_are_left_out() -> None:
    rate = np.linspace(0, 1, 100)
    frame = trials(score=rate, rate=[f"{r:.3f}" for r in rate], words=[f"w{i}" for i in range(100)])
    shares = importances(frame)
    assert next(iter(shares)) == "rate"
    assert "words" not in shares


@pytest.mark.parametrize(
    "frame",
    [
        trials().head(LEAST - 1),
        trials(score=0.5),
        trials(state="failed"),
        trials(key="twice"),
        trials(matters="1", little="1", nothing="1"),
    ],
    ids=["few", "equal", "failed", "same", "no_choice"],
)
def test_nothing_is_said_where_nothing_can_be(frame: pd.DataFrame) -> None:
    assert importances(frame) == {}
