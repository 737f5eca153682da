"""The Pareto front by hand and by its definition; objectives in settings and proposals."""

import math

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_proxy import Choice, Space
from nas_proxy.data.images import DataShape
from nas_proxy.errors import ConfigError
from nas_proxy.pipeline.checks import check_objectives
from nas_proxy.ranking.scores import pareto_front
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import RunConfig
from nas_proxy.spaces.latency import measure_latency
from nas_proxy.spaces.measured import Latency
from nas_proxy.spaces.objectives import Costs, directions, front, improves
from nas_proxy.storage.records import Record
from nas_proxy.strategy.samplers import SAMPLERS
from proposals import fruitless, propose

VALUES = st.one_of(st.none(), st.sampled_from([math.nan, math.inf, -math.inf]), st.integers(0, 4).map(float))
SPACE = Space("plain", Choice("a", tuple(range(1, 21))) & Choice("b", (0, 1)), lambda architecture, shape: nn.Flatten())


def record(a, score, b=0, **more) -> Record:
    key = f"a={a},b={b}"
    return Record(key, {"a": a, "b": b}, "search", a, 0, params=10 * a, flops=100 - a, score=score, **more)


def test_the_front_by_hand():
    # Row 1 costs as much as row 0 and is better; row 3 is beaten by row 1; rows 4 and 5 are equal; row 6 has no score.
    accuracy = [0.5, 0.7, 0.9, 0.6, 0.4, 0.4, None, 0.95]
    params = [10, 10, 30, 20, 5, 5, 1, math.nan]
    assert front({"accuracy": accuracy, "params": params}) == [4, 5, 1, 2]
    # Latency makes the least accurate one worth having, and decides between equal parameters.
    latency = [1, 3, 3, 9, 9, 8, 0, 0]
    assert front({"accuracy": accuracy, "params": params, "latency": latency}) == [5, 0, 1, 2]
    assert front({"accuracy": accuracy}) == [7]
    assert front({"accuracy": [], "flops": []}) == []


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=12), data=st.data())
def test_the_front_is_what_nothing_beats(rows, data):
    def table(rows):
        return dict(zip(("accuracy", "params", "flops"), map(list, zip(*rows, strict=True)), strict=False)) or {
            "accuracy": []
        }

    def beats(one, other):
        better = (one[0] >= other[0], one[1] <= other[1], one[2] <= other[2])
        return all(better) and one != other

    known = [row for row in rows if all(value is not None and math.isfinite(value) for value in row)]
    expected = [row for row in known if not any(beats(other, row) for other in known)]
    found = [rows[index] for index in front(table(rows))]
    assert sorted(found) == sorted(expected)
    assert [row[1] for row in found] == sorted(row[1] for row in found)
    shuffled = data.draw(st.permutations(rows))
    assert [shuffled[index] for index in front(table(shuffled))] == found


@given(values=st.lists(st.tuples(st.integers(0, 4).map(float), st.integers(0, 4).map(float)), max_size=10))
def test_improving_is_joining_the_front(values):
    best = []
    for number, value in enumerate(values):
        fresh = not any(a >= value[0] and b >= value[1] for a, b in values[:number])
        assert improves(best, value) == fresh
    columns = [list(column) for column in zip(*values, strict=True)]
    negated = {"accuracy": columns[0], "params": [-b for b in columns[1]]} if values else {"accuracy": []}
    assert set(best) == {values[row] for row in front(negated)}


def test_patience_counts_from_the_last_change_of_the_front():
    history = [record(5, 0.5), record(6, 0.5), record(4, 0.3)]
    assert fruitless(history) == 2
    assert fruitless(history, objectives=("accuracy", "params")) == 0
    assert fruitless([*history, record(9, 0.2), record(8, None)], objectives=("accuracy", "params")) == 2


def test_the_front_of_records():
    timed = Latency(2.0, 1.9, 2.1, 9)
    history = [record(1, 0.4), record(2, 0.4), record(3, 0.6, latency=timed), record(4, None)]
    assert [r.key for r in pareto_front(history, ("accuracy", "params"))] == ["a=1,b=0", "a=3,b=0"]
    assert [r.key for r in pareto_front(history, ("accuracy", "flops"))] == ["a=3,b=0"]
    assert history[2].costs == Costs(30, 97, 2.0)
    assert history[0].costs.values(("accuracy", "latency", "params")) == [None, 10]
    assert pareto_front([], ("accuracy", "params")) == []


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "evolution"])
def test_proposals_for_several_objectives_are_pure_and_new(sampler):
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    history = [record(a, 0.5 + a / 100, b) for a in (1, 5, 9, 14) for b in (0, 1)] + [record(20, None)]
    seen = {r.key for r in history}

    def proposed() -> list[dict]:
        return [
            propose(SPACE, history, seen, seed, sampler, objectives=("accuracy", "params", "flops"))
            for seed in range(4)
        ]

    first = proposed()
    assert first == proposed()
    assert not seen & {SPACE.key(architecture) for architecture in first}


def test_samplers_that_learn_look_at_the_cost():
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    # The larger the better, so accuracy alone leads to the largest, and all are on the front of both.
    history = [record(a, a / 100, a % 2) for a in range(1, 21)]
    seen = {r.key for r in history}

    def mean(objectives) -> float:
        found = [propose(SPACE, history, seen, seed, "tpe", objectives=objectives) for seed in range(30)]
        return sum(architecture["a"] for architecture in found) / len(found)

    assert mean(("accuracy", "params")) < mean(("accuracy",)) - 4


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sampler": "evolution"}, r"--sampler evolution has one objective, but NAMED; take --sampler tpe or nsga2"),
        ({"pruner": "median"}, r"--pruner median looks at one objective, but NAMED; leave one of them out"),
        ({"score": "loss_sum"}, r"--score loss_sum ranks by losses alone, but NAMED; leave one of them out"),
    ],
)
def test_what_has_one_objective_says_so(given, sentence):
    check_objectives(RunConfig(**given))
    named = r"--objective names 2 \(accuracy, flops\)"
    with pytest.raises(ConfigError, match=sentence.replace("NAMED", named)):
        check_objectives(RunConfig(objective=("accuracy", "flops"), **given))


@pytest.mark.parametrize(
    ("given_value", "sentence"),
    [
        (
            ["flops"],
            r"objective begins with 'flops'; it must begin with 'accuracy', which others may follow: ",
        ),
        ([], r"objective is empty; it must begin with 'accuracy'"),
        (["accuracy", "params", "params"], r"objective holds 'params' more than once; leave one"),
        (["accuracy", "latncy"], r"objective holds 'latncy'; did you mean 'latency'\? known: accuracy, flops, latency"),
        ("accuracy", r"objective is 'accuracy'; it must be a list of names: accuracy, params, flops, latency"),
    ],
)
def test_a_wrong_objective_gets_a_sentence(given_value, sentence):
    with pytest.raises(ConfigError, match=sentence):
        resolve({"objective": given_value})


def test_bounds_of_latency():
    with pytest.raises(ConfigError, match=r"max_latency_ms is 0; it must be above 0"):
        resolve({"max_latency_ms": 0})
    with pytest.raises(ConfigError, match=r"latency_batch is 0; it must be between 1 and 65536"):
        resolve({"latency_batch": 0})
    assert resolve({}).objective == ("accuracy",)
    assert directions(("accuracy", "latency")) == ["maximize", "minimize"]


def test_latency_is_that_of_the_network():
    def build(architecture, shape):
        layers = [nn.Linear(256, 256) for _ in range(architecture["layers"])]
        return nn.Sequential(nn.Flatten(), *layers)

    space, shape = Space("deep", Choice("layers", (1, 40)), build), DataShape(1, 16, 16, 3)
    short, long = (measure_latency(space, {"layers": layers}, shape, seconds=0.05) for layers in (1, 40))
    assert short.ms < long.ms
    assert 0 < short.low <= short.ms <= short.high
    assert short.repeats > 1
    assert measure_latency(space, {"layers": 40}, shape, batch=256, seconds=0.05).ms > long.ms
