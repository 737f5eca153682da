"""The row `calibrated`: what it is made of, and that no prediction has seen the accuracy that it is judged by."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from comparisons import Bench, few_resamples
from nas_proxy.errors import UserError
from nas_proxy.pipeline.calibrated import calibrated
from nas_proxy.ranking.agreement import ScoredSignal


@pytest.fixture(scope="module", autouse=True)
def _few():
    yield from few_resamples()


KEYS = [f"k{i:02}" for i in range(24)]
ARCHITECTURES = {key: {"width": number % 5, "depth": number % 3} for number, key in enumerate(KEYS)}


def signals(**columns):
    return [ScoredSignal(name, pd.DataFrame({0: column}, index=KEYS), 1.0, 0, 0) for name, column in columns.items()]


def made(truth, *of, fitted_on=None, trained=()):
    frame = pd.DataFrame({0: truth}, index=KEYS)
    return calibrated(of, frozenset(trained), frame, ARCHITECTURES, KEYS, 0, fitted_on)


def test_the_good_signal_gets_the_weight():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.5, 0.9, 24)
    good, noise, worse = truth + rng.normal(0, 0.01, 24), rng.normal(size=24), truth + rng.normal(0, 0.2, 24)
    row = made(truth, *signals(good=good, noise=noise, worse=worse))
    weights = row.as_json()["weights"]
    assert max(weights, key=weights.get) == "good"
    assert all(weight >= 0 for weight in weights.values())
    assert spearmanr(row.signal.scores[0], truth).statistic > 0.85
    assert "good" in row.signal.note


def test_a_prediction_does_not_depend_on_its_own_truth():
    rng = np.random.default_rng(1)
    truth = rng.uniform(0.5, 0.9, 24)
    columns = {"a": truth + rng.normal(0, 0.05, 24), "b": rng.normal(size=24)}
    before = made(truth, *signals(**columns)).signal.scores[0]
    changed = truth.copy()
    changed[3] = 0.1
    after = made(changed, *signals(**columns)).signal.scores[0]
    assert after["k03"] == pytest.approx(before["k03"])
    assert not np.allclose(after.drop("k03"), before.drop("k03"))


def test_fitted_on_some_and_judged_on_the_rest():
    truth = np.linspace(0.5, 0.9, 24)
    row = made(truth, *signals(a=truth, b=-truth), fitted_on=10)
    assert list(row.judged) == KEYS[10:]
    assert list(row.signal.scores.index) == KEYS[10:]
    assert row.as_json()["trained"] == 10


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("misleads", [False, True])
def test_few_trainings_give_the_mean_rank(count, misleads):
    truth = np.linspace(0.5, 0.9, 24)
    seen = truth.copy()
    seen[:count] = seen[:count][::-1] if misleads else seen[:count]
    row = made(seen, *signals(a=truth, b=truth), fitted_on=count)
    assert row.signal.note == f"with {count} full trainings nothing can be fitted: the mean rank of all signals"
    assert spearmanr(row.signal.scores[0], truth[count:]).statistic == pytest.approx(1)


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("calibrated"))


@pytest.mark.slow
def test_in_a_comparison(bench):
    signals = ["params", "flops", "random"]
    run, whole = bench.compare("whole", table=True, signals=signals, sample=8, draws=1)
    assert list(whole["signals"])[-2:] == ["calibrated", "repeatability"]
    row = whole["signals"]["calibrated"]
    assert (row["spearman"]["n"], row["calibration"]["trained"]) == (8, 8)
    assert row["cost"]["seconds"] == pytest.approx(
        sum(whole["signals"][name]["cost"]["seconds"] for name in ("params", "flops", "random"))
    )
    # What was fitted to is paid for: all seeds of it, and of no more.
    for calibrate, trained in ((None, 8), (4, 4)):
        _, fully = bench.compare(f"fully-{calibrate}", signals=signals, sample=8, draws=1, calibrate=calibrate)
        passes = {name: row["cost"]["passes"] for name, row in fully["signals"].items()}
        each, seeds = passes["repeatability"] / 8, fully["truth"]["seeds"]
        assert seeds > 1
        assert passes["calibrated"] == passes["random"] + trained * seeds * each
    _, parted = bench.compare("parted", table=True, signals=signals, sample=8, draws=1, calibrate=4)
    assert {row["spearman"]["n"] for row in parted["signals"].values()} == {4}
    assert parted["signals"]["calibrated"]["calibration"]["trained"] == 4
    assert not any("lack" in remark for remark in parted["remarks"])  # what it was fitted to did not fail
    assert (run / "compare.html").read_text().count("Calibrated") > 0


def test_too_few_are_left_to_judge_by(bench):
    with pytest.raises(UserError, match=r"calibrate is 3, which leaves 3 of 6 architectures to judge by.* give 2 or"):
        bench.compare("few", table=True, signals=["params", "flops"], sample=6, calibrate=3)
