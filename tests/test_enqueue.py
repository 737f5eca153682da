"""Architectures that somebody wants to see trained first: files of them, and the mistakes in these."""

import json

import pytest

from nas_proxy import Space
from nas_proxy.data.images import DataShape
from nas_proxy.errors import ConfigError
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.strategy.enqueue import architectures, read_entries
from proposals import propose
from test_samplers import SPACE, nothing


def test_known_architectures_come_first():
    first = [{"depth": 3, "block": "mlp", "dropout": 0.2, "act": None}, {"depth": 1, "block": "mlp", "dropout": 0.0}]
    first[1]["act"] = "relu"
    assert propose(SPACE, [], set(), 0, "tpe", first) == first[0]
    assert propose(SPACE, [], {SPACE.key(first[0])}, 0, "tpe", first) == first[1]
    both = {SPACE.key(a) for a in first}
    assert propose(SPACE, [], both, 0, "random", first) not in first


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
