"""Condensation and untrained scores on an emulated GPU: the same as on the CPU, and no step waits."""

import contextlib
import threading
from collections import Counter

import pytest
import torch

from conftest import blobs
from cuda_emulation import EmulatedCuda
from nas_proxy.condensation import distribution_matching
from nas_proxy.condensation.ahead import ahead
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.embedding import Embedding, open_engine
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Task, initial, members_of, open_networks, take_step
from nas_proxy.data import augment
from nas_proxy.errors import RunFailedError
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.spaces.convnet import ConvNet
from nas_proxy.spaces.loading import load_space

CUDA = torch.device("cuda")


def problem():
    return blobs(classes=3, channels=3, size=16), blobs(per_class=60, channels=3, size=16, seed=1)


# The others take seconds a step where each kernel is emulated.
EMBEDS = ["convnet", *(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet18", "space"))]


def condensed(real, device, **changes):
    recipe = Condensation(**{"images_per_class": 2, "steps": 6, "width": 16, "real_batch": 8, **changes})
    return make_proxy(real, recipe, 0, device=device, space=load_space("convnet", real.shape)).images.decode()


@pytest.mark.parametrize("embed", EMBEDS)
@pytest.mark.parametrize("changes", [{}, {"formation": 2}], ids=str)
def test_a_gpu_condenses_to_the_same_images(embed, changes):
    # In float32 six steps make a tenth of a deviation from a difference of the last digit.
    real, recipe = problem()[0], {"embed": embed, "precision": "float64", **changes}
    with EmulatedCuda():
        found = condensed(real, "cuda", **recipe)
    torch.testing.assert_close(found, condensed(real, "cpu", **recipe), atol=0.03, rtol=0)


@pytest.mark.parametrize("embed", EMBEDS)
@pytest.mark.parametrize("on_host", [False, True])
def test_a_step_does_not_wait(embed, on_host):
    data = problem()[0]
    with EmulatedCuda() as gpu:
        recipe = Condensation(images_per_class=2, steps=12, width=16, real_batch=8, embed=embed, precision="bfloat16")
        real = data if on_host else data.to("cuda")
        task = Task(real, members_of(real), recipe, 0, CUDA, ALONE)
        state, networks = initial(task), open_networks(task, load_space("convnet", real.shape), (), pytest.fail)
        torch.cuda.set_sync_debug_mode("error")
        for step in range(12):
            if step == 4:
                gpu.reset()  # each kind of part has been seen
            take_step(state, task, networks)
        assert (gpu.syncs, gpu.blocking) == ([], [])
        assert len(gpu.copies) <= 2 * 8


def test_a_step_of_ten_classes_is_some_three_hundred_launches():
    data = blobs(per_class=20, classes=10, channels=3, size=32)
    with EmulatedCuda() as gpu:
        real = data.to("cuda")
        recipe = Condensation(images_per_class=10, steps=10, width=16, real_batch=16)
        task = Task(real, members_of(real), recipe, 0, CUDA, ALONE)
        state, networks = initial(task), open_networks(task, None, (), pytest.fail)
        gpu.reset()
        for _ in range(6):
            take_step(state, task, networks)
        # 340 and more with a gather for each class, or matrices of resampling that are made for each call.
        assert len(gpu.launches) / 6 < 320, Counter(gpu.launches)


def test_the_weights_of_a_step_are_drawn_ahead_on_another_thread(monkeypatch):
    threads, drawn = [], Embedding.weights

    def weights(self, generator):
        threads.append(threading.current_thread())
        return drawn(self, generator)

    monkeypatch.setattr(Embedding, "weights", weights)
    with EmulatedCuda():
        condensed(problem()[0], "cuda", steps=4)
    assert len(threads) >= 5
    assert threading.main_thread() not in threads


def test_what_is_done_ahead_is_what_would_be_done_then():
    done = []
    square = ahead(lambda step: done.append(step) or step**2, CUDA)
    assert [square(step) for step in (3, 4, 4, 0)] == [9, 16, 16, 0]
    assert done[:3] == [3, 4, 5]
    assert ahead(square, torch.device("cpu")) is square


@pytest.mark.slow
def test_all_classes_at_a_time_or_some_give_the_same_on_a_gpu():
    real = problem()[0]
    recipe = Condensation(images_per_class=2, steps=4, width=16, real_batch=8, embed="resnet18", precision="float32")
    with EmulatedCuda():
        whole, parts = (
            make_proxy(real, recipe, 0, device="cuda", classes_per_step=count).images.decode() for count in (None, 2)
        )
    torch.testing.assert_close(parts, whole, atol=0.03, rtol=0)


@pytest.mark.parametrize("name", augment.FULL)
def test_a_gpu_augments_as_the_cpu_does_without_copies(name):
    images = torch.randn(5, 3, 16, 12)
    draws = augment.draw(
        torch.full((4,), augment.FULL.index(name)), augment.FULL, 16, 12, torch.Generator().manual_seed(0)
    )
    for row in range(4):
        expected = augment.apply_same(images, name, draws, row)
        with EmulatedCuda() as gpu:
            there = images.to("cuda").requires_grad_()
            gpu.reset()
            found = augment.apply_same(there, name, draws, row)
            found.square().sum().backward()
            assert (gpu.copies, gpu.syncs) == ([], [])
        torch.testing.assert_close(found.detach(), expected, rtol=1e-4, atol=1e-5)
        here = images.clone().requires_grad_()
        augment.apply_same(here, name, draws, row).square().sum().backward()
        torch.testing.assert_close(there.grad, here.grad, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_resampling_has_no_kernel_that_adds_in_any_order(monkeypatch):
    def refuse(*arguments, **options):
        pytest.fail("grid_sample was called")

    monkeypatch.setattr(torch.nn.functional, "grid_sample", refuse)
    with EmulatedCuda():
        condensed(problem()[0], "cuda", augmentation=("scale", "rotate"))


def test_the_device_is_given_back_with_nothing_on_it(monkeypatch):
    alive = []
    place = distribution_matching._placed

    def placed(real, device):
        result = place(real, device)
        alive.append(torch.multiprocessing.reductions.StorageWeakRef(result.images.untyped_storage()))
        return result

    monkeypatch.setattr(distribution_matching, "_placed", placed)
    with EmulatedCuda():
        seen = []
        monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(alive[0].expired()))
        condensed(problem()[0], "cuda")
    assert seen == [True]


def test_too_little_memory_is_explained(monkeypatch):
    def out_of_memory(*arguments):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(distribution_matching, "take_step", out_of_memory)
    with EmulatedCuda(), pytest.raises(RunFailedError, match="more memory than is free on cuda; lower --real-batch"):
        condensed(problem()[0], "cuda")


def test_parts_take_a_share_of_the_card():
    embedding = Embedding(problem()[0].shape, 128, 3)
    with EmulatedCuda():
        engine = open_engine(embedding, "cuda", real=10, synthetic=10, steps=1)
    card = 16 << 30
    assert engine.rows == card // 64 // (16 * 16 * 128 * 4)


def test_float32_is_float32_and_convolutions_have_one_order(monkeypatch):
    seen = []
    step = distribution_matching.take_step

    def note(*arguments):
        cudnn = torch.backends.cudnn
        seen.append((cudnn.deterministic, cudnn.allow_tf32, cudnn.benchmark))
        return step(*arguments)

    monkeypatch.setattr(distribution_matching, "take_step", note)
    before = torch.backends.cudnn.deterministic
    with EmulatedCuda():
        condensed(problem()[0], "cuda", steps=1)
    assert seen == [(True, False, False)]
    assert torch.backends.cudnn.deterministic == before


def test_a_last_group_of_another_size_is_compiled_at_the_start(monkeypatch):
    from nas_proxy.condensation import embedding

    sizes = []
    monkeypatch.setattr(embedding, "_compiled", lambda eager, shapes, say: sizes.extend(shapes) or eager)
    monkeypatch.setattr(embedding, "COMPILE_ABOVE", {"cpu": 0})
    make_proxy(problem()[0], Condensation(images_per_class=2, steps=1, width=8, real_batch=8), 0, classes_per_step=2)
    assert sizes == [(16, 4), (8, 2)]


@pytest.mark.parametrize("name", zero_cost.SCORES)
def test_scores_of_untrained_networks_are_those_of_the_cpu(name):
    data = problem()[0]
    build = lambda: ConvNet(data.shape, depth=2, width=8)  # noqa: E731
    expected = zero_cost.score(name, build, zero_cost.some_images(data, 0), 0)
    with EmulatedCuda():
        found = zero_cost.score(name, build, zero_cost.some_images(data, 0, "cuda"), 0)
    assert found.reason is None
    assert found.value == pytest.approx(expected.value, rel=1e-6)


def test_az_nas_draws_the_same_on_every_device():
    data = problem()[0]
    images = zero_cost.some_images(data, 0)
    build = lambda: ConvNet(data.shape, depth=3, width=8)  # noqa: E731
    expected = zero_cost.drawn(az_nas.traits, build, images, 0)
    # The generator of a GPU gives other numbers, so nothing is to be drawn there.
    with EmulatedCuda(), no_draws_on_a_device():
        found = zero_cost.drawn(az_nas.traits, build, images.to("cuda"), 0)
    assert found == pytest.approx(expected, rel=1e-6)


@contextlib.contextmanager
def no_draws_on_a_device():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Refuse(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            name = func.overloadpacket.__name__
            if name in {"normal_", "random_", "uniform_", "bernoulli_", "randn", "rand", "randint_like"}:
                tensors = [leaf for leaf in args if isinstance(leaf, torch.Tensor)]
                assert all(EmulatedCuda.current.device(tensor).type == "cpu" for tensor in tensors), name
            return func(*args, **(kwargs or {}))

    with Refuse():
        yield
