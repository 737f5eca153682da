"""Image files as pixels of one size and one number of channels.

In: a file, and what all images of its set share. Out: uint8, (c, h, w). Guarantees: nothing but the formats below is
tried, whatever a file is called; what stands beside the pixels, such as a damaged note of the camera, keeps no image
out, and an image is turned upright where the note can be read; pixels of more than 8 bits keep their contrast.
"""

import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from nas_proxy.data.levels import Levels, levels_of
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
_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
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


@dataclass(frozen=True)
class Frame:
    """What all images of a source share, found in the train files when the first image is read.

    say: is told what becomes of pixels that do not fit 8 bits.
    """

    files: Sequence[Path] | Sequence[Encoded]
    image_size: int | None
    say: Callable[[str], None] = field(default=lambda text: None, compare=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @cached_property
    def channels(self) -> int:
        """1 if every train file that opens is grey by its header, else 3; reads up to the first file in colour."""
        return 1 if all(map(_is_grey, self.files)) else 3

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels: the image size asked for, else that of the first train file that opens."""
        return self._first[1] if self.image_size is None else (self.image_size, self.image_size)

    @cached_property
    def _first(self) -> tuple[Path | Encoded, tuple[int, int]]:
        """The first train file that opens, and its size. Raises the DataError of the first where none does."""
        found = next(filter(None, map(_size, self.files)), None)
        if found is None:
            with opened(self.files[0]):
                pass
            raise AssertionError("what has just not opened opens")
        return found

    def levels(self, *, floats: bool) -> Levels:
        """The levels of train files with whole numbers of more than 8 bits, or with floats; these are read for it."""
        with self._lock:  # several threads decode
            return self._of_floats if floats else self._of_wide

    @cached_property
    def _of_wide(self) -> Levels:
        return self._told(floats=False)

    @cached_property
    def _of_floats(self) -> Levels:
        return self._told(floats=True)

    def _told(self, *, floats: bool) -> Levels:
        low, high, count = np.inf, -np.inf, 0
        for file in self.files:
            try:
                with opened(file) as image:
                    if _is_wide(image) and (image.mode == "F") == floats:
                        values = _numbers(image)
                        low, high, count = min(low, values.min()), max(high, values.max()), count + 1
            except DataError:
                continue  # it is told where it is decoded
        if not count:
            return Levels(0, 1) if floats else Levels(0, 65535)
        found = levels_of(float(low), float(high), floats=floats)
        self.say(
            f"{count} train images have {'floating-point' if floats else '16- or 32-bit'} pixels, from {low:g} to "
            f"{high:g}; {found.text()} becomes 0 to 255 in all images"
        )
        return found


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


def _check_png(file: IO[bytes]) -> None:
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


def _is_grey(file: Path | Encoded) -> bool:
    try:
        with opened(file) as image:
            return image.mode in _GREY
    except DataError:
        return True  # it is told, or left out, where it is decoded


def _size(file: Path | Encoded) -> tuple[Path | Encoded, tuple[int, int]] | None:
    try:
        with opened(file) as image:
            return file, upright(image).size
    except DataError:
        return None


def _is_wide(image: Image.Image) -> bool:
    return image.mode == "F" or image.mode.startswith("I")


def _numbers(image: Image.Image) -> np.ndarray:
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


def pixels(file: Path | Encoded, frame: Frame) -> np.ndarray:
    """Return one image: uint8, (c, h, w). Raises DataError with the path."""
    with opened(file) as image:
        if isinstance(image, PngImageFile) and image.fp is not None:
            _check_png(image.fp)
        if frame.image_size is not None:
            # A JPEG decodes faster at a fraction of its size; twice the target keeps the antialiasing ours.
            image.draft(None, (2 * frame.image_size, 2 * frame.image_size))
        return _framed(image, frame, file)


def fitted(image: Image.Image, channels: int, height: int, width: int) -> np.ndarray:
    """Return an image of any size as one of a set of this shape: its middle, resized; uint8, (c, h, w).

    The same as of a file of the set, but for pixels of more than 8 bits, whose black and white are the image's own.
    """
    flat = _flat(upright(image), "L" if channels == 1 else "RGB", _own_levels(image))
    scale = min(flat.width / width, flat.height / height)
    across, down = round(width * scale), round(height * scale)
    left, top = (flat.width - across) // 2, (flat.height - down) // 2
    middle = flat.crop((left, top, left + across, top + down)).resize((width, height), Image.Resampling.BILINEAR)
    values = np.asarray(middle)
    return values[None] if channels == 1 else values.transpose(2, 0, 1)


def _framed(found: Image.Image, frame: Frame, file: Path | Encoded) -> np.ndarray:
    image = _flat(upright(found), "L" if frame.channels == 1 else "RGB", frame.levels)
    if frame.image_size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square.resize(frame.size, Image.Resampling.BILINEAR)  # antialiased, as `arrays.resized` is
    if image.size != frame.size:
        raise DataError(
            f"{frame._first[0]} has {_by(frame.size)} pixels but {file} has {_by(image.size)}; "
            "images of one data set must have one size, so choose one, for example --image-size 32"
        )
    values = np.asarray(image)
    return values[None] if frame.channels == 1 else values.transpose(2, 0, 1)


def _flat(image: Image.Image, mode: str, levels: Callable[..., Levels]) -> Image.Image:
    """Return `image` with 8 bits a channel and nothing transparent: alpha is composited onto white."""
    if _is_wide(image):
        image = Image.fromarray(levels(floats=image.mode == "F").eight_bit(_numbers(image)))
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return image.convert(mode)


def _own_levels(image: Image.Image) -> Callable[..., Levels]:
    """Return what tells the levels of one image by itself."""

    def levels(*, floats: bool) -> Levels:
        values = _numbers(image)
        return levels_of(float(values.min()), float(values.max()), floats=floats)

    return levels


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
