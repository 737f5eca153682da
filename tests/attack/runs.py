"""A small run for attacks: in a process of its own that can be killed, and what must come out of it."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil

from conftest import blobs
from nas_proxy.errors import NasProxyError
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import RunConfig

SPACE = """
import time
from torch import nn
from nas_proxy import Choice, Space

choices = Choice("width", tuple(range(2, 12))) & Choice("act", ("relu", "tanh"))


class Nap(nn.Module):
    def forward(self, x):
        if self.training:
            time.sleep(0.02)
        return x.flatten(1)


def build(a, s):
    act = {"relu": nn.ReLU, "tanh": nn.Tanh}[a["act"]]
    pixels = s.channels * s.height * s.width
    return nn.Sequential(Nap(), nn.Linear(pixels, a["width"]), act(), nn.Linear(a["width"], s.classes))


space = Space("cheap", choices, build)
"""


def settings(folder: Path) -> RunConfig:
    """Return the settings of a run of all stages that takes some seconds; the data and the space are written."""
    images = blobs(per_class=20)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    (folder / "cheap.py").write_text(SPACE)
    given = {
        **{"dataset": f"npz:{folder / 'blobs.npz'}", "space": str(folder / "cheap.py"), "device": "cpu", "workers": 1},
        **{"trials": 12, "truth": 6, "sampler": "random", "signals": ["params", "synflow"]},
        **{"condense": {"images_per_class": 2, "steps": 60, "width": 8}},
        **{"proxy_training": {"epochs": 4.0, "batch_size": 6}, "full_training": {"epochs": 1.0, "batch_size": 16}},
    }
    return resolve(given)


def started(config: RunConfig, out: Path, log: Path | None = None) -> psutil.Process:
    """Begin the run, or go on with it, in a copy of this process, which needs no imports.

    log: what it says; a file beside the run folder if not given.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pid = os.fork()
    if pid:
        return psutil.Process(pid)
    code = 70
    try:
        os.setsid()
        heard = os.open(log or out.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(heard, 1)
        os.dup2(heard, 2)
        run_all(config, out)
        code = 0
    except NasProxyError as error:
        os.write(2, f"SENTENCE {error}\n".encode())
        code = 2
    except BaseException as error:  # noqa: BLE001 (whatever it is, it is told)
        os.write(2, f"TRACEBACK {type(error).__name__}: {error}\n".encode("utf-8", "replace"))
    finally:
        os._exit(code)


def ended(process: psutil.Process, seconds: float) -> int | None:
    """Return the exit code of a run, None where it goes on after so long."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid, status = os.waitpid(process.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def result(out: Path) -> dict[str, Any]:
    """Return what does not depend on the time and the machine of a finished run."""
    trials = pd.read_csv(out / "trials.csv")[["key", "phase", "state", "score", "loss_sum"]]
    truth = pd.read_csv(out / "truth.csv").filter(regex="^(key|accuracy)")
    ranking = json.loads((out / "ranking.json").read_text())
    signals = {name: row.get("spearman", {}).get("value") for name, row in ranking["signals"].items()}
    tables = {"trials": trials.to_csv(index=False), "truth": truth.to_csv(index=False)}
    return {**tables, "signals": signals, "pick": ranking["pick"]["key"]}
