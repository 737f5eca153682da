"""What all images of a set share: one size, one number of channels, and which values are black and white.

In: the files of a part, and the frame of the train files. Out: each file as uint8, (c, h, w). Guarantees: size and
channels are those of train; pixels of more than 8 bits keep their contrast, by the range that the train images have,
or, where train has no such files, the part's own; what would lose it is refused.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from nas_proxy.data.decoding import Encoded, check_png, flat, is_narrowed, is_wide, numbers, opened, upright
from nas_proxy.data.levels import LEAST_SHARE, Kind, Levels, levels_of
from nas_proxy.errors import DataError

_GREY = ("1", "L", "LA", "I", "I;16", "I;16B", "I;16L", "I;16N", "F")
_PAGED = ("TIFF", "GIF", "PNG", "WEBP", "AVIF")


@dataclass(frozen=True)
class Frame:
    """What the images of a part share, found in the files when the first image is read.

    files: of the part. say: is told what becomes of pixels that do not fit 8 bits. train: the frame of the train files,
    where these are of another part.
    """

    files: Sequence[Path] | Sequence[Encoded]
    image_size: int | None
    say: Callable[[str], None] = field(default=lambda text: None, compare=False)
    train: "Frame | None" = None
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)
    _told: set[str] = field(default_factory=set, repr=False, compare=False)

    @cached_property
    def channels(self) -> int:
        """1 if every train file that opens is grey by its header, else 3; reads up to the first file in colour."""
        if self.train is not None:
            return self.train.channels
        return 1 if all(map(_is_grey, self.files)) else 3

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels: the image size asked for, else that of the first train file that opens."""
        return self.first[1] if self.image_size is None else (self.image_size, self.image_size)

    @cached_property
    def first(self) -> tuple[Path | Encoded, tuple[int, int]]:
        """The first train file that opens, and its size. Raises the DataError of the first where none does."""
        if self.train is not None:
            return self.train.first
        found = next(filter(None, map(_size, self.files)), None)
        if found is None:
            with opened(self.files[0]):
                pass
            raise AssertionError("what has just not opened opens")
        return found

    def levels(self, *, floats: bool) -> Levels:
        """The levels of files with whole numbers of more than 8 bits, or with floats; these are read for it."""
        found = None if self.train is None else self.train._levels(floats)
        return found or self._levels(floats) or (Levels(0, 1) if floats else Levels(0, 65535))

    def check_size(self) -> None:
        """Raise DataError where the first file of another part than train has not the size of train, by its header.

        The files after it are checked when they are decoded.
        """
        if self.train is not None and self.image_size is None:
            found = next(filter(None, map(_size, self.files)), None)
            if found is not None and found[1] != self.size:
                raise self.other_size(*found)

    def other_size(self, file: Path | Encoded, size: tuple[int, int]) -> DataError:
        """Return what to say of a file that has not the size of the set."""
        return DataError(
            f"{self.first[0]} has {_by(self.size)} pixels but {file} has {_by(size)}; "
            "images of one data set must have one size, so choose one, for example --image-size 32"
        )

    def known_levels(self) -> dict[Kind, Levels]:
        """Return the levels of kinds of pixels that were met in reading, or that the first train file has."""
        try:
            with opened(self.first[0]) as image:
                first = (image.mode == "F") if is_wide(image) else None
        except DataError:
            first = None
        found: dict[Kind, Levels] = {}
        with self._lock:
            if ("_of_wide" in self.__dict__ or first is False) and (whole := self._levels(False)) is not None:
                found["whole"] = whole
            if ("_of_floats" in self.__dict__ or first is True) and (floats := self._levels(True)) is not None:
                found["floats"] = floats
        return found

    def check(self, image: Image.Image, file: Path | Encoded) -> None:
        """Raise DataError where 8 bits of an image as Pillow reads it are too few; tell of colour that goes."""
        if is_narrowed(image):
            fills = None if self.train is None else self.train._fills
            if fills is False or (fills is None and self._fills is False):
                raise DataError(
                    f"{file} has more than 8 bits in each of several channels, of which 8 are read, and the images "
                    f"fill less than {LEAST_SHARE:.0%} of that range; save them with 8 bits a channel, or grey ones "
                    "with a single channel"
                )
        if image.mode not in _GREY and self.channels == 1:
            self._tell("colour", "the train images are grey, so images of other parts in colour are made grey")

    def look_for_more(self, image: Image.Image, file: Path | Encoded) -> None:
        """Tell of the first file with several pages or moving pictures; a JPEG's are one picture in several sizes."""
        if image.format in _PAGED and "pages" not in self._told:
            with suppress(Exception):  # the picture that counts has been read already
                if getattr(image, "is_animated", False):
                    self._tell("pages", f"{file} holds several pictures; of each file the first counts")

    def _levels(self, floats: bool) -> Levels | None:
        with self._lock:  # several threads decode
            return self._of_floats if floats else self._of_wide

    @cached_property
    def _of_wide(self) -> Levels | None:
        return self._range(floats=False)

    @cached_property
    def _of_floats(self) -> Levels | None:
        return self._range(floats=True)

    def _tell(self, what: str, text: str) -> None:
        with self._lock:
            if what not in self._told:
                self._told.add(what)
                self.say(text)

    def _range(self, *, floats: bool) -> Levels | None:
        low, high, count = np.inf, -np.inf, 0
        for file in self.files:
            try:
                with opened(file) as image:
                    if is_wide(image) and (image.mode == "F") == floats:
                        values = numbers(image)
                        low, high, count = min(low, values.min()), max(high, values.max()), count + 1
            except DataError:
                continue  # it is told where it is decoded
        if not count:
            return None
        found = levels_of(float(low), float(high), floats=floats)
        images, all_of_them = ("train images", "all images") if self.train is None else ("images of one part", "it")
        self.say(
            f"{count} {images} have {'floating-point' if floats else '16- or 32-bit'} pixels, from {low:g} to "
            f"{high:g}; {found.text()} becomes 0 to 255 in {all_of_them}"
        )
        return found

    @property
    def _fills(self) -> bool | None:
        """Whether files of which 8 bits a channel are read use a quarter of their range; None where there are none."""
        with self._lock:
            return self._fill

    @cached_property
    def _fill(self) -> bool | None:
        some = None
        for file in self.files:
            try:
                with opened(file) as image:
                    if is_narrowed(image):
                        some = False
                        bands = image.split()[: -1 if image.mode in ("LA", "RGBA") else None]
                        if max(np.asarray(band).max() for band in bands) >= 256 * LEAST_SHARE:
                            return True
            except DataError:
                continue  # it is told where it is decoded
        return some


def pixels(file: Path | Encoded, frame: Frame) -> np.ndarray:
    """Return one image: uint8, (c, h, w). Raises DataError with the path."""
    with opened(file) as image:
        if isinstance(image, PngImageFile) and image.fp is not None:
            check_png(image.fp)
        frame.check(image, file)
        if frame.image_size is not None:
            # A JPEG decodes faster at a fraction of its size; twice the target keeps the antialiasing ours.
            image.draft(None, (2 * frame.image_size, 2 * frame.image_size))
        found = _framed(image, frame, file)
        frame.look_for_more(image, file)
        return found


def _framed(found: Image.Image, frame: Frame, file: Path | Encoded) -> np.ndarray:
    image = flat(upright(found), "L" if frame.channels == 1 else "RGB", frame.levels)
    if frame.image_size is not None:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side))
        image = square.resize(frame.size, Image.Resampling.BILINEAR)  # antialiased, as `arrays.resized` is
    if image.size != frame.size:
        raise frame.other_size(file, image.size)
    values = np.asarray(image)
    return values[None] if frame.channels == 1 else values.transpose(2, 0, 1)


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


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"
