"""Proposals: Optuna's conformance suite for regularised evolution, purity, every sampler, known architectures first."""

import json
import sys

import numpy as np
import optuna
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase
from optuna.trial import create_trial
from torch import nn

from conftest import blobs, write_space
from nas_proxy import Branch, Choice, Space
from nas_proxy.cli.app import main
from nas_proxy.data.images import DataShape
from nas_proxy.errors import ConfigError, RunFolderError
from nas_proxy.pipeline.stages import run_all, run_stages
from nas_proxy.ranking.truth_table import KnownPart
from nas_proxy.runs.folder import open_run, prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.storage.records import Record
from nas_proxy.strategy.evolution import RegularisedEvolutionSampler
from nas_proxy.strategy.samplers import GENERATION, SAMPLERS, grid
from proposals import propose

CHOICES = (
    Choice("depth", (1, 2, 3))
    & Branch("block", {"conv": Choice("kernel", (1, 3, 5)), "mlp": Choice("dropout", (0.0, 0.2))})
    & Choice("act", ("relu", "tanh", None))
)


def nothing(architecture, shape):
    return nn.Identity()


SPACE = Space("branched", CHOICES, nothing)
SIZE = 3 * 5 * 3


@pytest.fixture(autouse=True)
def _quiet():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


class TestRegularisedEvolutionConforms(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    """Optuna's own suite, with a population that is full after three trials."""

    @pytest.fixture
    def sampler(self):
        return lambda: RegularisedEvolutionSampler(population=3, tournament=2, seed=0)


def study_of(values: list[tuple[dict[str, object], float]], sampler, direction="maximize") -> optuna.Study:
    study = optuna.create_study(sampler=sampler, direction=direction)
    options = {"a": CategoricalDistribution(range(50)), "b": CategoricalDistribution(range(50))}
    for params, value in values:
        study.add_trial(create_trial(params=params, distributions=options, value=value))
    return study


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    scores=st.lists(st.floats(-1, 1), min_size=6, max_size=12),
    seed=st.integers(0, 2**31),
    direction=st.sampled_from(["maximize", "minimize"]),
)
def test_a_child_differs_in_one_parameter_from_the_best_of_the_young(scores, seed, direction):
    # All of the population are drawn in so large a tournament, so the parent is known: the best of the last five.
    study = study_of(
        [({"a": i, "b": i}, score) for i, score in enumerate(scores)],
        RegularisedEvolutionSampler(population=5, tournament=200, seed=seed),
        direction,
    )
    young = range(len(scores) - 5, len(scores))
    sign = 1 if direction == "maximize" else -1
    parent = max(young, key=lambda i: (sign * scores[i], i))
    trial = study.ask()
    child = [trial.suggest_categorical(name, list(range(50))) for name in ("a", "b")]
    assert sum(value != parent for value in child) == 1


def test_the_oldest_dies_even_when_it_is_the_best():
    values = [({"a": 49, "b": 49}, 1.0), *[({"a": i, "b": i}, 0.1) for i in range(4)]]
    for seed in range(20):
        trial = study_of(values, RegularisedEvolutionSampler(population=4, tournament=2, seed=seed)).ask()
        child = [trial.suggest_categorical(name, list(range(50))) for name in ("a", "b")]
        assert min(child) < 4


def test_until_the_population_is_full_trials_are_random():
    values = [({"a": 7, "b": 7}, 0.5)] * 3
    children = set()
    for seed in range(10):
        trial = study_of(values, RegularisedEvolutionSampler(population=4, tournament=2, seed=seed)).ask()
        children.add(tuple(trial.suggest_categorical(name, list(range(50))) for name in ("a", "b")))
    assert len(children) == 10
    assert sum(7 in child for child in children) < 5


def test_evolution_climbs_where_random_search_does_not():
    def objective(trial: optuna.Trial) -> float:
        return sum(trial.suggest_categorical(f"bit{i}", [0, 1]) for i in range(20))

    best = {}
    for name, sampler in (
        ("evolution", RegularisedEvolutionSampler(seed=1)),
        ("random", optuna.samplers.RandomSampler(seed=1)),
    ):
        study = optuna.create_study(direction="maximize", sampler=sampler)
        study.optimize(objective, n_trials=150)
        best[name] = study.best_value
    assert best["evolution"] >= 18
    assert best["evolution"] > best["random"]


def test_evolution_repeats_by_seed_and_refuses_sizes_below_one():
    def run(seed):
        study = optuna.create_study(sampler=RegularisedEvolutionSampler(population=3, tournament=2, seed=seed))
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=10)
        return [trial.params for trial in study.trials]

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(None) != run(None)
    with pytest.raises(ConfigError, match="tournament is 0; it must be at least 1"):
        RegularisedEvolutionSampler(tournament=0)


def record(architecture, score, index=0) -> Record:
    return Record(SPACE.key(architecture), architecture, "sample", index, 0, 1, 1, score, 1.0)


def history_of(count: int, seed: int = 0) -> list[Record]:
    found = []
    for index, architecture in zip(range(count), SPACE.sample(seed), strict=False):
        found.append(record(architecture, 0.1 * architecture["depth"] + 0.01 * index, index))
    return found


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_pure_new_and_complete(sampler):
    history = history_of(GENERATION + 9)
    seen = {r.key for r in history}
    first = propose(SPACE, history, seen, 5, sampler)
    assert propose(SPACE, history, set(seen), 5, sampler) == first
    left = SIZE - len(seen)
    for number in range(left):
        architecture = propose(SPACE, history, seen, 100 + number, sampler)
        key = SPACE.key(architecture)
        assert key not in seen
        seen.add(key)
        history.append(record(architecture, 0.2, len(history)))
    assert len(seen) == SIZE
    assert propose(SPACE, history, seen, 1, sampler) is None


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
def test_samplers_that_learn_go_where_scores_are_good(sampler):
    space = Space("wide", Choice("a", tuple(range(8))) & Choice("b", tuple(range(8))) & Choice("c", (0, 1, 2)), nothing)
    history = []
    for index, architecture in zip(range(60), space.sample(0), strict=False):
        score = architecture["a"] / 8 + architecture["b"] / 80
        history.append(Record(space.key(architecture), architecture, "sample", index, 0, 1, 1, score, 1.0))
    found = [propose(space, history, {r.key for r in history}, seed, sampler) for seed in range(24)]
    assert np.mean([architecture["a"] for architecture in found]) > 4.2  # 3.5 by chance


def test_a_grid_covers_the_space_evenly_from_the_start():
    assert len({SPACE.key(a) for a in grid(SPACE)}) == SIZE
    line = Space("line", Choice("x", tuple(range(100))), nothing)
    start = sorted(a["x"] for _, a in zip(range(10), grid(line), strict=False))
    assert max(np.diff([0, *start, 100])) <= 17  # ten even steps would be 10 each; random ones often leave 30
    assert [a["x"] for a in grid(Space("one", Choice("x", (4,)), nothing))] == [4]
    valid = Space("valid", SPACE.choices, nothing, valid=lambda a: a["depth"] == 2)
    assert {a["depth"] for a in grid(valid)} == {2}
    some = frozenset(SPACE.key(a) for _, a in zip(range(7), SPACE.sample(0), strict=False))
    assert {SPACE.key(a) for a in grid(KnownPart(SPACE, some))} == some
    with pytest.raises(ConfigError, match="--sampler grid needs a space made of choices, but 'f' is a function of a"):
        grid(FunctionSpace("f", lambda trial: nn.Identity(), DataShape(1, 8, 8, 3)))


def test_known_architectures_come_first():
    first = [{"depth": 3, "block": "mlp", "dropout": 0.2, "act": None}, {"depth": 1, "block": "mlp", "dropout": 0.0}]
    first[1]["act"] = "relu"
    assert propose(SPACE, [], set(), 0, "tpe", first) == first[0]
    assert propose(SPACE, [], {SPACE.key(first[0])}, 0, "tpe", first) == first[1]
    both = {SPACE.key(a) for a in first}
    assert propose(SPACE, [], both, 0, "random", first) not in first


SETTINGS = {
    "trials": 10,
    "truth": 4,
    "workers": 1,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 1, "batch_size": 6},
}


@pytest.fixture
def condensed(tmp_path, tiny_space):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    given = {"dataset": f"npz:{tmp_path / 'blobs.npz'}", "space": str(tiny_space), **SETTINGS}
    run = prepare_run(tmp_path / "run", resolve(given))
    run_stages(run, ("condense",))
    return run


def trials(run) -> pd.DataFrame:
    return pd.read_csv(run / "trials.csv")


def changed(run, **settings):
    return run_all(resolve(settings, run / "run.toml"), run.path, names=("search",))


@pytest.mark.slow
def test_the_sampler_changes_proposals_and_not_the_sample_until_one_is_made(condensed):
    run_stages(condensed, ("search",))
    by_ei = trials(condensed)
    with pytest.raises(RunFolderError, match=r"holds another run \(sampler: 'ei' → 'random'\); choose another folder"):
        changed(condensed, sampler="random")
    (condensed / "study.db").unlink()
    changed(condensed, sampler="random")
    assert open_run(condensed.path).config.sampler == "random"
    at_random = trials(condensed)
    sample = ["key", "index", "score"]
    assert by_ei[by_ei["phase"] == "sample"][sample].equals(at_random[at_random["phase"] == "sample"][sample])
    assert list(by_ei["key"]) != list(at_random["key"])
    changed(condensed, trials=12)
    assert list(trials(condensed)["key"][:10]) == list(at_random["key"])


@pytest.mark.slow
def test_enqueued_architectures_are_trained_first_and_not_ranked(condensed, tmp_path, monkeypatch, capsys):
    run_stages(condensed, ("search",))
    drawn = list(trials(condensed)["key"][:4])
    (condensed / "study.db").unlink()
    known = [key for key in ("width=16,act=relu", "width=16,act=tanh", "width=12,act=relu") if key not in drawn]
    (tmp_path / "known.txt").write_text("\n".join([*known, drawn[0]]))
    monkeypatch.setattr(
        sys, "argv", ["nas-proxy", "search", str(condensed.path), "--enqueue", str(tmp_path / "known.txt"), "--json"]
    )
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out)["trials"] == 10
    found = trials(condensed)
    assert list(found["key"][:4]) == drawn
    assert list(found["key"][4 : 4 + len(known)]) == known
    assert set(found["phase"][4:]) == {"search"}
    assert found["key"].is_unique
    # The file is not needed any more.
    (tmp_path / "known.txt").unlink()
    changed(condensed, trials=11)
    assert len(trials(condensed)) == 11


def test_mistakes_in_how_to_propose_come_before_the_work(condensed, tmp_path):
    with pytest.raises(ConfigError, match=r"sampler is 'tpa'; did you mean 'tpe'\? known: ei, evolution, grid"):
        changed(condensed, sampler="tpa")
    with pytest.raises(ConfigError, match=r"--enqueue, entry 1 \(width=5,act=relu\): width is '5'; it must be one of"):
        changed(condensed, enqueue=("width=5,act=relu",))
    names = [f"width={w},act={a}" for w in (1, 2, 4, 6) for a in ("relu", "tanh")]
    with pytest.raises(ConfigError, match=r"--enqueue names 8 architectures, but --trials 10 .*; give --trials 12 or"):
        changed(condensed, enqueue=tuple(names))
    assert open_run(condensed.path).config.enqueue == ()
    with pytest.raises(ConfigError, match=r"enqueue is \[3\]; it must be a list of keys"):
        resolve({"enqueue": [3]})


@pytest.mark.parametrize(
    "sampler", ["nsga2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("evolution", "grid"))]
)
def test_a_search_cut_short_goes_on_the_same(condensed, sampler, tmp_path):
    changed(condensed, sampler=sampler)
    whole = list(trials(condensed)["key"])
    (condensed / "study.db").unlink()
    given = {"trials": 6, "sampler": sampler}
    (condensed / "run.toml").unlink()
    config = resolve({"dataset": condensed.config.dataset, "space": condensed.config.space, **SETTINGS, **given})
    (condensed / "proxy.safetensors").rename(tmp_path / "kept")
    prepare_run(condensed.path, config, overwrite=True)
    (tmp_path / "kept").rename(condensed / "proxy.safetensors")
    run_stages(open_run(condensed.path), ("search",))
    changed(condensed, trials=10)
    assert list(trials(condensed)["key"]) == whole


def test_a_failing_space_still_proposes(tmp_path, condensed):
    space = write_space(tmp_path / "failing.py", (1, 3, 4))
    settings = {"dataset": condensed.config.dataset, "space": str(space), **SETTINGS, "trials": 6, "truth": 3}
    run = prepare_run(tmp_path / "failing", resolve({**settings, "sampler": "evolution"}))
    run_stages(run, ("condense", "search"))
    assert (trials(run)["state"] == "failed").sum() == 2
