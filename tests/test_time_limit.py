"""A user's code that never returns is broken off where it runs in this process."""

import signal
import threading
import time

import pytest
from torch import Tensor, nn

from nas_proxy import Choice, DataShape, Space, time_limit
from nas_proxy.errors import SpaceError
from nas_proxy.spaces import loading
from nas_proxy.spaces.cost import Sizes, measure
from nas_proxy.time_limit import deadline

SHAPE = DataShape(1, 4, 4, 2)


class Waits(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        time.sleep(600)
        return images.flatten(1)[:, :2]


SPACE = Space("waits", Choice("width", (1, 2)), lambda architecture, shape: Waits())


def test_a_loop_that_catches_everything_ends_too():
    start, caught = time.monotonic(), 0
    with pytest.raises(TimeoutError, match=r"took longer than 0\.1 s"), deadline(0.1):
        while True:
            try:
                while True:
                    pass
            except TimeoutError:
                caught += 1
                if caught == 2:
                    raise
    assert time.monotonic() - start < 30
    time.sleep(1.2)  # no interruption is left behind


def test_somebody_elses_timer_goes_on():
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(True))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with deadline(60):
            pass
        assert not rung
        time.sleep(0.5)
        assert rung
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_other_threads_have_no_limit():
    done = []

    def work() -> None:
        with deadline(0.05):
            time.sleep(0.3)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done


def test_networks_that_hang_are_told(monkeypatch):
    with pytest.raises(TimeoutError, match=r"took longer than 0\.2 s"):
        measure(SPACE, {"width": 1}, SHAPE, seconds=0.2)
    monkeypatch.setattr(time_limit, "SECONDS", 0.2)
    with pytest.raises(SpaceError, match=r"yields no network for images of 1×4×4: width=[12] took longer than 0\.2 s"):
        loading.try_out(SPACE, SHAPE)


def test_a_network_that_hangs_is_waited_for_once():
    sizes = Sizes(SPACE, SHAPE, seconds=0.2)
    start = time.monotonic()
    for _ in range(20):
        assert sizes.of({"width": 1}) is None
        assert sizes.hanging({"width": 1}) == "took longer than 0.2 s"
    assert time.monotonic() - start < 2

    broken = Sizes(Space("broken", Choice("width", (1, 2)), lambda architecture, shape: None), SHAPE)
    assert broken.of({"width": 1}) is None
    assert broken.hanging({"width": 1}) is None
