"""What an emulated GPU cannot show: the same on a real one. `benchmarks/gpu.py` runs these as its first part."""

import contextlib
from dataclasses import replace

import pytest
import torch

from awkward_networks import Awkward, masked
from conftest import blobs
from nas_proxy.condensation import distribution_matching
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Task, initial, members_of, open_networks, take_step
from nas_proxy.data import augment
from nas_proxy.signals import az_nas, zero_cost
from nas_proxy.spaces.convnet import NORMS, ConvNet
from nas_proxy.spaces.loading import load_space
from nas_proxy.training.jobs import Failure, Job
from nas_proxy.training.train import Outcome, Recipe, train
from nas_proxy.training.worker_pool import ProcessExecutor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
RECIPE = Recipe(epochs=3, batch_size=9)
SPACE = """
import torch
from torch import nn
from nas_proxy import Choice, Space

class Network(nn.Module):
    def __init__(self, shape, kind):
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8 * shape.height * shape.width, shape.classes)
        self.kind = kind

    def forward(self, x):
        if self.kind == "synchronises":
            torch.cuda.synchronize()
        if self.kind == "takes memory":
            x = x + torch.zeros(1 << 40, device=x.device)[0]
        if self.kind == "index":
            x = x[torch.full((len(x),), len(x) + 5, device=x.device)]
        return self.linear(self.conv(x).flatten(1))

space = Space("awkward", Choice("kind", ("fine", "synchronises", "takes memory", "index")),
              lambda architecture, shape: Network(shape, architecture["kind"]))
"""


def problem(size=16):
    return blobs(classes=3, channels=3, size=size), blobs(per_class=60, channels=3, size=size, seed=1)


AWKWARD = {
    "view": (lambda: Awkward(maps=lambda m: m.view(m.size(0), -1)), False),
    "filled mask": (lambda: Awkward(masked), False),
    "constant": (lambda: Awkward(lambda x: x * torch.tensor([1.0], device=x.device)), True),
    "waits": (lambda: Awkward(lambda x: x * float(x.abs().max() > 0)), True),
}


@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_network_loses_no_more_than_it_must(name):
    build, unrecorded = AWKWARD[name]
    outcome = train(build, *problem(), RECIPE, 0, "cuda")
    assert ("as a recorded CUDA graph" in outcome.note) == unrecorded
    assert "bfloat16" not in outcome.note
    assert not outcome.diverged


@pytest.mark.parametrize("norm", NORMS)
def test_networks_of_ours_lose_nothing(norm):
    data, evaluation = problem(32)
    outcome = train(lambda: ConvNet(data.shape, depth=3, width=32, norm=norm), data, evaluation, RECIPE, 0, "cuda")
    assert outcome.note == ""


@pytest.fixture
def job(tmp_path):
    for name, data in zip(("data", "evaluation"), problem(), strict=True):
        data.save(tmp_path / f"{name}.safetensors")
    (tmp_path / "awkward.py").write_text(SPACE)
    paths = (tmp_path / "data.safetensors", tmp_path / "evaluation.safetensors")
    return lambda kind: Job(str(tmp_path / "awkward.py"), {"kind": kind}, *paths, RECIPE, 0, "cuda:0")


def test_what_breaks_off_a_recording_leaves_a_healthy_worker(job):
    kinds = ("fine", "synchronises", "fine", "takes memory", "fine", "index", "fine")
    with ProcessExecutor(1) as pool:
        found = dict(pool.run(enumerate(job(kind) for kind in kinds)))
    fine = [found[number] for number in (0, 2, 4, 6)]
    assert all(isinstance(outcome, Outcome) and outcome.losses == fine[0].losses for outcome in fine)
    assert isinstance(found[1], Outcome)
    assert "as a recorded CUDA graph" in found[1].note
    assert isinstance(found[3], Failure)
    assert "memory" in found[3].reason
    assert isinstance(found[5], Failure)
    assert found[5].spoilt


def test_reserved_memory_stays_flat_over_many_candidates():
    data, evaluation = problem()
    sample = load_space("convnet", data.shape).sample(0)
    reserved = []
    for number in range(200):
        architecture = next(sample)
        train(lambda a=architecture: ConvNet(data.shape, **a), data, evaluation, replace(RECIPE, epochs=1), 0, "cuda")
        if number >= 100:
            reserved.append(torch.cuda.memory_reserved())
    assert max(reserved[50:]) <= 1.1 * max(reserved[:50])


@pytest.mark.parametrize("embed", ["convnet", "resnet18", "space"])
def test_a_condensation_step_does_not_wait(embed):
    real = problem()[0].to("cuda")
    recipe = Condensation(images_per_class=2, steps=12, width=16, real_batch=8, embed=embed)
    task = Task(real, members_of(real), recipe, 0, torch.device("cuda"), ALONE)
    state, networks = initial(task), open_networks(task, load_space("convnet", real.shape), (), pytest.fail)
    with refusing_to_wait(after=lambda: [take_step(state, task, networks) for _ in range(4)]):
        for _ in range(6):
            take_step(state, task, networks)


@contextlib.contextmanager
def refusing_to_wait(after):
    after()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def condensed(real, device="cuda", checkpoint=None, **changes):
    recipe = Condensation(**{"images_per_class": 4, "steps": 30, "width": 32, "real_batch": 12, **changes})
    return make_proxy(real, recipe, 0, device=device, checkpoint=checkpoint).images


@pytest.mark.parametrize("name", augment.FULL)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_images(name, precision):
    real = problem(32)[0]
    one, two = (condensed(real, augmentation=(name,), precision=precision) for _ in range(2))
    assert one.fingerprint() == two.fingerprint()


def test_float32_agrees_with_the_cpu():
    real = problem()[0]
    there, here = (condensed(real, device, precision="float32", steps=6).decode() for device in ("cuda", "cpu"))
    torch.testing.assert_close(there, here, atol=0.05, rtol=0)


def test_a_condensation_that_was_cut_off_ends_with_the_same_images(tmp_path, monkeypatch):
    real, path = problem()[0], tmp_path / "state.safetensors"
    whole = condensed(real)
    monkeypatch.setattr(distribution_matching, "CHECKPOINT_SECONDS", 0.0)
    step = distribution_matching.take_step

    def breaking(state, *rest):
        if state.step == 17:
            raise KeyboardInterrupt
        return step(state, *rest)

    monkeypatch.setattr(distribution_matching, "take_step", breaking)
    with pytest.raises(KeyboardInterrupt):
        condensed(real, checkpoint=path)
    monkeypatch.setattr(distribution_matching, "take_step", step)
    assert path.exists()
    assert condensed(real, checkpoint=path).fingerprint() == whole.fingerprint()


def test_the_same_seed_gives_the_same_training():
    data, evaluation = problem(32)
    build = lambda: ConvNet(data.shape, depth=3, width=32)  # noqa: E731
    one, two = (train(build, data, evaluation, RECIPE, 0, "cuda") for _ in range(2))
    assert (one.losses, one.score) == (two.losses, two.score)


@pytest.mark.parametrize("name", zero_cost.SCORES)
def test_scores_of_untrained_networks_are_those_of_the_cpu(name):
    data = problem()[0]
    build = lambda: ConvNet(data.shape, depth=3, width=32)  # noqa: E731
    here, there = (
        zero_cost.score(name, build, zero_cost.some_images(data, 0, device), 0).value for device in ("cpu", "cuda")
    )
    assert there == pytest.approx(here, rel=1e-2)


def test_az_nas_sees_the_same_on_every_device():
    data = problem()[0]
    build = lambda: ConvNet(data.shape, depth=3, width=32)  # noqa: E731
    here, there = (
        zero_cost.drawn(az_nas.traits, build, zero_cost.some_images(data, 0, device), 0) for device in ("cpu", "cuda")
    )
    assert there == pytest.approx(here, rel=1e-2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device")
def test_a_second_device_in_one_process_trains_as_the_first_does():
    data, evaluation = problem()
    one, two = (
        train(lambda: ConvNet(data.shape, depth=2, width=8), data, evaluation, RECIPE, 0, f"cuda:{number}")
        for number in range(2)
    )
    assert one.losses == two.losses
    assert one.losses[-1] < one.losses[0]
