"""The paper's 720 ConvNets: depth × width × norm × activation × pooling; shrinks for small images.

Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023: depth {1, 2, 3, 4}, width
{32, 64, 128, 256}. Below 28 pixels the widths shrink (8×8: 4 to 32), and the depth ends where pooling would leave
less than one pixel (8×8: 3), which leaves 540 architectures for 8×8 images.
"""

from nas_proxy.data.images import DataShape
from nas_proxy.spaces.convnet import ACTIVATIONS, NORMS, POOLINGS, ConvNet, deepest
from nas_proxy.spaces.space import Architecture, Choice, Space


def build(architecture: Architecture, shape: DataShape) -> ConvNet:
    """Return the network of one architecture."""
    return ConvNet(shape, **architecture)  # type: ignore[arg-type]


def space_for(shape: DataShape) -> Space:
    """Return the space for images of `shape`."""
    side = min(shape.height, shape.width)
    shrink = 1 if side >= 28 else 4 if side >= 14 else 8
    return Space(
        "convnet",
        Choice("depth", tuple(range(1, deepest(shape, 4) + 1)))
        & Choice("width", tuple(width // shrink for width in (32, 64, 128, 256)))
        & Choice("norm", NORMS)
        & Choice("activation", tuple(ACTIVATIONS))
        & Choice("pooling", tuple(POOLINGS)),
        build,
    )
