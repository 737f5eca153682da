"""Distribution matching: the formula, its checkpoint, its stored images."""

import dataclasses
import gc
import time

import pytest
import torch
from safetensors.torch import load_file

from conftest import blobs, condense_until
from nas_proxy.condensation import distribution_matching as condensation
from nas_proxy.condensation import embedding
from nas_proxy.condensation.embedding import PRECISIONS, Embedding, open_engine
from nas_proxy.condensation.matching import loss_and_gradient
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet
from nas_proxy.data.picture import write_grid
from nas_proxy.data.splits import random_subset
from nas_proxy.errors import RunFailedError
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve
from nas_proxy.seeds import torch_generator

RECIPE = Condensation(images_per_class=2, steps=12, real_batch=8, width=8)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_matching_brings_class_means_together(precision):
    real = blobs(per_class=40, size=16)
    recipe = Condensation(1, 60, learning_rate=0.03, real_batch=40, width=32, augmentation=(), precision=precision)
    result = make_proxy(real, recipe, 0).images
    engine = open_engine(Embedding(real.shape, 32, 3), "cpu", real=120, synthetic=3, steps=1)
    start = random_subset(real, 1, torch_generator(0, "condense", "initial"))

    def distance(found: ImageSet) -> float:
        total = 0.0
        for seed in range(5):  # networks that were not used
            network = engine.draw(torch_generator(seed, "not used"))
            loss, _ = loss_and_gradient(network, real.decode(), [40] * 3, found.decode(), [1] * 3)
            total += float(loss.sum())
        return total

    assert distance(result) < 0.75 * distance(start)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_steps(images):
    alive = []

    def count(step, loss):
        gc.collect()
        alive.append(sum(type(thing) is torch.Tensor for thing in gc.get_objects()))

    make_proxy(images, dataclasses.replace(RECIPE, steps=50), 0, progress=count)
    assert len(alive) == 5
    assert alive[-1] == alive[1]


def test_the_same_seed_gives_the_same_images_with_8_bits(images):
    one, two = (make_proxy(images, RECIPE, 3).images for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.images.dtype == torch.uint8
    assert one.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert one.classes == images.classes
    assert make_proxy(images, RECIPE, 4).images.fingerprint() != one.fingerprint()


@pytest.mark.parametrize(
    "compile_above", [pytest.param(1e13, id="eager"), pytest.param(0.0, id="compiled", marks=pytest.mark.slow)]
)
def test_a_condensation_that_is_cut_off_goes_on_bit_equal(images, tmp_path, monkeypatch, compile_above):
    monkeypatch.setitem(embedding.COMPILE_ABOVE, "cpu", compile_above)
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(condensation, "CHECKPOINT_SHARE", 1e9)
    recipe = dataclasses.replace(RECIPE, steps=25)
    whole = make_proxy(images, recipe, 0)
    checkpoint = tmp_path / "checkpoint.safetensors"

    condense_until(20, images, recipe, checkpoint)
    assert checkpoint.exists()
    reached = []
    rest = make_proxy(images, recipe, 0, checkpoint=checkpoint, progress=lambda step, loss: reached.append(step))
    assert reached == [20, 25]
    assert rest.images.fingerprint() == whole.images.fingerprint()
    assert rest.losses == pytest.approx(whole.losses)
    del reached[:]
    again = make_proxy(images, recipe, 0, checkpoint=checkpoint, progress=lambda step, loss: reached.append(step))
    assert reached == []
    assert again.images.fingerprint() == whole.images.fingerprint()


def test_a_kill_before_the_images_are_stored_repeats_no_step(tiny_space, tmp_path, monkeypatch):
    condense = {"images_per_class": 1, "steps": 5, "real_batch": 4, "width": 4}
    config = resolve({"space": str(tiny_space), "device": "cpu", "condense": condense})

    def killed(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ImageSet, "save", killed)
        run_all(config, tmp_path / "run", names=("condense",))
    with monkeypatch.context() as patch:
        patch.setattr(condensation, "take_step", killed)
        run = run_all(config, tmp_path / "run", names=("condense",))
    assert (run / "proxy.safetensors").exists()
    assert not run.checkpoint.exists()


def test_pictures_are_kept_on_the_way_and_go_with_the_run(tiny_space, tmp_path):
    condense = {"images_per_class": 1, "steps": 5, "real_batch": 4, "width": 4}
    given = {"space": str(tiny_space), "device": "cpu", "condense": condense, "preview_every": 2}
    run = run_all(resolve(given), tmp_path / "run", names=("condense",))
    pictures = sorted(run.previews.iterdir())
    assert [path.name for path in pictures] == ["step-000002.png", "step-000004.png"]
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
    run_all(resolve({**given, "preview_every": 0}), run.path, names=("condense",), overwrite=True)
    assert list(run.previews.iterdir()) == []


@pytest.mark.parametrize("damage", ["other recipe", "truncated"])
def test_a_checkpoint_that_does_not_fit_is_ignored(images, tmp_path, monkeypatch, damage):
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(condensation, "CHECKPOINT_SHARE", 1e9)
    checkpoint = tmp_path / "checkpoint.safetensors"

    def cut_off(step, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_proxy(images, RECIPE, 0, checkpoint=checkpoint, progress=cut_off)
    recipe = RECIPE
    if damage == "truncated":
        checkpoint.write_bytes(checkpoint.read_bytes()[:-50])
    else:
        recipe = dataclasses.replace(RECIPE, learning_rate=0.5)
    found = make_proxy(images, recipe, 0, checkpoint=checkpoint).images
    assert found.fingerprint() == make_proxy(images, recipe, 0).images.fingerprint()


def test_a_loss_that_is_not_finite_stops_with_what_to_lower(images):
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30)
    with pytest.raises(
        RunFailedError, match=r"loss is (nan|inf) at step 1\d; lower the learning_rate .* \(now 1e\+30\)"
    ):
        make_proxy(images, recipe, 0)


def test_what_is_kept_of_a_condensation_that_fails_is_finite(images, tmp_path, monkeypatch):
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(condensation, "CHECKPOINT_SHARE", 1e9)
    recipe, path = dataclasses.replace(RECIPE, steps=25), tmp_path / "checkpoint.safetensors"
    take_step = condensation.take_step

    def runs_away(state, task, networks):
        loss = take_step(state, task, networks)
        if state.step == 6:
            state.images[0] = 1e30  # which instance norm maps to a finite loss
        return loss

    monkeypatch.setattr(condensation, "take_step", runs_away)
    with pytest.raises(RunFailedError, match=r"loss is nan at step 6;"):
        make_proxy(images, recipe, 0, checkpoint=path)
    monkeypatch.setattr(condensation, "take_step", take_step)
    reached = []
    rest = make_proxy(images, recipe, 0, checkpoint=path, progress=lambda step, loss: reached.append(step))
    assert reached == [10, 20, 25]
    assert rest.images.fingerprint() == make_proxy(images, recipe, 0).images.fingerprint()
    assert load_file(path)["images"].abs().max() < 1e3


def test_checkpoints_take_a_small_share_of_the_time(images, tmp_path, monkeypatch):
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    saves = []

    def slow(*given):
        saves.append(given[2].step)
        time.sleep(0.2)

    monkeypatch.setattr(condensation, "save", slow)
    start = time.monotonic()
    make_proxy(images, dataclasses.replace(RECIPE, steps=25), 0, checkpoint=tmp_path / "checkpoint.safetensors")
    # One at the first step, one at the last, and one in each 4 s.
    assert len(saves) <= 2 + (time.monotonic() - start) / 4
    assert saves[-1] == 25


@pytest.mark.parametrize(
    "data",
    [blobs(classes=2), blobs(channels=3), blobs(size=11), blobs(per_class=3, classes=30, size=30)],
    ids=["two classes", "colour", "odd size", "many classes"],
)
def test_it_works_on(data, tmp_path):
    recipe = dataclasses.replace(RECIPE, steps=2, images_per_class=1)
    found = make_proxy(data, recipe, 0).images
    assert found.shape == data.shape
    assert len(found) == len(data.classes)
    write_grid(found, data, tmp_path / "proxy.png")
    assert (tmp_path / "proxy.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_condensation_on_a_gpu_agrees_with_the_cpu(images):
    recipe = dataclasses.replace(RECIPE, steps=3)
    found, expected = (make_proxy(images, recipe, 0, device=device).images for device in ("cuda", "cpu"))
    torch.testing.assert_close(found.decode(), expected.decode(), rtol=0, atol=0.05)
