"""Options of any kind: labels that JSON holds, keys that tell apart what == does, one set of options a name."""

import enum
import functools
import itertools
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import FixedTrial
from torch import nn

from nas_proxy import Branch, Choice, DataShape, Space, SpaceError, repeat
from nas_proxy.spaces.checking import check_draws, try_out
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.labels import labels

SHAPE = DataShape(1, 4, 4, 3)
ROOT = Path(__file__).parents[1]


class Size(enum.Enum):
    SMALL = 1
    LARGE = 2


class Own:
    pass


OPTIONS = {
    "classes": (nn.ReLU, nn.GELU),
    "functions": (len, math.sqrt, lambda x: x, lambda x: -x),
    "tuples": ((4,), (4, 8), (4, (8, "a"))),
    "lists": ([4], [4, 8]),
    "dicts": ({"a": 1}, {"a": 2}),
    "numpy": tuple(np.array([1, 2, 3])),
    "numpy floats": (np.float32(0.1), np.float64(0.5)),
    "enum": tuple(Size),
    "partial": (functools.partial(nn.LeakyReLU, 0.1), functools.partial(nn.LeakyReLU, 0.2)),
    "as text": (None, "None", 4, "4", True, "True", 0.5, "0.5", "'4'"),
    "odd text": ("", "a,b=2", "line\nbreak", "\ud800", "Ω"),
    "not finite": (math.inf, "inf", math.nan),
    "objects": (Own(), Own()),
}


def build(architecture, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, shape.classes))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_are_stored_as_labels_and_come_back_as_what_they_were(options):
    seen = []

    def keep(architecture, shape):
        seen.append(architecture["what"])
        return build(architecture, shape)

    space = Space("any", Choice("what", options) & Choice("width", (1, 2)), keep)
    drawn = list(space.sample(0))
    assert len({space.key(a) for a in drawn}) == len(drawn) == 2 * len(options)
    for architecture in drawn:
        again = json.loads(json.dumps(dict(architecture), allow_nan=False))
        assert again == architecture
        assert {name: type(value) for name, value in again.items()} == {n: type(v) for n, v in architecture.items()}
        assert space.suggest(FixedTrial(dict(again))) == architecture
        space.build(again, SHAPE)
    assert {id(value) for value in seen} == {id(option) for option in options}
    check_draws(space)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_function_may_suggest_any_options(options):
    seen = []

    def space_of(trial):
        seen.append(trial.suggest_categorical("what", list(options)))
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    space = FunctionSpace("any", space_of, SHAPE)
    drawn = list(itertools.islice(space.sample(0), len(options)))
    assert len({space.key(a) for a in drawn}) == len(options)
    seen.clear()
    for architecture in drawn:
        space.build(json.loads(json.dumps(dict(architecture), allow_nan=False)), SHAPE)
    assert {id(value) for value in seen} == {id(option) for option in options}


def test_values_that_json_holds_are_their_own_labels():
    assert labels((None, True, 3, 0.5, "relu")) == (None, True, 3, 0.5, "relu")
    space = Space("plain", Choice("depth", (1, 2)) & Choice("norm", (None, "batch")), build)
    assert next(iter(space.choices.outcomes())) == {"depth": 1, "norm": None}
    assert space.key({"depth": 1, "norm": "batch"}) == "depth=1,norm=batch"


def test_an_architecture_is_taken_with_options_as_with_labels():
    space = Space("any", Choice("act", (nn.ReLU, nn.GELU)), build)
    assert space.key({"act": nn.GELU}) == space.key({"act": "GELU"}) == "act=GELU"
    with pytest.raises(SpaceError, match="'act' is 'SiLU', which is none of its options: ReLU, GELU"):
        space.build({"act": "SiLU"}, SHAPE)


def test_valid_and_names_are_asked_with_the_options_themselves():
    space = Space(
        "any",
        Choice("widths", ((4,), (4, 8), (8, 8))),
        build,
        valid=lambda a: len(a["widths"]) == 2,
        name_of=lambda a: "-".join(map(str, a["widths"])),
    )
    assert sorted(map(space.key, space.sample(0))) == ["4-8", "8-8"]


ORDER = (
    "from nas_proxy import Choice, Space\n"
    "choices = Choice('a', {'x', 'yy', 'zzz', 3, 20, None}) & Choice('b', {frozenset({'p', 'q', 'r'}), 'o'})\n"
    "space = Space('s', choices, print)\n"
    "print([space.key(a) for a in space.sample(0)])"
)


def test_sets_of_options_are_in_one_order_in_every_process():
    found = {
        subprocess.run(
            [sys.executable, "-c", ORDER],
            env={"PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in range(3)
    }
    assert len(found) == 1


CLASHES = {
    "joined": lambda: Choice("w", (1, 2)) & Choice("a", (1,)) & Choice("w", (3,)),
    "in its own branch": lambda: Branch("w", {1: Choice("w", (3,)), 2: Choice("v", (3,))}),
    "beside a branch": lambda: Choice("w", (1,)) & Branch("b", {1: Choice("w", (1,)), 2: Choice("v", (1,))}),
    "two branches": lambda: Branch("a", {1: Choice("w", (1,))}) & Branch("b", {1: Choice("w", (1,))}),
    "repeated": lambda: repeat(Choice("w", (1,)), 2, "l") & Choice("l1.w", (1,)),
}


@pytest.mark.parametrize("choices", CLASHES.values(), ids=CLASHES)
def test_one_name_for_two_choices_that_can_both_be_made_is_refused(choices):
    with pytest.raises(SpaceError, match=r"the name '(l1\.)?w' is used for two choices that can both be made"):
        Space("clash", choices(), build)


def stored(space, architectures):
    """Store architectures as a study does."""
    study = optuna.create_study()
    for architecture in architectures:
        fixed = FixedTrial(dict(architecture))
        space.suggest(fixed)
        study.add_trial(optuna.create_trial(params=fixed.params, distributions=fixed.distributions, value=0.0))
    return [trial.params for trial in study.trials]


def test_a_name_that_branches_share_may_have_other_options_in_each():
    seen = []
    space = Space(
        "shared",
        Choice("width", (4, 8)) & Branch("block", {"a": Choice("kernel", (3, 5)), "b": Choice("kernel", (5, 7))}),
        lambda a, shape: seen.append(dict(a)) or build(a, shape),
    )
    drawn = list(space.sample(0))
    assert stored(space, drawn) == drawn
    assert len({space.key(a) for a in drawn}) == 8
    for architecture in drawn:
        space.build(architecture, SHAPE)
    assert {tuple(a) for a in seen} == {("width", "block", "kernel")}
    assert sorted((a["block"], a["kernel"]) for a in seen if a["width"] == 4) == [
        ("a", 3),
        ("a", 5),
        ("b", 5),
        ("b", 7),
    ]


def test_a_shared_name_with_the_same_options_stays():
    both = {"a": Choice("kernel", (3, 5)), "b": Choice("kernel", (3, 5))}
    assert Space("same", Branch("block", both), build).choices.at(0) == {"block": "a", "kernel": 3}


def branching(trial):
    kind = trial.suggest_categorical("block", ["a", "b"])
    kernel = trial.suggest_categorical("kernel", [3, 5] if kind == "a" else ["3", 7])
    assert trial.params == {"block": kind, "kernel": kernel}
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_a_function_may_share_names_between_its_paths():
    space = FunctionSpace("shared", branching, SHAPE)
    drawn = list(itertools.islice(space.sample(0), 4))
    assert stored(space, drawn) == drawn
    assert len({space.key(a) for a in drawn}) == 4
    check_draws(space)


def test_mistakes_in_choices_are_told_when_they_are_made():
    for make, message in (
        (lambda: Choice("norm", "batch"), "has the options 'batch'; give a tuple or list of them"),
        (lambda: Choice("w", 3), "has the options 3; give a tuple or list"),
        (lambda: Choice(3, (1, 2)), "a choice is called 3; its name must be text"),
        (lambda: Branch("b", {"a": None}), "the option 'a' of 'b' opens an object of type NoneType; give it choices"),
        (lambda: Choice("w", ((1,), (1,))), r"lists \(1,\) twice"),
        (lambda: Choice("n" * 600, (1, 2)), "must be printable and have at most 512 characters"),
        (lambda: Space("s", {"w": 1}, build), "the choices of the space 's' are a dict"),
        (lambda: Space("s", Choice("w", (1,)), "x"), "build of the space 's' is a str; it must be a function"),
        (lambda: try_out(Space("s", Choice("w", (1,)), None), SHAPE), "has no function that builds a network"),
    ):
        with pytest.raises(SpaceError, match=message):
            make()


def test_names_that_are_no_text_and_keys_that_merge_are_told_before_any_work():
    with pytest.raises(SpaceError, match="names an architecture 1; a name must be text"):
        try_out(Space("s", Choice("w", (1, 2)), build, name_of=lambda a: a["w"]), SHAPE)
    parts = Choice("a", ("1",)) & Choice("b", ("2",))
    merging = Branch("x", {1: Branch("y", {1: parts}), 2: Branch("y", {1: Choice("a=1,b", ("2",))})})
    check_draws(Space("s", merging, build))  # their branch tells them apart
