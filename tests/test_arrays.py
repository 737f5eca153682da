from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nas_proxy.data.arrays import as_raw, resized
from nas_proxy.data.sources import open_source
from nas_proxy.errors import DataError

LABELS = np.array([0, 1, 0, 1])
relaxed = settings(deadline=None, max_examples=50)  # a busy machine is no failure


def images(count: int = 4, size: int = 28) -> np.ndarray:
    """Return random grey images: uint8, (count, size, size)."""
    return np.random.default_rng(count).integers(0, 256, (count, size, size), dtype=np.uint8)


def npz(folder: Path, **arrays: object) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def message(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_source(f"npz:{path}").read("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@given(st.integers(0, 5), st.integers(5, 9), st.integers(5, 9), st.sampled_from([1, 3]))
@relaxed
def test_every_layout_becomes_channels_first(count, height, width, channels):
    raw = np.random.default_rng(0).integers(0, 256, (count, channels, height, width), dtype=np.uint8)
    assert np.array_equal(as_raw(raw, "x"), raw)
    assert np.array_equal(as_raw(raw.transpose(0, 2, 3, 1), "x"), raw)
    if channels == 1:
        assert np.array_equal(as_raw(raw[:, 0], "x"), raw)


@given(st.sampled_from([np.float16, np.float32, np.float64]))
@relaxed
def test_every_float_of_an_eighth_bit_returns(kind):
    raw = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(as_raw((raw / 255).astype(kind), "x")[0], raw)


def test_whole_numbers_of_any_type():
    raw = images()
    assert np.array_equal(as_raw(raw.astype(np.int64), "x")[:, 0], raw)


@pytest.mark.parametrize("first", [True, False])
def test_alpha_is_composited_onto_white(first):
    pixel = np.array([[0, 100, 200, 51], [0, 100, 200, 0], [0, 100, 200, 255]], dtype=np.uint8)
    whole = np.tile(pixel[:, :, None, None], (1, 1, 5, 5))
    out = as_raw(whole if first else whole.transpose(0, 2, 3, 1), "x")
    assert out[:, :, 0, 0].tolist() == [[204, 224, 244], [255, 255, 255], [0, 100, 200]]


def test_more_images_than_a_chunk():
    raw = np.random.default_rng(0).integers(0, 256, (1030, 4, 5, 5), dtype=np.uint8)
    raw[:, 3] = 255
    assert np.array_equal(as_raw(raw, "x"), raw[:, :3])
    assert np.array_equal(as_raw(raw[:, :3] / 255, "x"), raw[:, :3])
    assert np.array_equal(resized(torch.from_numpy(raw), 5), raw)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (
            np.zeros((4, 784), np.uint8),
            "x has the shape 4×784; expected n×h×w, n×h×w×c or n×c×h×w with 1, 3 or 4 channels",
        ),
        (
            np.zeros((4, 2, 28, 28)),
            "x has the shape 4×2×28×28; expected n×h×w, n×h×w×c or n×c×h×w with 1, 3 or 4 channels",
        ),
        (
            np.full((1, 5, 5), 255.0),
            "x has values of type float64 from 255 to 255; expected uint8, or floats in 0..1",
        ),
        (
            np.full((1, 5, 5), np.nan),
            "x has values of type float64 from nan to nan; expected uint8, or floats in 0..1",
        ),
        (
            np.full((1, 5, 5), -0.5),
            "x has values of type float64 from -0.5 to -0.5; expected uint8, or floats in 0..1",
        ),
        (
            np.full((1, 5, 5), -1),
            "x has values of type int64 from -1 to -1; expected uint8, or floats in 0..1",
        ),
        (np.zeros((1, 5, 5), bool), "x has values of type bool; expected uint8, or floats in 0..1"),
    ],
)
def test_arrays_that_are_no_images(array, expected):
    with pytest.raises(DataError) as caught:
        as_raw(array, "x")
    assert str(caught.value) == expected


@pytest.mark.parametrize("size", [8, 20, 33])
def test_resizing_is_that_of_pillow(size):
    wave = 127 + 100 * np.sin(np.arange(40) / 5)
    image = Image.fromarray(np.add.outer(wave, wave[:30] / 2).clip(0, 255).astype(np.uint8))
    square = image.crop((0, 5, 30, 35)).resize((size, size), Image.Resampling.BILINEAR)
    ours = resized(torch.from_numpy(np.asarray(image).copy())[None, None], size)[0, 0]
    assert np.abs(ours.int().numpy() - np.asarray(square, dtype=int)).max() <= 1


@pytest.mark.parametrize(
    "naming",
    [
        ("train_images", "train_labels", "test_images", "test_labels", "val_images", "val_labels"),
        ("x_train", "y_train", "x_test", "y_test", "x_val", "y_val"),
    ],
)
def test_parts_of_their_own(tmp_path, naming):
    stored = (images(4), LABELS[:, None], images(2), LABELS[:2], images(3), LABELS[:3])
    source = open_source(f"npz:{npz(tmp_path, **dict(zip(naming, stored, strict=True)))}")
    assert (source.has_test, source.has_validation) == (True, True)
    assert source.classes == ("0", "1")
    for number, part in enumerate(["train", "test", "validation"]):
        read, labels = source.read(part)
        assert np.array_equal(read[:, 0], stored[2 * number])
        assert labels.tolist() == stored[2 * number + 1].reshape(-1).tolist()


def test_images_to_be_split_with_names_index_size_and_progress(tmp_path):
    path = npz(tmp_path, images=images(), labels=LABELS, classes=np.array(["cat", "dog"]))
    source = open_source(f"npz:{path}", image_size=32)
    assert (source.has_test, source.has_validation) == (False, False)
    assert source.classes == ("cat", "dog")
    calls = []
    read, labels = source.read("train", torch.tensor([3, 0]), progress=lambda *call: calls.append(call))
    assert read.shape == (2, 1, 32, 32)
    assert labels.tolist() == [1, 0]
    assert calls == [(2, 2)]
    named = npz(tmp_path, images=images(), labels=LABELS, classes=np.array([b"cat", b"dog"]))
    assert open_source(f"npz:{named}").classes == ("cat", "dog")
    twice = npz(tmp_path, images=images(), labels=LABELS, classes=np.array(["cat", "cat"]))
    assert message(twice).endswith("has two classes that are called 'cat'; rename one of them")


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([10, 2, 7, 2], ("2", "7", "10")), (["dog", "cat", "dog", "eel"], ("cat", "dog", "eel"))],
)
def test_labels_need_not_count_from_zero(tmp_path, labels, classes):
    source = open_source(f"npz:{npz(tmp_path, images=images(), labels=np.array(labels))}")
    assert source.classes == classes
    assert [source.classes[label] for label in source.labels("train")] == list(map(str, labels))


def test_reading_train_opens_no_array_of_test(tmp_path):
    path = npz(tmp_path, train_images=images(), train_labels=LABELS, test_images=images(5)[:4], test_labels=LABELS)
    whole = path.read_bytes()
    place = whole.index(images(5)[:4].tobytes())
    path.write_bytes(whole[:place] + bytes(100) + whole[place + 100 :])
    source = open_source(f"npz:{path}")
    assert len(source.read("train")[0]) == 4
    with pytest.raises(DataError, match=r"test_images of .* cannot be read"):
        source.read("test")


TEST_PARTS = {
    "size": (images(4, 9), "test_images of {path} are 1×9×9 (channels×height×width) but those of train are 1×28×28"),
    "channels": (
        np.zeros((4, 28, 28, 3), np.uint8),
        "test_images of {path} are 3×28×28 (channels×height×width) but those of train are 1×28×28",
    ),
    "count": (images(5), "test_images of {path} has 5 images but 4 labels; each image needs one"),
    "type": (images() > 9, "test_images of {path} has values of type bool; expected uint8, or floats in 0..1"),
    "objects": (np.array([{}]), "test_images of {path} holds Python objects; save it as a plain array"),
    "shape": (np.zeros((4, 784)), "test_images of {path} has the shape 4×784; expected n×h×w, n×h×w×c or n×c×h×w"),
}


@pytest.mark.parametrize(("test", "expected"), TEST_PARTS.values(), ids=TEST_PARTS)
def test_what_is_wrong_with_test_images_is_told_when_the_file_is_opened(tmp_path, test, expected):
    path = npz(tmp_path, train_images=images(), train_labels=LABELS, test_images=test, test_labels=LABELS)
    with pytest.raises(DataError) as caught:
        open_source(f"npz:{path}")
    assert str(caught.value).startswith(expected.format(path=path))


def test_parts_of_several_sizes_that_are_resized_need_the_same_channels(tmp_path):
    parts = {"train_images": images(), "train_labels": LABELS, "test_labels": LABELS}
    path = npz(tmp_path, **parts, test_images=images(4, 9))
    assert open_source(f"npz:{path}", image_size=8).read("test")[0].shape == (4, 1, 8, 8)
    path = npz(tmp_path, **parts, test_images=np.zeros((4, 9, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"test_images of .* are 3 channels but those of train are 1"):
        open_source(f"npz:{path}", image_size=8)


KINDS = {"int64": images().astype(np.int64), "uint8": images(), "uint16": images() * np.uint16(257)}
KINDS |= {"float": images() / 255}


@pytest.mark.parametrize("train", KINDS)
@pytest.mark.parametrize("test", KINDS)
def test_parts_of_different_types_keep_their_pixels(tmp_path, train, test):
    parts = {"train_images": KINDS[train], "train_labels": LABELS, "test_images": KINDS[test], "test_labels": LABELS}
    path = npz(tmp_path, **parts)
    if {train, test} == {"int64", "uint16"}:
        with pytest.raises(
            DataError, match=r"test_images of .* goes up to \d+ but train_images to \d+; save all parts"
        ):
            open_source(f"npz:{path}")
    else:
        source = open_source(f"npz:{path}")
        for part in ("train", "test"):
            assert np.array_equal(source.read(part)[0][:, 0], images())


NAMES = [
    ("images", "labels", "test_images", "test_labels", "validation_images", "validation_labels"),
    ("X_train", "y_train", "X_test", "y_test", "X_valid", "y_valid"),
    ("Train_Images", "Train_Labels", "x_testing", "y_testing", "x_val", "y_val"),
]


@pytest.mark.parametrize("names", NAMES)
def test_parts_are_known_by_their_usual_names_in_any_case(tmp_path, names):
    stored = (images(4), LABELS, images(2), LABELS[:2], images(3), LABELS[:3])
    source = open_source(f"npz:{npz(tmp_path, **dict(zip(names, stored, strict=True)))}")
    assert [len(source.read(part)[0]) for part in ("train", "test", "validation")] == [4, 2, 3]


def test_arrays_that_are_not_used_are_told(tmp_path):
    said = []
    path = npz(tmp_path, images=images(), labels=LABELS, extra_images=images(2), weights=LABELS)
    open_source(f"npz:{path}", say=said.append)
    assert said == [
        f"{path} has arrays that are not used: extra_images; known parts: train, training, test, testing, val, valid, "
        "validation"
    ]
    npz(tmp_path, x_train=images(), X_TRAIN=images(), y_train=LABELS)
    with pytest.raises(DataError, match="has two arrays of one name"):
        open_source(f"npz:{path}")


def test_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "data.npz"
    assert message(path) == f"the file {path} does not exist; give an existing one as npz:FILE"
    unreadable = f"{path} is not a readable npz file; write one with numpy.savez_compressed"
    for content in (b"", b"text", b"PK\x03\x04 but no more"):
        path.write_bytes(content)
        assert message(path) == unreadable
    with path.open("wb") as file:
        np.save(file, images())
    assert message(path) == unreadable
    npz(tmp_path, pictures=images())
    assert message(path) == (
        f"{path} has the arrays pictures; expected images and labels, or train_images, train_labels, "
        "test_images and test_labels, or x_train, y_train, x_test and y_test"
    )
    npz(tmp_path, x_train=images(), y_train=LABELS, x_test=images())
    assert message(path) == f"{path} lacks the array 'y_test'; it has x_train, y_train, x_test"
    npz(tmp_path, images=images(), labels=LABELS)
    whole = path.read_bytes()
    path.write_bytes(whole[:400] + bytes(100) + whole[500:])
    assert message(path).startswith(f"images of {path} cannot be read (Bad CRC-32")


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"labels": LABELS[:3]}, "images of {path} has 4 images but 3 labels; each image needs one"),
        ({"labels": LABELS * 0}, "{path} has only one class, '0'; two or more are needed"),
        (
            {"labels": np.eye(4)},
            "labels of {path} has the shape 4×4 and the type float64; "
            "expected one whole number or one name for each image",
        ),
        (
            {"labels": np.array(3)},
            "labels of {path} has the shape of one number and the type int64; "
            "expected one whole number or one name for each image",
        ),
        (
            {"labels": np.array([1, 2, 1, 2]), "classes": np.array(["cat", "dog"])},
            "{path} names 2 classes but its train labels are 1, 2; expected every whole number from 0 to 1",
        ),
        (
            {"labels": np.array([0, 1, 2, 0]), "classes": np.array(list("abcd"))},
            "{path} names 4 classes but its train labels are 0, 1, 2; expected every whole number from 0 to 3",
        ),
    ],
)
def test_labels_that_cannot_be_used(tmp_path, arrays, expected):
    path = npz(tmp_path, images=images(), **arrays)
    assert message(path) == expected.format(path=path)


def test_a_class_that_train_lacks(tmp_path):
    path = npz(tmp_path, train_images=images(), train_labels=LABELS, test_images=images(), test_labels=LABELS + 1)
    assert message(path) == f"test_labels of {path} has the class '2', which train lacks"
