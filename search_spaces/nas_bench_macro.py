"""The 6,561 networks of NAS-Bench-Macro: 8 layers, each an identity or one of two inverted residuals.

Su et al., "Prioritized Architecture Sampling with Monto-Carlo Tree Search", CVPR 2021. Keys are the published codes
of eight digits: 0 identity, 1 inverted residual with kernel 3 and expansion 3, 2 with kernel 5 and expansion 6. The
first layers of the three stages (2, 3 and 3 layers) halve the pixels and double the channels, from 32 on; an identity
there is a strided 1×1 convolution with batch norm. Parameters are those published; FLOPs are 2 × the published
number, which counts multiply-adds.
"""

from torch import Tensor, nn

from nas_proxy.data.images import DataShape
from nas_proxy.spaces.space import All, Architecture, Choice, Space

# Digit of the code: (kernel, expansion).
BLOCKS = {"1": (3, 3), "2": (5, 6)}
STAGES = (2, 3, 3)
CHANNELS = 32
FEATURES = 1280


def code(architecture: Architecture) -> str:
    """Return the published name, such as "00121200"."""
    return "".join(str(architecture[f"layer{i}"]) for i in range(sum(STAGES)))


def canonical(name: str) -> str:
    """Return the published name of the same network whose identities come last in each stage; there are 3,969.

    An identity that changes no size does nothing, wherever it stands; the authors trained these networks once and
    list their accuracy under every name.
    """
    parts, start = [], 0
    for layers in STAGES:
        first, rest = name[start], name[start + 1 : start + layers]
        parts.append(first + rest.replace("0", "").ljust(layers - 1, "0"))
        start += layers
    return "".join(parts)


def _convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False)
    return [layer, nn.BatchNorm2d(outputs)]


class InvertedResidual(nn.Module):
    """Widen, filter each channel, narrow (Sandler et al., CVPR 2018); with a shortcut where the size stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, kernel: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.body = nn.Sequential(
            *_convolution(inputs, hidden, 1),
            nn.ReLU(),
            *_convolution(hidden, hidden, kernel, stride=stride, groups=hidden),
            nn.ReLU(),
            *_convolution(hidden, outputs, 1),
        )
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, images: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride), rounded up."""
        out: Tensor = self.body(images)
        return out + images if self.shortcut else out


def _block(digit: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    if digit in BLOCKS:
        return InvertedResidual(inputs, outputs, stride, *BLOCKS[digit])
    return nn.Identity() if stride == 1 else nn.Sequential(*_convolution(inputs, outputs, 1, stride=stride))


def build(architecture: Architecture, shape: DataShape) -> nn.Module:
    """Return the network of one architecture."""
    digits = iter(code(architecture))
    channels = CHANNELS
    layers = [*_convolution(shape.channels, channels, 3), nn.ReLU()]
    for length in STAGES:
        layers.append(_block(next(digits), channels, 2 * channels, 2))
        channels *= 2
        layers += [_block(next(digits), channels, channels, 1) for _ in range(length - 1)]
    layers += [*_convolution(channels, FEATURES, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(FEATURES, shape.classes))


space = Space(
    "nas_bench_macro",
    All(tuple(Choice(f"layer{i}", ("0", *BLOCKS)) for i in range(sum(STAGES)))),
    build,
    name_of=code,
)
