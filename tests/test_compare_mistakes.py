"""What a comparison says of failures, and of what a user gets wrong."""

import pandas as pd
import pytest

from comparisons import Bench, few_resamples
from nas_proxy.errors import ConfigError, RunFailedError, UserError
from nas_proxy.runs.resolving import resolve
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.jobs import Failure


@pytest.fixture(scope="module", autouse=True)
def _few():
    yield from few_resamples()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    return Bench(tmp_path_factory.mktemp("mistakes"))


def test_failures_and_divergence_are_counted(bench, monkeypatch):
    finish = TrialStore.finish

    def failing(self, name, number, result):
        if name == "early_stop" and number == 0:
            result = Failure("no memory")
        elif name == "random" and number == 1:
            result = type(result)(1 / 3, (2.0, float("nan")), True, 1.0, 24)
        return finish(self, name, number, result)

    monkeypatch.setattr(TrialStore, "finish", failing)
    run, ranking = bench.compare("fails", table=True, signals=["early_stop", "random"], draws=1, sample=6)
    assert (ranking["n"], ranking["sample"]) == (6, 6)  # the one that failed is replaced
    assert ranking["failures"]["early_stop"] == 1
    note = ranking["signals"]["random:loss_sum"]["spearman_note"]
    assert note == "1 of 6 trainings diverged and count as the lowest"
    scores = pd.read_csv(run / "scores.csv")["random:loss_sum"]
    assert scores[1] == scores.min()


@pytest.mark.slow
def test_a_signal_that_always_fails_is_named(bench, monkeypatch):
    finish = TrialStore.finish

    def failing(self, name, number, result):
        return finish(self, name, number, Failure("no memory") if name == "early_stop" else result)

    monkeypatch.setattr(TrialStore, "finish", failing)
    more = {"signals": ["early_stop", "random"], "draws": 1}
    # The signal that the sample is drawn by, and another one.
    with pytest.raises(RunFailedError, match=r"all 5 candidates failed in the trainings of early_stop; .*: no memory"):
        bench.compare("none", table=True, **more)
    with pytest.raises(
        UserError, match=r"only 0 architectures have all scores by early_stop.*no memory; leave early_stop"
    ):
        bench.compare("none-too", table=True, signals=["random", "early_stop"], draws=1)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"signals": ["synflo"]}, "--signals holds 'synflo'; did you mean 'synflow'? known: az_nas, dm, "),
        ({"signals": ["dm", "dm"]}, "--signals holds 'dm' more than once; leave one"),
        ({"signals": []}, "--signals is empty; name at least one signal"),
        ({"signals": ["params", "random_total"]}, "but not the signal whose cost it is matched with"),
        ({"sample": 3}, "--sample (truth) is 3, but a ranking needs at least 4 architectures"),
        ({"sample": "many"}, "--sample (truth) is 'many'; it must be a whole number"),
        ({"draws": 0}, "--draws is 0; it must be at least 1"),
        ({"score": "loss"}, "--score is 'loss'; did you mean 'loss_sum'?"),
        ({"combine": ["params"]}, "--combine holds 'params' alone; give at least two"),
        ({"combine": ["params:loss_sum", "dm"]}, "params is computed and has no losses"),
        ({"score": "accuracy", "combine": ["dm:loss_sum", "params"]}, "dm has no such score"),
    ],
)
def test_mistakes_in_settings(bench, more, told):
    with pytest.raises(ConfigError) as caught:
        bench.settings(**more)
    assert told in str(caught.value)
    assert len(caught.value.mistakes) == 1


def test_a_sample_larger_than_what_there_is(bench):
    with pytest.raises(UserError, match="--sample is 9, but the truth table holds 8 architectures; give --sample 8"):
        bench.compare("large", table=True, sample=9)
    with pytest.raises(UserError, match="--sample is 99, but the space has 14 architectures; give --sample 14"):
        bench.compare("large", sample=99)
    with pytest.raises(UserError, match=r"dm\+space embeds with architectures outside the sample"):
        bench.compare("large", sample=14)
    assert not (bench.folder / "large").exists()


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"signals": ["params"], "calibrate": 4}, "params alone is nothing to calibrate; name two signals"),
        ({"signals": ["params", "flops"], "calibrate": 9}, "leaves 3 of 12 architectures to judge by"),
    ],
)
def test_what_cannot_be_calibrated_is_told_before_the_work(given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        resolve({"truth": 12, "compare": given})


def test_own_scores_are_combined_by_the_names_of_their_rows(tmp_path):
    signals = ["params", f"table:{tmp_path / 'scores.csv'}:mine"]
    found = resolve({"truth": 12, "compare": {"signals": signals, "combine": ["params", "mine"]}}).compare
    assert found == resolve({"truth": 12, "compare": {"signals": signals, "combine": signals}}).compare
