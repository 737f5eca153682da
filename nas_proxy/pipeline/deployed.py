"""A trained network ready for images as people have them: files, Pillow images, arrays and tensors.

In: a network and what its images are like. Out: logits of a batch, or the probability of each class of one image.
Guarantees: an image file is cropped, resized and converted as those of training were; 8-bit numbers and floats in 0..1
are told apart by their type and give the same; what is neither, or has another shape, is refused in a sentence.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias, overload

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor, nn

from nas_proxy.data.arrays import as_raw
from nas_proxy.data.decoding import fitted, opened
from nas_proxy.data.levels import ROUNDING, Kind, Levels
from nas_proxy.data.shape import DataShape
from nas_proxy.errors import DataError

# One image: its file, itself, or its pixels, (h, w), (h, w, c) or (c, h, w).
One: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor


class Deployed(nn.Module):
    """A network together with the decoding of its images.

    Call it with a batch, (n, c, h, w), uint8 or floats in 0..1, for logits, float32 (n, classes); or ask it to
    `predict`. classes: names in the order of the logits. shape: of the images. image_size: to which the images of
    training were resized; None where they had that size. levels: which values of theirs became 0 and 255, where they
    had more than 8 bits.
    """

    scale: Tensor
    offset: Tensor

    def __init__(
        self,
        network: nn.Module,
        scale: Tensor,
        offset: Tensor,
        shape: DataShape,
        classes: Sequence[str],
        image_size: int | None = None,
        levels: Mapping[Kind, tuple[float, float]] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.network = network
        self.shape, self.classes, self.image_size = shape, tuple(classes), image_size
        self.levels = {kind: Levels(low, high) for kind, (low, high) in levels.items()}
        self.register_buffer("scale", scale.reshape(-1, 1, 1).clone(), persistent=False)
        self.register_buffer("offset", offset.reshape(-1, 1, 1).clone(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits. Raises DataError for images of another shape, type or range."""
        if tuple(images.shape[1:]) != tuple(self.shape[:3]):
            raise DataError(
                f"the network takes images of n×{_by(self.shape[:3])} (number, channels, height, width), and got "
                f"{_by(images.shape)}; predict() resizes a single image"
            )
        if images.dtype != torch.uint8:
            images = _eight_bit(images)
        logits: Tensor = self.network(images * self.scale + self.offset)
        return logits

    @overload
    def predict(self, image: One) -> dict[str, float]: ...
    @overload
    def predict(self, image: list[One] | tuple[One, ...]) -> list[dict[str, float]]: ...
    def predict(self, image: One | list[One] | tuple[One, ...]) -> dict[str, float] | list[dict[str, float]]:
        """Return the probability of each class, the most probable first; of a list of images, one for each.

        image: a file, a Pillow image, or pixels (h, w), (h, w, c) or (c, h, w), uint8 or floats in 0..1, of any size:
        it is cropped to the middle, resized and converted. Raises DataError for what is none of these.
        """
        images = list(image) if isinstance(image, list | tuple) else [image]
        with torch.inference_mode():
            self.eval()
            found = [self(self.prepared(one)[None].to(self.scale.device)).softmax(1)[0].tolist() for one in images]
        told = [dict(sorted(zip(self.classes, each, strict=True), key=lambda pair: -pair[1])) for each in found]
        return told if isinstance(image, list | tuple) else told[0]

    def prepared(self, image: One) -> Tensor:
        """Return one image as the network takes it: uint8, (c, h, w)."""
        if isinstance(image, str | Path):
            with opened(Path(image)) as found:
                return self._fitted(found)
        if isinstance(image, Image.Image):
            return self._fitted(_again(image))
        if isinstance(image, Tensor):
            image = image.detach().cpu().numpy()
        if not isinstance(image, np.ndarray):
            raise DataError(f"an image is a file, a Pillow image, an array or a tensor, not a {type(image).__name__}")
        if image.ndim not in {2, 3}:
            raise DataError(
                f"predict() takes one image, h×w, h×w×c or c×h×w, and got {_by(image.shape)}; give a list of images, "
                "or call the network with the batch"
            )
        raw = as_raw(image[None], "the image", self.levels.get("whole") if image.dtype.kind in "iu" else None)[0]
        if raw.shape == self.shape[:3]:
            return raw
        pixels = raw.permute(1, 2, 0).numpy()
        return self._fitted(Image.fromarray(pixels[..., 0] if raw.shape[0] == 1 else pixels))

    def _fitted(self, image: Image.Image) -> Tensor:
        if self.image_size is not None:  # as in training, see `nas_proxy.data.frame.pixels`
            image.draft(None, (2 * self.image_size, 2 * self.image_size))
        channels, height, width, _ = self.shape
        return torch.from_numpy(np.array(fitted(image, channels, height, width, self.levels)))


def _again(image: Image.Image) -> Image.Image:
    """Return an image that is not decoded yet once more from its file: drafting would change whoever gave it."""
    if not (isinstance(image, JpegImageFile) and image.tile and image.fp is not None):
        return image
    place = image.fp.tell()
    image.fp.seek(0)
    file = io.BytesIO(image.fp.read())
    image.fp.seek(place)
    return Image.open(file)


def _eight_bit(images: Tensor) -> Tensor:
    """Return floats in 0..1 as uint8."""
    if not images.is_floating_point():
        raise DataError(f"the images are of type {images.dtype}; give uint8 from 0 to 255, or floats in 0..1")
    low, high = (float(end) for end in images.aminmax())
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # written so that NaN fails
        raise DataError(
            f"the images are floats from {low:g} to {high:g}; give floats in 0..1 that are not normalised, or uint8 "
            "from 0 to 255"
        )
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def _by(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))
