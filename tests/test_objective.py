"""The condensed set as a plain Optuna objective."""

import re
from pathlib import Path
from statistics import fmean

import numpy as np
import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from torch import nn

import nas_proxy
from conftest import TINY_SPACE, blobs
from nas_proxy import Choice, ProxyObjective, Space
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import ConfigError, RunFolderError, SpaceError
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.seeds import derive
from nas_proxy.threads import one_thread
from nas_proxy.training.pruning import marks
from nas_proxy.training.train import Recipe, train

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
SETTINGS = {
    "trials": 4,
    "truth": 3,
    "workers": 1,
    "device": "cpu",
    "seed": 3,
    "condense": {"images_per_class": 4, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 8, "batch_size": 6},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("objective")
    images = blobs(per_class=30)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    (folder / "tiny.py").write_text(TINY_SPACE.replace("WIDTHS", "(1, 2, 3, 8, 16)"))
    settings = {"dataset": f"npz:{folder / 'blobs.npz'}", "space": str(folder / "tiny.py"), **SETTINGS}
    run_stages(prepare_run(folder / "run", resolve(settings)), ("condense", "search"))
    return folder / "run"


@pytest.fixture(autouse=True)
def _quiet():
    optuna.logging.disable_propagation()
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)
    optuna.logging.enable_propagation()


def new_study(**options) -> optuna.Study:
    return optuna.create_study(**{"direction": "maximize", "pruner": optuna.pruners.NopPruner(), **options})


def test_it_scores_as_the_search_does(run):
    objective = ProxyObjective(run)
    trials = pd.read_csv(run / "trials.csv")
    complete = trials[trials["state"] == "complete"]
    study = new_study()
    for width, act in zip(complete["width"], complete["act"], strict=True):
        study.enqueue_trial({"width": width, "act": act})
    with one_thread():  # as in a worker: the order of a sum, so its rounding, depends on the threads
        study.optimize(objective, n_trials=len(complete))
    assert [trial.user_attrs["key"] for trial in study.trials] == list(complete["key"])
    assert study.trials[0].user_attrs["params"] == complete["params"].iloc[0]
    assert study.trials[0].user_attrs["flops"] == complete["flops"].iloc[0]
    assert [trial.value for trial in study.trials] == pytest.approx(list(complete["score"]))


def test_it_takes_as_many_seeds_as_the_run(run, monkeypatch):
    trained = []

    def kept(*given):
        found = train(*given)
        trained.append((given[4], found.score))
        return found

    monkeypatch.setattr("nas_proxy.pipeline.objective.train", kept)
    scores = []
    for seeds in (1, 3):
        study = new_study()
        study.enqueue_trial({"width": 2, "act": "relu"})
        study.optimize(ProxyObjective(run, seeds=seeds), n_trials=1)
        scores.append(study.trials[0].value)
    assert trained[0] == trained[1]
    assert len({seed for seed, _ in trained[1:]}) == 3
    assert scores == [trained[0][1], pytest.approx(fmean(score for _, score in trained[1:]))]


@pytest.mark.parametrize("width", [1, 8])
def test_reporting_changes_no_score(run, width):
    fixed = {"width": width, "act": "tanh"}
    scores = []
    for reports in (0, 3):
        study = new_study()
        study.enqueue_trial(fixed)
        objective = ProxyObjective(run, reports=reports)
        study.optimize(objective, n_trials=1)
        scores.append(study.trials[0].value)
        assert list(study.trials[0].intermediate_values) == ([] if reports == 0 else [2, 4, 6])
    outcome = train(
        lambda: objective.space.build(fixed, objective.proxy.shape),
        objective.proxy,
        objective.validation,
        objective.recipe,
        derive(3, "proxy", f"width={width},act=tanh", 0),
    )
    assert scores == [outcome.score] * 2


def test_a_pruner_ends_bad_trials(run):
    study = new_study(pruner=optuna.pruners.ThresholdPruner(lower=1.1))
    for width in (2, 3):  # three cannot be built
        study.enqueue_trial({"width": width, "act": "relu"})
    study.optimize(ProxyObjective(run, reports=3), n_trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED] * 2
    assert [list(trial.intermediate_values) for trial in study.trials] == [[2], []]


def test_an_architecture_that_comes_again_is_not_trained_again(run, monkeypatch):
    calls = []
    monkeypatch.setattr("nas_proxy.pipeline.objective.train", lambda *a: calls.append(1) or train(*a))
    study = new_study()
    for _ in range(3):
        study.enqueue_trial({"width": 2, "act": "relu"})
    study.optimize(ProxyObjective(run), n_trials=3)
    assert len(calls) == 1
    assert len({trial.value for trial in study.trials}) == 1


def test_what_cannot_be_trained_is_pruned(run):
    study = new_study()
    study.enqueue_trial({"width": 3, "act": "relu"})
    study.optimize(ProxyObjective(run), n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    assert study.trials[0].user_attrs["reason"] == "ValueError: three is not a width"

    def build(architecture, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, architecture["a"]), nn.Linear(architecture["a"], 3))

    space = Space("odd", Choice("a", (1, 2)), build, valid=lambda a: a["a"] != 2)
    study = new_study()
    study.enqueue_trial({"a": 2})
    study.enqueue_trial({"a": 1})
    study.optimize(ProxyObjective(run, space), n_trials=2)
    assert [trial.state for trial in study.trials] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert study.trials[0].user_attrs == {}


@pytest.mark.parametrize(
    "sampler",
    [
        optuna.samplers.RandomSampler(seed=0),
        optuna.samplers.TPESampler(seed=0, n_startup_trials=2),
        optuna.samplers.NSGAIISampler(seed=0, population_size=2),
    ],
    ids=["random", "tpe", "nsga2"],
)
def test_any_sampler(run, sampler):
    study = new_study(sampler=sampler, pruner=optuna.pruners.HyperbandPruner())
    study.optimize(ProxyObjective(run, recipe=Recipe(epochs=2)), n_trials=5)
    assert {trial.state for trial in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    assert study.best_value <= 1


def test_a_function_of_a_trial_as_space(run):
    def space(trial):
        return nn.Sequential(nn.Flatten(), nn.Linear(64, trial.suggest_int("width", 1, 4)), nn.LazyLinear(3))

    study = new_study()
    study.optimize(ProxyObjective(run, space, recipe=Recipe(epochs=1)), n_trials=2)
    assert {trial.user_attrs["key"].partition("=")[0] for trial in study.trials} == {"width"}


def test_images_of_no_run_need_space_and_validation(run, tmp_path):
    images = ImageSet.load(run / "proxy.safetensors")
    with pytest.raises(RunFolderError, match="the images belong to no run; give `space` and `validation`, or the run"):
        ProxyObjective(images, "convnet")
    images.save(tmp_path / "set.safetensors")
    with pytest.raises(RunFolderError, match=r"set.safetensors belong to no run"):
        ProxyObjective(tmp_path / "set.safetensors")
    for given in (images, tmp_path / "set.safetensors"):
        objective = ProxyObjective(given, "convnet", validation=blobs(), recipe=Recipe(epochs=1), device="cpu")
        study = new_study(sampler=optuna.samplers.RandomSampler(seed=0))
        study.optimize(objective, n_trials=1)
        assert 0 <= study.best_value <= 1
    assert ProxyObjective(run / "proxy.safetensors").recipe == ProxyObjective(run).recipe
    with pytest.raises(SpaceError, match=r"`space` is a int; it must be a nas_proxy.Space or a function of a trial"):
        ProxyObjective(run, 5)


def test_packed_images_are_trained_on_unpacked(run):
    images = ImageSet.load(run / "proxy.safetensors")
    packed = images.packed(2)
    assert len(packed) < len(images)
    objective = ProxyObjective(packed, "convnet", validation=blobs(), device="cpu")
    assert len(objective.proxy) == len(packed.unpacked()) == 4 * len(packed)


def test_marks_by_hand():
    assert marks(Recipe(epochs=8), 3) == {2, 4, 6}
    assert marks(Recipe(epochs=2), 10) == {1}
    assert marks(Recipe(epochs=0.5), 10) == frozenset()


@pytest.mark.parametrize(("limit", "words"), [("max_params", "parameters"), ("max_flops", "FLOPs")])
def test_what_is_too_large_is_pruned_and_not_trained(run, monkeypatch, limit, words):
    monkeypatch.setattr("nas_proxy.pipeline.objective.train", lambda *a: pytest.fail("trained"))
    study = new_study()
    study.enqueue_trial({"width": 16, "act": "relu"})
    study.optimize(ProxyObjective(run, **{limit: 1000}), n_trials=1)
    assert study.trials[0].state == TrialState.PRUNED
    reason = study.trials[0].user_attrs["reason"]
    assert re.fullmatch(rf"it has [\d,]+ {words}, and at most 1,000 are wanted", reason)


def test_either_score(run):
    recipe = Recipe(epochs=8, batch_size=6)
    outcomes = {}
    for score in ("accuracy", "loss_sum"):
        study = new_study()
        study.enqueue_trial({"width": 8, "act": "tanh"})
        objective = ProxyObjective(run, score=score, recipe=recipe, reports=3)
        study.optimize(objective, n_trials=1)
        outcomes[score] = study.trials[0]
    plain = train(
        lambda: objective.space.build({"width": 8, "act": "tanh"}, objective.proxy.shape),
        objective.proxy,
        objective.validation,
        recipe,
        derive(3, "proxy", "width=8,act=tanh", 0),
    )
    assert outcomes["accuracy"].value == plain.score
    assert outcomes["loss_sum"].value == -sum(plain.losses)
    so_far = {epoch: -sum(plain.losses[:epoch]) / epoch for epoch in (2, 4, 6)}
    assert outcomes["loss_sum"].intermediate_values == pytest.approx(so_far)
    with pytest.raises(ConfigError, match="score is 'loss'; did you mean"):
        ProxyObjective(run, score="loss")


def test_what_diverges_has_no_sum_of_losses(run):
    study = new_study()
    study.enqueue_trial({"width": 8, "act": "tanh"})
    study.optimize(ProxyObjective(run, score="loss_sum", recipe=Recipe(epochs=5, learning_rate=1e38)), n_trials=1)
    assert study.trials[0].user_attrs["reason"] == "the training diverged"


def test_the_lines_of_the_readme(tmp_path, monkeypatch, capsys):
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "ProxyObjective(" in block)
    assert len([line for line in code.splitlines() if line]) == 5
    monkeypatch.chdir(tmp_path)
    tiny = {"condense": {"images_per_class": 2, "steps": 2}, "proxy_training": {"epochs": 2}, "limit": 10}
    settings = {"dataset": "digits", "space": "convnet", "device": "cpu", **tiny}
    run_stages(prepare_run(tmp_path / "runs" / "digits-convnet", resolve(settings)), ("condense",))
    exec(compile(code.replace("n_trials=20", "n_trials=3"), "README.md", "exec"), {})
    assert re.fullmatch(r"0\.\d+ depth=\d,.*\n", capsys.readouterr().out)
    assert nas_proxy.ProxyObjective is ProxyObjective
