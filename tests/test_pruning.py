"""Pruning: what Optuna's own pruners say, the same with any workers and after a kill, and never to the sample."""

import math
import re
import warnings

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.pruners import HyperbandPruner, MedianPruner, WilcoxonPruner
from optuna.trial import TrialState

from conftest import blobs
from nas_proxy.dashboard.status import Watcher
from nas_proxy.dashboard.status_text import status_text
from nas_proxy.errors import ConfigError
from nas_proxy.pipeline.stages import run_all, run_stages
from nas_proxy.ranking.scores import best_first
from nas_proxy.runs.folder import prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.training.pruning import Curve, Judge, Pruning, marks
from nas_proxy.training.seed_average import repeated
from nas_proxy.training.train import Outcome, Recipe

RECIPE = Recipe(epochs=60)
STEPS = sorted(marks(RECIPE))

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def test_marks_by_hand():
    assert STEPS == [10, 20, 30, 40, 50]
    assert marks(Recipe(epochs=1)) == frozenset()
    assert marks(Recipe(epochs=3)) == {1, 2}


def run_in_optuna(study: optuna.Study, values: list[float], final: float) -> tuple[Curve, int | None]:
    """Run one trial in a study of Optuna's, as a plain objective would; return its curve and where it was pruned."""
    trial = study.ask()
    for step, value in zip(STEPS, values, strict=True):
        trial.report(value, step)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
            shown = tuple((s, v) for s, v in zip(STEPS, values, strict=True) if s <= step)
            return Curve(shown, None), step
    trial.report(final, 60)
    study.tell(trial, final)
    return Curve((*zip(STEPS, values, strict=True), (60, final)), final), None


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.lists(st.floats(0, 1), min_size=6, max_size=6), min_size=8, max_size=25),
    st.sampled_from(["median", "hyperband"]),
)
def test_a_judge_says_what_optuna_would(trials, pruner):
    """Trials one after another in a study of Optuna's own, and each again before a judge that gets the curves only."""
    real = (
        MedianPruner() if pruner == "median" else HyperbandPruner(min_resource=10, max_resource=60, reduction_factor=3)
    )
    study = optuna.create_study(study_name="proposals", direction="maximize", pruner=real)
    history: list[Curve] = []
    for *values, final in trials:
        judge = Judge(Pruning(pruner, history=tuple(history)), RECIPE, 1)
        found = next((step for step, value in zip(STEPS, values, strict=True) if judge.ends(step, value)), None)
        curve, pruned_at = run_in_optuna(study, values, final)
        assert found == pruned_at
        history.append(curve)


def test_the_trainings_under_way_are_numbered_and_not_seen():
    history = tuple(Curve(tuple((s, 0.5) for s in STEPS), 0.5) for _ in range(8))
    verdicts = [Judge(Pruning("hyperband", history=history, ahead=n), RECIPE, 1).ends(10, 0.1) for n in range(30)]
    # Only one of Hyperband's brackets has its first rung so early, and a number decides on the bracket.
    assert set(verdicts) == {True, False}
    assert all(Judge(Pruning("median", history=history, ahead=n), RECIPE, 1).ends(10, 0.1) for n in range(3))


def training(score: float, epochs: int, watched: list[int] | None = None):
    def train(seed, watch):
        if watch is not None:
            for epoch in sorted(watch.epochs):
                if watched is not None:
                    watched.append(epoch)
                if watch.ends(epoch, score):
                    return Outcome(score, (1.0,) * epoch, False, 6.0, 10, pruned_at=epoch)
        return Outcome(score, (1.0,) * epochs, False, 12.0, 20)

    return train


def test_epochs_then_seeds():
    history = tuple(Curve(tuple((s, 0.5) for s in [*STEPS, 60, 120]), 0.5) for _ in range(8))
    watched: list[int] = []
    found = repeated(training(0.9, 60, watched), RECIPE, 0, 3, Pruning("median", history=history))
    assert watched == STEPS  # of the first seed alone
    assert [step for step, _ in found.curve] == [*STEPS, 60, 120, 180]
    assert found.pruned_at is None
    bad = repeated(training(0.1, 60), RECIPE, 0, 3, Pruning("median", history=history))
    assert (bad.pruned_at, bad.reason) == (10, "pruned after 10 of 180 epochs")
    # 6 seconds for 10 of 180 epochs.
    assert bad.seconds_saved == pytest.approx(6 * 17)
    kept = repeated(training(0.1, 60), RECIPE, 0, 3, Pruning("median", history=history, may_end=False))
    assert kept.pruned_at is None
    assert len(kept.curve) == 8


def test_wilcoxon_looks_across_seeds():
    history = (Curve(tuple((k, 0.9 + k / 100) for k in range(1, 7)), 0.93),)
    watched: list[int] = []
    found = repeated(training(0.5, 60, watched), RECIPE, 0, 6, Pruning("wilcoxon", history=history))
    assert watched == []
    # Four pairs, all worse: p = 1/16, the first below 0.1.
    assert (found.pruned_at, found.reason) == (4, "pruned after 4 of 6 seeds")
    assert found.curve == tuple((k, 0.5) for k in range(1, 5))
    assert found.seconds_saved == pytest.approx(4 * 12 / 2)
    pruner = WilcoxonPruner()
    study = optuna.create_study(direction="maximize", pruner=pruner)
    study.add_trial(optuna.trial.create_trial(value=0.93, intermediate_values=dict(history[0].points)))
    trial = study.ask()
    said = []
    for step in range(1, 5):
        trial.report(0.5, step)
        said.append(trial.should_prune())
    assert said == [False, False, False, True]


SETTINGS = {
    "trials": 18,
    "truth": 6,
    "judge": 6,
    "device": "cpu",
    "workers": 1,
    "condense": {"images_per_class": 2, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 12, "batch_size": 6},
}
WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)


@pytest.fixture
def condensed(tmp_path):
    from conftest import write_space

    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    space = write_space(tmp_path / "wide.py", WIDTHS)

    def make(out: str, **changes):
        given = {"dataset": f"npz:{tmp_path / 'blobs.npz'}", "space": str(space), **SETTINGS, **changes}
        run = prepare_run(tmp_path / out, resolve(given))
        run_stages(run, ("condense",))
        return run

    return make


def trials(run) -> pd.DataFrame:
    return pd.read_csv(run / "trials.csv").drop(columns=["seconds"])


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize(("pruner", "score"), [("median", "loss_sum"), ("hyperband", "accuracy")])
def test_neither_workers_nor_a_kill_change_what_is_pruned(condensed, pruner, score):
    choice = {"pruner": pruner, "score": score, "seeds": 2}
    alone, spread, cut = (
        condensed(name, **choice, **more) for name, more in [("a", {}), ("b", {"workers": 2}), ("c", {})]
    )
    for run in (alone, spread):
        run_stages(run, ("search",))
    expected = trials(alone)
    pd.testing.assert_frame_equal(expected, trials(spread))
    pruned = expected[expected["state"] == "pruned"]
    assert len(pruned)
    assert set(pruned["phase"]) == {"search"}
    assert pruned["score"].isna().all()
    assert pruned["reason"].str.fullmatch(r"pruned after \d+ of 24 epochs").all()
    assert (pruned["pruned_at"] < 24).all()

    class Killed(BaseException):
        pass

    for after in (4, 9, 14):
        stop_after(cut, after, Killed)
    run_stages(cut, ("search",))
    pd.testing.assert_frame_equal(expected, trials(cut))


def stop_after(run, number: int, error: type[BaseException]) -> None:
    """Search until so many trainings are recorded, and die in the middle of the next."""
    whole = TrialStore.finish

    def finish(self, signal, trial, result):
        if len(self.records("proxy")) >= number:
            raise error
        return whole(self, signal, trial, result)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(error):
        patch.setattr(TrialStore, "finish", finish)
        run_stages(run, ("search",))


@pytest.mark.slow
def test_the_pruned_are_told_and_never_picked(condensed):
    run = condensed("run", pruner="median")
    run_stages(run, ("search",))
    ledger = TrialStore(run / "study.db")
    records = ledger.records("proxy")
    pruned = [r for r in records if r.pruned_at is not None]
    assert pruned
    assert not any(r.failed for r in pruned)
    assert not {r.key for r in pruned} & {r.key for r in best_first(records)}
    study = ledger.study("proxy")
    states = [t for t in study.trials if t.state == TrialState.PRUNED]
    assert len(states) == len(pruned)
    assert all(t.last_step == t.user_attrs["pruned_at"] for t in states)
    ledger.close()
    status = Watcher(run.path).look()
    assert status.pruned == len(pruned)
    assert status.seconds_saved == pytest.approx(sum(r.seconds_saved for r in pruned))
    assert "proxy" not in status.failures or not any("pruned" in why for why in status.failures["proxy"])
    assert re.search(rf"Pruned: {len(pruned)}; saved about ", status_text(status))
    run_stages(run, ("truth", "rank", "report"))
    page = (run / "report.html").read_text(encoding="utf-8")
    assert f"The pruner median ended {len(pruned)} of the proposals early, which saved about" in page


@pytest.mark.slow
def test_what_was_pruned_is_trained_whole_once_the_sample_comes_to_it(condensed):
    run = condensed("run", pruner="median", sampler="tpe")
    run_stages(run, ("search",))
    before = trials(run)
    larger = resolve({"truth": 22, "judge": 22, "trials": 22}, run / "run.toml")
    run_all(larger, run.path, names=("search",))
    after = trials(run)
    sample = after[after["phase"] == "sample"]
    again = set(before[before["state"] == "pruned"]["key"]) & set(sample[sample["state"] == "complete"]["key"])
    assert again
    assert (sample["state"] == "complete").sum() == 22  # all but those of width 3, which fail


@pytest.mark.slow
def test_without_a_pruner_nothing_is_looked_at(condensed):
    plain, looked = condensed("a", trials=6), condensed("b", trials=6, pruner="median")
    for run in (plain, looked):
        run_stages(run, ("search",))
    pd.testing.assert_frame_equal(trials(plain), trials(looked))  # looking changes no score
    curves = [[r.curve for r in TrialStore(run / "study.db").records("proxy") if r.complete] for run in (plain, looked)]
    assert set(curves[0]) == {()}
    assert all([step for step, _ in curve] == [2, 4, 6, 8, 10, 12] for curve in curves[1])


def test_wilcoxon_needs_seeds(tmp_path):
    with pytest.raises(ConfigError, match="--pruner wilcoxon compares candidates across seeds, but --seeds is 1; give"):
        run_all(resolve({"pruner": "wilcoxon", "device": "cpu"}), tmp_path / "a")
    with pytest.raises(ConfigError, match="pruner is 'median1'; did you mean 'median'"):
        resolve({"pruner": "median1"})


@pytest.mark.slow
def test_wilcoxon_in_a_search(condensed):
    run = condensed("run", pruner="wilcoxon", seeds=6, trials=20, proxy_training={"epochs": 6, "batch_size": 6})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run_stages(run, ("search",))
    found = trials(run)
    pruned = found[found["state"] == "pruned"]
    assert pruned["pruned_at"].between(4, 5).all()
    assert math.isclose(found["image_passes"].max(), 6 * 6 * 6)
