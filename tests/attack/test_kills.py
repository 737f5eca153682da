"""Runs killed at random moments of all stages give what an undisturbed one gives, and leave nobody behind.

12 kills, or as many as NAS_PROXY_KILLS says.
"""

import contextlib
import json
import os
import random
import time
from pathlib import Path

import psutil
import pytest

from attack.runs import ended, result, settings, started
from attack.tally import HUNG, LOST, SILENT, SURVIVED, TRACEBACK, Tally

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(7200)]

KILLS = int(os.environ.get("NAS_PROXY_KILLS", "12"))
LONGEST_RUN, LONGEST_FAREWELL = 300.0, 20.0
STAGES = ("proxy.safetensors", "trials.csv", "truth.csv", "computed.jsonl", "ranking.json")


def test_kills(tmp_path, capsys):
    config = settings(tmp_path)
    begun = time.monotonic()
    assert ended(started(config, tmp_path / "whole"), LONGEST_RUN) == 0, (tmp_path / "log").read_text()
    seconds, right = time.monotonic() - begun, result(tmp_path / "whole")
    tally, draw, at = Tally("kills"), random.Random(0), dict.fromkeys(("start", *STAGES), 0)
    kills = runs = 0
    while kills < KILLS:
        out = tmp_path / f"run{runs}"
        runs += 1
        while (code := ended(process := started(config, out), draw.uniform(0.05, 0.7 * seconds))) is None:
            _kill(process, draw)
            kills += 1
            at[next((name for name in reversed(STAGES) if (out / name).exists()), "start")] += 1
            if kills >= KILLS:
                code = ended(started(config, out), LONGEST_RUN)
                break
        _judge(tally, out, code, right, kills)
        with capsys.disabled():
            print(f"\n{kills} kills in {runs} runs: {dict(tally.counts)}", end="", flush=True)
    tally.counts[SURVIVED] += kills - runs  # each judged run stands for one of its kills
    with capsys.disabled():
        print(f"\n{kills} kills in {runs} runs of {seconds:.0f} s; after: {json.dumps(at)}")
    tally.report(capsys)


@pytest.fixture(autouse=True)
def _nobody_left():
    """End what an attack that breaks off leaves at work, and not a browser or a database of other tests."""
    others = set(psutil.Process().children(recursive=True))
    yield
    for child in set(psutil.Process().children(recursive=True)) - others:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()


def _kill(process: psutil.Process, draw: random.Random) -> None:
    """Kill the coordinator, whose workers must then end by themselves; or a worker before it; or all at once."""
    children = process.children(recursive=True)
    whom = draw.choice(("coordinator", "coordinator", "worker first", "all"))
    victims = {"coordinator": [], "worker first": children[:1], "all": children}[whom]
    for victim in [*victims, process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    os.waitpid(process.pid, 0)
    _, alive = psutil.wait_procs(children, timeout=LONGEST_FAREWELL)
    assert not alive, f"{alive} outlive their coordinator"


def _judge(tally: Tally, out: Path, code: int | None, right: dict[str, object], kills: int) -> None:
    log = (out.parent / "log").read_text(errors="replace")[-500:]
    if code is None:
        tally.count(HUNG, f"{out.name} after {kills} kills")
    elif code:
        tally.count(TRACEBACK if "TRACEBACK" in log else LOST, f"{out.name} after {kills} kills ended {code}: {log}")
    else:
        found = result(out)
        other = [name for name in right if found[name] != right[name]]
        tally.count(SILENT if other else SURVIVED, f"{out.name} has other {other}")
