"""The published spaces: names, published parameters, hand-counted FLOPs, and which networks are the same function."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, uniform_filter
from scipy.stats import spearmanr
from torch import nn

from nas_proxy import DataShape, SpaceError, load_space
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.loading import try_out
from search_spaces import nas_bench_201, nas_bench_macro
from search_spaces.nas_bench_201 import OPERATIONS, arch_str, canonical, parse, published_structure

BENCHMARKS = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"
CIFAR = DataShape(3, 32, 32, 10)
CONV3 = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|nor_conv_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|"
NOTHING = "|none~0|+|none~0|none~1|+|none~0|none~1|none~2|"


def published(name: str) -> Path:
    path = BENCHMARKS / name
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return path


# Published by the authors' own tool: parameters, and multiply-adds with one more a class for the classifier's bias.
# See issues 36 and 24 of D-X-Y/NATS-Bench.
KNOWN = {
    "|skip_connect~0|+|none~0|nor_conv_3x3~1|+|avg_pool_3x3~0|nor_conv_3x3~1|nor_conv_3x3~2|": (802_426, 113_951_370),
    "|avg_pool_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|nor_conv_1x1~0|skip_connect~1|skip_connect~2|": (
        129_306,
        15_647_370,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_cell_costs_what_is_published(name):
    size = measure(load_space("nas_bench_201", CIFAR), parse(name), CIFAR)
    assert (size.params, size.flops) == (KNOWN[name][0], 2 * (KNOWN[name][1] - 10))


@pytest.mark.parametrize("cells", [1, 5])
def test_a_cell_costs_what_is_counted_by_hand(cells):
    def conv(inputs: int, outputs: int, kernel: int, side: int) -> int:
        return inputs * outputs * kernel**2 * side**2

    fixed = conv(3, 16, 3, 32) + 64 * 10
    for c, side in ((16, 16), (32, 8)):
        fixed += conv(c, 2 * c, 3, side) + conv(2 * c, 2 * c, 3, side) + conv(c, 2 * c, 1, side)
    threes = sum(cells * 6 * conv(c, c, 3, side) for c, side in ((16, 32), (32, 16), (64, 8)))
    space = load_space(f"nas_bench_201:cells={cells}", CIFAR)
    assert measure(space, parse(NOTHING), CIFAR).flops == 2 * fixed
    assert measure(space, parse(CONV3), CIFAR).flops == 2 * (fixed + threes)
    assert measure(space, parse(NOTHING), CIFAR).params == 73_306
    weights = sum(6 * cells * (9 * c * c + 2 * c) for c in (16, 32, 64))
    assert measure(space, parse(CONV3), CIFAR).params == 73_306 + weights


def test_every_cell_has_its_published_name():
    space = load_space("nas_bench_201", CIFAR)
    names = {space.key(a): a for a in space.sample(0)}
    assert len(names) == space.size == 15_625
    assert all(parse(name) == architecture for name, architecture in names.items())
    with published("nas_bench_201_public.csv").open() as file:
        assert all(row["arch_str"] in names for row in csv.DictReader(file))


def test_the_number_of_cells_changes_no_name_and_no_sample():
    one, five = (load_space(f"nas_bench_201:cells={n}", CIFAR) for n in (1, 5))
    firsts = [[s.key(a) for a in itertools.islice(s.sample(3), 20)] for s in (one, five)]
    assert firsts[0] == firsts[1]


@pytest.mark.parametrize(
    "name", ["", "|none~0|", NOTHING.replace("none~1", "none~0"), NOTHING.replace("none", "noone")]
)
def test_a_name_that_is_no_cell_is_refused(name):
    with pytest.raises(SpaceError, match="is no cell of NAS-Bench-201; one looks like"):
        parse(name)


def test_no_cells_and_too_few_pixels_are_refused():
    with pytest.raises(SpaceError, match="nas_bench_201 has cells=0; a stage needs at least 1"):
        load_space("nas_bench_201:cells=0", CIFAR)
    with pytest.raises(SpaceError, match="3×3 pixels are too few"):
        load_space("nas_bench_201", DataShape(1, 3, 3, 10))


def outputs() -> dict[str, bytes]:
    """What each cell makes of one image, its weights drawn from the operation and from what it is applied to."""
    images = np.random.default_rng(0).normal(size=(6, 6)).round(3)
    inside = uniform_filter(np.ones((6, 6)), 3, mode="constant")
    done: dict[tuple[str, bytes], np.ndarray] = {}

    def applied(operation: str, value: np.ndarray) -> np.ndarray:
        if operation in ("none", "skip_connect"):
            return value * (operation == "skip_connect")
        if operation == "avg_pool_3x3":
            return uniform_filter(value, 3, mode="constant") / inside
        content = (operation, (value.round(9) + 0.0).tobytes())
        if content not in done:
            draws = np.random.default_rng([*operation.encode(), *content[1]])
            kernel = draws.normal(size=(1, 1) if "1x1" in operation else (3, 3))
            done[content] = convolve(np.maximum(value, 0), kernel, mode="constant") + draws.normal()
        return done[content]

    found = {}
    for operations in itertools.product(OPERATIONS, repeat=6):
        a, b, c, d, e, f = operations
        one = applied(a, images)
        two = applied(b, images) + applied(c, one)
        out = applied(d, images) + applied(e, one) + applied(f, two)
        name = f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"
        found[name] = (out.round(7) + 0.0).tobytes()
    return found


def test_cells_have_one_form_exactly_when_they_compute_one_function():
    found = outputs()
    pairs = {(canonical(name), output) for name, output in found.items()}
    assert len(pairs) == len({form for form, _ in pairs}) == len(set(found.values())) == 5_170


def test_the_published_count_of_structures():
    names = (arch_str(a) for a in load_space("nas_bench_201", CIFAR).sample(0))
    assert len({published_structure(name) for name in names}) == 6_466


def test_isomorphic_pairs_are_two_trainings_of_one_function():
    with published("nas_bench_201_public.csv").open() as file:
        rows = {row["arch_str"]: row for row in csv.DictReader(file)}
    pairs = nas_bench_201.isomorphic_pairs(rows)
    assert all(a != b and canonical(a) == canonical(b) for a, b in pairs)
    assert len(pairs) == len({canonical(a) for a, _ in pairs}) == 255
    accuracies = [[float(rows[name]["cifar10_valid_200ep"]) for name in pair] for pair in pairs]
    assert spearmanr(accuracies).statistic == pytest.approx(0.980, abs=0.001)
    # So often the same to the last digit: such pairs drew the same initial weights.
    same = [rows[a]["cifar10_test_12ep"] == rows[b]["cifar10_test_12ep"] for a, b in pairs]
    assert sum(same) == 42


def test_unique_leaves_one_cell_of_each_function():
    space = load_space("nas_bench_201:unique=true", CIFAR)
    assert space.size == len({canonical(a) for a in space.sample(0)}) == 5_170


def test_cells_of_one_function_agree_with_equal_weights():
    """Node 1 copies the input, so a convolution from 1 is one from 0: the built networks agree, not only the forms."""
    one = parse("|skip_connect~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|skip_connect~2|")
    other = parse("|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|")
    assert canonical(one) == canonical(other)
    shape = DataShape(3, 8, 8, 10)
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    logits = []
    for architecture in (one, other):
        torch.manual_seed(0)
        logits.append(nas_bench_201.build(architecture, shape, cells=1).eval()(images))
    assert torch.equal(*logits)


@pytest.mark.parametrize("spec", ["nas_bench_201:cells=1", "nas_bench_macro"])
@pytest.mark.parametrize("shape", [CIFAR, DataShape(1, 8, 8, 3), DataShape(3, 9, 13, 4)])
def test_networks_end_in_maps_pooling_and_a_linear_layer(spec, shape):
    space = load_space(spec, shape)
    try_out(space, shape)
    for architecture in itertools.islice(space.sample(1), 3):
        network = space.build(architecture, shape)
        modules = [m for m in network.modules() if not list(m.children())]
        assert isinstance(modules[-1], nn.Linear)
        assert sum(isinstance(m, nn.AdaptiveAvgPool2d) for m in modules) == 1
        seen = []
        pool = next(m for m in modules if isinstance(m, nn.AdaptiveAvgPool2d))
        pool.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        modules[-1].register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape))
        network(torch.zeros(2, *shape[:3]))
        assert len(seen[0]) == 4 and seen[1] == seen[0][:2]


def test_every_weight_of_the_emptiest_cell_has_a_gradient():
    network = nas_bench_201.build(parse(NOTHING), DataShape(3, 8, 8, 10), cells=1)
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_macro_codes_and_equal_networks():
    space = load_space("nas_bench_macro", CIFAR)
    codes = [space.key(a) for a in space.sample(0)]
    assert len(set(codes)) == space.size == 6_561 and "00121200" in codes
    assert len({nas_bench_macro.canonical(code) for code in codes}) == 3_969
    assert nas_bench_macro.canonical("01001002") == "01010020"


@pytest.mark.slow
def test_macro_parameters_and_flops_are_those_published():
    table = json.loads(published("nas_bench_macro_public.json").read_text())
    space = load_space("nas_bench_macro", CIFAR)
    for number, (code, row) in enumerate(table.items()):
        architecture = {f"layer{i}": digit for i, digit in enumerate(code)}
        with torch.device("meta"):
            network = space.build(architecture, CIFAR)
        assert sum(p.numel() for p in network.parameters()) == row["params"], code
        if number % 50 == 0:
            assert measure(space, architecture, CIFAR).flops == 2 * row["flops"]


def test_macro_networks_of_one_name_have_one_published_accuracy():
    table = json.loads(published("nas_bench_macro_public.json").read_text())
    by_form: dict[str, list[float]] = {}
    for code, row in table.items():
        by_form.setdefault(nas_bench_macro.canonical(code), []).append(row["mean_acc"])
    assert any(len(found) > 1 for found in by_form.values())
    assert all(len(set(found)) == 1 for found in by_form.values())
