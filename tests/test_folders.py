import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from nas_proxy.data import folders
from nas_proxy.data.decoding import opened
from nas_proxy.data.sources import open_source
from nas_proxy.errors import DataError


def save(path: Path, image: Image.Image | int | tuple[int, ...] = 0, size: tuple[int, int] = (4, 4)) -> Path:
    """Write an image, or one of a single grey or colour, as the format that the suffix names."""
    if not isinstance(image, Image.Image):
        image = Image.new("L" if isinstance(image, int) else "RGB", size, image)
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def two_classes(root: Path, image: Image.Image, suffix: str) -> torch.Tensor:
    """Return what `image` becomes when it is the only image of the first of two classes."""
    first = save(root / "a" / f"image{suffix}", image)
    second = root / "b" / first.name
    second.parent.mkdir()
    second.write_bytes(first.read_bytes())
    return open_source(f"folder:{root}").read("train")[0][0]


def message(root: Path, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        open_source(f"folder:{root}", **options).read("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_folders_alone_are_read_in_the_order_of_the_names(tmp_path):
    save(tmp_path / "dog" / "1.png", 30)
    save(tmp_path / "cat" / "2.png", 20)
    save(tmp_path / "cat" / "10.PNG", 10)
    source = open_source(f"folder:{tmp_path}")
    images, labels = source.read("train")
    assert source.classes == ("cat", "dog")
    assert (source.has_test, source.has_validation) == (False, False)
    assert images.dtype == torch.uint8
    assert images.shape == (3, 1, 4, 4)
    assert images[:, 0, 0, 0].tolist() == [10, 20, 30]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 0, 1]


@pytest.mark.parametrize("validation", ["val", "validation"])
def test_parts_in_folders_of_their_own(tmp_path, validation):
    for value, part in enumerate(["train", "test", validation]):
        for name in ("cat", "dog"):
            save(tmp_path / part / name / "1.png", value)
    source = open_source(f"folder:{tmp_path}")
    assert (source.has_test, source.has_validation) == (True, True)
    for value, part in enumerate(["train", "test", "validation"]):
        images, labels = source.read(part)
        assert images.unique().tolist() == [value]
        assert labels.tolist() == [0, 1]


def test_reading_train_opens_no_file_of_another_part(tmp_path):
    for name in ("cat", "dog"):
        save(tmp_path / "train" / name / "1.png", 7)
        for part in ("test", "val"):
            broken = tmp_path / part / name / "1.png"
            broken.parent.mkdir(parents=True)
            broken.write_bytes(b"nothing that Pillow can read")
    source = open_source(f"folder:{tmp_path}")
    assert source.read("train")[0].unique().tolist() == [7]
    for part in ("test", "validation"):
        with pytest.raises(DataError, match="cannot be read"):
            source.read(part)


def test_hidden_files_other_files_and_links(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere / "1.png", 5)
    root = tmp_path / "data"
    save(root / "a" / "1.png", 3)
    save(root / "a" / ".2.png", 200)
    (root / "a" / "notes.txt").write_text("not an image")
    (root / "a" / ".thumbnails").mkdir()
    (root / ".cache").mkdir()
    (root / "readme.md").write_text("not a class")
    (root / "b").symlink_to(elsewhere, target_is_directory=True)
    source = open_source(f"folder:{root}")
    assert source.classes == ("a", "b")
    assert source.read("train")[0][:, 0, 0, 0].tolist() == [3, 5]


def test_some_images_by_index_with_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_BLOCK", 2)
    for value in range(5):
        save(tmp_path / "a" / f"{value}.png", value)
    (tmp_path / "a" / "1.png").write_bytes(b"broken, but not asked for")
    save(tmp_path / "a" / "0.png", (0, 0, 0))
    save(tmp_path / "b" / "0.png", 9)
    calls = []
    images, labels = open_source(f"folder:{tmp_path}").read(
        "train", torch.tensor([5, 0, 3]), progress=lambda *call: calls.append(call)
    )
    assert images[:, 0, 0, 0].tolist() == [9, 0, 3]
    assert labels.tolist() == [1, 0, 0]
    assert calls == [(2, 3), (3, 3)]


def test_one_colour_image_in_train_makes_three_channels(tmp_path):
    save(tmp_path / "train" / "a" / "1.png", 10)
    save(tmp_path / "train" / "b" / "1.png", (10, 20, 30))
    for name in ("a", "b"):
        save(tmp_path / "test" / name / "1.png", 50)
    source = open_source(f"folder:{tmp_path}")
    assert source.read("train")[0][:, :, 0, 0].tolist() == [[10, 10, 10], [10, 20, 30]]
    assert source.read("test")[0].shape == (2, 3, 4, 4)


def test_colour_in_test_does_not_change_grey_train(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / "train" / name / "1.png", 10)
        save(tmp_path / "test" / name / "1.png", (40, 40, 40))
    source = open_source(f"folder:{tmp_path}")
    assert source.read("train")[0].shape == (2, 1, 4, 4)
    assert source.read("test")[0].flatten(1).unique(dim=1).tolist() == [[40], [40]]


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"])
def test_formats(tmp_path, suffix):
    image = Image.new("RGB", (4, 4), (255, 0, 0))
    assert two_classes(tmp_path, image, suffix)[:, 0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG"])
@pytest.mark.parametrize(("mode", "colour"), [("RGB", (200, 100, 50)), ("CMYK", (55, 155, 205, 0))])
def test_jpeg(tmp_path, suffix, mode, colour):
    image = Image.new(mode, (16, 16), colour)
    assert two_classes(tmp_path, image, suffix)[:, 8, 8].tolist() == pytest.approx([200, 100, 50], abs=3)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("1", 1, [255]),
        ("L", 77, [77]),
        ("LA", (100, 0), [255]),
        ("LA", (100, 255), [100]),
        ("I;16", 65535, [255]),
        ("I;16", 257 * 100, [100]),
        ("RGBA", (10, 20, 30, 255), [10, 20, 30]),
        ("RGBA", (10, 20, 30, 0), [255, 255, 255]),
        ("RGBA", (0, 100, 200, 51), [204, 224, 244]),  # a fifth of the colour, four fifths of white
    ],
)
def test_png_modes(tmp_path, mode, colour, expected):
    assert two_classes(tmp_path, Image.new(mode, (4, 4), colour), ".png")[:, 0, 0].tolist() == expected


def test_palettes_and_their_transparency(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert two_classes(tmp_path / "opaque", image, ".png")[:, 0, 0].tolist() == [10, 20, 30]
    image.info["transparency"] = 1
    assert two_classes(tmp_path / "clear", image, ".png")[:, 0, 0].tolist() == [255, 255, 255]


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0))]
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        frames[0].save(tmp_path / name / "1.gif", save_all=True, append_images=frames[1:])
    images, _ = open_source(f"folder:{tmp_path}").read("train")
    assert images[:, :, 0, 0].tolist() == [[255, 0, 0]] * 2


def test_the_orientation_in_exif_is_applied(tmp_path):
    image = Image.fromarray(np.arange(8, dtype=np.uint8).reshape(2, 4) * 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "1.png", exif=exif)
    images, _ = open_source(f"folder:{tmp_path}").read("train")
    assert images[0, 0].tolist() == [[120, 0], [150, 30], [180, 60], [210, 90]]


def test_image_size_cuts_the_centred_square_of_images_of_any_size(tmp_path):
    wide = Image.new("L", (40, 20), 0)
    wide.paste(100, (10, 0, 30, 20))
    high = Image.new("L", (10, 50), 0)
    high.paste(200, (0, 20, 10, 30))
    save(tmp_path / "a" / "1.png", wide)
    save(tmp_path / "b" / "1.png", high)
    images, _ = open_source(f"folder:{tmp_path}", image_size=10).read("train")
    assert images.shape == (2, 1, 10, 10)
    assert [image.unique().tolist() for image in images] == [[100], [200]]


def test_a_large_jpeg_is_resized_like_a_png_of_it(tmp_path):
    ramp = np.add.outer(np.arange(512), np.arange(512)) / 1022 * 255
    for suffix in (".jpg", ".png"):
        for name in ("a", "b"):
            save(tmp_path / suffix / name / f"1{suffix}", Image.fromarray(ramp.astype(np.uint8)))
    jpeg, png = (
        open_source(f"folder:{tmp_path / suffix}", image_size=32).read("train")[0].int() for suffix in (".jpg", ".png")
    )
    assert (jpeg - png).abs().max() <= 2


def test_images_of_different_sizes(tmp_path):
    first, second = save(tmp_path / "a" / "1.png"), save(tmp_path / "b" / "1.png", size=(6, 5))
    assert message(tmp_path) == (
        f"{first} has 4×4 pixels but {second} has 6×5; images of one data set must have one size, "
        "so choose one, for example --image-size 32"
    )


def test_unreadable_images(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    first, second = (save(tmp_path / name / "1.jpg", Image.fromarray(noise)) for name in ("a", "b"))
    second.write_bytes(second.read_bytes()[:900])
    assert message(tmp_path).startswith(f"the image {second} cannot be read (image file is truncated")
    second.write_bytes(b"")
    assert message(tmp_path) == f"the image {second} cannot be read (not an image); mend or remove it"
    second.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n")
    assert message(tmp_path) == f"the image {second} cannot be read (not an image); mend or remove it"
    Image.new("F", (32, 32), float("nan")).save(second := second.with_suffix(".tif"))
    second.with_suffix(".jpg").unlink()
    assert message(tmp_path) == (
        f"the image {second} cannot be read (some of its pixels are not finite); mend or remove it"
    )
    first.write_bytes(b"")
    assert message(tmp_path) == f"the image {first} cannot be read (not an image); mend or remove it"


def test_a_decoder_that_gives_up_and_a_huge_image_get_sentences(tmp_path, monkeypatch):
    first, _ = (save(tmp_path / name / "1.png", Image.new("L", (8, 8))) for name in ("a", "b"))
    with monkeypatch.context() as patch:
        patch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
        assert message(tmp_path) == (
            f"the image {first} cannot be read (it has 64 pixels, more than the 40 that are read); make it smaller or "
            "remove it"
        )

    def broken(self):
        raise RuntimeError("Decoding of color planes failed")

    monkeypatch.setattr(PngImageFile, "load", broken)
    assert message(tmp_path).startswith(f"the image {first} cannot be read (Decoding of color planes failed)")


def test_decoding_in_threads_leaves_warnings_as_they_were(tmp_path):
    file = save(tmp_path / "1.png", Image.new("L", (8, 8)))
    before, entered, leaving = list(warnings.filters), threading.Event(), threading.Event()

    def decode():
        with opened(file):
            entered.set()
            assert leaving.wait(10)

    thread = threading.Thread(target=decode)
    with opened(file):
        thread.start()
        assert entered.wait(10)
    leaving.set()  # the one that began later ends later
    thread.join()
    assert warnings.filters == before


def test_layouts_that_cannot_be_used(tmp_path):
    root = tmp_path / "data"
    assert message(root) == f"the folder {root} does not exist; give an existing one as folder:DIR"
    root.write_text("a file")
    assert message(root) == f"{root} is a file, not a folder; give a folder of class folders as folder:DIR"
    root.unlink()
    save(root / "1.png")
    assert message(root) == (
        f"{root} has no class folders; expected DIR/<class>/<image files>, or "
        "DIR/train/<class>/<image files> and DIR/test/<class>/<image files>"
    )
    save(root / "a" / "1.png")
    assert message(root) == f"{root} has only one class, 'a'; two or more are needed"
    (root / "b").mkdir()
    kinds = ".png, .apng, .jpg, .jpeg, .jpe, .jfif and others that Pillow reads"
    assert message(root) == f"the class folder {root / 'b'} has no image files ({kinds})"
    save(root / "b" / "more" / "1.png")
    assert message(root) == (
        f"the class folder {root / 'b'} has the folder 'more' in it; "
        "put the image files directly into their class folder"
    )


def test_test_images_of_another_size_are_told_when_the_folder_is_opened(tmp_path):
    for part, size in (("train", 4), ("test", 5)):
        for name in "ab":
            save(tmp_path / part / name / "1.png", size=(size, size))
    with pytest.raises(DataError, match=r"train/a/1\.png has 4×4 pixels but .*test/a/1\.png has 5×5; images of one"):
        open_source(f"folder:{tmp_path}")
    assert open_source(f"folder:{tmp_path}", image_size=4).read("test")[0].shape == (2, 1, 4, 4)


def test_folders_that_lie_a_level_too_deep(tmp_path):
    for part in ("training_set", "test_set"):
        save(tmp_path / "cats" / part / "a" / "1.png")
    assert message(tmp_path / "cats").startswith(
        f"every folder of {tmp_path / 'cats'} (test_set, training_set) holds folders, and none is called train; "
        "if they are parts, call them train, test and val"
    )
    assert message(tmp_path) == (
        f"{tmp_path} holds the folder 'cats' alone, and that holds folders; give folder:{tmp_path / 'cats'}"
    )


def test_parts_that_cannot_be_used(tmp_path):
    save(tmp_path / "train" / "a" / "1.png")
    save(tmp_path / "train" / "b" / "1.png")
    save(tmp_path / "test" / "c" / "1.png")
    assert message(tmp_path) == (
        f"{tmp_path / 'test'} has the class 'c', which {tmp_path / 'train'} lacks; every class needs images in train"
    )
    save(tmp_path / "more" / "a" / "1.png")
    assert message(tmp_path) == (
        f"{tmp_path} has the folder 'more' beside 'train'; "
        "known: train, training, test, testing, val, valid, validation"
    )
    (tmp_path / "more").rename(tmp_path / "val")
    (tmp_path / "validation").mkdir()
    assert message(tmp_path) == f"{tmp_path} has both 'val' and 'validation'; keep one of them"


def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def refuse(_path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folders.os, "scandir", refuse)
    assert message(tmp_path) == f"the folder {tmp_path} cannot be read (Permission denied)"
