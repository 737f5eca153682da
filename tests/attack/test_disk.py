"""A disk that is full at many points of a run: a sentence, and with more space the run goes on to the same result."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from attack.runs import ended, result, settings, started
from attack.tally import HUNG, LOST, SILENT, SURVIVED, TOLD, TRACEBACK, Tally

pytestmark = [pytest.mark.processes, pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def small(tmp_path) -> Iterator[Path]:
    """A file system of its own, which only the superuser can make."""
    place = tmp_path / "small"
    place.mkdir()
    if shutil.which("mount") is None or os.geteuid() or not _mounted(place, "size=64k"):
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=False)


def _mounted(place: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True).returncode == 0


def test_full_disk(small, tmp_path, capsys):
    config, tally = settings(tmp_path), Tally("full disk")
    assert ended(started(config, tmp_path / "whole"), 300) == 0, (tmp_path / "log").read_text()
    right = result(tmp_path / "whole")
    for kilobytes in (16, 64, 192, 320, 448, 768):
        out = small / "run"
        shutil.rmtree(out, ignore_errors=True)
        _mounted(small, f"remount,size={kilobytes}k")
        code = ended(started(config, out, tmp_path / "log"), 300)
        log = (tmp_path / "log").read_text(errors="replace")
        if code is None:
            tally.count(HUNG, f"{kilobytes} kB")
        elif code == 0:
            tally.count(SURVIVED)
        elif "SENTENCE" in log and "disk" in log:
            tally.count(TOLD)
        else:
            tally.count(TRACEBACK, f"{kilobytes} kB: {log[-400:]}")
        _mounted(small, "remount,size=64m")
        if ended(started(config, out, tmp_path / "log"), 300) != 0:
            tally.count(LOST, f"{kilobytes} kB: {(tmp_path / 'log').read_text()[-400:]}")
        elif result(out) != right:
            tally.count(SILENT, f"{kilobytes} kB")
    tally.report(capsys)
