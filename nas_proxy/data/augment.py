"""Differentiable augmentation of whole batches, drawn apart from being applied.

Source: differentiable Siamese augmentation (Zhao & Bilen, ICML 2021), as distribution matching uses it: one of
colour, crop, cutout, flip, scale and rotate. `draw` returns one row of parameters for each image or, Siamese,
for each class; `apply` is a pure, differentiable function of images and rows, so giving real and synthetic
images of a class the same row is an index: `apply(images, draws.rows(labels))`.

Two differences to the authors' code, whose generator is reseeded before each draw: width and height are scaled,
and x and y are shifted, independently of each other.
"""

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_proxy.data import operations
from nas_proxy.transfer import to_device

FULL, NO_FLIP = operations.FULL, operations.NO_FLIP

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP_PAD, CUTOUT, SCALE, ROTATE = 0.125, 0.5, 1.2, 15.0
# Of images that are resampled by a matrix on a GPU, which has as many numbers as their square.
MOST_PIXELS = 64 * 64
# Of the matrices that are kept for further images with the same parameters.
MATRIX_BYTES = 256 << 20


@dataclass(frozen=True)
class Draws:
    """Parameters of `n` augmentations; a row that does not use an operation holds its identity.

    affine: (n, 2, 3), the map from output to input coordinates in [-1, 1] (scale, rotate, flip).
    shift: int64 (n, 2), pixels down and right by which the crop window moves.
    hole: int64 (n, 2), top left corner of the square that is cut out; far outside for none.
    brightness: (n,), added; saturation, contrast: (n,), factors about the mean of a pixel and of an image.
    """

    affine: Tensor
    shift: Tensor
    hole: Tensor
    brightness: Tensor
    saturation: Tensor
    contrast: Tensor

    def rows(self, index: Tensor | slice) -> "Draws":
        """Return the rows at `index`."""
        return Draws(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: torch.device | str) -> "Draws":
        """Return the same draws on `device`."""
        return Draws(*to_device([getattr(self, field.name) for field in fields(self)], device))


def draw(operations: Tensor, strategy: tuple[str, ...], height: int, width: int, generator: torch.Generator) -> Draws:
    """Draw the parameters of one operation a row.

    operations: int64 (n,), indices into `strategy`; see `draw_operations`.
    generator: on the CPU; the same numbers are drawn whatever the operations are.
    """
    n = len(operations)
    uniform = torch.rand(10, n, generator=generator)

    def using(name: str) -> Tensor:
        return operations == (strategy.index(name) if name in strategy else -1)

    affine = torch.eye(2, 3).repeat(n, 1, 1)
    low, high = 1 / SCALE, SCALE
    scale = using("scale")
    affine[:, 0, 0] = torch.where(scale, low + uniform[0] * (high - low), affine[:, 0, 0])
    affine[:, 1, 1] = torch.where(scale, low + uniform[1] * (high - low), affine[:, 1, 1])
    angle = (uniform[2] * 2 - 1) * ROTATE / 180 * math.pi
    turned = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
    affine[:, :, :2] = torch.where(using("rotate").view(n, 1, 1), turned, affine[:, :, :2])
    affine[:, 0, 0] = torch.where(using("flip") & (uniform[3] < 0.5), -affine[:, 0, 0], affine[:, 0, 0])

    size = torch.tensor([height, width])
    pad = (size * CROP_PAD + 0.5).long()
    shift = (uniform[4:6].T * (2 * pad + 1)).long() - pad
    hole_size = cutout_size(height, width)
    centre = (uniform[6:8].T * (size + 1 - hole_size % 2)).long()
    colour = using("colour")
    return Draws(
        affine=affine,
        shift=torch.where(using("crop").view(n, 1), shift, 0),
        hole=torch.where(using("cutout").view(n, 1), centre - hole_size // 2, -4 * size),
        brightness=torch.where(colour, (uniform[3] - 0.5) * BRIGHTNESS, 0.0),
        saturation=torch.where(colour, uniform[8] * SATURATION, 1.0),
        contrast=torch.where(colour, uniform[9] + CONTRAST, 1.0),
    )


def draw_operations(n: int, strategy: tuple[str, ...], generator: torch.Generator) -> Tensor:
    """Return `n` uniformly drawn indices into `strategy`, int64."""
    return torch.randint(len(strategy), (n,), generator=generator)


def cutout_size(height: int, width: int) -> Tensor:
    """Return the height and width of the square that cutout removes."""
    return (torch.tensor([height, width]) * CUTOUT + 0.5).long()


def apply(images: Tensor, draws: Draws) -> Tensor:
    """Augment float images (n, c, h, w), each with its row of `draws`. Differentiable in the images.

    Pixels from outside an image are 0, the mean of a normalised data set.
    """
    return _colour(_cut(_crop(_warp(images, draws.affine), draws.shift), draws.hole), draws)


def apply_one(images: Tensor, name: str, draws: Draws) -> Tensor:
    """Augment as `apply` does where all rows of `draws` use the operation `name`, at a fraction of its cost.

    On a GPU nothing here waits for the device.
    """
    if name == "crop":
        return _cropped(images, draws.shift)
    if name == "cutout":
        return _cut(images, draws.hole)
    if name == "colour":
        return _colour(images, draws)
    if name == "flip":
        # Resampling a mirrored image gives its pixels, to rounding.
        return torch.where((draws.affine[:, 0, 0] < 0).view(-1, 1, 1, 1), images.flip(3), images)
    return _warped(images, draws.affine)


def _warp(images: Tensor, affine: Tensor) -> Tensor:
    # Most rows of a batch are the identity, whose resampling would be wasted.
    moved = (affine != torch.eye(2, 3, device=affine.device)).flatten(1).any(1)
    index = torch.nonzero(moved).flatten()
    if len(index) == 0:
        return images
    return images.index_copy(0, index, _warped(images[index], affine[index]))


def _warped(images: Tensor, affine: Tensor) -> Tensor:
    grid = F.affine_grid(affine.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _crop(images: Tensor, shift: Tensor) -> Tensor:
    index = torch.nonzero(shift.any(1)).flatten()
    if len(index) == 0:
        return images
    return images.index_copy(0, index, _cropped(images[index], shift[index]))


def _cropped(images: Tensor, shift: Tensor) -> Tensor:
    n, channels, height, width = images.shape
    pad_y, pad_x = (int(size * CROP_PAD + 0.5) for size in (height, width))
    padded = F.pad(images, [pad_x, pad_x, pad_y, pad_y])
    device = images.device
    y = (torch.arange(height, device=device) + pad_y + shift[:, :1]).view(-1, 1, height, 1)
    x = (torch.arange(width, device=device) + pad_x + shift[:, 1:]).view(-1, 1, 1, width)
    rows = torch.arange(n, device=device).view(-1, 1, 1, 1)
    columns = torch.arange(channels, device=device).view(1, -1, 1, 1)
    return padded[rows, columns, y, x]


def _cut(images: Tensor, hole: Tensor) -> Tensor:
    _, _, height, width = images.shape
    # Numbers, not a tensor, which would have to be brought to the device while everything waits.
    down, across = map(int, cutout_size(height, width))
    y = torch.arange(height, device=images.device) - hole[:, :1]
    x = torch.arange(width, device=images.device) - hole[:, 1:]
    inside = ((y >= 0) & (y < down)).unsqueeze(2) & ((x >= 0) & (x < across)).unsqueeze(1)
    return images * (~inside).unsqueeze(1)


def _colour(images: Tensor, draws: Draws) -> Tensor:
    def column(values: Tensor) -> Tensor:
        return values.to(images.dtype).view(-1, 1, 1, 1)

    images = images + column(draws.brightness)
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * column(draws.saturation) + grey
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * column(draws.contrast) + mean


def apply_same(images: Tensor, name: str, draws: Draws, row: int, matrices: dict[int, Tensor] | None = None) -> Tensor:
    """Augment images (n, c, h, w) of one class by the operation `name` with one row of parameters.

    draws: on the CPU. matrices: by row, by which a GPU resamples: kept here for further images of that row.
    The same as `apply` to rounding, at a fraction of its cost, because only that one operation touches the images and
    its parameters are known. On a GPU nothing is copied there and nothing here waits for it, since kernels take those
    parameters as numbers; and the gradient is the same each time.
    """
    if name == "crop":
        down, right = draws.shift[row].tolist()
        return F.pad(images, (-right, right, -down, down))
    if name == "cutout":
        return _without_square(images, draws.hole[row])
    if name == "colour":
        return _coloured(images, *(float(v[row]) for v in (draws.brightness, draws.saturation, draws.contrast)))
    if name == "flip":
        return images.flip(3) if draws.affine[row, 0, 0] < 0 else images
    return _warp_same(images, draws.affine[row], row, {} if matrices is None else matrices)


def _without_square(images: Tensor, hole: Tensor) -> Tensor:
    """Return images with the square at `hole` (2,) cut out."""
    _, _, height, width = images.shape
    ends = hole + cutout_size(height, width)
    (top, left), (bottom, right) = hole.clamp_min(0).tolist(), ends.clamp_min(0).tolist()
    if images.is_cuda:
        images = images.clone()
        images[:, :, top:bottom, left:right] = 0
        return images
    mask = torch.ones(height, width, dtype=images.dtype)
    mask[top:bottom, left:right] = 0
    return images * mask


def _warp_same(images: Tensor, affine: Tensor, row: int, matrices: dict[int, Tensor]) -> Tensor:
    """Return images sampled bilinearly where an affine map (2, 3) of the unit square leads, 0 outside."""
    _, _, height, width = images.shape
    if images.is_cuda and height * width <= MOST_PIXELS:
        matrix = matrices[row] if row in matrices else _resampling(images, affine.tolist())
        if (len(matrices) + 1) * matrix.nbytes <= MATRIX_BYTES:
            matrices[row] = matrix
        return (images.flatten(2) @ matrix.T).view(images.shape)
    grid = F.affine_grid(affine.unsqueeze(0).to(images.dtype), [1, 1, height, width], align_corners=False)
    grid = to_device([grid], images.device)[0]
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=False)


def _resampling(images: Tensor, affine: list[list[float]]) -> Tensor:
    """Return the matrix (h·w, h·w), by output and input pixel, that does what `grid_sample` does with (n, c, h, w).

    The gradient of `grid_sample` adds up in another order each time on a GPU, so the same seed would not give the same
    images.
    """
    _, _, height, width = images.shape
    (a, b, c), (d, e, f) = affine
    x, y = 1 / width - 1, 1 / height - 1  # the first pixel's middle
    rows, columns = (torch.arange(size, device=images.device, dtype=images.dtype) for size in (height, width))

    def weights(down: float, right: float, first: float, pixels: Tensor) -> Tensor:
        """Return those of `pixels` for each output pixel, whose source is at down · row + right · column + first."""
        places = torch.add((down * rows).view(-1, 1, 1), columns.view(-1, 1), alpha=right)
        return F.relu(1 - (places - (pixels - first)).abs())

    across = weights(b * width / height, a, ((a * x + b * y + c + 1) * width - 1) / 2, columns)
    along = weights(e, d * height / width, ((d * x + e * y + f + 1) * height - 1) / 2, rows)
    return (along.unsqueeze(3) * across.unsqueeze(2)).view(height * width, height * width)


def _coloured(images: Tensor, brightness: float, saturation: float, contrast: float) -> Tensor:
    images = images + brightness
    images = torch.lerp(images.mean(1, keepdim=True), images, saturation)
    return torch.lerp(images.mean((1, 2, 3), keepdim=True), images, contrast)
