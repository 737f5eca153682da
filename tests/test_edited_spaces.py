"""A space file that is edited while a command is at work with it ends the command: results are kept by its old code."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import nas_proxy
from conftest import blobs
from nas_proxy.errors import CodeChangedError
from nas_proxy.spaces.loading import SpaceFile, load_space, pinned, space_digest
from nas_proxy.training.jobs import Failure, Job, loaded, moved, performed, space_of
from nas_proxy.training.train import Outcome, Recipe
from nas_proxy.training.worker_pool import ProcessExecutor

SPACE = """
import threading, time
from torch import nn
from nas_proxy import Choice, Space
from beside import WIDTHS

def build(architecture, shape):
    if architecture["width"] == 99:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    pixels = shape.channels * shape.height * shape.width
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, architecture["width"]), nn.Linear(architecture["width"], 3))

def space_for(shape, *, more=0):
    return Space(name="mine", choices=Choice("width", WIDTHS), build=build)
"""
BESIDE = "WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 99)\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text(BESIDE)
    (tmp_path / "mine.py").write_text(SPACE)
    return tmp_path / "mine.py"


@pytest.fixture
def job(tmp_path, space):
    path = tmp_path / "images.safetensors"
    blobs().save(path)
    recipe = Recipe(epochs=1, batch_size=8)

    def make(width: int) -> Job:
        return Job(named, {"width": width}, path, path, recipe, 0, "cpu")

    named = pinned(str(space))
    return make


@pytest.mark.parametrize(
    "edit",
    [
        lambda space: space.write_text(SPACE + "\n"),
        lambda space: space.write_text("def half("),
        lambda space: space.unlink(),
        lambda space: (space.parent / "beside.py").write_text(BESIDE + "\n"),
    ],
    ids=["edited", "half written", "removed", "beside it"],
)
@pytest.mark.parametrize("parameters", ["", ":more=1"])
def test_a_space_that_has_changed_is_refused(space, job, edit, parameters):
    named = pinned(f"{space}{parameters}")
    assert load_space(named, blobs().shape).size == 9
    assert space_digest(named) == space_digest(f"{space}{parameters}")
    loaded.cache_clear()
    edit(space)
    with pytest.raises(CodeChangedError, match=r"has changed since the command began.*undo the change"):
        load_space(named, blobs().shape)
    with pytest.raises(CodeChangedError):  # and no candidate fails for it
        performed(job(4))


def test_only_a_users_file_is_pinned():
    assert pinned("convnet") == "convnet"
    assert pinned("given:mine") == "given:mine"


def test_a_job_that_moves_takes_the_code_along_that_is_meant(space, job, tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    for name in ("mine.py", "beside.py"):
        (there / name).write_text((tmp_path / name).read_text())
    assert space_of(job(4)) == str(space)
    files = dict.fromkeys((job(4).data, job(4).evaluation), job(4).data)
    arrived = moved(job(4), files, f"{there / 'mine.py'}:more=1")
    assert isinstance(performed(arrived), Outcome)
    loaded.cache_clear()
    (there / "beside.py").write_text(BESIDE + "\n")
    with pytest.raises(CodeChangedError, match=r"there/mine\.py:more=1 has changed"):
        performed(arrived)


@pytest.mark.slow
def test_a_run_ends_and_goes_on_when_the_change_is_undone(space, tmp_path, monkeypatch):
    images = blobs()
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    few = {"epochs": 1, "batch_size": 6}
    settings = {"trials": 5, "truth": 4, "judge": 4, "workers": 1, "device": "cpu", "signals": ["params"]}
    settings |= {"condense": {"method": "random", "images_per_class": 2}, "proxy_training": few, "full_training": few}

    def run():
        loaded.cache_clear()  # as in a worker process that has just begun
        return nas_proxy.run(f"npz:{tmp_path / 'blobs.npz'}", str(space), out=tmp_path / "run", **settings)

    def edited(*_: object) -> SpaceFile:
        space.write_text(SPACE.replace("nn.Flatten()", "1 / 0"))
        return images_of(*_)

    images_of = nas_proxy.data.images.ImageSet.load
    with monkeypatch.context() as patch:
        patch.setattr("nas_proxy.training.set_cache.ImageSet.load", edited)
        with pytest.raises(CodeChangedError):
            run()
    space.write_text(SPACE)
    assert not run().trials["state"].eq("failed").any()


@pytest.mark.slow
@pytest.mark.processes
def test_a_worker_that_begins_after_the_change_ends_the_command(space, job):
    with ProcessExecutor(1) as executor:
        ((_, first),) = executor.run([(0, job(99))])  # which leaves a thread, so that the worker is replaced
        assert isinstance(first, Outcome)
        space.write_text(SPACE.replace("nn.Flatten()", "1 / 0"))
        with pytest.raises(CodeChangedError, match="has changed since the command began"):
            list(executor.run([(1, job(4))]))
        unpinned = replace(job(4), space=str(space))
        assert list(executor.run([(2, unpinned)])) == [(2, Failure("ZeroDivisionError: division by zero"))]
