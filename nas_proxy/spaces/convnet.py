"""The ConvNet of dataset condensation: blocks of 3×3 convolution, normalisation, activation and pooling.

Source: Gidaris & Komodakis (CVPR 2018) as used by Zhao & Bilen (WACV 2023); its variants are the paper's search
space. It serves as embedding network and as candidate. One difference to the authors' code: single-channel
images of 28×28 pixels are not padded to 32×32 by the first convolution.
"""

from collections import OrderedDict

from torch import Tensor, nn

from nas_proxy.data.shape import DataShape

NORMS = ("none", "batch", "layer", "instance", "group")
ACTIVATIONS = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU}
POOLINGS = {"none": None, "max": nn.MaxPool2d, "average": nn.AvgPool2d}


class ConvNet(nn.Module):
    """`depth` blocks of `width` channels, then one linear layer.

    `features` maps (n, channels, height, width) to (n, width, h, w); h and w are halved by each pooling.
    """

    def __init__(
        self,
        shape: DataShape,
        *,
        depth: int = 3,
        width: int = 128,
        norm: str = "instance",
        activation: str = "relu",
        pooling: str = "average",
    ) -> None:
        super().__init__()
        channels, height, width_px, classes = shape
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for block in range(depth):
            layers[f"conv{block}"] = nn.Conv2d(channels, width, 3, padding=1)
            channels = width
            if norm != "none":
                layers[f"norm{block}"] = _norm(norm, channels, height, width_px)
            layers[f"act{block}"] = ACTIVATIONS[activation]()
            pool = POOLINGS[pooling]
            if pool is not None:
                layers[f"pool{block}"] = pool(2)
                height, width_px = height // 2, width_px // 2
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels * height * width_px, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (n, classes)."""
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def _norm(name: str, channels: int, height: int, width: int) -> nn.Module:
    if name == "batch":
        return nn.BatchNorm2d(channels)
    if name == "layer":
        return nn.LayerNorm([channels, height, width])
    # Instance norm with learnt scale and shift is group norm with one channel a group.
    return nn.GroupNorm(channels if name == "instance" else 4, channels)


def deepest(shape: DataShape, at_most: int) -> int:
    """Return the largest depth up to `at_most` at which pooling leaves at least one pixel."""
    return min(at_most, min(shape.height, shape.width).bit_length() - 1)
