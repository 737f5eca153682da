"""Published sets in, image folders out; selection baselines; evaluation."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import blobs
from nas_proxy.condensation.evaluation import evaluate, paper_recipe
from nas_proxy.condensation.exchange import read_set, write_folder
from nas_proxy.condensation.selection import METHODS, farthest_first, herd, select
from nas_proxy.data.images import quantised
from nas_proxy.errors import DataError
from nas_proxy.seeds import torch_generator

REAL = blobs(channels=3)


def some(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(3).repeat(count)
    return torch.randn(len(labels), 3, 8, 8, generator=torch_generator(0, "some")), labels


def pt(path, value):
    torch.save(value, path)
    return path


def test_the_authors_file_is_read_with_its_numpy_scalars(tmp_path):
    images, labels = some()
    first = [torch.zeros_like(images), labels]
    accuracies = {"ConvNet": [np.float64(0.4), np.float64(0.5)]}
    path = pt(tmp_path / "res.pt", {"data": [first, [images, labels]], "accs_all_exps": accuracies})
    found = read_set(path, REAL)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    order = labels.argsort(stable=True)
    torch.testing.assert_close(found.decode(), images[order], rtol=0, atol=float(found.scale.max()) / 2 + 1e-6)


def test_pairs_pixels_and_arrays_are_read(tmp_path):
    images, labels = some()
    levels = (images * 40 + 120).clamp(0, 255).to(torch.uint8)
    np.savez(tmp_path / "set.npz", images=levels.numpy(), labels=labels.numpy())
    from_npz = read_set(tmp_path / "set.npz", REAL)
    from_pt = read_set(pt(tmp_path / "set.pt", (levels, labels)), REAL)
    from_floats = read_set(pt(tmp_path / "floats.pt", {"images": levels / 255, "labels": labels}), REAL)
    assert torch.equal(from_npz.images, from_pt.images)
    assert torch.equal(from_pt.scale, REAL.scale)
    torch.testing.assert_close(from_floats.decode(), from_pt.decode(), rtol=0, atol=0.02)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "does not exist"),
        (lambda p: pt(p, Evil()), "cannot be read|without executing it"),
        (lambda p: p.write_text("no") and p, "without executing it"),
        (lambda p: pt(p, {"weights": torch.zeros(3)}), "holds a dict without images and labels; expected `images`"),
        (lambda p: pt(p, (torch.zeros(6, 3, 9, 9), torch.arange(6) % 3)), r"needs images of shape \(n, 3, 8, 8\)"),
        (lambda p: pt(p, (torch.zeros(6, 3, 8, 8), torch.arange(6))), "are not 0 to 2, each at least once"),
        (lambda p: pt(p, (torch.full((3, 3, 8, 8), torch.nan), torch.arange(3))), "not finite"),
    ],
)
def test_what_cannot_be_read_gets_a_sentence_and_is_not_executed(tmp_path, capsys, make, message):
    with pytest.raises(DataError, match=message):
        read_set(make(tmp_path / "set.pt"), REAL)
    assert "executed" not in capsys.readouterr().out


def test_a_folder_of_images_holds_what_was_stored(tmp_path):
    images, labels = some()
    levels = (images * 40 + 120).clamp(0, 255).to(torch.uint8)
    found = read_set(pt(tmp_path / "set.pt", (levels, labels)), REAL)
    write_folder(found, REAL, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6
    array = np.asarray(Image.open(tmp_path / "out" / "class1" / "00001.png"))
    assert np.array_equal(array, found.images[3].permute(1, 2, 0).numpy())


@given(st.integers(1, 6), st.floats(0.01, 100))
@settings(max_examples=25, deadline=None)
def test_quantising_errs_by_half_a_level_at_most(count, spread):
    images = torch.randn(count, 2, 4, 4, generator=torch_generator(count)) * spread
    found = quantised(images, torch.zeros(count, dtype=torch.int64), ("a",))
    error = (found.decode() - images).abs().amax((0, 2, 3))
    assert bool((error <= found.scale / 2 * 1.001 + 1e-6).all())


def test_herding_follows_the_mean_by_hand():
    features = torch.tensor([[0.0], [4.0], [9.0], [11.0]])  # mean 6
    assert herd(features, 3).tolist() == [1, 2, 0]  # 4; (4+9)/2 = 6.5; (4+9+0)/3 = 4.3 against (4+9+11)/3 = 8


def test_farthest_first_by_hand():
    features = torch.tensor([[0.0], [4.0], [9.0], [11.0]])
    assert farthest_first(features, 3).tolist() == [1, 3, 0]


@pytest.mark.parametrize("method", METHODS)
def test_selections_are_real_images_of_each_class_and_repeat(images, method):
    one, two = (select(images, 3, method, 0, width=8) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()
    assert one.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    known = {tuple(image.flatten().tolist()) for image in images.images}
    chosen = [tuple(image.flatten().tolist()) for image in one.images]
    assert set(chosen) <= known
    assert len(set(chosen)) == 9


def test_evaluation_tells_a_good_set_from_a_useless_one(images):
    useless = images.select(images.labels.argsort())
    useless = type(useless)(useless.images, useless.labels.roll(12), useless.scale, useless.offset, useless.classes)
    recipe = paper_recipe(150, ())
    found = evaluate(useless, images, blobs(seed=1), recipe, 0, width=8)
    assert found.accuracy < 0.4
    assert found.random_accuracy > 0.6
    assert set(found.as_json()) == {"accuracy", "std", "random_accuracy", "random_std"}
