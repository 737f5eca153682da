"""Image files as pixels; `nas_proxy.data.frame` has what all images of a set share.

In: a file. Out: a Pillow image, upright, with 8 bits a channel. Guarantees: nothing but the formats below is tried,
whatever a file is called; what stands beside the pixels, such as a damaged note of the camera, keeps no image out, and
an image is turned upright where the note can be read.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from nas_proxy.data.levels import Kind, Levels, levels_of
from nas_proxy.errors import DataError

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".bmp", ".dib", ".gif", ".webp", ".avif"),
    *(".avifs", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf"),
    *(".jpx", ".tga", ".icb", ".vda", ".vst", ".pcx", ".sgi", ".rgb", ".rgba", ".bw", ".ico", ".dds", ".qoi", ".xbm"),
)
# Pillow would otherwise also try formats that run other programs, whatever the file is called.
# A JPEG of several pictures is one of "JPEG".
FORMATS = (
    *("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "AVIF", "TIFF", "PPM", "JPEG2000", "TGA", "PCX", "SGI"),
    *("ICO", "DDS", "QOI", "XBM"),
)
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    RuntimeError,  # of the decoder of AVIF, and NotImplementedError
    struct.error,
)
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class Encoded:
    """An image file that lies in another: `name` is for errors, `stream` opens it."""

    name: str
    stream: Callable[[], IO[bytes]]

    def __str__(self) -> str:
        return self.name


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)  # some are left out of some builds of Pillow


@contextmanager
def opened(file: Path | Encoded) -> Iterator[Image.Image]:
    """Open an image file. Raises DataError with the path for whatever goes wrong in it, also in the block."""
    try:
        with _QUIET, Image.open(file.stream() if isinstance(file, Encoded) else file, formats=_formats()) as image:
            _check_size(image)
            yield image
    except Image.DecompressionBombError as error:
        raise DataError(f"the image {file} cannot be read ({error}); make it smaller or remove it") from None
    except _UNREADABLE as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"the image {file} cannot be read ({reason}); mend or remove it") from None


class _Quiet:
    """In the block no thread hears warnings of notes beside the pixels.

    Python's `catch_warnings` puts back what it found, which several threads at once must not do each for itself.
    """

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._caught = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._caught = warnings.catch_warnings()
                self._caught.__enter__()
                warnings.simplefilter("ignore")
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._caught.__exit__(None, None, None)


_QUIET = _Quiet()


def _check_size(image: Image.Image) -> None:
    """Raise an error for a size that Pillow warns of."""
    most, pixels = Image.MAX_IMAGE_PIXELS, image.width * image.height
    if most is not None and pixels > most:
        raise Image.DecompressionBombError(f"it has {pixels:,} pixels, more than the {most:,} that are read")


def check_png(file: IO[bytes]) -> None:
    """Raise ValueError where a PNG file's pixels are not those that were written; Pillow does not look there.

    Of what is beside the pixels the checksums do not count.
    """
    place = file.tell()
    file.seek(8)
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        content, checksum = file.read(length), file.read(4)
        if name[:1].isupper() and checksum != zlib.crc32(name + content).to_bytes(4, "big"):
            raise ValueError(f"the checksum of its part {name.decode('ascii', 'replace')} is wrong")
        if name == b"IEND":
            break
    file.seek(place)


def is_wide(image: Image.Image) -> bool:
    """Whether Pillow gives the pixels as numbers of more than 8 bits."""
    return image.mode == "F" or image.mode.startswith("I")


def is_narrowed(image: Image.Image) -> bool:
    """Whether a file that has just been opened has more than the 8 bits a channel that Pillow reads of it.

    It reads all bits of files of one channel alone (`is_wide`), but of SGI files' not.
    """
    if is_wide(image) or not isinstance(image, ImageFile):
        return False
    if image.format == "JPEG2000":
        return _bits_of_jpeg_2000(image) > 8
    if not image.tile:
        return False
    codec, _, _, given = image.tile[0]
    raw, *more = given if isinstance(given, tuple) else (given,)
    if codec.startswith("ppm"):
        return raw not in ("1", "L") and int(more[0]) > 255
    if codec == "sgi_rle":
        return int(more[-1]) == 2
    # Elsewhere ";16" is 16 bits a pixel.
    return codec == "SGI16" or (image.format in ("PNG", "TIFF") and ";16" in str(raw))


def _bits_of_jpeg_2000(image: ImageFile) -> int:
    """Return the bits of the first channel, by the SIZ part of the codestream (ISO/IEC 15444-1, A.5.1)."""
    file = image.fp
    assert file is not None
    place = file.tell()
    file.seek(0)
    head = file.read(1 << 16)
    file.seek(place)
    start = head.find(b"\xff\x4f\xff\x51")
    return (head[start + 42] & 0x7F) + 1 if 0 <= start < len(head) - 42 else 8


def numbers(image: Image.Image) -> np.ndarray:
    """Return the pixels of a wide image, (h, w). Raises ValueError where some are not finite."""
    values = np.asarray(image)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("some of its pixels are not finite")
    return values


def upright(image: Image.Image) -> Image.Image:
    """Return the image as it is to be seen, as far as a note of the camera says and can be read."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 (a damaged note raises anything; the pixels are not in it)
        turn = None
    return image if turn is None else image.transpose(turn)


def fitted(
    image: Image.Image, channels: int, height: int, width: int, known: Mapping[Kind, Levels] = MappingProxyType({})
) -> np.ndarray:
    """Return an image of any size as one of a set of this shape: its middle, resized; uint8, (c, h, w).

    known: the levels of the set; pixels of more than 8 bits of a kind that it lacks have the image's own.
    """

    def levels(*, floats: bool) -> Levels:
        if (found := known.get("floats" if floats else "whole")) is not None:
            return found
        values = numbers(image)
        return levels_of(float(values.min()), float(values.max()), floats=floats)

    whole = flat(upright(image), "L" if channels == 1 else "RGB", levels)
    scale = min(whole.width / width, whole.height / height)
    across, down = round(width * scale), round(height * scale)
    left, top = (whole.width - across) // 2, (whole.height - down) // 2
    middle = whole.crop((left, top, left + across, top + down)).resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(middle)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def flat(image: Image.Image, mode: str, levels: Callable[..., Levels]) -> Image.Image:
    """Return `image` with 8 bits a channel and nothing transparent: alpha is composited onto white."""
    if is_wide(image):
        image = Image.fromarray(levels(floats=image.mode == "F").eight_bit(numbers(image)))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)
