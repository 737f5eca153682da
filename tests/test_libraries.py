"""What a candidate does to libraries and settings that all candidates share ends with its process."""

import contextlib
import gc
import itertools
import math
import random
import resource
import sys

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy.libraries import Libraries
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.train import Recipe
from nas_proxy.training.worker_pool import ProcessExecutor


@contextlib.contextmanager
def replaced(holder, name):
    before = getattr(holder, name)
    setattr(holder, name, lambda *_, **__: None)
    yield
    setattr(holder, name, before)


@contextlib.contextmanager
def done(act, undo):
    act()
    yield
    undo()


@contextlib.contextmanager
def hooked():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    yield
    handle.remove()


def limit_files(more):
    files, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files + more, most))


CHANGES = {
    "torch.relu": lambda: replaced(torch, "relu"),
    "torch.nn.functional.gelu": lambda: replaced(nn.functional, "gelu"),
    "torch.nn.modules.linear.Linear.forward": lambda: replaced(nn.Linear, "forward"),
    "torch.nn.modules.module.Module.__call__": lambda: replaced(nn.Module, "__call__"),
    "torch.optim.sgd.SGD.step": lambda: replaced(torch.optim.SGD, "step"),
    "random.seed": lambda: replaced(random, "seed"),
    "math.exp": lambda: replaced(math, "exp"),
    "numpy.random.default_rng": lambda: replaced(np.random, "default_rng"),
    "sys.exit": lambda: replaced(sys, "exit"),
    "autocast": lambda: torch.autocast("cpu"),
    "inference mode": torch.inference_mode,
    "anomaly detection": torch.autograd.detect_anomaly,
    "NumPy's errors": lambda: np.errstate(all="raise"),
    "garbage collection": lambda: done(gc.disable, gc.enable),
    "recursion limit": lambda: done(lambda: sys.setrecursionlimit(5_000), lambda: sys.setrecursionlimit(1_000)),
    "hooks of all modules": hooked,
    "limits of the system": lambda: done(lambda: limit_files(-1), lambda: limit_files(1)),
    "precision of float32": lambda: done(
        lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "bf16"),
        lambda: setattr(torch.backends.mkldnn.conv, "fp32_precision", "none"),
    ),
    "oneDNN": lambda: done(lambda: torch._C._set_mkldnn_enabled(False), lambda: torch._C._set_mkldnn_enabled(True)),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen(name):
    limit = sys.getrecursionlimit()
    try:
        before = Libraries()
        with CHANGES[name]():
            assert name in before.changed()
    finally:
        sys.setrecursionlimit(limit)
    assert before.changed() == [] or name == "recursion limit"


SPACE = """
import os, subprocess, threading, time
import torch
from torch import nn
from nas_proxy import Choice, Space

torch.nn.functional.hardswish = lambda x: x  # of the file's own, for all its candidates alike
DOES = {
    "nothing": lambda: None,
    "function": lambda: setattr(torch, "relu", torch.tanh),
    "method": lambda: setattr(nn.Linear, "forward", lambda self, x: x @ self.weight.T),
    "thread": lambda: threading.Thread(target=time.sleep, args=(600,), daemon=True).start(),
    "process": lambda: subprocess.Popen(["sleep", "600"]),
}

class Net(nn.Module):
    def __init__(self, pixels, classes):
        super().__init__()
        self.first, self.last = nn.Linear(pixels, 4), nn.Linear(4, classes)
    def forward(self, x):
        return self.last(torch.relu(self.first(x.flatten(1))))

def build(a, shape):
    DOES[a["does"]]()
    return Net(shape.channels * shape.height * shape.width, shape.classes)

space = Space("spoils", Choice("does", tuple(DOES)), build)
"""


@pytest.mark.slow
@pytest.mark.processes
def test_the_next_candidate_finds_nothing_of_it(images, tmp_path):
    space, path = tmp_path / "spoils.py", tmp_path / "images.safetensors"
    space.write_text(SPACE)
    images.save(path)

    def job(does: str) -> Job:
        return Job(str(space), {"does": does}, path, path, Recipe(epochs=2, batch_size=6), 0, "cpu")

    found, pids = [], []
    with ProcessExecutor(1) as executor:
        for does in ("nothing", "nothing", "function", "nothing", "method", "nothing", "thread", "nothing", "process"):
            ((_, result),) = executor.run([(does, job(does))])
            assert not isinstance(result, Failure), result
            pids.append(executor._workers[0]._process.pid)
            found += [result.losses] if does == "nothing" else []
        ((_, result),) = executor.run([("last", job("nothing"))])
        pids.append(executor._workers[0]._process.pid)
    assert all(losses == found[0] for losses in [*found, result.losses])
    # It is replaced when the next job finds it gone, and only then.
    same = [before == after for before, after in itertools.pairwise(pids)]
    assert same == [True, True, False, True, False, True, False, True, False]
