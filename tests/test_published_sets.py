"""Published sets in, image folders out; selection baselines; evaluation."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import blobs
from nas_proxy.condensation.evaluation import evaluate, paper_recipe
from nas_proxy.condensation.published_sets import folder_names, read_set, write_folder
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


def npz(path, images=None, labels=None, **more):
    given = {"images": np.zeros((6, 3, 8, 8)) if images is None else images}
    np.savez(path, **given, labels=np.arange(6) % 3 if labels is None else labels, **more)
    return path


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])
    return path


def bare(path):
    np.save(path.with_suffix(".npy"), np.zeros(3))
    return path.with_suffix(".npy").rename(path)


def of_labels(labels):
    return torch.zeros(6, 3, 8, 8), labels


LABELS = torch.arange(6) % 3
NO_PT = "damaged, or not a .pt file of tensors alone, which can be read without executing code in it; write one with"
NO_NPZ = r"damaged, or no .npz file of plain arrays; write one with numpy.savez_compressed\(FILE, images"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "does not exist; give a .pt or .npz file"),
        (lambda p: p.mkdir() or p, "is a folder; give a .pt or .npz file"),
        (lambda p: pt(p, Evil()), NO_PT),
        (lambda p: p.write_text("no") and p, NO_PT),
        (lambda p: truncated(pt(p, some())), NO_PT),
        (lambda p: pt(p, {"weights": torch.zeros(3)}), "holds a dict without images and labels; expected `images`"),
        (lambda p: pt(p, (torch.zeros(6, 3, 9, 9), LABELS)), r"needs images of shape \(n, 3, 8, 8\)"),
        (lambda p: pt(p, of_labels(torch.zeros(6, 3))), r"labels of shape \(6, 3\); the data needs"),
        (lambda p: pt(p, of_labels(torch.tensor(1))), r"labels of shape \(\); the data needs"),
        (lambda p: pt(p, of_labels(torch.arange(6))), "are not 0 to 2, each at least once"),
        (lambda p: pt(p, of_labels(LABELS + 0.4)), "are not all whole numbers, as 0.4; save one class an image"),
        (lambda p: pt(p, of_labels(LABELS * torch.nan)), "are not all whole numbers, as nan"),
        (
            lambda p: pt(p, (torch.zeros(6, 3, 8, 8).to_sparse(), LABELS)),
            "float32, torch.sparse_coo, cpu.; save dense ones",
        ),
        (lambda p: pt(p, (torch.full((6, 3, 8, 8), torch.nan), LABELS)), "not finite"),
        (
            lambda p: pt(p, (torch.zeros(6, 3, 8, 8, dtype=torch.complex64), LABELS)),
            "images in .* are of type complex64",
        ),
        (
            lambda p: pt(p, (torch.zeros(6, 3, 8, 8).to("meta"), LABELS)),
            r"no plain values \(torch.float32, torch.strided, meta",
        ),
        (
            lambda p: pt(p, (torch.full((6, 3, 8, 8), 300), LABELS)),
            "whole numbers from 300 to 300; pixels are from 0 to 255",
        ),
        (
            lambda p: pt(p, (torch.rand(6, 3, 8, 8) * 255, LABELS)),
            "save pixels from 0 to 255 as uint8, or divide them by",
        ),
        (
            lambda p: pt(p, (torch.full((6, 3, 8, 8), -11.0), LABELS)),
            "from -11 to -11, neither pixels from 0 to 1 nor norm",
        ),
    ],
)
def test_what_cannot_be_read_gets_a_sentence_and_is_not_executed(tmp_path, capsys, make, message):
    with pytest.raises(DataError, match=message) as raised:
        read_set(make(tmp_path / "set.pt"), REAL)
    assert "executed" not in capsys.readouterr().out
    assert "\n" not in str(raised.value)
    assert "weights_only" not in str(raised.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: truncated(npz(p)), NO_NPZ),
        (lambda p: p.write_bytes(b"") or p, NO_NPZ),
        (lambda p: p.write_text("no") and p, NO_NPZ),
        (lambda p: p.write_bytes(pickle.dumps(Evil())) and p, NO_NPZ),
        (bare, NO_NPZ),
        (lambda p: npz(p, images=np.array([Evil()] * 6)), NO_NPZ),
        (
            lambda p: np.savez(p, x=np.zeros(3), labels=np.zeros(3)) or p,
            "has the arrays x, labels; it needs `images` and",
        ),
        (lambda p: npz(p, images=np.full((6, 3, 8, 8), "no")), "the images in .* are of type <U2; save whole numbers"),
        (lambda p: npz(p, labels=np.array(list("catdog"))), "the labels in .* are of type <U1; save whole numbers"),
        (lambda p: npz(p, images=np.full((6, 3, 8, 8), True)), "the images in .* are of type bool; save whole numbers"),
        (lambda p: npz(p, images=np.full((6, 3, 8, 8), -1)), "whole numbers from -1 to -1; pixels are from 0 to 255"),
        (lambda p: npz(p, labels=np.array([0, 1, 2, 0, 1, 2**63], np.uint64)), "are not 0 to 2, each at least once"),
    ],
)
def test_arrays_that_cannot_be_read_get_a_sentence(tmp_path, capsys, make, message):
    with pytest.raises(DataError, match=message) as raised:
        read_set(make(tmp_path / "set.npz"), REAL)
    assert "executed" not in capsys.readouterr().out
    assert "allow_pickle" not in str(raised.value)


def test_every_kind_of_number_is_read(tmp_path):
    levels = np.arange(6 * 3 * 8 * 8).reshape(6, 3, 8, 8) % 256
    expected = read_set(npz(tmp_path / "set.npz", images=levels), REAL)
    for kind in (">i4", "u2", "u8", np.uint8):
        found = read_set(npz(tmp_path / "set.npz", images=levels.astype(kind), labels=LABELS.double().numpy()), REAL)
        assert found.fingerprint() == expected.fingerprint()
    learnt = torch.nn.Parameter(some()[0].bfloat16())
    found = read_set(pt(tmp_path / "set.pt", (learnt, LABELS)), REAL)
    order = LABELS.argsort(stable=True)
    torch.testing.assert_close(found.decode(), learnt.detach().float()[order], rtol=0, atol=0.02)


def test_the_number_of_images_to_ask_for_is_told_where_there_is_one(tmp_path):
    uneven = npz(tmp_path / "uneven.npz", labels=np.array([0, 1, 2, 0, 1, 1]))
    for count in (1, 2, 3):
        with pytest.raises(
            DataError, match="1 to 3 images a class; each class needs as many: save a file with 1 of each"
        ):
            read_set(uneven, REAL, count)
    with pytest.raises(DataError, match="2 images of a class where 3 were asked for; give --ipc 2"):
        read_set(npz(tmp_path / "even.npz"), REAL, 3)


def test_a_folder_of_images_holds_what_was_stored(tmp_path):
    images, labels = some()
    levels = (images * 40 + 120).clamp(0, 255).to(torch.uint8)
    found = read_set(pt(tmp_path / "set.pt", (levels, labels)), REAL)
    write_folder(found, REAL, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.png"))) == 6
    array = np.asarray(Image.open(tmp_path / "out" / "class1" / "00001.png"))
    assert np.array_equal(array, found.images[3].permute(1, 2, 0).numpy())


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_export_replaces_an_earlier_one_whole(tmp_path):
    out, alone = tmp_path / "out", tmp_path / "alone"
    write_folder(select(REAL, 3, "random", 0), REAL, out)
    (out / "class0" / ".00007.png.0a1b2c3d-123.part").write_bytes(b"")  # what a kill leaves, on any machine
    (out / ".hidden").write_text("kept")
    fewer = select(REAL, 1, "random", 1)
    for _ in range(2):
        write_folder(fewer, REAL, out)
    write_folder(fewer, REAL, alone)
    assert contents(out) == {**contents(alone), ".hidden": b"kept"}
    assert len(contents(alone)) == 3
    renamed = dataclasses.replace(fewer, classes=("other", "class1", "class2"))
    write_folder(renamed, REAL, out)
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == ["class1", "class2", "other"]


@pytest.mark.parametrize(
    "name", ["notes.txt", "00000.png", "class0/mine.png", "class0/00000.png", "class0/deep/00000.png"]
)
def test_a_folder_with_files_of_others_is_left_alone(tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    if name.endswith("deep/00000.png"):  # an export, but not one that lay in this folder
        write_folder(select(REAL, 1, "random", 0), REAL, tmp_path / "other")
        (tmp_path / "other" / "class0" / "00000.png").rename(out / name)
    else:
        Image.new("L", (8, 8)).save(out / name, format="PNG")
    before = contents(out)
    with pytest.raises(
        DataError, match=rf"out holds {name}, which is no image of an earlier export and would be mixed"
    ):
        write_folder(select(REAL, 1, "random", 0), REAL, out)
    assert contents(out) == before


def test_an_export_goes_through_no_link_and_onto_no_file(tmp_path):
    chosen = select(REAL, 1, "random", 0)
    write_folder(chosen, REAL, tmp_path / "precious")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "class0").symlink_to(tmp_path / "precious" / "class0")
    with pytest.raises(DataError, match="out holds class0, which is no image of an earlier export"):
        write_folder(chosen, REAL, tmp_path / "out")
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "deep"):
        with pytest.raises(DataError, match="file is no folder; give another folder"):
            write_folder(chosen, REAL, folder)
    assert (tmp_path / "file").read_text() == "mine"


def test_the_images_in_formations_are_written_as_networks_see_them(tmp_path):
    stored = select(REAL, 8, "random", 0).packed(2)
    write_folder(stored, REAL, tmp_path / "out")
    assert len(contents(tmp_path / "out")) == 3 * 8
    array = np.asarray(Image.open(tmp_path / "out" / "class2" / "00007.png"))
    assert np.array_equal(array, stored.unpacked().images[-1].permute(1, 2, 0).numpy())


def test_every_class_has_a_folder_of_its_own(tmp_path):
    assert folder_names(["a/b", "a_b", "A_B", "..", "", ".x", "cat. "]) == [
        "a_b-0",
        "a_b",
        "A_B-2",
        "_",
        "_-4",
        "_x",
        "cat_",
    ]
    classes = ("a/b", "a_b", "../a_b")
    write_folder(dataclasses.replace(select(REAL, 1, "random", 0), classes=classes), REAL, tmp_path / "out")
    assert sorted(contents(tmp_path)) == ["out/__a_b/00000.png", "out/a_b-0/00000.png", "out/a_b/00000.png"]


@given(st.lists(st.text(st.characters()), min_size=1, max_size=6, unique=True))
@settings(max_examples=100, deadline=None)
def test_folder_names_are_distinct_and_stay_in_the_folder(classes):
    names = folder_names(classes)
    assert len({name.casefold() for name in names}) == len(classes)
    assert all(name == Path(name).name and 0 < len(name.encode()) < 255 for name in names)
    assert not any(name.startswith(".") for name in names)


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


@pytest.mark.slow
def test_evaluation_tells_a_good_set_from_a_useless_one(images):
    useless = images.select(images.labels.argsort())
    useless = type(useless)(useless.images, useless.labels.roll(12), useless.scale, useless.offset, useless.classes)
    recipe = paper_recipe(150, ())
    found = evaluate(useless, images, blobs(seed=1), recipe, 0, width=8)
    assert found.accuracy < 0.4
    assert found.random_accuracy > 0.6
    assert set(found.as_json()) == {"accuracy", "std", "random_accuracy", "random_std"}
