"""Folders too large for the memory: indexed once, resumed after a kill, and the same images as in memory."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data import folders, store
from nas_proxy.data.catalogue import default_cache
from nas_proxy.data.images import ImageSet
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development, few_classes, few_indices, held_out_test
from nas_proxy.data.store import StoredImages, taken, together
from nas_proxy.errors import DataError, RunFolderError
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A folder of 40 images in colour that is taken to be too large, and its cache."""
    monkeypatch.setattr(folders, "IN_MEMORY", 0)
    monkeypatch.setattr(store, "BLOCK", 4)
    monkeypatch.setattr(store, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(store, "TOGETHER", 1)
    monkeypatch.setenv("NAS_PROXY_CACHE", str(tmp_path / "cache"))
    return folder(tmp_path / "data")


def folder(root: Path, classes: int = 4, each: int = 10, size: int = 8) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (classes, each, size, size, 3), dtype=np.uint8)
    for label in range(classes):
        (root / f"class{label}").mkdir(parents=True)
        for number in range(each):
            Image.fromarray(pixels[label, number] // (1 + label)).save(root / f"class{label}" / f"{number}.png")
    return root


def in_memory(root: Path, monkeypatch, **options):
    with monkeypatch.context() as patch:
        patch.setattr(folders, "IN_MEMORY", 1 << 30)
        return development(open_source(f"folder:{root}"), seed=3, **options)


@pytest.fixture
def decoded(monkeypatch):
    """The files that have been decoded."""
    seen, whole = [], folders.pixels
    monkeypatch.setattr(folders, "pixels", lambda file, frame: (seen.append(file.name), whole(file, frame))[1])
    return seen


def index_of(root: Path) -> Path:
    (found,) = (default_cache() / "folders").glob(f"{root.name}-*")
    return found


def test_a_store_holds_the_images_that_memory_would(large, monkeypatch):
    expected = in_memory(large, monkeypatch)
    source = open_source(f"folder:{large}")
    found = development(source, seed=3)
    assert found.fingerprint == expected.fingerprint
    for part in ("train", "validation"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert isinstance(ours.images, StoredImages)
        assert isinstance(theirs.images, torch.Tensor)
        assert ours.fingerprint() == theirs.fingerprint()
        assert ours.shape == theirs.shape
        assert (len(ours), ours.stored_bytes) == (len(theirs), theirs.stored_bytes)
        assert torch.equal(ours.images[:], theirs.images)
        torch.testing.assert_close(ours.decode(), theirs.decode())
        some = torch.tensor([5, 1, 3])
        assert torch.equal(ours.select(some).images, theirs.images[some])
        assert [index.tolist() for index in ours.of_class()] == [index.tolist() for index in theirs.of_class()]
    with monkeypatch.context() as patch:
        patch.setattr(folders, "IN_MEMORY", 1 << 30)
        test = held_out_test(open_source(f"folder:{large}"), expected, seed=3)
    assert held_out_test(source, found, seed=3).fingerprint() == test.fingerprint()
    recipe = Condensation(images_per_class=1, steps=3, real_batch=4, width=4)
    condensed = [make_proxy(data.train, recipe, 0).images.fingerprint() for data in (found, expected)]
    assert condensed[0] == condensed[1]


def test_files_are_decoded_once_whatever_the_seed(large, decoded):
    calls = []
    development(open_source(f"folder:{large}"), seed=1, progress=lambda *call: calls.append(call))
    assert len(decoded) == 40
    assert calls[-1] == (40, 40)
    development(open_source(f"folder:{large}"), seed=2)
    assert len(decoded) == 40
    open_source(f"folder:{large}", image_size=4).read("train")
    assert len(decoded) == 80


PROGRAM = """
import os, signal, sys

from nas_proxy.data import folders, store
from nas_proxy.data.sources import open_source

folders.IN_MEMORY, store.BLOCK, store.TOGETHER, store.SYNC_SECONDS = 0, 4, 1, 0.0


def kill(done, total):
    if done == 24:
        os.kill(os.getpid(), signal.SIGKILL)


open_source(f"folder:{sys.argv[1]}").read("train", progress=kill)
"""


def test_indexing_goes_on_after_a_kill(large, decoded, monkeypatch):
    expected = in_memory(large, monkeypatch).fingerprint
    decoded.clear()
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(large)], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert not (index_of(large) / "index.json").exists()
    with (index_of(large) / "progress.jsonl").open("a") as log:
        log.write('[9, "cut o')  # as by a kill in the middle of a line
    calls = []
    images, _ = open_source(f"folder:{large}").read("train", progress=lambda *call: calls.append(call))
    # The block at work when it was killed is not known to be on the disk.
    assert len(decoded) == 40 - 20
    assert calls[0] == (24, 40)
    assert len(images) == 40
    assert development(open_source(f"folder:{large}"), seed=3).fingerprint == expected


def test_a_file_that_changes_is_decoded_anew_with_its_block_alone(large, decoded, monkeypatch):
    before = development(open_source(f"folder:{large}"), seed=3)
    before.train.save(large.parent / "train.safetensors")
    decoded.clear()
    Image.new("RGB", (8, 8), "red").save(large / "class1" / "5.png")
    os.utime(large / "class1" / "5.png", (1, 1))
    after = development(open_source(f"folder:{large}"), seed=3)
    assert len(decoded) == 4
    assert after.fingerprint != before.fingerprint
    assert after.fingerprint == in_memory(large, monkeypatch).fingerprint
    with pytest.raises(RunFolderError, match=r"are no longer in .*; run the same command again"):
        ImageSet.load(large.parent / "train.safetensors")
    (large / "class3" / "9.png").unlink()
    assert development(open_source(f"folder:{large}"), seed=3).fingerprint == in_memory(large, monkeypatch).fingerprint


def test_another_command_that_reads_changed_files_changes_no_pixel_of_this_one(large):
    source = open_source(f"folder:{large}")
    before = development(source, seed=3).train
    pixels = before.images[:].clone()
    first, *_ = sorted((large / "class1").iterdir())
    first.unlink()  # as many files as before: the blocks of two classes move
    shutil.copy(next((large / "class3").iterdir()), large / "class2" / "new.png")
    after = development(open_source(f"folder:{large}"), seed=3).train
    assert after.fingerprint() != before.fingerprint()
    assert torch.equal(before.images[:], pixels)


def test_a_file_of_a_set_says_where_its_images_are(large, tmp_path):
    train = development(open_source(f"folder:{large}"), seed=3).train
    train.save(tmp_path / "train.safetensors", {"method": "dm"})
    found = ImageSet.load(tmp_path / "train.safetensors")
    assert isinstance(found.images, StoredImages)
    assert found.fingerprint() == train.fingerprint()
    assert ImageSet.load_metadata(tmp_path / "train.safetensors") == {"method": "dm"}


def test_unreadable_files_are_left_out_and_told(large, monkeypatch):
    monkeypatch.setattr(store, "MOST_UNREADABLE", 0.05)
    (large / "class1" / "5.png").write_bytes(b"not an image")
    (large / "class2" / "7.png").write_bytes(b"")
    told = []
    source = open_source(f"folder:{large}", say=told.append)
    images, labels = source.read("train")
    assert (len(images), len(labels)) == (38, 38)
    assert torch.bincount(labels).tolist() == [10, 9, 9, 10]
    listed = index_of(large) / "unreadable.txt"
    assert told == [
        f"2 of the 40 images of {large} cannot be read and are left out; they are listed in {listed}",
    ]
    assert listed.read_text().count("cannot be read (not an image)") == 2
    data = development(open_source(f"folder:{large}"), seed=3)
    held_out = held_out_test(open_source(f"folder:{large}"), data, seed=3)
    assert len(data.train) + len(data.validation) + len(held_out) == 38
    rows = together(together(data.train.images, data.validation.images), held_out.images).rows
    assert sorted(rows.tolist()) == [i for i in range(40) if i not in (15, 27)]
    for part in (data.train, data.validation, held_out):
        assert torch.equal(part.labels, part.images.rows // 10)


def test_a_few_images_are_read_past_unreadable_ones(large, monkeypatch):
    chosen = few_indices(open_source(f"folder:{large}"), seed=3, classes=2, per_class=3).tolist()
    for index in chosen[::3]:
        (large / f"class{index // 10}" / f"{index % 10}.png").write_bytes(b"not an image")
    monkeypatch.setattr(folders, "IN_MEMORY", 2000)  # room for ten images, not for all
    few = few_classes(open_source(f"folder:{large}"), seed=3, classes=2, per_class=3)
    assert few.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert few.images.shape == (6, 3, 8, 8)
    monkeypatch.setattr(folders, "IN_MEMORY", 1 << 30)  # where an unreadable file is a mistake
    with pytest.raises(DataError, match="cannot be read"):
        few_classes(open_source(f"folder:{large}"), seed=3, classes=2, per_class=3)


def test_too_many_unreadable_files_are_a_mistake_with_a_list(large):
    (large / "class1" / "5.png").write_bytes(b"not an image")
    with pytest.raises(DataError) as caught:
        open_source(f"folder:{large}").read("train")
    assert str(caught.value) == (
        f"1 of the 40 images of {large} cannot be used, more than the 0.1% that may be left out; all are listed in "
        f"{index_of(large) / 'unreadable.txt'}, and the first says: the image {large / 'class1' / '5.png'} cannot be "
        "read (not an image); mend or remove it"
    )
    Image.new("RGB", (8, 8)).save(large / "class1" / "5.png")
    assert len(open_source(f"folder:{large}").read("train")[0]) == 40


def test_a_disk_without_room(large, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    with pytest.raises(
        DataError, match=r"the disk has 0.0 GiB: the 40 images .* another cache folder with NAS_PROXY_CACHE"
    ):
        open_source(f"folder:{large}").read("train")


def test_more_images_than_memory_are_indexed(large, monkeypatch):
    monkeypatch.setattr(folders, "IN_MEMORY", 1 << 30)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PAGE_SIZE": 1024, "SC_PHYS_PAGES": 4}[name])
    images, _ = open_source(f"folder:{large}").read("train")
    assert isinstance(images, StoredImages)


def test_parts_of_stored_images():
    one, two = torch.zeros(3, 1, 2, 2, dtype=torch.uint8), torch.ones(2, 1, 2, 2, dtype=torch.uint8)
    assert together(one, two).shape == (5, 1, 2, 2)
    assert taken(two, slice(1)).shape == (1, 1, 2, 2)


@pytest.mark.slow
def test_a_whole_run_on_a_store_scores_as_in_memory(large, tiny_space, tmp_path, monkeypatch):
    given = {
        "dataset": f"folder:{large}",
        "space": str(tiny_space),
        "device": "cpu",
        "workers": 1,
        "trials": 5,
        "truth": 4,
        "condense": {"images_per_class": 1, "steps": 2, "real_batch": 3, "width": 4},
        "proxy_training": {"epochs": 2},
        "full_training": {"epochs": 1},
    }
    run = run_all(resolve(given), tmp_path / "stored")
    monkeypatch.setattr(folders, "IN_MEMORY", 1 << 30)
    other = run_all(resolve(given), tmp_path / "memory")
    assert (run / "scores.csv").read_text() == (other / "scores.csv").read_text()
    assert json.loads((run / "ranking.json").read_text())["n"] == 4
