"""One way to make a proxy set by any method, and one file for it, whoever made it."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import nas_proxy
from conftest import blobs
from nas_proxy import Condensation
from nas_proxy.condensation.proxy_set import ProxySet, draw_random, forward_passes, make_proxy, open_proxy, save_proxy
from nas_proxy.condensation.recipe import Condensed
from nas_proxy.condensation.selection import METHODS, select
from nas_proxy.dashboard.set_files import condensing
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import DataError, RunFolderError
from nas_proxy.seeds import torch_generator
from nas_proxy.signals.sets import SetMaker

DM = Condensation(images_per_class=2, steps=2, width=8, real_batch=8)


def kept(path, images=None, recipe=DM, **changes):
    condensed = Condensed(images or blobs(per_class=2), 1.5, (3.0, 2.0), ("a", "b"))
    about = {"data": "blobs", "data_fingerprint": "f" * 16, "passes": 7, "threads": 2, **changes}
    save_proxy(path, condensed, recipe, 4, **about)
    return path


@pytest.mark.parametrize("method", METHODS)
def test_the_public_function_reads_the_method(method):
    real = blobs()
    recipe = Condensation(images_per_class=2, method=method, width=8, formation=2)
    chosen = nas_proxy.make_proxy(real, recipe, 3).images
    expected = select(real, 8, method, 3, width=8, augmentation=recipe.augmentation).packed(2)
    assert chosen.fingerprint() == expected.fingerprint()
    assert chosen.fingerprint() != nas_proxy.make_proxy(real, DM, 3).images.fingerprint()


def test_a_kept_set_is_known_without_its_images(tmp_path):
    images = blobs(per_class=8).packed(2)
    path = kept(tmp_path / "proxy.safetensors", images)
    assert open_proxy(path) == ProxySet(
        path,
        fingerprint=images.fingerprint(),
        images=24,
        stored=6,
        stored_bytes=6 * 64,
        seconds=3.0,
        passes=7,
        embedded=("a", "b"),
        method="dm",
        data_fingerprint="f" * 16,
    )
    text = ImageSet.load_metadata(path)
    assert (text["data"], text["seed"], text["losses"]) == ("blobs", 4, [3.0, 2.0])
    assert set(text["versions"]) == {"nas_proxy", "python", "torch"}
    assert text["recipe"]["real_batch"] == 8


def test_files_of_earlier_versions_are_read(tmp_path):
    about = {"method": "dm", "data_fingerprint": "f" * 16, "seconds": 2.5}
    blobs().save(tmp_path / "old.safetensors", about)
    known = open_proxy(tmp_path / "old.safetensors")
    assert (known.seconds, known.passes, known.embedded) == (2.5, None, ())


def test_images_alone_are_no_proxy_set(tmp_path):
    blobs().save(tmp_path / "images.safetensors", {"method": "dm"})
    with pytest.raises(RunFolderError, match="no proxy set: it lacks data_fingerprint, seconds"):
        open_proxy(tmp_path / "images.safetensors")


def read(path, real=None, **recipe):
    recipe = Condensation(**{"images_per_class": 2, "source": str(path), **recipe})
    return make_proxy(real or blobs(), recipe, 0, data_fingerprint="f" * 16)


def test_a_set_of_another_run_is_read_with_what_it_cost(tmp_path):
    images = blobs(per_class=2, seed=5)
    found = read(kept(tmp_path / "proxy.safetensors", images))
    assert found.images.fingerprint() == images.fingerprint()
    assert (found.seconds, found.embedded) == (3.0, ("a", "b"))
    save_proxy(
        tmp_path / "again.safetensors",
        found,
        Condensation(images_per_class=2, source="proxy.safetensors"),
        0,
        data="blobs",
        data_fingerprint="f" * 16,
        passes=0,
        threads=1,
    )
    assert open_proxy(tmp_path / "again.safetensors").method == "file"


def test_a_set_that_does_not_fit_is_refused(tmp_path):
    path = kept(tmp_path / "proxy.safetensors")
    with pytest.raises(DataError, match=r"2 images a class in formation 1.* give --ipc 2 --formation 1"):
        read(path, images_per_class=3)
    with pytest.raises(DataError, match="in the classes class0, class1, class2; the data has images of 1×8×8"):
        read(path, blobs(classes=2))
    with pytest.raises(DataError, match=r"made of other data \(fingerprint 0, the data here has ffff"):
        read(kept(path, data_fingerprint="0"))
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "none.safetensors")
    path.write_bytes(b"nothing")
    with pytest.raises(DataError, match="not a readable image file"):
        read(path)


def test_images_passed_forward_are_counted():
    real = blobs(per_class=5)
    assert forward_passes(DM, real) == 2 * 3 * (5 + 2)
    assert forward_passes(Condensation(method="random"), real) == 0
    assert forward_passes(Condensation(method="herding"), real) > 5 * 15
    assert forward_passes(Condensation(source="set.pt"), real) == 0


def test_random_images_are_drawn_by_the_generator():
    real = blobs()
    one, two, three = (draw_random(real, 2, torch_generator(seed, "draw"), 2).images for seed in (0, 0, 1))
    assert one.fingerprint() == two.fingerprint() != three.fingerprint()
    assert (len(one), one.formation) == (6, 2)


def test_what_is_returned_prints_in_a_line():
    condensed = nas_proxy.make_proxy(blobs(), Condensation(images_per_class=1, steps=40, width=4, real_batch=4), 0)
    assert len(condensed.losses) == 4
    assert "losses" not in repr(condensed)
    outcome = nas_proxy.train(
        lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)), *[blobs()] * 2, nas_proxy.Recipe(2), 0
    )
    assert "losses" not in repr(outcome)
    assert len(repr(outcome)) < 300


def test_the_file_is_the_documented_one(tmp_path):
    with safe_open(kept(tmp_path / "proxy.safetensors"), framework="pt") as file:
        text = file.metadata()
    keys = "method data data_fingerprint recipe seed seconds threads passes losses embedded versions"
    assert set(keys.split()) <= set(text)
    assert json.loads(text["threads"]) == 2


def test_a_set_that_another_codes_networks_condensed_is_refused(tmp_path):
    maker = SimpleNamespace(fingerprint="f" * 16, space_digest="new", space=SimpleNamespace(name="mine"))
    for digest in ("", "new"):  # none embedded, or those of this code
        assert (
            SetMaker.opened(maker, kept(tmp_path / f"{digest}.safetensors", space_digest=digest)).space_digest == digest
        )
    with pytest.raises(RunFolderError, match=r"condensed by networks of the search space mine whose code has changed"):
        SetMaker.opened(maker, kept(tmp_path / "old.safetensors", space_digest="old"))


def test_the_first_of_several_processes_tells_how_far_a_condensation_is(tmp_path):
    whole, told = tmp_path / "condense.safetensors", {"step": "30", "seconds": "60"}
    assert condensing(whole, 100) == (0, None)
    for name in ("condense-0-of-2", "condense-1-of-2", "condense-0-of-2-before"):
        save_file({"images": torch.zeros(1)}, tmp_path / f"{name}.safetensors", told | {"step": str(10 + len(name))})
    assert condensing(whole, 100) == (25, (100 - 25) * 60 / 25)
