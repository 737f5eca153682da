"""RunConfig: complete, written and read back, with all mistakes told together."""

import dataclasses
import subprocess
import sys
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas_proxy.condensation import embedding, selection
from nas_proxy.data import augment
from nas_proxy.errors import ConfigError
from nas_proxy.names import ZERO_COST
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.ranking.nats_bench import PREFIX
from nas_proxy.ranking.scores import SCORES
from nas_proxy.runs.comparison_checks import LEAST as LEAST_RANKED
from nas_proxy.runs.identity import differences
from nas_proxy.runs.nested import NATS
from nas_proxy.runs.resolving import default_config, resolve
from nas_proxy.runs.settings import Comparison, RunConfig, default_folder, settings_file, to_dict, write_config
from nas_proxy.strategy.samplers import SAMPLERS
from nas_proxy.training import execution
from nas_proxy.training.pruning import PRUNERS
from nas_proxy.validation import bounds, checked, choices, hints, kind


def fields_of(owner, prefix=""):
    """Yield the path, the class and the name of each setting."""
    for name, hint in hints(owner).items():
        inner = [
            part for part in (hint, *typing.get_args(hint)) if isinstance(part, type) and dataclasses.is_dataclass(part)
        ]
        yield from fields_of(inner[0], f"{prefix}{name}.") if inner else [(prefix + name, owner, name)]


def test_every_number_has_a_bound_that_holds():
    numbers = [found for found in fields_of(RunConfig) if kind(*found[1:]) in {int, float}]
    assert len(numbers) > 35
    for path, owner, name in numbers:
        allowed = bounds(owner, name)
        assert allowed.keys() & {"ge", "gt"}, path
        least = allowed["ge"] - 1 if "ge" in allowed else allowed["gt"]
        for value, sentence in ((least, str(least)), (True, "True"), ("5", "'5'")):
            with pytest.raises(ValueError, match=rf"^is {sentence}; it must be "):
                checked(owner, name, value)


def test_what_can_be_chosen_is_there():
    chosen = {path: choices(owner, name) for path, owner, name in fields_of(RunConfig)}
    for table in ("proxy_training", "full_training"):
        assert set(chosen[f"{table}.precision"]) == set(execution.PRECISIONS)
        assert set(chosen[f"{table}.augmentation"]) == set(augment.FULL)
    assert set(chosen["condense.precision"]) == set(embedding.PRECISIONS)
    assert set(chosen["condense.method"]) == {"dm", "patches", *selection.METHODS}
    assert set(chosen["sampler"]) == {"ei", *SAMPLERS}
    assert set(chosen["pruner"]) == set(PRUNERS)
    assert set(chosen["score"]) == set(SCORES)
    assert set(chosen["signals"]) == set(ZERO_COST)
    assert LEAST_RANKED == LEAST
    assert NATS == PREFIX


def test_settings_are_read_without_pytorch():
    code = "import sys, nas_proxy.cli.app, nas_proxy.runs.folder; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_comparison_is_complete_written_and_read_back(tmp_path):
    asked = {"truth": 6, "compare": {"signals": ["dm+formation", "params"], "combine": ["dm:loss_sum", "params"]}}
    config = resolve(asked)
    baselines = ("dm", "random", "random+formation", "random_total")
    assert config.compare == Comparison(("dm+formation", "params", *baselines), ("dm:loss_sum", "params"))
    assert (config.trials, config.truth) == (6, 6)
    path = tmp_path / settings_file(config)
    assert path.name == "compare.toml"
    write_config(config, path)
    assert resolve({}, path) == config
    assert settings_file(resolve({})) == "run.toml"
    assert str(default_folder(config)) == "runs/compare-digits-convnet"


def test_a_comparison_of_an_earlier_version_is_read(tmp_path):
    path = tmp_path / "compare.toml"
    path.write_text(
        'dataset = "digits"\ntrials = 48\ntruth = 24\n[proxy_training]\nepochs = 60\n'
        '[compare]\nsignals = ["dm", "random", "random_total"]\ncombine = []\nscore = "both"\ndraws = 2\npasses = 90\n'
    )
    config = resolve({}, path)
    assert config.compare == Comparison(("dm", "random", "random_total"), draws=2, passes=90)
    assert config.trials == config.truth == 24
    other = dataclasses.replace(config, compare=Comparison(("params",), ("a", "b"), "accuracy", 3, 90, 9))
    assert differences(other, config) == []
    longer = dataclasses.replace(config, compare=dataclasses.replace(config.compare, passes=None))
    assert differences(longer, config) == ["compare.passes: 90 → None"]


def test_full_training_may_change_where_a_table_holds_the_truth():
    table = resolve({"truth_table": "truth.csv", "compare": {}})
    longer = dataclasses.replace(table, full_training=dataclasses.replace(table.full_training, epochs=99))
    assert differences(longer, table) == []
    alone = [dataclasses.replace(config, truth_table=None) for config in (longer, table)]
    assert differences(*alone) == ["full_training.epochs: 10 → 99"]


def test_the_length_of_a_training_is_given_once():
    given_twice = {"compare": {"passes": 9}, "proxy_training": {"epochs": 3}}
    with pytest.raises(ConfigError) as caught:
        resolve(given_twice, options={"compare.passes": "--passes"})
    assert caught.value.mistakes == (
        "--passes and --epochs (proxy_training.epochs) both say how long a training is; give one of them",
    )


@pytest.mark.parametrize(
    ("given_values", "mistakes"),
    [
        ({"compare": 5}, ["compare is 5; it must be a table [compare]"]),
        ({"compare": {}, "proxy_training": 5}, ["proxy_training is 5; it must be a table [proxy_training]"]),
        (
            {"compare": {"draws": True, "signals": "dm", "score": 3, "combine": [1]}},
            [
                "compare.draws is True; it must be a whole number",
                "compare.signals is 'dm'; it must be a list of names of signals",
                "compare.score is 3; it must be a string",
                "compare.combine is [1]; it must be a list of names of rows",
            ],
        ),
        ({"dataset": ""}, ["dataset is empty; give a name"]),
        (
            {"dataset": "a\0b", "space": "\ud800"},
            [
                "dataset is 'a\\x00b', which is not UTF-8 and cannot be written down; give a name that is",
                "space is '\\ud800', which is not UTF-8 and cannot be written down; give a name that is",
            ],
        ),
        (
            {"enqueue": ["\ud800"]},
            ["enqueue holds '\\ud800', which is not UTF-8 and cannot be written down; leave it out"],
        ),
        (
            {"hours": float("inf"), "trials": 1.0},
            ["hours is inf; it must be finite", "trials is 1.0; it must be a whole number"],
        ),
        ({"devices": ["cpu", "gpu"]}, ["devices holds 'gpu'; each must be auto, cpu, cuda or cuda:N"]),
        ({"flip": 1}, ["flip is 1; it must be true or false"]),
    ],
)
def test_hostile_values_get_sentences(given_values, mistakes):
    with pytest.raises(ConfigError) as caught:
        resolve(given_values)
    assert list(caught.value.mistakes) == mistakes


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
    assert (config.dataset, config.trials, config.truth) == ("cifar10", 200, 36)
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
    assert (resolve({}).signals, resolve({}).combine) == (ZERO_COST, ())
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
