"""Files that are written at once or not at all."""

import os
import re
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from nas_proxy.files import atomic_path, write_text


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_others_may_read_what_they_could_read_of_any_file(tmp_path, umask):
    with atomic_path(tmp_path / "set.safetensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
    assert stat.S_IMODE((tmp_path / "set.safetensors").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["set.safetensors"]


def test_processes_that_write_one_file_at_once_do_not_disturb_each_other(tmp_path, monkeypatch):
    path = tmp_path / "set.txt"
    with atomic_path(path) as first:
        first.write_text("first")
        monkeypatch.setattr(os, "getpid", os.getppid)
        with atomic_path(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["set.txt"]


BROKEN_OFF = """
import os, sys
from pathlib import Path
from nas_proxy.files import atomic_path
with atomic_path(Path(sys.argv[1])):
    os._exit(9)
"""


def test_what_a_kill_left_goes_and_what_is_being_written_stays(tmp_path):
    subprocess.run([sys.executable, "-c", BROKEN_OFF, str(tmp_path / "set.txt")], check=False)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".set.txt.")
    at_work = left.with_name(re.sub(r"-\d+", f"-{os.getppid()}", left.name))
    elsewhere = left.with_name(re.sub(r"[0-9a-f]{8}-", "00000000-", left.name))
    for other in (at_work, elsewhere):
        other.touch()
    write_text(tmp_path / "another.txt", "")
    assert {path.name for path in tmp_path.iterdir()} == {"another.txt", at_work.name, elsewhere.name}


def test_a_failure_leaves_the_last_version(tmp_path):
    path = tmp_path / "set.txt"
    path.write_text("good")
    with pytest.raises(ValueError, match="half"), atomic_path(path) as temporary:
        temporary.write_text("hal")
        raise ValueError("half")
    assert path.read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["set.txt"]
