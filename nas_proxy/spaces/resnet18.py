"""ResNet-18 for small images: a sophisticated network beside the paper's ConvNet.

Source: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, of torchvision's own blocks. For small
images the stem is one 3×3 convolution of stride 1, without max pooling, as is usual for CIFAR-10. It has batch norm and
residual connections, which condensation with ConvNets has never seen.
"""

from torch import nn

from nas_proxy.data.shape import DataShape
from nas_proxy.spaces.space import Architecture, Choice, Space

STAGES, BLOCKS = 4, 2
# A ConvNet of the paper's width goes with the ResNet-18 as published: 128 and 64 channels.
SHARE_OF_WIDTH = 2


def resnet18(shape: DataShape, width: int = 64) -> nn.Module:
    """Return the network: images (n, channels, height, width) to logits (n, classes).

    width: channels of the first of four stages (64 as published); each later stage has twice as many at half of the
    resolution.
    """
    # Here, since torchvision takes seconds to import and most commands build no ResNet.
    from torchvision.models.resnet import BasicBlock
    from torchvision.ops import Conv2dNormActivation

    layers: list[nn.Module] = [Conv2dNormActivation(shape.channels, width, 3)]
    inputs = width
    for stage in range(STAGES):
        outputs = width << stage
        for block in range(BLOCKS):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = None
            if stride > 1 or inputs != outputs:
                shortcut = Conv2dNormActivation(inputs, outputs, 1, stride, activation_layer=None)
            # torchvision's block insists on a base width of 64, which in basic blocks changes nothing else.
            layers.append(BasicBlock(inputs, outputs, stride, shortcut))
            inputs = outputs
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(inputs, shape.classes))


def resnet18_space(width: int) -> Space:
    """Return a space that holds nothing but the ResNet-18 that goes with ConvNets of `width` channels."""
    first = max(1, width // SHARE_OF_WIDTH)

    def build(architecture: Architecture, shape: DataShape) -> nn.Module:
        return resnet18(shape, int(str(architecture["width"])))

    return Space("resnet18", Choice("width", (first,)), build)
