"""96 small ConvNets: depth {1, 2, 3} × width {8, 16} × norm × activation × pooling.

The space of Zhao & Bilen (WACV 2023), see `search_spaces.convnet`, narrowed so that one core can train every member on
60,000 images of 28×28 pixels. Left out are what costs most and what is nearly there twice: widths from 32 on (8 and 16
take their place; an epoch with 32 takes about twice as long as one with 16), maps that are not pooled (up to five
times the seconds), a fourth block (its maps have one pixel), layer norm and the leaky rectifier.

    nas-proxy run --dataset fashion-mnist --space benchmarks/small_convnets.py
"""

from nas_proxy.data.images import DataShape
from nas_proxy.spaces.convnet import ConvNet
from nas_proxy.spaces.space import Architecture, Choice, Space


def build(architecture: Architecture, shape: DataShape) -> ConvNet:
    """Return the network of one architecture."""
    return ConvNet(shape, **architecture)  # type: ignore[arg-type]


space = Space(
    "small_convnets",
    Choice("depth", (1, 2, 3))
    & Choice("width", (8, 16))
    & Choice("norm", ("none", "batch", "instance", "group"))
    & Choice("activation", ("sigmoid", "relu"))
    & Choice("pooling", ("max", "average")),
    build,
)
