"""The run folder: who holds it, and what becomes of one that a command made and left empty."""

import threading

import filelock
import pytest

from nas_proxy.errors import RunFolderError
from nas_proxy.runs import folder as module
from nas_proxy.runs.folder import RunFolder, is_held
from nas_proxy.runs.settings import RunConfig


@pytest.fixture
def run(tmp_path):
    return RunFolder(tmp_path / "run", RunConfig())


def test_a_folder_that_stayed_empty_is_removed(run):
    with run.lock():
        assert is_held(run.path)
        with pytest.raises(RunFolderError, match="another nas-proxy is working in"), run.lock():
            pass
    assert not run.path.exists()
    with run.lock():
        (run / "run.toml").touch()
    assert run.path.exists()
    assert not is_held(run.path)


def test_who_waits_while_the_folder_is_removed_holds_the_one_that_it_works_in(run, monkeypatch):
    """The second command begins while the first one ends, in whichever moment; a third one finds it at work."""
    monkeypatch.setattr(module, "PATIENCE", 5.0)
    ends, works, over = threading.Event(), threading.Event(), threading.Event()

    def second():
        with run.lock():
            (run / "run.toml").touch()
            works.set()
            over.wait(10)

    thread = threading.Thread(target=second)
    acquire = filelock.FileLock.acquire

    def waiting(lock, *arguments, **named):
        ends.set()
        return acquire(lock, *arguments, **named)

    with run.lock():
        monkeypatch.setattr(filelock.FileLock, "acquire", waiting)
        thread.start()
        ends.wait(10)  # it has seen the folder, and waits for its lock or is about to
    try:
        assert works.wait(10)
        monkeypatch.setattr(module, "PATIENCE", 0.1)
        assert is_held(run.path)
        with pytest.raises(RunFolderError, match="another nas-proxy is working in"), run.lock():
            pass
    finally:
        over.set()
        thread.join()
    assert (run / "run.toml").exists()


def test_a_lock_is_held_when_the_folder_is_removed(run, monkeypatch):
    held = []
    release = filelock.FileLock.release
    monkeypatch.setattr(
        filelock.FileLock, "release", lambda lock, **named: held.append(run.path.exists()) or release(lock)
    )
    with run.lock():
        pass
    assert held[0] is False
