"""A user's code runs apart: whatever it does ends no command, and is told in a sentence."""

import gc
import logging
import os
import random
import signal
import sys
import threading
import time
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.trial import FixedTrial
from torch import nn

from conftest import blobs
from nas_proxy import Choice, Space, SpaceError, time_limit
from nas_proxy.data.images import DataShape
from nas_proxy.process_state import ProcessState, restored
from nas_proxy.spaces import apart as module
from nas_proxy.spaces import function_apart
from nas_proxy.spaces.apart import Complaint, apart
from nas_proxy.spaces.cost import Sizes, measured_apart
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.loading import try_import, try_out
from nas_proxy.training.jobs import Failure, performed
from nas_proxy.training.train import Recipe, train

SHAPE = DataShape(1, 4, 4, 3)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="users' code runs in this process there")


def network(width=2):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 3))


def interrupted():
    raise KeyboardInterrupt


class OddError(Exception):
    def __str__(self):
        raise ValueError("no text")


def odd():
    raise OddError


ENDS = {
    "exit": (lambda: os._exit(3), "ended its process with exit code 3"),
    "kill": (lambda: os.kill(os.getpid(), 9), "was killed by signal 9"),
    "sys_exit": (lambda: sys.exit(4), "raises SystemExit: 4"),
    "interrupt": (interrupted, "raises KeyboardInterrupt"),
    "odd": (odd, "raises OddError"),
    "surrogate": (lambda: exec("raise ValueError('bad \\ud800 \\x1b[31m')"), "raises ValueError: bad ? �[31m"),
    "streams": (lambda: os.closerange(0, 200), "ended its process with exit code 0"),
}


@pytest.mark.parametrize(("end", "told"), ENDS.values(), ids=ENDS)
def test_what_code_does_to_its_process_is_told(end, told):
    assert apart(end, 5) == Complaint(told)


def test_code_that_hangs_is_ended_with_what_it_started(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "GRACE", 0.2)

    def hangs():
        if os.fork() == 0:
            time.sleep(2)
            (tmp_path / "alive").touch()
            os._exit(0)
        while True:
            try:
                time.sleep(60)
            except BaseException:  # noqa: BLE001
                continue

    start = time.monotonic()
    assert apart(hangs, 0.3) == Complaint("took longer than 0.3 s", late=True)
    assert time.monotonic() - start < 2
    time.sleep(2.2)
    assert not (tmp_path / "alive").exists()


def test_a_copy_that_the_code_makes_of_its_process_and_lets_return_answers_nothing():
    def forks():
        os.fork()
        return os.getpid()

    assert isinstance(apart(forks, 5), int)


def test_results_come_back_and_nothing_else_of_the_process():
    changed = []

    def changes():
        changed.append(1)
        os.chdir("/")
        torch.set_default_dtype(torch.float64)
        return {"found": [1, 2.5, None, "é"]}

    before = Path.cwd()
    assert apart(changes, 5) == {"found": [1, 2.5, None, "é"]}
    assert (changed, Path.cwd(), torch.get_default_dtype()) == ([], before, torch.float32)


def dies_at(width, end=lambda: os._exit(3)):
    def build(architecture, shape):
        return end() if architecture["width"] == width else network(architecture["width"])

    return Space("dies", Choice("width", (2, 3, 4)), build)


@pytest.mark.parametrize("end", [lambda: os._exit(3), interrupted], ids=["exit", "interrupt"])
def test_an_architecture_that_cannot_be_measured_has_no_size_and_the_others_have_theirs(end):
    space = dies_at(3, end)
    sizes = Sizes(space, SHAPE)
    assert [sizes.of({"width": width}) is None for width in (2, 3, 4)] == [False, True, False]
    assert sizes.hanging({"width": 3}) is None
    assert measured_apart(space, {"width": 2}, SHAPE).params == 16 * 2 + 2 + 2 * 3 + 3


def test_sizes_are_measured_without_a_copy_of_what_this_process_has_come_to_hold():
    def build(architecture, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, os.getppid()))  # a size that tells whose copy it is

    space = Space("told", Choice("width", (2, 3, 4, 5)), build)
    sizes = Sizes(space, SHAPE)
    parents = [sizes.of({"width": width}).params // 17 for width in (2, 3)]
    assert parents[0] == parents[1] != os.getpid()
    os.kill(parents[0], signal.SIGKILL)
    assert sizes.of({"width": 4}) is not None  # by a copy of this process, once
    after = sizes.of({"width": 5}).params // 17
    assert after not in {parents[0], os.getpid()}
    sizes.close()
    with pytest.raises(ProcessLookupError):
        os.kill(after, 0)


def test_sizes_are_measured_in_one_process_until_an_architecture_does_something_to_it(monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.1)

    def build(architecture, shape):
        width = architecture["width"]
        if width == 3:
            torch.set_default_dtype(torch.float64)
        if width == 4:
            nn.Linear.forward = nn.Identity.forward
        if width == 5:
            os._exit(3)
        if width == 6:
            raise ValueError("six")
        if width == 7:
            time.sleep(60)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, os.getpid()))  # a size that tells where

    space = Space("told", Choice("width", tuple(range(1, 11))), build)
    sizes = Sizes(space, SHAPE, seconds=3)
    found = {width: sizes.found({"width": width}) for width in range(1, 11)}
    sizes.close()
    words = {5: "ended its process with exit code 3", 6: "raises ValueError: six", 7: "took longer than 3 s"}
    assert {width: found[width].text for width in words} == words
    where = {width: size.params // 17 for width, size in found.items() if width not in words}
    # What can be put back is; of what cannot the next one sees nothing.
    assert where[1] == where[2] == where[3] == where[4]
    assert where[8] == where[9] == where[10] != where[1]
    assert all(found[width].flops == 2 * 16 * where[width] for width in where if width != 4)


def test_a_good_architecture_is_not_blamed_for_what_another_one_does():
    for width in (2, 3, 4):
        try_out(dies_at(width), SHAPE)


def suggests(trial):
    width = trial.suggest_int("width", 1, 3)
    if width == 2:
        trial.suggest_categorical("more", ["a", "b"])
        os._exit(3)
    if trial.suggest_categorical("act", ["relu", "bad"]) == "bad":
        raise KeyboardInterrupt
    return network(width)


def test_a_function_that_ends_its_process_on_some_paths_has_these_in_the_sample():
    space = FunctionSpace("f", suggests, SHAPE)
    found = {space.key(architecture) for architecture in islice(space.sample(0), 6)}  # more are looked for in vain
    ends = {f"width=2,more={more}" for more in "ab"}
    assert found == {f"width={w},act={act}" for w in (1, 3) for act in ("relu", "bad")} | ends
    assert space.suggest(FixedTrial({"width": 2, "more": "b"})) == {"width": 2, "more": "b"}
    with pytest.raises(ValueError, match="the parameter 'more' is not found"):
        space.suggest(FixedTrial({"width": 2}))


def test_a_function_may_prune_set_attributes_and_catch_what_its_trial_raises():
    def function(trial):
        trial.set_user_attr("told", trial.suggest_int("a", 1, 9))
        try:
            trial.suggest_float("b", 0.0, 1.0)
        except Exception:  # noqa: BLE001
            raise optuna.TrialPruned from None
        return network()

    space, trial = FunctionSpace("f", function, SHAPE), FixedTrial({"a": 4, "b": 0.5})
    assert space.suggest(trial) == {"a": 4, "b": 0.5}
    assert trial.user_attrs == {"told": 4}


def test_a_function_that_hangs_is_given_up(monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.1)
    monkeypatch.setattr(time_limit, "SECONDS", 0.1)

    def hangs(trial):
        trial.suggest_int("a", 1, 9)
        time.sleep(600)

    with pytest.raises(SpaceError, match=r"the space 'f' took longer than 0\.1 s to suggest, 3 times"):
        next(FunctionSpace("f", hangs, SHAPE).sample(0))


@pytest.mark.parametrize("line", ["import os; os._exit(3)", "raise KeyboardInterrupt", "while True: pass"])
def test_a_file_that_ends_its_process_when_it_is_imported_gets_a_sentence(tmp_path, line, monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 1.0)
    monkeypatch.setattr(module, "GRACE", 0.1)
    (tmp_path / "mine.py").write_text(line)
    with pytest.raises(SpaceError, match=r"the search space .*mine\.py (ended|raises|took) .* when it is imported"):
        try_import(str(tmp_path / "mine.py"), SHAPE)


class Spoils:
    """A job that leaves its process another one."""

    device, minutes, megabytes = "cpu", None, None

    def __init__(self, act):
        self.perform = act


def test_what_a_job_changes_of_its_process_is_put_back():
    def act():
        os.chdir("/")
        os.environ["NAS_PROXY_SPOILT"] = "1"
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        torch.use_deterministic_algorithms(mode=True)
        warnings.simplefilter("error", UserWarning)
        logging.disable(logging.CRITICAL)
        del sys.path[-1]
        raise ValueError("bad \ud800 \x1b[31m text")

    before = ProcessState.now()
    assert performed(Spoils(act)) == Failure("ValueError: bad ? �[31m text")
    assert ProcessState.now() == before


class BaseError(BaseException):
    pass


def test_what_is_no_exception_and_an_interrupt_where_none_can_come_are_failures(monkeypatch):
    def raises():
        time.sleep(0.05)
        raise BaseError("base")

    failed = performed(Spoils(raises))
    assert failed == Failure("BaseError: base")
    assert 0.05 <= failed.seconds < 5
    assert failed.shared(0.5).seconds == failed.seconds / 2
    with pytest.raises(KeyboardInterrupt):
        performed(Spoils(interrupted))
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert performed(Spoils(interrupted)) == Failure("KeyboardInterrupt")
    finally:
        signal.signal(signal.SIGINT, before)


def test_streams_that_are_closed_are_opened_and_threads_that_are_left_are_named():
    over = threading.Event()

    def in_a_copy():
        with restored() as state:
            os.closerange(0, 3)
            sys.stdout.close()
            threading.Thread(target=over.wait, name="left", args=(5,)).start()
        print("heard by nobody", flush=True)
        return [os.fstat(number) is not None for number in range(3)], state.left_behind()

    assert apart(in_a_copy, 5) == [[True, True, True], ["left"]]


class Draws(nn.Module):
    """Draws from Python's and NumPy's generators when it is built, trained and evaluated."""

    def __init__(self):
        super().__init__()
        self.body = nn.Linear(64, 3)
        with torch.no_grad():
            self.body.weight.mul_(float(np.random.uniform(0.5, 1.5)))

    def forward(self, x):
        return self.body(x.flatten(1) * random.uniform(0.5, 1.5) + float(np.random.normal()))


def test_trainings_of_networks_that_draw_from_any_generator_repeat():
    data, recipe, found = blobs(), Recipe(epochs=3, batch_size=6), []
    for number in range(2):
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)
        before = random.getstate()
        found.append(train(Draws, data, data, recipe, 7))
        assert random.getstate() == before
    assert found[0].losses == found[1].losses
    assert found[0].score == found[1].score
    assert train(Draws, data, data, recipe, 8).losses != found[0].losses


def test_a_function_space_says_nothing_where_the_interpreter_takes_its_modules_away(monkeypatch):
    space = FunctionSpace("f", lambda trial: trial.suggest_int("a", 1, 3), SHAPE)
    assert len(list(space.sample(0))) == 3
    told = []
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    gc.collect()  # what other tests have left
    told.clear()
    with monkeypatch.context() as ending:
        ending.setattr(function_apart, "contextlib", None)
        del space
        gc.collect()
    assert not told
