"""What one process tells another through a database comes out as it went in."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from nas_proxy.pipeline.coordinator import job_of, result_of, told, told_result
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.pruning import Curve, Pruning
from nas_proxy.training.train import Outcome, Recipe

ONE = Outcome(0.5, (2.0, math.inf), False, 1.5, 100, "a note", curve=((1, 0.25), (2, 0.5)), memory=10)
PRUNING = Pruning("median", history=(Curve(((1, 0.25), (2, 0.5)), 0.5), Curve(((1, 0.1),), None)), ahead=3)


@pytest.mark.parametrize(
    "result",
    [ONE, Outcome(0.25, (1.0,), True, 3.0, 200, seeds=(ONE, ONE)), dataclasses.replace(ONE, pruned_at=2), Failure("x")],
    ids=["single", "seeds", "pruned", "failure"],
)
def test_a_result(result):
    assert result_of(json.loads(json.dumps(told_result(result)))) == result


def test_a_job():
    job = Job("s.py", {"a": 1}, Path("proxy"), Path("validation"), Recipe(epochs=2.5), 7, "cpu", 1.5, 200.0, 3, PRUNING)
    found = job_of(json.loads(json.dumps(told(job))), "s.py", "cpu", Path)
    assert found == job
    assert isinstance(found.pruning.history[0], Curve)
