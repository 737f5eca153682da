"""A search space of one's own: residual blocks, whose number decides how many further choices there are.

    python examples/own_space.py
    nas-proxy run --space examples/own_space.py --trials 12 --truth 9 --judge 6 --out runs/own-space

In: nothing. Out: on stdout, what the space is and three networks of it; `nas-proxy run --space` takes this file.
"""

import torch
from torch import Tensor, nn

from nas_proxy import Architecture, Branch, Choice, DataShape, Space, repeat

MOST = 3
block = Choice("kernel", (1, 3)) & Choice("norm", ("batch", "none"))
choices = Choice("width", (8, 16)) & Branch(
    "blocks", {number: repeat(block, number, "block") for number in range(1, MOST + 1)}
)


class Residual(nn.Module):
    """What a block adds to its input: a convolution, a norm if there is one, and a ReLU; (n, width, h, w)."""

    def __init__(self, width: int, kernel: int, norm: str) -> None:
        super().__init__()
        normed = [nn.BatchNorm2d(width)] if norm == "batch" else []
        self.body = nn.Sequential(nn.Conv2d(width, width, kernel, padding=kernel // 2), *normed, nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        """Return input + body(input)."""
        added: Tensor = images + self.body(images)
        return added


def build(architecture: Architecture, shape: DataShape) -> nn.Module:
    """Return the network of an architecture for images of `shape`."""
    width = int(architecture["width"] or 0)
    layers: list[nn.Module] = [nn.Conv2d(shape.channels, width, 3, padding=1), nn.ReLU()]
    for number in range(int(architecture["blocks"] or 0)):
        kernel, norm = architecture[f"block{number}.kernel"], architecture[f"block{number}.norm"]
        layers.append(Residual(width, int(kernel or 1), str(norm)))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, shape.classes))


space = Space("residual", choices, build)


def main() -> None:
    """Say what the space is."""
    shape = DataShape(channels=3, height=32, width=32, classes=10)
    print(f"{space.size} architectures")
    for architecture, _ in zip(space.sample(seed=0), range(3), strict=False):
        network = space.build(architecture, shape)
        logits = network(torch.zeros(2, 3, 32, 32))
        print(f"{space.key(architecture)}: {tuple(logits.shape)}")


if __name__ == "__main__":
    main()
