"""The 15,625 cells of NAS-Bench-201; cells=1 for one a stage (published: 5), unique=true for each function once.

Dong & Yang, "NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020. A cell has
four nodes; each of its six edges applies one of five operations, and a node is the sum of its edges. The network:
a stem of 16 channels, three stages of five equal cells with a residual reduction (half the pixels, twice the
channels) between them, then batch norm, ReLU, global average pooling and a linear layer. Keys are the published
`arch_str`, whatever the number of cells. Parameters are those published. FLOPs count convolutions and the linear
layer, 2 × their multiply-adds; the published figures are multiply-adds, and one more a class for its bias.
"""

import functools
import itertools
import re
from collections.abc import Iterable

from torch import Tensor, nn

from nas_proxy.data.images import DataShape
from nas_proxy.errors import SpaceError
from nas_proxy.spaces.space import All, Architecture, Choice, Space

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# From node, to node, in the order in which the published names list them.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
CHANNELS = 16
STAGES = 3
CELLS = 5


def edge(source: int, target: int) -> str:
    """Return the name of the choice of one edge, such as "edge_0_1"."""
    return f"edge_{source}_{target}"


def arch_str(architecture: Architecture) -> str:
    """Return the published name, such as "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"."""
    into: dict[int, str] = {1: "|", 2: "|", 3: "|"}
    for source, target in EDGES:
        into[target] += f"{architecture[edge(source, target)]}~{source}|"
    return "+".join(into.values())


def parse(name: str) -> Architecture:
    """Return the architecture of a published name. Raises SpaceError where it is none."""
    operations = re.findall(r"(\w+)~\d", name)
    architecture = dict(zip((edge(*e) for e in EDGES), operations, strict=False))
    if len(operations) != len(EDGES) or set(operations) - set(OPERATIONS) or arch_str(architecture) != name:
        raise SpaceError(
            f"{name!r} is no cell of NAS-Bench-201; one looks like |none~0|+|none~0|none~1|+|none~0|none~1|none~2| "
            f"with the operations {', '.join(OPERATIONS)}"
        )
    return architecture


def canonical(cell: Architecture | str) -> str:
    """Return the function that a cell computes, in a form that is equal for equal functions; there are 5,170.

    Zeros vanish from sums, skip connections from paths, the order of summands does not matter, the mean of a sum is
    the sum of the means, and the mean of a constant is the constant. A convolution of zero is such a constant, which
    its batch norm learns, and not zero. Cells of one form can be trained once, and the spread of their published
    accuracies is that of training again (see `isomorphic_pairs`). They may differ in parameters, where some serve no
    output.
    """
    architecture = parse(cell) if isinstance(cell, str) else cell
    terms: dict[int, list[str]] = {0: ["input"], 1: [], 2: [], 3: []}
    for source, target in EDGES:
        terms[target] += _applied(str(architecture[edge(source, target)]), terms[source])
    return "+".join(sorted(terms[3])) or "0"


def isomorphic_pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return two cells of each function that several of `names` compute: the first two.

    The published accuracies of the first cells and of the second ones are then two full trainings of the same
    architectures, and their rank correlation an estimate of repeatability. It can be too high: all cells were
    trained with the same seed, and some pairs drew the same initial weights.
    """
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(canonical(name), []).append(name)
    return [(first, second) for first, second, *_ in filter(lambda same: len(same) > 1, found.values())]


def _applied(operation: str, terms: list[str]) -> list[str]:
    """Return the summands of an operation on a sum."""
    if operation in {"none", "skip_connect"}:
        return terms if operation == "skip_connect" else []
    if operation == "avg_pool_3x3":
        return [term if _is_constant(term) else f"{operation}({term})" for term in terms]
    return [f"{operation}({'+'.join(sorted(terms)) or '0'})"]


def _is_constant(term: str) -> bool:
    """Whether every pixel is the same: the padding of a 3×3 convolution shows at the border of all but zero."""
    return "input" not in term and re.search(r"nor_conv_3x3\((?!0\))", term) is None


def published_structure(cell: Architecture | str) -> str:
    """Return the text that takes 6,466 values, the number of unique structures that the literature quotes.

    As the authors' code defines it, it differs from `canonical`: zeros ("#") stay in sums, a sum of zeros is not zero,
    a convolution of zero is, and sums of sums are not always put in one order. So some equal functions differ in it,
    and some that differ agree.
    """
    architecture = parse(cell) if isinstance(cell, str) else cell
    nodes = {0: "0"}
    for target in (1, 2, 3):
        summands = []
        for source in range(target):
            operation = architecture[edge(source, target)]
            zero = operation == "none" or nodes[source] == "#"
            skipped = operation == "skip_connect"
            summands.append("#" if zero else nodes[source] if skipped else f"({nodes[source]})@{operation}")
        nodes[target] = "+".join(sorted(summands))
    return nodes[3]


@functools.cache
def _first_of_each() -> frozenset[str]:
    """Return the published names of the first cell of each function."""
    first: dict[str, str] = {}
    for operations in itertools.product(OPERATIONS, repeat=len(EDGES)):
        architecture = dict(zip((edge(*e) for e in EDGES), operations, strict=True))
        first.setdefault(canonical(architecture), arch_str(architecture))
    return frozenset(first.values())


def _convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution, batch norm."""
    layer = nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(nn.ReLU(), layer, nn.BatchNorm2d(outputs))


def _operation(name: str, channels: int) -> nn.Module:
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
    if name == "skip_connect":
        return nn.Identity()
    return _convolution(channels, channels, 1 if name == "nor_conv_1x1" else 3)


class Cell(nn.Module):
    """(n, channels, h, w) -> the same; an edge without operation is no module."""

    def __init__(self, architecture: Architecture, channels: int) -> None:
        super().__init__()
        chosen = {edge(*e): str(architecture[edge(*e)]) for e in EDGES}
        self.edges = nn.ModuleDict({n: _operation(o, channels) for n, o in chosen.items() if o != "none"})

    def forward(self, images: Tensor) -> Tensor:
        """Return the last node."""
        nodes = [images]
        for target in (1, 2, 3):
            present = [(s, edge(s, target)) for s in range(target) if edge(s, target) in self.edges]
            summands = [self.edges[name](nodes[source]) for source, name in present]
            # Zero times the input: a part of the network that nothing reaches then has gradients, all zero.
            nodes.append(functools.reduce(Tensor.add, summands) if summands else images * 0.0)
        return nodes[-1]


class Reduction(nn.Module):
    """A residual block (n, channels, h, w) -> (n, 2 * channels, h / 2, w / 2), rounded up."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        wide = 2 * channels
        self.body = nn.Sequential(_convolution(channels, wide, 3, stride=2), _convolution(wide, wide, 3))
        # Up, as the strided convolution rounds; the published images have even sides, where nothing is rounded.
        pool = nn.AvgPool2d(2, ceil_mode=True)
        self.shortcut = nn.Sequential(pool, nn.Conv2d(channels, wide, 1, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """Return the sum of both ways."""
        reduced: Tensor = self.body(images) + self.shortcut(images)
        return reduced


def build(architecture: Architecture, shape: DataShape, *, cells: int = CELLS) -> nn.Module:
    """Return the network of one cell, `cells` of them a stage."""
    stem = nn.Conv2d(shape.channels, CHANNELS, 3, padding=1, bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm2d(CHANNELS)]
    channels = CHANNELS
    for stage in range(STAGES):
        if stage > 0:
            layers.append(Reduction(channels))
            channels *= 2
        layers += [Cell(architecture, channels) for _ in range(cells)]
    layers += [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(channels, shape.classes))


def space_for(shape: DataShape, *, cells: int = CELLS, unique: bool = False) -> Space:
    """Return the cells for any images of at least 4×4 pixels.

    cells: how many a stage; the published accuracies are for 5. unique: leave out all but the first cell of each
    function, which leaves 5,170. Raises SpaceError for no cells, and for smaller images.
    """
    if cells < 1:
        raise SpaceError(f"nas_bench_201 has cells={cells}; a stage needs at least 1")
    if min(shape.height, shape.width) < 4:
        raise SpaceError(f"nas_bench_201 halves images twice, and {shape.height}×{shape.width} pixels are too few")
    return Space(
        "nas_bench_201",
        All(tuple(Choice(edge(*e), OPERATIONS) for e in EDGES)),
        functools.partial(build, cells=cells),
        valid=(lambda architecture: arch_str(architecture) in _first_of_each()) if unique else None,
        name_of=arch_str,
        function_of=canonical,
    )
