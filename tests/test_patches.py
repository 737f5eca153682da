"""Patches of real images: which crops are chosen, how they are packed, what a kill loses, and what they cost."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

from comparisons import Bench, few_resamples
from conftest import blobs
from cuda_emulation import EmulatedCuda
from nas_proxy.condensation import patches
from nas_proxy.condensation.patches import Effort, across, cropped, cross_entropies, draw_boxes, effort, teaching
from nas_proxy.condensation.proxy_set import forward_passes, make_proxy, steps_of
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet, from_raw
from nas_proxy.data.store import StoredImages
from nas_proxy.errors import ConfigError, DataError, RunFailedError
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve
from nas_proxy.seeds import torch_generator
from nas_proxy.training.recipe import Recipe

RECIPE = Condensation(images_per_class=3, method="patches", width=8, teacher_epochs=2)


class Brightness(nn.Module):
    """Is the surer of class 0 the brighter, and of class 1 the darker an image is; there is nothing to learn."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, images):
        bright = images.mean((1, 2, 3)) * (1 + 0 * self.weight)
        return torch.stack([bright, -bright], dim=1)


@pytest.fixture
def by_brightness(monkeypatch):
    monkeypatch.setattr(patches, "teacher_of", lambda recipe, shape: Brightness())


def grey(levels, size=8):
    """Images of one level each, half of the levels in each of two classes."""
    images = torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, size, size).contiguous()
    return from_raw(images, torch.arange(2).repeat_interleave(len(levels) // 2), ("bright", "dark"))


def test_patches_of_the_lowest_loss_are_taken(by_brightness):
    real = grey([10, 200, 50, 120, 90, 30, 140, 70])
    found = make_proxy(real, replace(RECIPE, images_per_class=2, augmentation=()), 0).images
    assert found.images[:, 0, 0, 0].tolist() == [200, 120, 30, 70]
    assert found.labels.tolist() == [0, 0, 1, 1]


def test_of_an_image_the_crop_of_the_lowest_loss_is_taken(by_brightness):
    images = torch.zeros(2, 1, 32, 32, dtype=torch.uint8)
    images[:, :, 16:] = 240  # the lower half is bright
    real = from_raw(images, torch.tensor([0, 1]), ("bright", "dark"))
    found = make_proxy(real, replace(RECIPE, images_per_class=1, augmentation=()), 0).images.images.float()
    assert found[0].mean() > 120 > found[1].mean()
    draws = torch_generator(0, "patches", 0)
    torch.randperm(1, generator=draws)
    boxes = draw_boxes(1, draws)
    crops = [cropped(images[:1].float(), boxes[:, crop]) for crop in range(patches.CROPS)]
    assert found[0].mean() == max(crop.round().mean() for crop in crops)


def test_a_crop_is_a_part_of_the_image_at_its_size():
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 6, 8)
    # The right half of the width, in the middle of the height.
    found = cropped(ramp, torch.tensor([[0.5, 0.5, 0.0]]))
    torch.testing.assert_close(found[0, 0, 2], torch.tensor([3.75, 4.25, 4.75, 5.25, 5.75, 6.25, 6.75, 7.0]))
    torch.testing.assert_close(cropped(ramp, torch.tensor([[1.0, 0.0, 0.0]])), ramp)
    boxes = draw_boxes(500, torch_generator(0, "boxes"))
    share, *middle = boxes.unbind(2)
    assert boxes.shape == (500, patches.CROPS, 3)
    assert all((place.abs() + share <= 1 + 1e-6).all() for place in middle)
    assert share.square().min() >= patches.LEAST_AREA
    assert (share.square() > 0.95).any()
    assert share.square().mean() == pytest.approx(0.54, abs=0.02)


def test_losses_of_crops_are_of_the_label_and_told_apart_where_the_network_is_sure():
    images = grey([200, 100, 150, 250])
    one = torch.tensor([1.0, 0.0, 0.0]).expand(4, 2, 3)
    losses = cross_entropies(Brightness(), images, one)
    bright = images.decode().mean((1, 2, 3)).double()
    expected = torch.nn.functional.softplus(2 * bright * torch.tensor([-1, -1, 1, 1]))
    torch.testing.assert_close(losses, expected.view(-1, 1).expand(-1, 2), rtol=1e-5, atol=1e-12)

    class Sure(Brightness):
        def forward(self, images):
            return 50 * super().forward(images)

    assert len(losses.unique()) == 4
    assert (cross_entropies(Sure(), images, one) > 0).all()


@pytest.mark.parametrize("formation", [1, 2])
def test_several_patches_are_packed_in_a_grid_and_ranks_spread_over_images(by_brightness, formation):
    real = grey(list(range(4, 252, 2)), size=16)
    recipe = replace(RECIPE, images_per_class=2, formation=formation, patches_across=2, augmentation=())
    found = make_proxy(real, recipe, 0).images
    several = 2 * formation**2
    assert (len(found), found.formation, found.shape.height) == (4, formation, 16)
    shown = found.unpacked().images[:several, 0]
    parts = shown.view(several, 2, 8, 2, 8).transpose(2, 3).flatten(3)
    if formation == 1:
        assert (parts == parts[..., :1]).all()  # each quarter is one patch
    levels = parts[..., 0] if formation == 1 else parts.float().mean(-1).round()
    best = torch.arange(126, 126 - 2 * 4 * several, -2).view(4, several).T  # image i has ranks i, n + i, 2n + i, …
    assert (levels.view(several, 4) - best).abs().max() <= (0 if formation == 1 else 3)


def test_how_many_patches_an_image_has_depends_on_its_size():
    sizes = {(28, 28): 1, (64, 64): 1, (127, 200): 1, (128, 128): 2, (224, 224): 2, (129, 224): 1}
    assert {size: across(RECIPE, *size) for size in sizes} == sizes
    assert across(replace(RECIPE, patches_across=4), 32, 64) == 4
    with pytest.raises(ConfigError, match="--patches-across 3 divides images evenly, but these have 8×9 pixels"):
        across(replace(RECIPE, patches_across=3), 8, 9)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_same_seed_chooses_the_same(channels):
    real = blobs(channels=channels)
    before = torch.get_rng_state()
    one, two, three = (make_proxy(real, RECIPE, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.images.fingerprint() == two.images.fingerprint() != three.images.fingerprint()
    assert one.images.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert torch.equal(one.images.scale, real.scale)
    assert one.seconds > 0


def test_a_class_with_too_few_images_is_named():
    with pytest.raises(DataError, match="class 'class0' has 4 train images, but each of 5 patches a class is of anot"):
        make_proxy(blobs(per_class=4), replace(RECIPE, images_per_class=5), 0)
    assert len(make_proxy(blobs(per_class=4), replace(RECIPE, images_per_class=4), 0).images) == 12


def test_progress_is_told_to_its_end_and_the_passes_are_counted(monkeypatch):
    told = []
    real = blobs(per_class=30)
    make_proxy(real, RECIPE, 0, progress=lambda steps, loss: told.append(steps))
    assert told == sorted(told)
    assert len(told) == 2 + 3  # epochs, and classes
    assert told[-1] == steps_of(RECIPE, real)
    # Two epochs of 90 images in batches of 50, and five crops of each.
    assert effort(RECIPE, [30] * 3, 1) == Effort(4, 4 * 50, (150, 150, 150))
    assert forward_passes(RECIPE, real) == 4 * 50 + 5 * 90
    monkeypatch.setattr(patches, "LOOKED_AT", 7)
    monkeypatch.setattr(patches, "TAUGHT", 50)
    # Of the first class all twelve images, of the others sixteen of thirty.
    assert effort(RECIPE, [12, 30, 30], 1) == Effort(2, 2 * 44, (35, 35, 35))
    assert effort(replace(RECIPE, images_per_class=3), [30] * 3, 2).crops == (60, 60, 60)


def test_a_teacher_that_diverges_gets_a_sentence(monkeypatch):
    monkeypatch.setattr(patches, "teaching", lambda recipe: Recipe(2, learning_rate=1e30, augmentation=()))
    with pytest.raises(RunFailedError, match=r"loss of the teacher of --method patches is (nan|inf); give another --w"):
        make_proxy(blobs(), RECIPE, 0)


class CutOffError(Exception):
    pass


def cut_off_after_the_teacher(real, checkpoint, recipe=RECIPE):
    def progress(steps, loss):
        if steps > teaching(recipe).steps(len(real)):
            raise CutOffError

    with pytest.raises(CutOffError):
        make_proxy(real, recipe, 0, checkpoint=checkpoint, progress=progress)


def test_a_kill_does_not_lose_the_teacher(tmp_path, monkeypatch):
    real, checkpoint = blobs(), tmp_path / ".work" / "patches.safetensors"
    whole = make_proxy(real, RECIPE, 0).images.fingerprint()
    cut_off_after_the_teacher(real, checkpoint)
    with safe_open(checkpoint, framework="pt") as file:
        seconds = float(file.metadata()["seconds"])
    with monkeypatch.context() as patch:
        patch.setattr(patches, "fit", lambda *_: pytest.fail("the teacher was trained again"))
        resumed = make_proxy(real, RECIPE, 0, checkpoint=checkpoint)
    assert resumed.images.fingerprint() == whole
    assert resumed.seconds > seconds > 0
    # Of other images, another seed or another recipe, or damaged, it is no teacher.
    for other, changed, seed in ((blobs(seed=1), {}, 0), (real, {}, 1), (real, {"teacher_epochs": 3}, 0)):
        recipe = replace(RECIPE, **changed)
        expected = make_proxy(other, recipe, seed).images.fingerprint()
        cut_off_after_the_teacher(real, checkpoint)
        assert make_proxy(other, recipe, seed, checkpoint=checkpoint).images.fingerprint() == expected
    checkpoint.write_bytes(b"nothing")
    assert make_proxy(real, RECIPE, 0, checkpoint=checkpoint).images.fingerprint() == whole


def test_a_gpu_chooses_the_same():
    real = blobs(per_class=20, channels=3)
    with EmulatedCuda():
        found = make_proxy(real, RECIPE, 0, device="cuda").images
    assert found.images.device.type == "cpu"
    assert found.fingerprint() == make_proxy(real, RECIPE, 0).images.fingerprint()


def test_a_gpu_with_too_little_memory_gets_a_sentence(monkeypatch):
    def fit(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(patches, "fit", fit)
    with pytest.raises(RunFailedError, match="teacher of --method patches needs more memory than is free on cpu; low"):
        make_proxy(blobs(), RECIPE, 0)


def test_images_of_a_store_stay_there_and_a_share_teaches(tmp_path, monkeypatch):
    real = blobs(per_class=30)
    (tmp_path / "index.json").write_text(json.dumps({"identity": "blobs"}))
    np.save(tmp_path / "images.npy", real.images.numpy())
    stored = replace(real, images=StoredImages(tmp_path, "blobs", torch.arange(len(real))))
    assert make_proxy(stored, RECIPE, 0).images.fingerprint() == make_proxy(real, RECIPE, 0).images.fingerprint()

    seen, fit = [], patches.fit
    monkeypatch.setattr(patches, "fit", lambda build, data, *rest: seen.append(data) or fit(build, data, *rest))
    monkeypatch.setattr(patches, "TAUGHT", 16)
    few = make_proxy(stored, RECIPE, 0).images.fingerprint()
    assert few == make_proxy(real, RECIPE, 0).images.fingerprint()
    assert isinstance(seen[0].images, StoredImages)
    assert [len(members) for members in seen[0].of_class()] == [5, 5, 5]


@pytest.fixture(scope="module", autouse=True)
def _few():
    yield from few_resamples()


@pytest.mark.slow
def test_a_comparison_counts_what_choosing_takes(tmp_path):
    bench = Bench(tmp_path)
    settings = bench.settings(table=True, signals=["patches", "patches+formation", "random"], draws=1)
    settings = replace(settings, condense=replace(settings.condense, teacher_epochs=2.0))
    run = run_all(settings, tmp_path / "run")
    ranking = json.loads((run / "ranking.json").read_text())
    cost = ranking["signals"]["patches"]["cost"]
    # 36 train images of three classes, two epochs in steps of 36, and five crops of each.
    assert cost["making_passes"] == 2 * 36 + 5 * 36
    assert cost["making_seconds"] > 0
    assert cost["stored_images"] == ranking["signals"]["random"]["cost"]["stored_images"]
    assert ranking["signals"]["patches+formation"]["control"] == "random+formation"
    assert ranking["equal_cost"]["random_total"]["target"] == "patches"
    told = ImageSet.load_metadata(run / "sets" / "patches-0.safetensors")
    assert (told["method"], told["recipe"]["teacher_epochs"]) == ("patches", 2.0)
    assert told["seconds"] == pytest.approx(cost["making_seconds"], abs=1e-3)
    assert not list((run / ".work").glob("*.safetensors"))
    assert "Patches" in (run / "compare.html").read_text()


def test_a_run_goes_on_from_the_teacher_and_has_pictures(tmp_path, monkeypatch, tiny_space):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    recipe = {"images_per_class": 2, "width": 8, "method": "patches", "teacher_epochs": 2}
    settings = resolve(
        {"dataset": f"npz:{tmp_path / 'blobs.npz'}", "space": str(tiny_space), "device": "cpu", "condense": recipe}
    )
    of_class = patches._of_class

    def cut(network, real, members, label, *rest):
        if label == 1:
            raise CutOffError
        return of_class(network, real, members, label, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(patches, "_of_class", cut)
        with pytest.raises(CutOffError):
            run_all(settings, tmp_path / "run", names=("condense",))
    assert (tmp_path / "run" / ".work" / "condense.safetensors").exists()
    monkeypatch.setattr(patches, "fit", lambda *_: pytest.fail("the teacher was trained again"))
    run = run_all(settings, tmp_path / "run", names=("condense",))
    assert {"proxy.safetensors", "proxy.png", "real.png"} <= {path.name for path in run.path.iterdir()}
    assert not (run / ".work" / "condense.safetensors").exists()
