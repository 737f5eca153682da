"""Multi-formation: several images of lower resolution stored as one, and decoded by splitting and upsampling.

With formation f a stored image of h×w pixels is a grid of f×f parts, each of which is upsampled to h×w, so that as many
bytes hold f² times as many images. Source: Kim et al., "Dataset Condensation via Efficient Synthetic-Data
Parameterization" (IDC), ICML 2022. Formation 1 leaves images as they are.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def decoded(stored: Tensor, formation: int) -> Tensor:
    """Return the f²·n images (…, c, h, w) in `stored` float images (n, c, h, w), those of one image in a row.

    Differentiable; h and w must be divisible by `formation`.
    """
    if formation == 1:
        return stored
    n, channels, height, width = stored.shape
    grid = stored.view(n, channels, formation, height // formation, formation, width // formation)
    parts = grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    return F.interpolate(parts, size=(height, width), mode="bilinear", align_corners=False)


def packed(images: Tensor, formation: int) -> Tensor:
    """Return n ÷ f² images that hold the float or uint8 `images` (n, c, h, w), each at 1/f of its resolution."""
    if formation == 1:
        return images
    n, channels, height, width = images.shape
    small = F.avg_pool2d(images if images.is_floating_point() else images.float(), formation)
    if not images.is_floating_point():
        small = small.round().to(torch.uint8)
    grid = small.view(n // formation**2, formation, formation, channels, height // formation, width // formation)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(-1, channels, height, width)
