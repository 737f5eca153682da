"""Folders and arrays as people have them: ranges, notes of cameras, odd names, and what is left out."""

import unicodedata

import numpy as np
import pytest
from PIL import Image

from nas_proxy.data.arrays import as_raw
from nas_proxy.data.levels import Levels, levels_of
from nas_proxy.data.sources import open_source
from nas_proxy.errors import DataError

RAMP = np.arange(16, dtype=np.float64).reshape(4, 4)


def folder(root, *images, suffix=".png", classes=("a", "b"), **options):
    for name in classes:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(images):
            image.save(root / name / f"{number}{suffix}", **options)
    return f"folder:{root}"


def wide(values):
    return Image.fromarray(values.astype(np.uint16))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (RAMP * 17, RAMP * 17),  # 0 to 255 in a 16-bit file
        (RAMP * 273, RAMP * 17),  # 12 bits
        (RAMP * 4369, RAMP * 17),  # all 16
        (30_000 + RAMP * 20, RAMP * 17),  # little contrast, far from black
    ],
)
def test_the_range_of_wide_files_is_that_of_their_content(tmp_path, values, expected):
    said = []
    source = open_source(folder(tmp_path, wide(values), wide(values)), say=said.append)
    images = source.read("train")[0]
    assert np.abs(images[0, 0].numpy().astype(int) - expected).max() <= 1
    assert len(said) == 1
    assert "4 train images have 16- or 32-bit pixels, from" in said[0]


def test_one_range_holds_for_the_whole_set_and_test_follows_train(tmp_path):
    for part, scale in (("train", 2), ("test", 1)):
        folder(tmp_path / part, wide(RAMP * 100), wide(RAMP * 100 * scale))
    source = open_source(f"folder:{tmp_path}")
    train, test = source.read("train")[0], source.read("test")[0]
    assert (train[0] == test[0]).all()
    assert int(train[1].max()) > int(train[0].max())


@pytest.mark.parametrize(
    ("values", "expected"), [(RAMP / 15, RAMP * 17), (RAMP * 17, RAMP * 17), (RAMP / 15 * 6 - 3, RAMP * 17)]
)
def test_files_of_floats_and_of_32_bits(tmp_path, values, expected):
    source = open_source(folder(tmp_path, Image.fromarray(values.astype(np.float32)), suffix=".tif"))
    assert np.abs(source.read("train")[0][0, 0].numpy().astype(int) - expected).max() <= 1
    many = Image.fromarray((values * 1000).astype(np.int32))
    source = open_source(folder(tmp_path / "many", many, suffix=".tif"))
    assert len(source.read("train")[0][0].unique()) >= 15


def test_levels():
    assert levels_of(0, 255, floats=False).as_stored
    assert levels_of(-1e-7, 1.0000001, floats=True) == Levels(0, 1)
    assert levels_of(0, 4000, floats=False) == Levels(0, 4095)
    assert levels_of(-5, 5, floats=False) == Levels(-5, 5)
    assert levels_of(1000, 1000, floats=False) == Levels(0, 1023)
    assert levels_of(-5, -5, floats=True) == Levels(-5, -4)


def test_floats_a_little_over_one_are_rounding():
    raw = np.zeros((1, 5, 5), np.float32)
    raw[0, 0, :2] = 1.0000001, -1e-7
    assert as_raw(raw, "x")[0, 0, 0, :2].tolist() == [255, 0]
    with pytest.raises(DataError, match=r"from 0 to 1\.1; expected uint8, or floats"):
        as_raw(np.array([[[0, 1.1]]]), "x")


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 3, 4, 4), (2, 4, 4, 3), (2, 4, 4, 1), (2, 1, 3, 3), (2, 3, 3, 1)])
def test_the_axis_of_channels_is_told_by_the_other_two(shape):
    raw = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    channels = shape[3] if shape[1] == shape[2] != 1 else shape[1]
    assert as_raw(raw, "x").shape[1] == channels


@pytest.mark.parametrize("shape", [(2, 3, 3, 3), (2, 1, 1, 1), (2, 3, 4, 1)])
def test_an_axis_of_channels_that_cannot_be_told_is_refused(shape):
    with pytest.raises(DataError, match="whose channels may come first or last; give grey images as n×h×w"):
        as_raw(np.zeros(shape, np.uint8), "x")


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_nan_is_found_when_the_file_is_opened(tmp_path, part):
    arrays = {f"{p}_images": np.zeros((4, 5, 5), np.float32) for p in ("train", "val", "test")}
    arrays[f"{part}_images"][3, 2, 1] = np.nan
    labels = {f"{p}_labels": np.array([0, 1, 0, 1]) for p in ("train", "val", "test")}
    np.savez(tmp_path / "x.npz", **arrays, **labels)
    with pytest.raises(DataError, match=f"{part}_images of .* has values of type float32 from nan to nan"):
        open_source(f"npz:{tmp_path / 'x.npz'}")


def test_wide_arrays_have_one_range_and_it_is_told(tmp_path):
    train, test = (np.tile(RAMP * scale, (4, 1, 1)).astype(np.uint16) for scale in (200, 100))
    labels = np.array([0, 1, 0, 1])
    np.savez(tmp_path / "x.npz", x_train=train, y_train=labels, x_test=test, y_test=labels)
    said = []
    source = open_source(f"npz:{tmp_path / 'x.npz'}", say=said.append)
    assert said == [
        f"the images of {tmp_path / 'x.npz'} are whole numbers of 16 bits; 0 to 4095 becomes 0 to 255 in all of them"
    ]
    assert int(source.read("train")[0].max()) == 187
    assert int(source.read("test")[0].max()) == 93


def with_exif(root, exif):
    image = Image.fromarray(np.arange(8, dtype=np.uint8).reshape(2, 4) * 30)
    return folder(root, image, exif=exif)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0",  # sound
        b"Exif\0\0MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\x01\x1a\0\x05\0\0\0\x01\xff\xff\xff\xff\0\0\0\0",
    ],
)
def test_a_turn_is_made_where_it_can_be_read(tmp_path, exif):
    assert open_source(with_exif(tmp_path, exif)).read("train")[0][0, 0].tolist()[0] == [120, 0]


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0XX\0*", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", bytes(range(200))])
def test_a_damaged_note_keeps_no_image_out(tmp_path, exif):
    assert open_source(with_exif(tmp_path, exif)).read("train")[0].shape == (2, 1, 2, 4)


@pytest.mark.parametrize("suffix", [".jfif", ".JPE", ".tga", ".jp2", ".pbm", ".dib", ".pcx", ".ico"])
def test_what_pillow_reads_is_read(tmp_path, suffix):
    image = Image.new("1" if suffix == ".pbm" else "RGB", (16, 16))
    assert len(open_source(folder(tmp_path, image, suffix=suffix)).read("train")[0]) == 2


def test_every_file_that_is_left_out_is_counted_and_named(tmp_path):
    folder(tmp_path, Image.new("L", (4, 4)))
    (tmp_path / "a" / "link.png").symlink_to("nowhere")
    (tmp_path / "a" / "clip.mp4").touch()
    (tmp_path / "b" / "\x1b[31mred.raw").touch()
    (tmp_path / "loose.png").touch()
    (tmp_path / "b" / ".hidden").touch()
    said = []
    open_source(f"folder:{tmp_path}", say=said.append)
    (remark,) = said
    assert remark.startswith(f"4 files are left out of {tmp_path}: ")
    for named in (
        "a/link.png (a link to nothing",
        "a/clip.mp4 (no image",
        "b/\\x1b[31mred.raw (no image",
        "loose.png (in no",
    ):
        assert named in remark
    for number in range(9):
        (tmp_path / "a" / f"{number}.txt").touch()
    open_source(f"folder:{tmp_path}", say=said.append, cache=tmp_path / "cache")
    assert "13 files are left out" in said[1]
    (listed,) = (tmp_path / "cache").rglob("left_out.txt")
    assert str(listed) in said[1]
    assert len(listed.read_text().splitlines()) == 13


@pytest.mark.parametrize(
    "names", [("Training", "Testing", "Valid"), ("TRAIN", "TEST", "VAL"), ("train", "Test", "Validation")]
)
def test_parts_in_any_case(tmp_path, names):
    for name in names:
        folder(tmp_path / name, Image.new("L", (4, 4)))
    source = open_source(f"folder:{tmp_path}")
    assert source.classes == ("a", "b")
    assert sorted(source.parts) == ["test", "train", "validation"]


def test_a_class_may_be_called_train(tmp_path):
    assert open_source(folder(tmp_path, Image.new("L", (4, 4)), classes=("car", "train"))).classes == ("car", "train")


def test_names_of_classes_are_compared_in_one_form(tmp_path):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        folder(tmp_path / part, Image.new("L", (4, 4)), classes=(unicodedata.normalize(form, "café"), "thé\n"))
    source = open_source(f"folder:{tmp_path}")
    assert source.classes[0] == "café"
    assert source.classes[1].isprintable()
    assert source.read("test")[1].tolist() == [0, 1]
    folder(tmp_path / "train", Image.new("L", (4, 4)), classes=(unicodedata.normalize("NFD", "café"),))
    with pytest.raises(DataError, match="has two folders for the class 'café'"):
        open_source(f"folder:{tmp_path}")


def test_a_class_that_test_lacks_is_told(tmp_path):
    folder(tmp_path / "train", Image.new("L", (4, 4)), classes=("a", "b", "c"))
    folder(tmp_path / "test", Image.new("L", (4, 4)), classes=("a", "c"))
    said = []
    open_source(f"folder:{tmp_path}", say=said.append)
    assert len(said) == 1
    assert said[0].endswith("have none of 1 of the 3 classes (b); accuracy on them says nothing of these")
