"""How the program ends where a signal stops it."""

import os
import signal
import subprocess
import sys
import time

import pytest

from nas_proxy.cli.exits import explained
from nas_proxy.errors import RunFailedError


@pytest.mark.parametrize("error", [ValueError, RuntimeError, RunFailedError, OSError])
def test_whatever_is_raised_after_a_stop_is_the_stop(error, capsys):
    with pytest.raises(SystemExit) as end, explained():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except KeyboardInterrupt:
            raise error("of a library that was interrupted") from None
    assert end.value.code == 130
    assert "interrupted; the same command goes on from here" in capsys.readouterr().err


def test_what_is_raised_without_a_stop_is_a_bug_or_a_sentence(capsys):
    with pytest.raises(ValueError, match="a bug"), explained():
        raise ValueError("a bug")
    with pytest.raises(SystemExit) as end, explained():
        raise RunFailedError("it failed")
    assert (end.value.code, capsys.readouterr().err) == (1, "nas-proxy: it failed\n")


def test_the_program_ends_at_once_where_it_is_stopped():
    code = (
        "import atexit, os, signal, time\n"
        "from nas_proxy.cli.exits import explained, without_farewell\n"
        "atexit.register(print, 'slow farewell')\n"
        "with without_farewell(), explained():\n"
        "    print('at work')\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(5)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (130, "at work\n")
    assert done.stderr == "nas-proxy: interrupted; the same command goes on from here\n"
