"""Known architectures to begin with: entries of a file in, architectures or a sentence out."""

import json

import pytest
from torch import nn

from nas_proxy import Branch, Choice, Space
from nas_proxy.data.images import DataShape
from nas_proxy.errors import ConfigError
from nas_proxy.ranking.truth_table import KnownPart
from nas_proxy.spaces.choices import All
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.limits import Limited
from nas_proxy.spaces.measured import Size
from nas_proxy.strategy.enqueue import architectures, read_entries


def nothing(architecture, shape):
    return nn.Identity()


CHOICES = (
    Choice("depth", (1, 2, 3))
    & Branch("block", {"conv": Choice("kernel", (1, 3, 5)), "mlp": Choice("dropout", (0.0, 0.2))})
    & Choice("act", ("relu", "tanh", None))
)
SPACE = Space("branched", CHOICES, nothing)


def test_entries_of_a_file(tmp_path):
    path = tmp_path / "known"
    path.write_text(
        "# good ones\ndepth=3,block=mlp,dropout=0.2,act=None\n\n depth=1, block=conv, kernel=5, act=tanh \n"
    )
    lines = architectures(SPACE, read_entries(path))
    assert lines[0] == {"depth": 3, "block": "mlp", "dropout": 0.2, "act": None}
    assert lines[1] == {"depth": 1, "block": "conv", "kernel": 5, "act": "tanh"}
    path.write_text(json.dumps([lines[0], SPACE.key(lines[1])]))
    assert architectures(SPACE, read_entries(path)) == lines
    named = Space("named", SPACE.choices, nothing, name_of=lambda a: f"{a['depth']}|{a['block']}")
    assert architectures(named, ["2|mlp"])[0]["depth"] == 2

    def function(trial):
        trial.suggest_int("width", 2, 8, step=2)
        return trial.suggest_float("rate", 0, 1)

    space = FunctionSpace("f", function, DataShape(1, 8, 8, 3))
    for entry in ("width=4,rate=0.25", '{"width": 4, "rate": 0.25}'):
        assert architectures(space, [entry]) == [{"width": 4, "rate": 0.25}]
    with pytest.raises(ConfigError, match="width is '3'; it must be between 2 and 8"):
        architectures(space, ["width=3,rate=0.25"])


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("depth=9,block=conv,kernel=5,act=tanh", "depth is '9'; it must be one of 1, 2, 3"),
        ('{"depth": "3", "block": "conv"}', "depth is '3'; it must be one of 1, 2, 3"),
        ("depth=1,block=conv,act=tanh", "it lacks 'kernel', which is one of 1, 3, 5"),
        ("depth=1,block=mlp,dropout=0.2,act=tanh,kernel=5", "it sets 'kernel'; known: act, block, depth, dropout"),
        ("deep", "'deep' is no choice; write name=value, with commas between"),
        ("{deep", "Expecting property name enclosed in double quotes"),
    ],
)
def test_a_wrong_entry_gets_a_sentence_and_all_are_told(entry, sentence):
    with pytest.raises(ConfigError) as caught:
        architectures(SPACE, [entry, "depth=1,block=mlp,dropout=0.2,act=tanh", entry])
    mistakes = caught.value.mistakes
    assert len(mistakes) == 2
    assert mistakes[1].startswith(f"--enqueue, entry 3 ({entry}): {sentence}")


def test_a_wrong_file_gets_a_sentence(tmp_path):
    path = tmp_path / "known"
    with pytest.raises(ConfigError, match="known of --enqueue does not exist; give a JSON list or a key a line"):
        read_entries(path)
    sentences = {
        "# nothing\n": "names no architecture",
        "[1]": "lists 1; an entry is an object or",
        "[{": "is not JSON",
    }
    for text, sentence in sentences.items():
        path.write_text(text)
        with pytest.raises(ConfigError, match=sentence):
            read_entries(path)


def parts_of(space, allowed):
    """The same part of a space, as a truth table and as limits leave it."""
    keys = frozenset(space.key(a) for a in space.sample(0) if allowed(a))
    measured = lambda a: Size(0, 0 if allowed(a) else 9)  # noqa: E731
    return KnownPart(space, keys), Limited(space, flops=5, measured=measured), Limited(KnownPart(space, keys))


@pytest.mark.parametrize("number", range(3))
def test_names_of_a_space_are_known_in_a_part_of_it(number):
    space = Space("named", SPACE.choices, nothing, name_of=lambda a: f"{a['depth']}|{a['block']}")
    part = parts_of(space, lambda a: a["depth"] == 2)[number]
    assert [(a["depth"], a["block"]) for a in architectures(part, ["2|mlp", "2|conv"])] == [(2, "mlp"), (2, "conv")]
    with pytest.raises(ConfigError, match=r"entry 1 \(3\|mlp\): the search space refuses it"):
        architectures(part, ["3|mlp"])
    with pytest.raises(ConfigError, match=r"'4\|mlp' is no choice"):
        architectures(part, ["4|mlp"])


def test_every_key_of_a_table_of_trials_is_an_entry():
    options = ((16, 16), (32,), "a,b=1", "x=", None, 2.5, {"k": (1, 2)})
    space = Space("odd", Choice("w", options) & Choice("b", (1, 2)), nothing)
    every = [*space.sample(0)]
    assert len(every) == 14
    assert architectures(space, [space.key(a) for a in every]) == every
    many = [Choice(name, tuple(range(10))) for name in "abcdef"]
    large = Space("large", All((Choice("w", options[:2]), *many)), nothing)  # too many to be listed
    assert architectures(large, ["a=7,w=(16, 16),b=1,c=1,d=1,e=1,f=1"])[0]["w"] == "(16, 16)"


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ('{"w":' * 100_000, "recursion"),
        ('{"w":' + "[" * 500 + "]" * 500 + "}", "w is [[[[[[[...]]]]]]]; it must be between 2 and 8"),
        ('{"w": 1e999}', "w is inf; it must be between 2 and 8"),
        ('{"w": 1' + "0" * 400 + "}", "it must be between 2 and 8"),
        ("w=1e999", "w is '1e999'; it must be between 2 and 8"),
    ],
)
def test_values_beyond_all_bounds_get_a_sentence(entry, sentence):
    space = FunctionSpace("f", lambda trial: trial.suggest_int("w", 2, 8), DataShape(1, 8, 8, 3))
    with pytest.raises(ConfigError) as caught:
        architectures(space, [entry])
    assert sentence in caught.value.mistakes[0]
