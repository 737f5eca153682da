"""Scores of untrained networks: closed forms of tiny networks, seeds, and networks that cannot be scored."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from conftest import blobs
from nas_proxy.signals.zero_cost import (
    IMAGES,
    JITTER,
    SCORES,
    NoScoreError,
    jacob_cov,
    naswot,
    score,
    some_images,
    synflow,
)


def linear(weights: list[list[float]], bias: list[float] | None = None) -> nn.Linear:
    layer = nn.Linear(len(weights[0]), len(weights), bias=bias is not None)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weights))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))
    return layer


def test_synflow_of_two_linear_layers_is_the_closed_form():
    # |B| |A| 1 = [[1, 3]] [[2, 1], [0, 4]] [1, 1] = 3 + 3 * 4 = 15, and each of the two layers flows 15.
    network = nn.Sequential(linear([[2, -1], [0, 4]], [9, 9]), nn.ReLU(), linear([[-1, 3]], [-9]))
    assert synflow(network, torch.zeros(1, 2)) == pytest.approx(math.log1p(2 * 15))


def test_synflow_counts_the_layers_of_each_path():
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = linear([[-2.0]]), linear([[3.0]])

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(x + self.inner(x))

    # The path through both layers is 6 and flows twice, the shortcut is 3 and flows once.
    assert synflow(Residual(), torch.zeros(1, 1)) == pytest.approx(math.log1p(2 * 6 + 3))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d(2), nn.LayerNorm(2), nn.GroupNorm(1, 2), nn.RMSNorm(2)])
def test_synflow_is_blind_to_norms(norm):
    def network(*between: nn.Module) -> nn.Module:
        return nn.Sequential(linear([[2, -1], [0, 4]]), *between, linear([[-1, 3]]))

    assert synflow(network(norm), torch.zeros(1, 2)) == synflow(network(), torch.zeros(1, 2))


def test_synflow_of_what_nothing_reaches_is_zero():
    assert synflow(nn.Sequential(linear([[0.0, 0.0]]), linear([[1.0]])), torch.zeros(1, 2)) == 0


def test_synflow_keeps_apart_what_float32_cannot_hold():
    def deep(width: int) -> float:
        return synflow(nn.Sequential(*[linear([[1e6] * width] * width) for _ in range(20)]), torch.zeros(1, width))

    assert 100 * math.log(10) < deep(2) < deep(3)


def test_jacob_cov_of_a_linear_network_is_that_of_equal_gradients():
    # All images have the same gradient, so all correlations are 1: the eigenvalues are n, and n - 1 zeros.
    n = 4
    score = jacob_cov(nn.Sequential(nn.Flatten(), linear([[1.0, -2.0, 0.5]])), torch.randn(n, 1, 1, 3))
    zero = math.log(JITTER) + 1 / JITTER
    assert score == pytest.approx(-(math.log(n + JITTER) + 1 / (n + JITTER) + (n - 1) * zero))


def test_jacob_cov_of_gradients_that_do_not_correlate():
    class Squares(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x**2 / 2).sum(1, keepdim=True)  # its gradient is the image

    # Zero mean, and orthogonal: the correlation matrix is the identity, and every eigenvalue 1.
    images = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 3.0, -3.0]])
    assert jacob_cov(Squares(), images) == pytest.approx(-2 * (math.log(1 + JITTER) + 1 / (1 + JITTER)))


RECTIFIERS: list[Callable[[Tensor], Tensor]] = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.LeakyReLU(),
    nn.PReLU(),
    F.relu,
    torch.relu,
]


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(1.0 * x)


@pytest.mark.parametrize("function", RECTIFIERS, ids=lambda function: getattr(function, "__name__", str(function)))
def test_naswot_of_known_codes(function):
    # Codes 101 and 110 differ in two of three units: the kernel is [[3, 1], [1, 3]], and its determinant 8.
    images = torch.tensor([[2.0, -1.0, 0.5], [0.1, 3.0, -2.0]])
    assert naswot(Applied(function), images) == pytest.approx(math.log(8))


def test_naswot_adds_the_units_of_all_rectifiers():
    # The codes 10, 01 and then, negated, 01, 10: four units that all differ, so the kernel is 4 times the identity.
    network = nn.Sequential(Applied(torch.relu), linear([[-1.0, 0.0], [0.0, -1.0]], [0.5, 0.5]), nn.ReLU())
    assert naswot(network, torch.tensor([[1.0, -1.0], [-1.0, 1.0]])) == pytest.approx(math.log(16))


@given(st.integers(0, 2**20), st.integers(2, 8))
@settings(max_examples=30, deadline=None)
def test_naswot_is_the_logarithm_of_the_determinant_of_the_kernel(seed, n):
    codes = torch.randint(0, 2, (n, 24), generator=torch.Generator().manual_seed(seed)).double()
    kernel = 24 - (codes[:, None] - codes[None]).abs().sum(2)
    sign, expected = torch.linalg.slogdet(kernel)
    try:
        found = naswot(nn.ReLU(), 2 * codes.float() - 1)
    except NoScoreError:
        assert len(torch.unique(codes, dim=0)) < n
    else:
        assert (sign, found) == (1, pytest.approx(float(expected)))


@pytest.mark.parametrize(
    ("name", "layers", "reason"),
    [
        ("synflow", [nn.Flatten()], "it has no weights"),
        ("jacob_cov", [nn.Flatten(), linear([[0.0] * 64])], "its outputs do not depend on the images"),
        ("naswot", [nn.Flatten(), nn.Linear(64, 3), nn.Tanh()], "it has no rectifiers (ReLU)"),
        ("naswot", [nn.Hardtanh()], "it has no rectifiers (ReLU)"),
        ("naswot", [nn.Flatten(), linear([[0.0] * 64] * 2), nn.ReLU()], "its rectifiers do not tell the images apart"),
        ("synflow", [nn.Flatten(), *[linear([[1e30] * 64] * 64) for _ in range(12)]], "it leaves the range of float64"),
        ("naswot", [nn.Unflatten(1, (7, 2))], "RuntimeError: unflatten: Provided sizes"),
    ],
)
def test_a_network_without_a_score_has_a_reason(images, name, layers, reason):
    found = score(name, lambda: nn.Sequential(*layers), some_images(images, 0), 0)
    assert math.isnan(found.value)
    assert found.reason is not None
    assert found.reason.startswith(reason)


@pytest.mark.parametrize("name", SCORES)
def test_whatever_building_raises_is_a_reason(images, name):
    def build() -> nn.Module:
        raise KeyError("width")

    assert score(name, build, some_images(images, 0), 0).reason == "KeyError: 'width'"


def small() -> nn.Module:
    layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 3)]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("name", SCORES)
def test_a_score_comes_from_its_seed_alone(images, name):
    batch = some_images(images, 0)
    state = torch.random.get_rng_state()
    first = score(name, small, batch, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert score(name, small, batch, 1).value == first.value
    assert score(name, small, batch, 2).value != first.value
    assert first.reason is None
    assert first.seconds > 0


def test_dropout_does_not_decide_a_score(images):
    def build(rate: float) -> nn.Module:
        layers = [nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(rate), nn.Linear(16, 16), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(16, 3))

    for name in SCORES:
        values = {score(name, lambda rate=rate: build(rate), some_images(images, 0), 0).value for rate in (0.0, 0.9)}
        assert len(values) == 1


def test_images_are_drawn_by_the_seed():
    data = blobs(per_class=40)
    drawn = some_images(data, 3)
    assert drawn.shape == (IMAGES, 1, 8, 8)
    assert torch.equal(drawn, some_images(data, 3))
    assert not torch.equal(drawn, some_images(data, 4))
    assert len(some_images(blobs(per_class=2), 0)) == 6
