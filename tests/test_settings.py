"""RunConfig: complete, written and read back, with all mistakes told together."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_proxy.errors import ConfigError
from nas_proxy.pipeline.bounds import BOUNDS, CHOICES, POSITIVE
from nas_proxy.pipeline.settings import (
    RunConfig,
    default_config,
    differences,
    resolve,
    to_dict,
    write_config,
)


def flat(config, prefix=""):
    for name, value in dataclasses.asdict(config).items() if prefix == "" else config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_every_number_has_a_bound():
    optional = {
        "max_params": 9,
        "max_flops": 9,
        "max_latency_ms": 9.0,
        "patience": 3,
        "hours": 1.0,
        "candidate_minutes": 60.0,
        "candidate_memory": 500.0,
        "classes_per_step": 9,
    }
    values = dict(flat(RunConfig(limit=5, image_size=8, **optional)))
    numbers = {name for name, value in values.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    assert numbers == set(BOUNDS) | POSITIVE
    assert set(CHOICES) <= set(values)


@given(
    st.builds(
        lambda seed, trials, limit, lr, epochs: {
            "seed": seed,
            "trials": trials,
            "limit": limit,
            "condense": {"learning_rate": lr},
            "full_training": {"epochs": epochs},
        },
        st.integers(0, 2**62),
        st.integers(1, 10**6),
        st.none() | st.integers(3, 100),
        st.floats(1e-9, 1e9),
        st.floats(1e-3, 1e4),
    )
)
def test_a_written_configuration_reads_back_the_same(tmp_path_factory, given_values):
    path = tmp_path_factory.mktemp("config") / "run.toml"
    config = resolve(given_values)
    write_config(config, path)
    assert resolve({}, path) == config


def test_explicit_values_win_over_the_file_and_the_file_over_defaults(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('dataset = "cifar10"\ntrials = 100\n[proxy_training]\nlearning_rate = 5e-4\n')
    config = resolve({"trials": 200, "truth": None, "proxy_training": {"epochs": 3}}, path)
    assert (config.dataset, config.trials, config.truth) == ("cifar10", 200, 24)
    assert (config.proxy_training.learning_rate, config.proxy_training.epochs) == (5e-4, 3.0)
    assert config.condense == default_config("cifar10").condense


def test_all_mistakes_are_told_together(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(
        'dataset = 3\ntrails = 9\ntruth = 0\ndevice = "gpu"\ncondense = 5\n'
        '[proxy_training]\nepochs = 0\nlearning_rate = "5e-4"\naugmentation = ["flip", "blur"]\nmomentum = 1.5\n'
        'schedule = "cosin"\n'
    )
    with pytest.raises(ConfigError) as caught:
        resolve({}, path)
    told = [mistake.removeprefix(f"{path}: ") for mistake in caught.value.mistakes]
    assert told[0] == "dataset is 3; it must be a string"
    assert told[1].startswith("unknown setting 'trails'; did you mean 'trials'?")
    assert told[2:5] == [
        "truth is 0; it must be at least 1",
        "device is 'gpu'; it must be auto, cpu, cuda or cuda:N",
        "condense is 5; it must be a table [condense]",
    ]
    assert "proxy_training.epochs is 0; it must be above 0" in told
    assert "proxy_training.learning_rate is '5e-4'; it must be a number" in told
    assert any(mistake.startswith("proxy_training.augmentation holds 'blur'") for mistake in told)
    assert "proxy_training.schedule is 'cosin'; did you mean 'cosine'? known: cosine, step" in told
    assert "proxy_training.momentum is 1.5; it must be between 0 and 0.999" in told


@pytest.mark.parametrize("text", ["not toml at all", "trials = "])
def test_a_file_that_is_not_toml_gets_a_sentence(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is not a TOML file"):
        resolve({}, path)
    with pytest.raises(ConfigError, match="does not exist"):
        resolve({}, tmp_path / "absent.toml")


def test_no_flip_holds_for_all_trainings_and_over_a_file(tmp_path):
    path = tmp_path / "run.toml"
    write_config(resolve({"dataset": "cifar10"}), path)
    for config in (resolve({"dataset": "cifar10", "flip": False}), resolve({"flip": False}, path)):
        for recipe in (config.condense, config.proxy_training, config.full_training):
            assert "flip" not in recipe.augmentation
    assert "flip" in resolve({}, path).condense.augmentation
    assert "flip" not in resolve({"dataset": "mnist"}).condense.augmentation


def test_only_what_makes_another_run_differs():
    base = RunConfig()
    elsewhere = dataclasses.replace(base, device="cpu", workers=7, trials=99, truth=50)
    assert differences(elsewhere, base) == []
    other = dataclasses.replace(base, seed=1, limit=9, condense=dataclasses.replace(base.condense, steps=3))
    assert differences(other, base) == ["condense.steps: 20000 → 3", "limit: None → 9", "seed: 0 → 1"]
    assert "limit" not in to_dict(base)


def test_signals_are_named(tmp_path):
    path = tmp_path / "run.toml"
    write_config(resolve({"signals": ["synflow", "params"], "combine": ["proxy", "flops"]}), path)
    assert resolve({}, path).signals == ("synflow", "params")
    assert resolve({}, path).combine == ("proxy", "flops")
    assert (resolve({}).signals, resolve({}).combine) == (("params", "flops"), ())
    assert differences(resolve({}, path), resolve({})) == []


@pytest.mark.parametrize(
    ("name", "value", "mistake"),
    [
        ("signals", "synflow", "is 'synflow'; it must be a list of names: params, flops, synflow, jacob_cov, naswot"),
        (
            "signals",
            ["synflw"],
            "holds 'synflw'; did you mean 'synflow'? known: az_nas, flops, jacob_cov, naswot",
        ),
        ("signals", ["flops", "flops"], "holds 'flops' more than once; leave one"),
        ("signals", ["proxy"], "holds 'proxy'; known: az_nas, flops, jacob_cov"),
        ("combine", ["proxy"], "holds 'proxy' alone; give at least two"),
        ("combine", ["random", "flops"], "holds 'random', which has several draws; known: az_nas, early_stop, flops"),
    ],
)
def test_a_wrong_signal_gets_a_sentence(name, value, mistake):
    with pytest.raises(ConfigError) as caught:
        resolve({name: value})
    assert caught.value.mistakes[0].startswith(f"{name} {mistake}")


def test_many_images_a_class_take_the_papers_larger_rate():
    assert resolve({"condense": {"images_per_class": 50}}).condense.learning_rate == 1.0
    assert resolve({"condense": {"images_per_class": 51}}).condense.learning_rate == 10.0
