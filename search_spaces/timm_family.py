"""45 networks of a dozen families of timm, made for images of 24 to 64 pixels; shows how to bring any other.

Needs `pip install timm`. A family is a row of `FAMILIES`: its choices, and what they make of `timm.create_model`, a
model's name and its options. Where a family has models of several sizes, `size` is a part of the name; where its class
takes widths and depths, they are choices. Weights are never downloaded: all begin at random.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import nn

from nas_proxy.data.shape import DataShape
from nas_proxy.errors import SpaceError
from nas_proxy.spaces.space import Architecture, Branch, Choice, Space

# Images of fewer pixels a side than this keep their size in the stem, which would halve it once or twice.
SMALL = 48


class Family(NamedTuple):
    """Choices, and the model's name and options for an architecture."""

    choices: Any
    model: Callable[[Any, DataShape], tuple[str, dict[str, Any]]]


def sized(name: str, *sizes: str) -> Family:
    """A family whose models are called after their size."""
    return Family(Choice("size", sizes), lambda a, shape: (name.format(a["size"]), {}))


def resnet(a: Any, shape: DataShape) -> tuple[str, dict[str, Any]]:
    """Basic blocks, a tiered stem (He et al., CVPR 2019)."""
    width = a["width"]
    return "resnet10t", {"channels": tuple(width * 2**n for n in range(4)), "layers": (a["depth"],) * 4}


def convnext(a: Any, shape: DataShape) -> tuple[str, dict[str, Any]]:
    """Depthwise 7×7 convolutions (Liu et al., CVPR 2022), with small patches."""
    width, depth = a["width"], a["depth"]
    options = {"dims": tuple(width * 2**n for n in range(4)), "depths": (depth, depth, 3 * depth, depth)}
    return "convnext_atto", {**options, "patch_size": 2 if min(shape.height, shape.width) >= 32 else 1}


def vit(a: Any, shape: DataShape) -> tuple[str, dict[str, Any]]:
    """A transformer on patches of an eighth of a side (Dosovitskiy et al., ICLR 2021), with heads of 32."""
    patches = {"img_size": (shape.height, shape.width), "patch_size": min(shape.height, shape.width) // 8}
    options = {"embed_dim": a["width"], "depth": a["depth"], "num_heads": a["width"] // 32}
    return "vit_tiny_patch16_224", {**options, **patches}


FAMILIES = {
    "resnet": Family(Choice("width", (16, 32, 64)) & Choice("depth", (1, 2)), resnet),
    "regnetx": sized("regnetx_{}", "002", "004"),
    "regnety": sized("regnety_{}", "002", "004"),
    "mobilenetv2": sized("mobilenetv2_{}", "035", "050", "100"),
    "mobilenetv3": sized("mobilenetv3_small_{}", "050", "075", "100"),
    "lcnet": sized("lcnet_{}", "035", "050", "075", "100"),
    "ghostnet": sized("ghostnet_{}", "050", "100"),
    "mnasnet": sized("mnasnet_{}", "050", "075", "100"),
    "tinynet": sized("tinynet_{}", "e", "d", "c"),
    "efficientnet": sized("efficientnet_lite{}", "0", "1"),
    "convnext": Family(Choice("width", (16, 24, 40)) & Choice("depth", (1, 2)), convnext),
    "vit": Family(Choice("width", (64, 128, 192)) & Choice("depth", (2, 4, 6)), vit),
}


def build(architecture: Architecture, shape: DataShape) -> nn.Module:
    """Return the network of one architecture."""
    import timm

    name, options = FAMILIES[str(architecture["family"])].model(architecture, shape)
    network: nn.Module = timm.create_model(name, num_classes=shape.classes, in_chans=shape.channels, **options)
    return with_small_stem(network) if min(shape.height, shape.width) < SMALL else network


def with_small_stem(network: nn.Module) -> nn.Module:
    """Keep the size of small images in the first convolution, where it would be halved, and in the pooling after it."""
    first = next(module for module in network.modules() if isinstance(module, nn.Conv2d))
    if first.stride == (2, 2) and first.kernel_size != (2, 2):  # not the patches of a ConvNeXt
        first.stride = (1, 1)
    if isinstance(getattr(network, "maxpool", None), nn.MaxPool2d):
        network.maxpool = nn.Identity()
    return network


def space_for(shape: DataShape) -> Space:
    """Return the space for images of `shape`. Raises SpaceError below 24 pixels, and where timm is not installed."""
    try:
        import timm  # noqa: F401
    except ImportError:
        raise SpaceError("timm_family needs timm, which is not installed: pip install timm") from None
    if min(shape.height, shape.width) < 24:
        raise SpaceError(
            f"timm_family needs images of at least 24×24 pixels; these have {shape.height}×{shape.width}, so give "
            "--image-size 32"
        )
    return Space("timm_family", Branch("family", {name: family.choices for name, family in FAMILIES.items()}), build)
