"""Spaces that misbehave, in one run: each bad candidate fails with a reason, and the others score as if alone."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attack.tally import HARMLESS, LOST, SILENT, TOLD, Tally
from conftest import blobs

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(3600)]

SPACE = """
import os, signal, sys, threading, time
import torch
from torch import nn
from nas_proxy import Choice, Space

class Odd(Exception):
    def __str__(self): raise ValueError("no text")

class Base(BaseException): pass

def sleeping():
    while True: time.sleep(0.2)

def fork():
    if os.fork() == 0: time.sleep(0.1)

def closed():
    for number in (0, 1, 2): os.close(number)

def raised(error): raise error

DOES = {
    "nothing": lambda: None,
    "sys_exit": lambda: sys.exit(7),
    "os_exit": lambda: os._exit(3),
    "segmentation": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "interrupt": lambda: raised(KeyboardInterrupt()),
    "base": lambda: raised(Base("base")),
    "odd": lambda: raised(Odd()),
    "surrogate": lambda: raised(ValueError("bad \\ud800 text")),
    "escapes": lambda: raised(ValueError("bad \\0 \\x1b[31m\\x1b]0;owned\\x07 <script>alert(1)</script>")),
    "folder": lambda: os.chdir("/"),
    "double": lambda: torch.set_default_dtype(torch.float64),
    "no_gradients": lambda: torch.set_grad_enabled(False),
    "meta": lambda: torch.set_default_device("meta"),
    "thread": lambda: threading.Thread(target=sleeping).start(),
    "fork": fork,
    "closed": closed,
    "stdout": lambda: sys.stdout.close(),
    "handlers": lambda: [signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
    "environment": lambda: os.environ.clear(),
    "loop": sleeping,
}
BAD = [] if os.environ.get("ONLY_GOOD") else [name for name in DOES if name != "nothing"]

class Net(nn.Module):
    def __init__(self, a, shape):
        super().__init__()
        self.does = a["does"] if a["where"] == "training" else "nothing"
        pixels = shape.channels * shape.height * shape.width
        head = nn.Linear(a["width"], shape.classes)
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(pixels, a["width"]), nn.ReLU(), head)
    def forward(self, x):
        if self.training: DOES[self.does]()
        return self.body(x)

def build(a, shape):
    if a["where"] == "build": DOES[a["does"]]()
    return Net(a, shape)

choices = Choice("does", ["nothing", *BAD]) & Choice("where", ("build", "training")) & Choice("width", (3, 4, 5, 6))
space = Space("bad", choices, build, valid=lambda a: a["does"] == "nothing" or a["width"] == 3)
"""
# What may end well: the process is put right afterwards.
HARMLESS_ONES = frozenset(
    {"folder", "double", "no_gradients", "meta", "thread", "fork", "closed", "stdout", "handlers", "environment"}
)


def test_misbehaving_spaces(tmp_path, capsys):
    images = blobs(per_class=20)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    (tmp_path / "bad.py").write_text(SPACE)
    good = _trials(tmp_path, "good", 8, {"ONLY_GOOD": "1"})
    found = _trials(tmp_path, "bad", 200, {})
    tally = Tally("misbehaving spaces")
    scores = dict(zip(good["key"], good["score"], strict=True))
    for row in found.itertuples():
        does = row.key.partition(",")[0].removeprefix("does=")
        if does == "nothing":
            became = LOST if row.state != "complete" else HARMLESS if scores[row.key] == row.score else SILENT
        elif row.state == "complete":
            became = HARMLESS if does in HARMLESS_ONES else SILENT
        else:
            became = TOLD if isinstance(row.reason, str) and "\x1b" not in row.reason else SILENT
        tally.count(became, f"{row.key}: {row.state}, {row.reason}")
    assert set(scores) <= set(found["key"])
    tally.report(capsys)


def _trials(folder: Path, name: str, trials: int, environment: dict[str, str]) -> pd.DataFrame:
    out = folder / name
    command = [sys.executable, "-m", "nas_proxy", "run", "--dataset", f"npz:{folder / 'blobs.npz'}"]
    command += ["--space", str(folder / "bad.py"), "--out", str(out), "--ipc", "2", "--steps", "2", "--epochs", "1"]
    command += ["--trials", str(trials), "--truth", "8", "--truth-epochs", "1", "--workers", "2", "--device", "cpu"]
    command += ["--candidate-minutes", "0.2", "--sampler", "random", "--signals", "params,synflow"]
    options = {"env": {**os.environ, **environment}, "stdin": subprocess.DEVNULL, "timeout": 1800}
    done = subprocess.run(command, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return pd.read_csv(out / "trials.csv")
