"""25,272 residual networks with conditional choices, from torchvision's blocks; an example to copy from.

Stages of residual blocks; every stage but the first halves the pixels and doubles the channels (He et al., CVPR 2016).
`block` opens choices of its own: a bottleneck narrows to a part of its channels, an inverted block widens by an
expansion and filters each channel alone (Sandler et al., CVPR 2018). `squeeze` opens its ratio (Hu et al., CVPR 2018).
The number of stages opens the number of blocks in each. Made for 8×8 to 64×64 pixels: there are at most as many
stages as leave 2×2 pixels, and below 28 pixels the widths shrink (8×8 pixels: 7,776 networks).
"""

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation, SqueezeExcitation

from nas_proxy.data.images import DataShape
from nas_proxy.errors import SpaceError
from nas_proxy.spaces.space import NOTHING, Architecture, Branch, Choice, Space, repeat

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "hardswish": nn.Hardswish}
BOTTLENECK = 2  # the channels of a bottleneck's middle are 1 / 2 of its output's


class Block(nn.Module):
    """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up; with a shortcut."""

    def __init__(self, architecture: Architecture, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        activation = ACTIVATIONS[str(architecture["activation"])]
        kernel, layers = int(str(architecture["kernel"])), []

        def convolution(
            before: int, after: int, size: int, *, step: int = 1, groups: int = 1, active: bool = True
        ) -> nn.Module:
            layer: nn.Module = Conv2dNormActivation(
                before, after, size, step, groups=groups, activation_layer=activation if active else None
            )
            return layer

        if architecture["block"] == "basic":
            layers += [convolution(inputs, outputs, kernel, step=stride)]
            layers += [convolution(outputs, outputs, kernel, active=False)]
        else:
            inverted = architecture["block"] == "inverted"
            middle = inputs * int(str(architecture["expansion"])) if inverted else outputs // BOTTLENECK
            layers += [convolution(inputs, middle, 1)]
            layers += [convolution(middle, middle, kernel, step=stride, groups=middle if inverted else 1)]
            layers += [convolution(middle, outputs, 1, active=False)]
        if architecture["squeeze"]:
            squeezed = max(1, outputs // int(str(architecture["squeeze_ratio"])))
            layers += [SqueezeExcitation(outputs, squeezed)]
        self.body = nn.Sequential(*layers)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1, step=stride, active=False)
        self.activation = activation()

    def forward(self, images: Tensor) -> Tensor:
        """Return the activated sum of both ways."""
        out: Tensor = self.activation(self.body(images) + self.shortcut(images))
        return out


def build(architecture: Architecture, shape: DataShape) -> nn.Module:
    """Return the network of one architecture; maps of features come before pooling, and a linear layer after it."""
    channels = int(str(architecture["width"]))
    activation = ACTIVATIONS[str(architecture["activation"])]
    layers: list[nn.Module] = [Conv2dNormActivation(shape.channels, channels, 3, activation_layer=activation)]
    for stage in range(int(str(architecture["stages"]))):
        for block in range(int(str(architecture[f"stage{stage}.blocks"]))):
            first = block == 0 and stage > 0
            outputs = 2 * channels if first else channels
            layers.append(Block(architecture, channels, outputs, 2 if first else 1))
            channels = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, shape.classes))


def space_for(shape: DataShape) -> Space:
    """Return the space for images of `shape`. Raises SpaceError below 8×8 pixels."""
    side = min(shape.height, shape.width)
    if side < 8:
        raise SpaceError(f"resnet needs images of at least 8×8 pixels; these have {shape.height}×{shape.width}")
    shrink = 1 if side >= 28 else 2
    stages = [n for n in (2, 3, 4) if side // 2 ** (n - 1) >= 2]
    kernel = Choice("kernel", (3, 5))
    return Space(
        "resnet",
        Choice("width", (16 // shrink, 32 // shrink, 64 // shrink))
        & Choice("activation", tuple(ACTIVATIONS))
        & Branch(
            "block",
            {"basic": kernel, "bottleneck": kernel, "inverted": kernel & Choice("expansion", (2, 4))},
        )
        & Branch("squeeze", {False: NOTHING, True: Choice("squeeze_ratio", (4, 8))})
        & Branch("stages", {n: repeat(Choice("blocks", (1, 2, 3)), n, "stage") for n in stages}),
        build,
    )
