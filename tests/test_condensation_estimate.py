"""What the benchmark of scale takes a condensation to cost, from a few of its steps."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import condensation_estimate as estimates  # noqa: E402
from condensation_estimate import estimate  # noqa: E402
from conftest import blobs  # noqa: E402
from nas_proxy.condensation.proxy_set import make_proxy  # noqa: E402
from nas_proxy.condensation.recipe import Condensation  # noqa: E402

RECIPE = Condensation(images_per_class=2, steps=40, real_batch=8, width=8)


def test_time_is_scaled_to_all_classes_and_steps(monkeypatch):
    monkeypatch.setattr(estimates, "timed_steps", lambda task, networks, steps, clock: [2.0, 1.0, 6.0][:steps])
    found = estimate(blobs(classes=4), RECIPE, 0, classes=12)
    assert found.seconds_per_step == 2.0 * 12 / 4
    assert found.slowest_per_step == 6.0 * 12 / 4
    assert found.seconds == pytest.approx(found.start_seconds + 40 * 6.0)
    assert (found.classes, found.measured_classes, found.measured_steps) == (12, 4, 3)
    whole = estimate(blobs(classes=4), RECIPE, 0)
    assert (whole.classes, whole.seconds_per_step) == (4, 2.0)


def test_it_is_near_what_the_condensation_takes():
    data = blobs(classes=6, per_class=20, size=16)
    recipe = dataclasses.replace(RECIPE, width=32, real_batch=16)
    found = estimate(data, recipe, 0, steps=5)
    taken = make_proxy(data, recipe, 0).seconds
    # Other work on the machine may slow either down.
    assert taken / 5 < found.seconds < taken * 5


def test_memory_grows_with_the_classes_at_a_time():
    data, recipe = blobs(classes=4, size=16, channels=3), RECIPE
    few = estimate(data, recipe, 0, classes=1000, classes_per_step=4)
    many = estimate(data, recipe, 0, classes=1000, classes_per_step=1000)
    if few.memory_bytes is None or many.memory_bytes is None:
        pytest.skip("this system does not tell how much memory a process has")
    assert (few.classes_per_step, many.classes_per_step) == (4, 1000)
    # The synthetic images, their momentum and gradient: 2 × 3 × 16 × 16 float32 values of each class.
    assert few.memory_bytes >= 996 * 2 * 768 * 4 * 3
    # 8 real images three times and two synthetic ones six times, and what the network keeps of those.
    assert many.memory_bytes - few.memory_bytes > 900 * 768 * 4 * (8 * 3 + 2 * 6)


MEMORY = """
import time

import torch
from condensation_estimate import watched

for size in (20 << 20, 50 << 20):
    with watched(torch.device("cpu")) as peak:
        block = torch.ones(size, dtype=torch.uint8)
        time.sleep(0.2)
        del block
    print(-1 if peak.bytes is None else peak.bytes)
"""


@pytest.mark.slow
def test_memory_that_is_given_back_is_seen():
    # In a process of its own, which has no freed memory to take a block from.
    done = subprocess.run([sys.executable, "-c", MEMORY], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    if large < 0:
        pytest.skip("this system does not tell a process its memory")
    assert 19 << 20 < small < 40 << 20
    assert 49 << 20 < large < 100 << 20
