"""The paths of a GPU, on an emulated one: what they compute, that no step waits, what becomes of awkward networks."""

import contextlib
from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import blobs
from cuda_emulation import CAPTURING, STAGED, EmulatedCuda
from nas_proxy.condensation import distribution_matching
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Task, initial, members_of, open_networks, take_step
from nas_proxy.data import augment
from nas_proxy.errors import RunFailedError
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.spaces.convnet import NORMS, ConvNet
from nas_proxy.spaces.loading import load_space
from nas_proxy.training import jobs, worker_pool
from nas_proxy.training import train as training
from nas_proxy.training.cuda_graph import RecordingError
from nas_proxy.training.execution import PLAIN, ExecutionMode, attempt
from nas_proxy.training.jobs import Failure, Job, performed
from nas_proxy.training.set_cache import SetCache
from nas_proxy.training.train import Outcome, Recipe, accuracy, train, train_in
from nas_proxy.transfer import network_to, to_device

RECIPE = Recipe(epochs=3, batch_size=9)
CUDA = torch.device("cuda")


def problem():
    return blobs(classes=3, channels=3, size=16), blobs(per_class=60, channels=3, size=16, seed=1)


# The emulation itself


def test_tensors_say_where_they_are_and_devices_do_not_mix():
    with EmulatedCuda(2) as gpu:
        here, there, other = torch.ones(2), torch.ones(2, device="cuda"), torch.ones(2, device="cuda:1")
        assert (str(there.device), there.is_cuda, str((there + 1)[:1].device)) == ("cuda:0", True, "cuda:0")
        for wrong in (here, other):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                there + wrong
        with pytest.raises(RuntimeError, match="Expected all"):
            here[torch.zeros(1, dtype=torch.long, device="cuda")]
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert there.to(here).device == here.device
        assert gpu.syncs == ["to: device to cpu"]
    assert str(there.device) == "cpu"


WAITS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_for_the_device_is_counted(name):
    with EmulatedCuda() as gpu:
        x = torch.ones(3, device="cuda")
        y = x * 2 + x.mean()
        y[y < 0] = 0  # one number from the host is filled in
        assert gpu.syncs == []
        WAITS[name](y)
        assert len(gpu.syncs) == 1


def test_copies_block_unless_they_are_pinned_or_small():
    small, large = torch.zeros(4), torch.zeros(STAGED)
    with EmulatedCuda() as gpu:
        small.to("cuda", non_blocking=True)
        large.pin_memory().to("cuda", non_blocking=True)
        assert gpu.blocking == []
        for awkward in (
            lambda: small.to("cuda"),
            lambda: large.to("cuda", non_blocking=True),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: torch.ones(3, device="cuda")[torch.tensor([0])],
            lambda: torch.ones(4, device="cuda").copy_(small),
        ):
            gpu.reset()
            awkward()
            assert len(gpu.blocking) == 1


def test_a_graph_does_again_what_was_recorded_and_nothing_meanwhile():
    with EmulatedCuda() as gpu:
        x, total = torch.ones(3, device="cuda"), torch.zeros((), device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            total += (2 * x).sum()
        assert float(total) == 0
        graph.replay()
        x.fill_(2)
        graph.replay()
        assert float(total) == 6 + 12
        with pytest.raises(torch.AcceleratorError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            float(total)
        assert gpu.dirty


# Copies


def test_many_tensors_go_in_one_copy():
    tensors = [torch.randn(3, 4), torch.tensor(7), torch.zeros(0), torch.tensor([True, False]), torch.arange(3)[::2]]
    with EmulatedCuda() as gpu:
        moved = to_device(tensors, "cuda")
        assert (len(gpu.copies), gpu.blocking) == (1, [])
        assert all(tensor.is_cuda for tensor in moved)
        for before, after in zip(tensors, moved, strict=True):
            assert (before.dtype, before.tolist()) == (after.dtype, after.tolist())


def test_a_network_goes_in_one_copy_and_stays_the_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4))
    network[2].bias = network[0].bias
    values = {name: value.clone() for name, value in network.state_dict().items()}
    with EmulatedCuda() as gpu:
        assert network_to(network, "cuda") is network
        assert (len(gpu.copies), gpu.blocking) == (1, [])
        assert network[2].bias is network[0].bias
        assert all(value.is_cuda for value in network.state_dict().values())
        assert all(torch.equal(value.cpu(), values[name]) for name, value in network.state_dict().items())
        recurrent = network_to(nn.LSTM(2, 3), "cuda")
        assert all(parameter.is_cuda for parameter in recurrent.parameters())


# Training


@pytest.mark.parametrize("norm", NORMS)
def test_a_recorded_training_is_the_training(norm):
    data, evaluation = problem()
    build = lambda: ConvNet(data.shape, depth=2, width=8, norm=norm)  # noqa: E731
    with EmulatedCuda():
        outcome = train(build, data, evaluation, RECIPE, 0, "cuda")
    expected = train_in(ExecutionMode(torch.bfloat16, channels_last=True), build, data, evaluation, RECIPE, 0)
    assert outcome.note == ""
    assert outcome.losses == pytest.approx(expected.losses, rel=0.02, abs=1e-3)
    assert outcome.score == expected.score


def test_a_recorded_step_does_not_wait_and_an_epoch_waits_once():
    data, evaluation = problem()
    with EmulatedCuda() as gpu:
        data, evaluation = data.to("cuda"), evaluation.to("cuda")
        gpu.reset()
        recipe = replace(RECIPE, epochs=4)
        train(lambda: ConvNet(data.shape, depth=2, width=8), data, evaluation, recipe, 0, "cuda")
        assert gpu.blocking == []
        assert len(gpu.syncs) == 4 + 1  # an epoch's loss, and the score
        assert len(gpu.copies) <= 2 + 2 * 4  # the network, the order; parameters and places of an epoch's augmentation


def test_scoring_waits_once():
    data, evaluation = problem()
    with EmulatedCuda() as gpu:
        network, evaluation = ConvNet(data.shape, depth=2, width=8).to("cuda"), evaluation.to("cuda")
        gpu.reset()
        accuracy(network, evaluation)
        assert len(gpu.syncs) == 1


class Awkward(nn.Module):
    """A network whose forward pass does something to its images, and something to its maps."""

    def __init__(self, images=lambda x: x, maps=lambda x: x.flatten(1)):
        super().__init__()
        self.conv, self.linear, self.images, self.maps = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(1024, 3), images, maps

    def forward(self, x):
        return self.linear(self.maps(self.conv(self.images(x))))


def masked(x):
    x = x.clone()
    x[x < 0] = 0
    return x


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (lambda: Awkward(maps=lambda m: m.view(m.size(0), -1)), ""),
        (lambda: Awkward(masked), ""),
        (lambda: Awkward(lambda x: x * float(x.abs().max() > 0)), "as a recorded CUDA graph"),
        (lambda: Awkward(lambda x: x * torch.tensor([1.0], device=x.device)), "as a recorded CUDA graph"),
        (lambda: Awkward(lambda x: x[x.sum((1, 2, 3)) < 1e9]), "as a recorded CUDA graph"),
    ],
    ids=["view", "filled mask", "max", "constant", "mask"],
)
def test_an_awkward_network_loses_no_more_than_it_must(network, reason):
    data, evaluation = problem()
    with EmulatedCuda() as gpu:
        outcome = train(network, data, evaluation, RECIPE, 0, "cuda")
        assert not gpu.dirty
        assert gpu.sync_mode == 0
    # By no means in float32: only recording is lost.
    expected = "called a synchronizing CUDA operation"
    assert outcome.note == (
        f"a network cannot be trained {reason} here ({expected}); it is trained without, more slowly" if reason else ""
    )
    assert len(outcome.losses) == 3


def test_two_devices_in_one_process_train_both():
    data, evaluation = problem()
    with EmulatedCuda(2):
        one, two = (
            train(lambda: ConvNet(data.shape, depth=2, width=8), data, evaluation, RECIPE, 0, f"cuda:{number}")
            for number in range(2)
        )
    assert one.losses == two.losses
    assert one.losses[-1] < one.losses[0] / 2


def test_properties_are_lost_one_at_a_time():
    full = ExecutionMode(torch.bfloat16, channels_last=True, recorded=True)
    for broken, lost in (
        ("channels_last", "channels last"),
        ("recorded", "as a recorded CUDA graph"),
        ("precision", "in bfloat16"),
    ):

        def work(mode, broken=broken):
            if getattr(mode, broken) == getattr(full, broken):
                raise ValueError("not so\nand more")
            return mode

        mode, note = attempt(work, full)
        assert mode == replace(full, **{broken: getattr(PLAIN, broken)})
        assert note == f"a network cannot be trained {lost} here (not so); it is trained without, more slowly"


def test_sets_on_a_device_keep_within_a_budget(tmp_path):
    sizes = {"small": 4, "other": 5, "large": 40}
    for name, per_class in sizes.items():
        blobs(per_class=per_class).save(tmp_path / name)
    with EmulatedCuda() as gpu:
        cache = SetCache(budget=2000)  # 64 bytes an image, three classes

        def is_there(name):
            gpu.reset()
            there = cache.get(tmp_path / name, "cuda:0").labels.is_cuda
            return there, bool(gpu.copies)

        assert [is_there(name) for name in ("small", "other", "small")] == [(True, True), (True, True), (True, False)]
        assert is_there("large") == (False, False)
        assert is_there("other") == (True, False)
        blobs(per_class=8).save(tmp_path / "third")
        assert [is_there(name) for name in ("third", "other", "third")] == [(True, True), (True, True), (True, True)]


def synchronised(x):
    torch.cuda.synchronize()  # which PyTorch's debug mode does not see
    return x


@pytest.fixture
def job(tmp_path):
    for name, data in zip(("data", "evaluation"), problem(), strict=True):
        data.save(tmp_path / f"{name}.safetensors")
    space = tmp_path / "space.py"
    space.write_text("def space(shape):\n    raise NotImplementedError\n")
    paths = (tmp_path / "data.safetensors", tmp_path / "evaluation.safetensors")
    return Job(str(space), {"depth": 1}, *paths, RECIPE, 0, "cuda:0")


def test_a_recording_that_breaks_off_is_done_again_elsewhere_without(job, monkeypatch):
    class Built:
        @staticmethod
        def build(architecture, shape):
            return Awkward(synchronised)

    monkeypatch.setattr(jobs, "_space", lambda spec, shape: Built)
    with EmulatedCuda() as gpu:
        failure = performed(job)
        assert gpu.dirty
    assert isinstance(failure, Failure)
    assert failure.spoilt
    assert failure.recording
    with EmulatedCuda() as gpu:  # another process
        again = jobs.without_recording(job, failure)
        outcome = performed(again)
        assert not gpu.dirty
    assert isinstance(outcome, Outcome)
    assert CAPTURING in outcome.note
    assert jobs.without_recording(again, failure) is None
    assert jobs.without_recording(job, Failure("other")) is None


def test_the_worker_is_replaced_after_such_a_recording(job, monkeypatch):
    given, fresh = [], []
    worker = object.__new__(worker_pool._Worker)
    worker._device = None

    def answer(job, *, last):
        given.append(job.unrecorded)
        return Failure("RecordingError: it broke off", spoilt=True, recording=True) if len(given) == 1 else "done"

    monkeypatch.setattr(worker, "_attempt", answer)
    monkeypatch.setattr(worker, "_relaunch", lambda: fresh.append(True))
    assert worker._answer(job) == "done"
    assert given == ["", "it broke off"]


def test_a_recording_that_breaks_off_is_raised_to_who_trains_in_this_process():
    data, evaluation = problem()
    with EmulatedCuda(), pytest.raises(RecordingError, match=CAPTURING):
        train(lambda: Awkward(synchronised), data, evaluation, RECIPE, 0, "cuda")


# Condensation


def condensed(real, device, **changes):
    recipe = Condensation(**{"images_per_class": 2, "steps": 6, "width": 16, "real_batch": 8, **changes})
    return make_proxy(real, recipe, 0, device=device, space=load_space("convnet", real.shape)).images.decode()


@pytest.mark.parametrize("embed", ["convnet", "resnet18", "space"])
@pytest.mark.parametrize("changes", [{}, {"formation": 2}], ids=str)
def test_a_gpu_condenses_to_the_same_images(embed, changes):
    real = problem()[0]
    with EmulatedCuda():
        found = condensed(real, "cuda", embed=embed, precision="float32", **changes)
    torch.testing.assert_close(
        found, condensed(real, "cpu", embed=embed, precision="float32", **changes), atol=0.03, rtol=0
    )


@pytest.mark.parametrize("embed", ["convnet", "resnet18", "space"])
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
        most = 1 + len(data.classes) if on_host else 2
        assert len(gpu.copies) <= most * 8


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


# Scores of untrained networks


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


def test_the_emulation_finds_what_is_added_to_a_step(monkeypatch):
    """It must fail if somebody adds an `.item()`."""
    data = problem()[0]
    logits = ExecutionMode.logits
    monkeypatch.setattr(ExecutionMode, "logits", lambda self, network, x: logits(self, network, x * x.max().item()))
    with EmulatedCuda() as gpu:
        outcome = train(lambda: ConvNet(data.shape, depth=2, width=8), *problem(), RECIPE, 0, "cuda")
        assert "as a recorded CUDA graph" in outcome.note
        assert len(gpu.syncs) > RECIPE.steps(len(data))
    assert training.EVALUATION_BATCH
