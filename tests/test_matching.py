"""The engine of distribution matching agrees with a plain loop over classes, compiled or not."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from nas_proxy.condensation import embedding
from nas_proxy.condensation.embedding import Embedding, open_engine
from nas_proxy.condensation.matching import loss_and_gradient
from nas_proxy.data import augment
from nas_proxy.data.images import DataShape
from nas_proxy.seeds import torch_generator

SHAPE = DataShape(2, 12, 8, 3)
FLAT = DataShape(1, 5, 5, 2)


def problem(shape=SHAPE, real_sizes=(3, 7, 4), sizes=(2, 2, 2)):
    draws = torch_generator(0, "problem")
    real, synthetic = (torch.randn(sum(n), *shape[:3], generator=draws) for n in (real_sizes, sizes))
    return real, list(real_sizes), synthetic, list(sizes)


def engine_of(precision, *, shape=SHAPE, steps=1, width=8, say=lambda text: None):
    return open_engine(Embedding(shape, width, 2, precision), "cpu", real=14, synthetic=6, steps=steps, say=say)


def plain(weights, real, real_sizes, synthetic, sizes):
    """The published formula and network, class by class, in float64: the loss and its gradient."""

    def embed(images):
        for weight in weights:
            maps = F.conv2d(images, weight.double(), torch.full((len(weight),), 0.3).double(), padding=1)
            images = F.avg_pool2d(F.group_norm(maps, len(weight)).relu(), 2)
        return images.flatten(1).mean(0)

    synthetic = synthetic.double().requires_grad_()
    pairs = zip(real.double().split(real_sizes), synthetic.split(sizes), strict=True)
    loss = sum((embed(a) - embed(b)).square().sum() for a, b in pairs)
    return loss.detach(), torch.autograd.grad(loss, synthetic)[0]


def relative(found, expected):
    return float((found.double() - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def compiled():
    """Engines of both precisions, compiled once for all tests: shapes are those of `problem()`."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(embedding.COMPILE_ABOVE, "cpu", 0.0)
        said = []
        engines = {p: engine_of(p, say=said.append) for p in embedding.PRECISIONS}
    assert all(engine.compiled for engine in engines.values()), said
    return engines


# A bfloat16 has 8 significant bits; ReLU and normalisation let single features differ by more.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "bfloat16": 0.1}


@pytest.mark.parametrize("rows", [1, 4, 100], ids=lambda rows: f"{rows} a part")
@pytest.mark.parametrize("precision", TOLERANCE)
def test_loss_and_gradient_equal_a_loop_over_classes_in_float64(precision, rows):
    engine = dataclasses.replace(engine_of(precision), rows=rows)
    weights = engine.embedding.weights(torch_generator(1))
    data = problem()
    if precision == "float64":
        weights, data = [w.double() for w in weights], (data[0].double(), data[1], data[2].double(), data[3])
    loss, gradient = loss_and_gradient(engine.network(engine.place(weights)), *data)
    expected, expected_gradient = plain(weights, *data)
    assert relative(loss.sum(), expected) < TOLERANCE[precision]
    assert relative(gradient, expected_gradient) < TOLERANCE[precision]


@pytest.mark.slow
@pytest.mark.parametrize("precision", embedding.PRECISIONS)
def test_the_compiled_engine_agrees_with_each_new_network(compiled, precision):
    engine, eager = compiled[precision], engine_of(precision)
    for seed in (1, 2):
        weights = engine.embedding.weights(torch_generator(seed))
        loss, gradient = loss_and_gradient(engine.network(engine.place(weights)), *problem())
        expected, expected_gradient = plain(weights, *problem())
        assert relative(loss.sum(), expected) < TOLERANCE[precision]
        assert relative(gradient, expected_gradient) < TOLERANCE[precision]
        _, without = loss_and_gradient(eager.network(eager.place(weights)), *problem())
        assert relative(gradient, without.double()) < TOLERANCE[precision]


@pytest.mark.parametrize("kind", ["eager", pytest.param("compiled", marks=pytest.mark.slow)])
def test_results_do_not_depend_on_the_number_of_threads(kind, request):
    if kind == "compiled":
        engine = request.getfixturevalue("compiled")["bfloat16"]
    else:
        engine = dataclasses.replace(engine_of("bfloat16"), rows=2)
    network = engine.draw(torch_generator(1))
    loss, gradient = loss_and_gradient(network, *problem())
    torch.set_num_threads(2)
    other_loss, other = loss_and_gradient(network, *problem())
    assert torch.get_num_threads() == 2
    assert torch.equal(loss, other_loss)
    assert torch.equal(gradient, other)


def test_bfloat16_is_the_same_without_units_for_it(monkeypatch):
    with_units = engine_of("bfloat16")
    monkeypatch.setattr(embedding, "has_bfloat16", lambda device: False)
    without = engine_of("bfloat16")
    assert without.computed == torch.float32
    weights = with_units.embedding.weights(torch_generator(1))
    losses = [float(loss_and_gradient(e.network(e.place(weights)), *problem())[0].sum()) for e in (with_units, without)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    e = engine_of("float32")
    exact = float(loss_and_gradient(e.network(e.place(weights)), *problem())[0].sum())
    assert exact not in losses


def test_a_machine_without_a_compiler_says_so_and_goes_on(monkeypatch):
    def broken(function, **options):
        def fails(*arguments):
            raise RuntimeError("No working C++ compiler found\nlong story")

        return fails

    monkeypatch.setattr(torch, "compile", broken)
    said = []
    engine = engine_of("float32", steps=10**12, say=said.append)
    assert said == [
        "torch.compile does not work here (No working C++ compiler found); condensing goes on without it, more slowly"
    ]
    assert not engine.compiled
    weights = engine.embedding.weights(torch_generator(1))
    assert (
        relative(
            loss_and_gradient(engine.network(engine.place(weights)), *problem())[0].sum(), plain(weights, *problem())[0]
        )
        < 1e-5
    )


def test_short_runs_are_not_compiled(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda *arguments, **options: pytest.fail("compiled"))
    assert not engine_of("float32", steps=1000).compiled


@pytest.mark.parametrize("name", augment.FULL)
def test_a_class_is_augmented_as_a_batch_would_be(name):
    n = 12
    draws = augment.draw(torch.full((n,), augment.FULL.index(name)), augment.FULL, 12, 8, torch_generator(0, name))
    images = torch.randn(3, 2, 12, 8, generator=torch_generator(1), dtype=torch.float64).requires_grad_()
    for row in range(n):
        found = augment.apply_same(images, name, draws, row)
        expected = augment.apply(images, draws.rows(torch.full((3,), row)))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        weights = torch.randn(found.shape, generator=torch_generator(2), dtype=torch.float64)
        slopes = (torch.autograd.grad((x * weights).sum(), images)[0] for x in (found, expected))
        torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-5)


def test_an_embedding_knows_its_features_and_its_work():
    engine = engine_of("float32", shape=FLAT)
    images = torch.randn(3, 1, 5, 5, generator=torch_generator(0))
    found = engine.draw(torch_generator(0)).embed(images)
    assert tuple(found.shape) == (3, engine.embedding.features) == (3, 8)
    # 5×5 pixels from 1 to 8 channels, then 2×2 pixels from 8 to 8.
    assert engine.embedding.multiply_adds == 9 * (25 * 8 + 4 * 64)


def test_weights_are_drawn_by_the_rule_of_a_convolution():
    weights = Embedding(DataShape(3, 32, 32, 10), 64, 3).weights(torch_generator(0))
    for weight, channels in zip(weights, (3, 64, 64), strict=True):
        assert tuple(weight.shape) == (64, channels, 3, 3)
        bound = 1 / math.sqrt(9 * channels)
        reference = torch.nn.Conv2d(channels, 64, 3).weight.detach()
        assert 0.98 * bound < float(weight.abs().max()) <= bound
        assert float(weight.std()) == pytest.approx(float(reference.std()), rel=0.1)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("steps", [1, 10**12], ids=["eager", "compiled"])
@pytest.mark.parametrize("precision", embedding.PRECISIONS)
def test_a_gpu_agrees_with_the_loop_over_classes(precision, steps):
    engine = open_engine(Embedding(SHAPE, 8, 2, precision), "cuda", real=14, synthetic=6, steps=steps)
    assert engine.compiled == (steps > 1)
    weights = engine.embedding.weights(torch_generator(1))
    real, real_sizes, synthetic, sizes = problem()
    loss, gradient = loss_and_gradient(
        engine.network(engine.place(weights)), real.cuda(), real_sizes, synthetic.cuda(), sizes
    )
    expected, expected_gradient = plain(weights, *problem())
    # Float32 convolutions on a GPU may use TF32.
    assert relative(loss.sum().cpu(), expected) < 0.05
    assert relative(gradient.cpu(), expected_gradient) < 0.05
