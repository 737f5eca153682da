"""Several processes that share the classes compute what one does; killed, they go on together."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from conftest import blobs
from nas_proxy.condensation import distribution_matching as condensation
from nas_proxy.condensation.checkpoint import State, remove, restored, save
from nas_proxy.condensation.distributed import ProcessGroup
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import ConfigError

HERE = Path(__file__).parent
PATHS = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)])}
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.slow
@pytest.mark.parametrize("embed", ["convnet", "space"])
def test_two_processes_agree_with_one_to_rounding(tmp_path, embed):
    for name, launch in (("one", [sys.executable]), ("two", LAUNCH)):
        command = [*launch, str(HERE / "condense_distributed.py"), embed, str(tmp_path / name)]
        done = subprocess.run(command, env=PATHS, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / name, weights_only=True) for name in ("one", "two"))
    assert one[0].dtype == torch.float64
    torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)


def test_the_ranks_share_all_classes_in_order():
    for count, size in ((10, 3), (2, 2), (7, 1)):
        shares = [ProcessGroup(rank, size).own(count) for rank in range(size)]
        assert [label for share in shares for label in share] == list(range(count))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_processes_go_on_from_the_latest_step_that_all_have(tmp_path, monkeypatch):
    ranks, path = ProcessGroup(0, 2), tmp_path / "state.safetensors"
    for step in (50, 100, 150):
        save(path, "me", State(torch.full((1, 1, 2, 2), float(step)), torch.zeros(1, 1, 2, 2), step), ranks)
    others = [50, 100]
    monkeypatch.setattr(ProcessGroup, "gathered", lambda self, steps: [steps, others])
    assert restored(path, "me", ranks, torch.device("cpu")).step == 100
    assert float(restored(path, "me", ranks, torch.device("cpu")).images[0, 0, 0, 0]) == 100
    assert restored(path, "another", ranks, torch.device("cpu")) is None
    others = [50]
    assert restored(path, "me", ranks, torch.device("cpu")) is None
    remove(path, ranks)
    assert list(tmp_path.iterdir()) == []


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def steps_kept(folder: Path, rank: int) -> set[int]:
    found = set()
    for path in folder.glob(f"condense-{rank}-of-2*.safetensors"):
        with safe_open(path, framework="pt") as file:
            found.add(int(file.metadata()["step"]))
    return found


def condense(out, *more):
    options = ["--dataset", "digits", "--steps", "1200", "--width", "8", "--real-batch", "16", "--ipc", "2", "--json"]
    return [*LAUNCH, "-m", "nas_proxy", "condense", str(out), *options, *more]


@pytest.mark.slow
def test_torchrun_condenses_and_goes_on_after_a_kill(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    done = subprocess.run(condense(whole), env=PATHS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["images"] == 20
    process = subprocess.Popen(condense(cut), env=PATHS, stderr=subprocess.DEVNULL)
    waited = time.monotonic() + 60
    while len(list(cut.glob(".work/*-of-2.safetensors"))) < 2:
        assert time.monotonic() < waited
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    # The processes have sessions of their own, and go on for a while without the one that started them.
    for victim in (process.pid, *children(process.pid)):
        os.kill(victim, signal.SIGKILL)
    process.wait()
    assert not (cut / "proxy.safetensors").exists()
    reached = [steps_kept(cut / ".work", rank) for rank in range(2)]
    assert max(set.intersection(*reached)) > 0
    done = subprocess.run(condense(cut), env=PATHS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found, expected = (ImageSet.load(run / "proxy.safetensors") for run in (cut, whole))
    assert found.fingerprint() == expected.fingerprint()
    assert not list(cut.glob(".work/*"))
    # Nothing is left to do: that is no reason to wait for each other.
    done = subprocess.run(condense(cut), env=PATHS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_processes_save_the_same_steps(monkeypatch):
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    alone, late = condensation._Clock(ProcessGroup()), condensation._Clock(ProcessGroup(0, 2))
    assert alone.due(meeting=False)
    asked = []
    monkeypatch.setattr(ProcessGroup, "gathered", lambda self, mine: asked.append(mine) or [False, True])
    late._pause = 1e9
    assert not late.due(meeting=False)
    assert asked == []  # where they do not meet, nobody waits
    assert late.due(meeting=True)
    assert asked == [False]


def test_more_processes_than_classes_are_refused():
    with pytest.raises(ConfigError, match="3 processes share 2 classes, of which each needs one; start fewer"):
        make_proxy(blobs(classes=2), condensation.Condensation(1, 2), 0, group=ProcessGroup(0, 3))


def test_what_another_number_of_processes_left_goes_too(tmp_path):
    path, state = tmp_path / "condense.safetensors", State(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), 10)
    for ranks in (ProcessGroup(), ProcessGroup(0, 3), ProcessGroup(2, 3), ProcessGroup(0, 2), ProcessGroup(1, 2)):
        save(path, "me", state, ranks)
        save(path, "me", state, ranks)
    remove(path, ProcessGroup(0, 2))
    # The other process of this number may still be at work.
    assert {file.name for file in tmp_path.iterdir()} == {
        "condense-1-of-2.safetensors",
        "condense-1-of-2-before.safetensors",
    }
    remove(path, ProcessGroup(1, 2))
    assert list(tmp_path.iterdir()) == []
