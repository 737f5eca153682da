"""What a run is foreseen to do beside its trainings: networks to time, and choices by a model of all results."""

import pytest

from nas_proxy.data.splits import Counts
from nas_proxy.pipeline.forecast import BELIEF, CHOICE, NOTHING, Done, Span, Speeds, forecast
from nas_proxy.pipeline.forecast_text import told
from nas_proxy.pipeline.stages import STAGES
from nas_proxy.runs.resolving import resolve

SPEEDS = Speeds(
    image=Span(1e-5, 1e-5, 1e-5),
    start=NOTHING,
    embedded=NOTHING,
    condense_start=NOTHING,
    taught=NOTHING,
    timing=Span(0.5, 0.4, 0.6),
    read=NOTHING,
    judging=NOTHING,
    workers=2,
)
COUNTS = Counts(train=1000, validation=200, test=400, smallest=90)


def foreseen(size=None, done=None, stages=tuple(STAGES), **settings):
    return forecast(resolve(settings), COUNTS, 10, size, SPEEDS, stages, done or Done({}))


@pytest.mark.parametrize(
    ("size", "settings", "number"),
    [
        (None, {}, 150),  # 100 are drawn, and grown twice by a quarter
        (120, {}, 120),
        (None, {"pool": 40, "trials": 40}, 60),
        (None, {"sampler": "tpe"}, 125),  # which proposes for the proxy in place of the pool's first growth
    ],
)
def test_the_whole_pool_is_timed(size, settings, number):
    found = foreseen(size, objective=("accuracy", "latency"), **settings)
    assert found.latencies.trainings == number
    assert found.latencies.seconds.value == pytest.approx(number / 2)
    assert foreseen(size, Done({}, timed=number), objective=("accuracy", "latency"), **settings).latencies is None


def test_without_full_trainings_only_what_is_proposed_is_timed():
    settings = {"objective": ("accuracy", "latency"), "trials": 30, "judge": 8}
    assert foreseen(stages=("condense", "search"), **settings).latencies.trainings == 125
    assert foreseen(stages=("condense", "search"), sampler="tpe", **settings).latencies.trainings == 30


def test_choices_of_many_trainings_take_time():
    many = foreseen(trials=540, truth=540, judge=24, pool=1000)
    assert {name: part.trainings for name, part in many.choices.items()} == {"proxy": 129, "truth": 135}
    # A model of 540 to 1,080 trainings, and what it says of a pool of 1,000.
    assert many.choices["truth"].seconds.value == pytest.approx(135 * (CHOICE + 0.81 * 1000 * BELIEF))
    assert "  Choosing               264 rounds" in told(many, {}, None)
    assert sum(span.value for span in many.by_stage.values()) == pytest.approx(many.seconds.value)
    few = foreseen(trials=12, truth=8, judge=8)
    assert sum(part.seconds.value for part in few.choices.values()) < 0.2
    assert "Choosing" not in told(few, {}, None)


def test_choices_that_were_made_do_not_count():
    config = {"trials": 540, "truth": 540, "judge": 24}
    half = foreseen(done=Done({"proxy": 540, "truth": 270}), **config).choices
    assert {name: part.trainings for name, part in half.items()} == {"truth": 68}
    assert foreseen(done=Done({"proxy": 540, "truth": 540}), **config).choices == {}  # second seeds are not chosen
