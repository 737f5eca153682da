"""Spaces: keys, sizes, uniform sampling over distinct architectures, suggestion, define-by-run functions."""

import itertools
from collections import Counter
from dataclasses import dataclass

import numpy as np
import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import nn

from nas_proxy import NOTHING, Branch, Choice, DataShape, Space, SpaceError, load_space, repeat
from nas_proxy.spaces.built_in import list_spaces
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.loading import try_out
from nas_proxy.spaces.space import Choices

SHAPE = DataShape(1, 8, 8, 10)


def build(architecture, shape):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(shape.classes))


@st.composite
def choices(draw, depth: int = 2, prefix: str = "c") -> Choices:
    """Any nest of choices, branches and conjunctions, with distinct names."""
    parts = []
    for i in range(draw(st.integers(1, 3))):
        name = f"{prefix}{i}"
        options = draw(st.lists(st.integers(0, 9), min_size=1, max_size=3, unique=True))
        if depth and draw(st.booleans()):
            parts.append(Branch(name, {o: draw(choices(depth - 1, f"{name}.{o}.")) for o in options}))
        else:
            parts.append(Choice(name, options))
    found = parts[0]
    for part in parts[1:]:
        found = found & part
    return found


@given(choices())
@settings(max_examples=60, deadline=None)
def test_every_outcome_is_another_architecture_with_another_key(value):
    space = Space("any", value, build)
    outcomes = [value.at(i) for i in range(min(value.size, 300))]
    assert len({space.key(o) for o in outcomes}) == len(outcomes)


@given(choices())
@settings(max_examples=60, deadline=None)
def test_outcomes_come_in_the_order_of_their_numbers(value):
    if value.size <= 2000:
        assert list(value.outcomes()) == [value.at(index) for index in range(value.size)]


@given(choices(), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_sampling_without_end_gives_the_whole_space_once(value, seed):
    space = Space("any", value, build)
    if space.size > 2000:
        return
    keys = [space.key(a) for a in space.sample(seed)]
    assert len(keys) == len(set(keys)) == space.size


@given(choices(), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_suggestion_of_a_fixed_trial_returns_the_architecture(value, index):
    architecture = value.at(index % value.size)
    assert value.suggest(optuna.trial.FixedTrial(architecture)) == architecture


def test_samples_are_uniform_over_architectures_of_a_conditional_space():
    value = Branch("kind", {"one": NOTHING, "many": Choice("n", range(9))})
    space = Space("conditional", value, build)
    first = Counter(space.key(next(space.sample(seed))) for seed in range(2000))
    assert len(first) == space.size == 10
    assert chisquare(list(first.values())).pvalue > 1e-4


def test_a_space_too_large_to_enumerate_is_sampled_without_repeats():
    space = Space("large", repeat(Choice("op", ("a", "b", "c", "d")), 40, "layer"), build)
    assert space.size == 4**40
    drawn = [space.key(a) for a in itertools.islice(space.sample(1), 200)]
    assert len(set(drawn)) == 200
    assert drawn[0].startswith("layer0.op=")
    assert drawn == [space.key(a) for a in itertools.islice(space.sample(1), 200)]
    assert drawn != [space.key(a) for a in itertools.islice(space.sample(2), 200)]


def test_valid_leaves_out_and_name_of_merges():
    digits = Choice("a", range(4)) & Choice("b", range(4))
    space = Space("valid", digits, build, valid=lambda a: a["a"] <= a["b"])
    assert space.size == 10
    assert space.suggest(optuna.trial.FixedTrial({"a": 3, "b": 0})) is None
    merged = Space("merged", digits, build, name_of=lambda a: str(a["a"] + a["b"]))
    assert sorted(map(merged.key, merged.sample(0))) == sorted(map(str, range(7)))


def test_repeated_and_missing_options_are_refused():
    with pytest.raises(SpaceError, match="the choice 'depth' lists 2 twice; its options must differ"):
        Choice("depth", (1, 2, 2))
    with pytest.raises(SpaceError, match="the choice 'depth' has no options"):
        Choice("depth", ())


@pytest.mark.parametrize("options", [(1, True), (1, np.int64(1)), (np.int64(1), 1.0), ((1, 2), (1, 2)), (None, None)])
def test_options_of_several_types_that_are_equal_are_repeated_ones(options):
    with pytest.raises(SpaceError, match="twice; its options must differ"):
        Choice("depth", (0, *options))
    assert Choice("depth", (options[0], "1", 2.5)).size == 3


def mlp(trial, shape):
    width, layers = shape.channels * shape.height * shape.width, [nn.Flatten()]
    for i in range(trial.suggest_int("depth", 1, 2)):
        units = trial.suggest_categorical(f"units{i}", [4, 8, 16])
        layers += [nn.Linear(width, units), nn.ReLU()]
        width = units
    return nn.Sequential(*layers, nn.Linear(width, shape.classes))


def test_a_function_space_samples_each_architecture_alike_and_once():
    space = FunctionSpace("mlp", mlp, SHAPE)
    keys = [space.key(a) for a in space.sample(0)]
    assert len(keys) == len(set(keys)) == 3 + 9
    # As it stands, half of all draws would have depth 1; among architectures it is a quarter.
    first = Counter(next(space.sample(seed))["depth"] for seed in range(80))
    assert 9 <= first[1] <= 31


def test_a_function_space_builds_what_it_sampled():
    space = FunctionSpace("mlp", mlp, SHAPE)
    network = space.build({"depth": 1, "units0": 8}, SHAPE)
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    assert next(network.parameters()).device.type == "cpu"


@dataclass
class Case:
    text: str
    message: str


CASES = {
    "import": Case("import nothing_like_this", "does not import: ModuleNotFoundError"),
    "syntax": Case("def space(", "does not import: SyntaxError"),
    "neither": Case("x = 1", "defines neither `space` nor `space_for"),
    "kind": Case("space = 3", "is a int; it must be a nas_proxy.Space or a function"),
    "no module": Case("def space(trial):\n    return 3", "returned an object of type int; it must"),
    "raises": Case("def space(trial):\n    raise KeyError('x')", "yields no network for images of 1×8×8: .*KeyError"),
    "shape": Case(
        "from torch import nn\ndef space(trial):\n    return nn.Flatten()",
        r"returned shape \(2, 64\) for 2 images of 1×8×8; expected \(2, 10\)",
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_space_file_that_cannot_be_used_gets_a_sentence(tmp_path, case):
    path = tmp_path / "mine.py"
    path.write_text(case.text)
    with pytest.raises(SpaceError, match=case.message):
        try_out(load_space(str(path), SHAPE), SHAPE)


def test_a_space_some_of_whose_networks_are_wrong_can_be_searched(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import sys\n"
        "from torch import nn\n"
        "from nas_proxy import Choice, Space\n"
        "def build(architecture, shape):\n"
        "    if architecture['kind'] == 0:\n"
        "        return nn.Flatten()\n"
        "    if architecture['kind'] == 1:\n"
        "        return None\n"
        "    if architecture['kind'] == 2:\n"
        "        sys.exit(3)\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "space = Space('mine', Choice('kind', (0, 1, 2, 3)), build)\n"
    )
    try_out(load_space(str(path), SHAPE), SHAPE)
    other = tmp_path / "other.py"
    other.write_text(path.read_text().replace("(0, 1, 2, 3)", "(2,)"))
    with pytest.raises(SpaceError, match="yields no network for images of 1×8×8: kind=2 raises SystemExit: 3"):
        try_out(load_space(str(other), SHAPE), SHAPE)


def test_unknown_names_and_files_get_a_sentence(tmp_path):
    with pytest.raises(SpaceError, match=r"unknown search space 'convnets'; did you mean 'convnet'\?"):
        load_space("convnets", SHAPE)
    with pytest.raises(SpaceError, match="does not exist"):
        load_space(str(tmp_path / "absent.py"), SHAPE)


def test_a_space_file_may_import_what_lies_beside_it(tmp_path):
    (tmp_path / "my_blocks.py").write_text("WIDTHS = (1, 2)\n")
    path = tmp_path / "mine.py"
    path.write_text(
        "from my_blocks import WIDTHS\n"
        "from nas_proxy import Choice, Space\n"
        "space = Space('m', Choice('w', WIDTHS), print)\n"
    )
    assert load_space(str(path), SHAPE).size == 2


@pytest.mark.parametrize("shape", [DataShape(1, 8, 8, 10), DataShape(3, 32, 32, 10), DataShape(1, 28, 28, 47)])
def test_the_convnet_space_fits_the_images(shape):
    space = load_space("convnet", shape)
    assert space.size == {8: 540, 32: 720, 28: 720}[shape.height]
    architectures = list(space.sample(0))
    deepest = max(a["depth"] for a in architectures)
    for architecture in architectures[:20] + [a for a in architectures if a["depth"] == deepest][:5]:
        with torch.device("meta"):
            network = space.build(architecture, shape)
            assert network(torch.zeros(2, *shape[:3])).shape == (2, shape.classes)


def test_the_built_in_spaces_are_listed_with_a_description():
    assert dict(list_spaces())["convnet"].startswith("The paper's 720 ConvNets")


def test_only_what_is_valid_is_named():
    def name_of(architecture):
        return f"{100 // architecture['a']}"  # of valid ones alone

    choices = Choice("a", tuple(range(600))) & Choice("b", tuple(range(400)))  # more than are listed
    space = Space("named", choices, lambda a, shape: nn.Identity(), valid=lambda a: 0 < a["a"] < 300, name_of=name_of)
    assert all(0 < architecture["a"] < 300 for architecture in itertools.islice(space.sample(0), 5))
