"""Which values are black and white: colour of more than 8 bits, and parts whose pixels are of different kinds."""

import runpy
import struct
import sys
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nas_proxy.data.decoding import is_narrowed, opened
from nas_proxy.data.shape import DataShape
from nas_proxy.data.sources import open_source
from nas_proxy.errors import DataError
from nas_proxy.pipeline import model_card
from nas_proxy.pipeline.deployed import Deployed

RAMP = np.arange(16).reshape(4, 4) * 17  # 0 to 255


def _chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(path, values):
    """Write (4, 4, c) as 16 bits a channel, which Pillow does not write: 2 channels are grey and alpha."""
    kind = {2: 4, 3: 2, 4: 6}[values.shape[2]]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", 4, 4, 16, kind, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts))


def ppm(path, values):
    path.write_bytes(b"P6 4 4 65535\n" + values[..., :3].astype(">u2").tobytes())


def sgi(path, values):
    head = struct.pack(">hbbHHHHll", 474, 0, 2, 3, 4, 4, 3, 0, 65535).ljust(512, b"\0")
    path.write_bytes(head + values[::-1, :, :3].transpose(2, 0, 1).astype(">u2").tobytes())


def colour(factor, *alpha):
    """Return the ramp in three channels, or in one with alpha, times `factor`."""
    bands = 1 if len(alpha) == 1 else 3
    return np.stack([*[RAMP * factor] * bands, *[np.full((4, 4), a) for a in alpha[:1]]], 2)


WIDE = {
    "png": (png, colour(1)),
    "png with alpha": (png, colour(1, 65535, 0)),
    "png of grey and alpha": (png, colour(1, 65535)),
    "ppm": (ppm, colour(1)),
    "sgi": (sgi, colour(1)),
}


def folder(root, write, values, suffix, part="train"):
    for name in "ab":
        (root / part / name).mkdir(parents=True)
        for number in range(2):
            write(root / part / name / f"{number}.{suffix}", values)
    return f"folder:{root}"


@pytest.mark.parametrize(("write", "values"), WIDE.values(), ids=WIDE)
def test_colour_of_16_bits_that_fills_8_of_them_is_refused(tmp_path, write, values):
    source = open_source(folder(tmp_path, write, values, write.__name__))
    with pytest.raises(DataError, match=r"has more than 8 bits in each of several channels.*; save them with 8 bits"):
        source.read("train")


def test_the_bits_of_jpeg_2000_are_those_of_its_head(tmp_path):
    path = tmp_path / "x.jp2"
    Image.fromarray(colour(1).astype(np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    place = content.find(b"\xff\x4f\xff\x51") + 42
    for bits in (8, 16):
        content[place : place + 7 : 3] = bytes([bits - 1] * 3)
        path.write_bytes(content)
        with opened(path) as image:
            assert is_narrowed(image) == (bits == 16)


def test_16_bits_a_pixel_are_fewer_than_8_a_channel(tmp_path):
    head = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 98, 0, 0, 66, 40, 4, 4, 1, 16, 3, 32, 0, 0, 0, 0)
    (tmp_path / "x.bmp").write_bytes(head + struct.pack("<III", 0xF800, 0x7E0, 0x1F) + b"\x41\x08" * 16)
    with opened(tmp_path / "x.bmp") as image:
        assert "16" in str(image.tile)
        assert not is_narrowed(image)


@pytest.mark.parametrize("write", [png, ppm, sgi])
def test_colour_of_16_bits_that_fills_them_is_read_as_before(tmp_path, write):
    images, _ = open_source(folder(tmp_path, write, colour(257), write.__name__)).read("train")
    assert np.abs(images[0].numpy().astype(int) - RAMP).max() <= 1
    assert images.shape == (4, 3, 4, 4)


def grey(kind, factor):
    return lambda path, values: Image.fromarray((values * factor).astype(kind)).save(path)


@pytest.mark.parametrize("factor", [1, 257])
def test_test_files_of_16_bits_beside_train_files_of_8_have_their_own_range(tmp_path, factor):
    said = []
    folder(tmp_path, grey(np.uint8, 1), RAMP, "png")
    source = open_source(folder(tmp_path, grey(np.uint16, factor), RAMP, "png", "test"), say=said.append)
    assert np.array_equal(source.read("train")[0][0, 0], RAMP)
    assert said == []
    assert np.array_equal(source.read("test")[0][0, 0], RAMP)
    assert said == [
        f"4 images of one part have 16- or 32-bit pixels, from 0 to {255 * factor}; 0 to {255 * factor} becomes 0 to "
        "255 in it"
    ]


def test_test_files_of_16_bits_have_the_range_of_train_files_of_16_bits(tmp_path):
    folder(tmp_path, grey(np.uint16, 257), RAMP, "png")
    source = open_source(folder(tmp_path, grey(np.uint16, 128), RAMP, "png", "test"))
    assert source.read("test")[0].max() == round(255 * 128 / 257)


def test_colour_that_becomes_grey_is_told(tmp_path):
    said = []
    folder(tmp_path, grey(np.uint8, 1), RAMP, "png")
    source = open_source(folder(tmp_path, grey(np.uint8, 1), colour(1), "png", "test"), say=said.append)
    assert source.read("test")[0].shape == (4, 1, 4, 4)
    assert said == ["the train images are grey, so images of other parts in colour are made grey"]


@pytest.mark.parametrize("suffix", ["gif", "tif", "png", "webp"])
def test_files_of_several_pictures_are_told(tmp_path, suffix):
    def pages(path, values):
        first, *more = (Image.fromarray(np.uint8(values // n)) for n in (1, 2))
        first.save(path, save_all=True, append_images=more, lossless=True)

    said = []
    images, _ = open_source(folder(tmp_path, pages, RAMP, suffix), say=said.append).read("train")
    assert np.array_equal(images[0, 0], RAMP)
    assert len(said) == 1
    assert said[0].endswith(f"0.{suffix} holds several pictures; of each file the first counts")


def test_an_image_is_predicted_as_those_of_training_were_read(tmp_path, monkeypatch):
    folder(tmp_path, grey(np.uint16, 16), RAMP, "png")  # 12 bits
    source = open_source(folder(tmp_path, grey(np.uint16, 3), RAMP, "png", "test"))
    expected = source.read("test")[0][0]
    assert expected.max() == round(765 * 255 / 4095)
    assert source.levels() == {"whole": (0, 4095)}
    path, shape = tmp_path / "test" / "a" / "0.png", DataShape(1, 4, 4, 2)
    network = Deployed(nn.Identity(), torch.ones(1), torch.zeros(1), shape, ("a", "b"), levels=source.levels())
    for image in (path, Image.open(path), np.asarray(Image.open(path))):
        assert torch.equal(network.prepared(image), expected)

    told = {"classes": "ab", "shape": shape._asdict(), "image_size": None, "scale": [1.0], "offset": [0.0]}
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(InferenceSession=lambda *_, **__: None))
    model_card.write_predict(tmp_path)
    for levels in (source.levels(), {}):
        model_card.write_preprocessing(told | {"levels": levels}, tmp_path)
        alone = runpy.run_path(str(tmp_path / "predict.py"))
        if levels:
            assert np.array_equal(alone["prepared"](Image.open(path))[0], expected)
        else:
            with pytest.raises(SystemExit, match="more than 8 bits a pixel, and those of training had 8"):
                alone["prepared"](Image.open(path))


def test_levels_are_known_where_no_image_has_been_read(tmp_path):
    source = open_source(folder(tmp_path, grey(np.float32, 2), RAMP, "tif"))
    assert source.levels() == {"floats": (0, 1023)}
    np.savez(tmp_path / "x.npz", images=np.tile(RAMP * 4, (4, 1, 1)), labels=[0, 1, 0, 1])
    assert open_source(f"npz:{tmp_path / 'x.npz'}").levels() == {"whole": (0, 1023)}
    assert open_source("digits").levels() == {}
