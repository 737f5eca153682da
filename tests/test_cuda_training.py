"""Training on an emulated GPU: what it computes, that no step waits, what becomes of awkward networks."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from awkward_networks import Awkward, masked
from conftest import blobs
from cuda_emulation import CAPTURING, EmulatedCuda
from nas_proxy.pipeline import final_training
from nas_proxy.progress import SILENT
from nas_proxy.spaces.convnet import NORMS, ConvNet
from nas_proxy.training import jobs, worker_pool
from nas_proxy.training import train as training
from nas_proxy.training.cuda_graph import RecordingError
from nas_proxy.training.execution import PLAIN, ExecutionMode, attempt
from nas_proxy.training.jobs import Failure, Job, performed
from nas_proxy.training.set_cache import SetCache
from nas_proxy.training.shared_gpu import SharedGpus
from nas_proxy.training.train import Outcome, Recipe, accuracy, train, train_in

RECIPE = Recipe(epochs=3, batch_size=9)
CUDA = torch.device("cuda")


def problem():
    return blobs(classes=3, channels=3, size=16), blobs(per_class=60, channels=3, size=16, seed=1)


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

    monkeypatch.setattr(jobs, "loaded", lambda spec, shape: Built)
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
    worker = object.__new__(worker_pool.WorkerProcess)
    worker._device, worker._gpus = None, SharedGpus()

    def answer(job):
        given.append(job.unrecorded)
        return Failure("RecordingError: it broke off", spoilt=True, recording=True) if len(given) == 1 else "done"

    monkeypatch.setattr(worker, "_attempt", answer)
    monkeypatch.setattr(worker, "_relaunch", lambda: fresh.append(True))
    assert worker._answer(job) == "done"
    assert given == ["", "it broke off"]


def out_of_memory(x):
    if torch.cuda.is_current_stream_capturing():
        raise torch.OutOfMemoryError("CUDA out of memory")
    return x


def test_lack_of_memory_in_a_recording_is_told_and_costs_the_process(job, monkeypatch):
    class Built:
        @staticmethod
        def build(architecture, shape):
            return Awkward(out_of_memory)

    monkeypatch.setattr(jobs, "loaded", lambda spec, shape: Built)
    with EmulatedCuda():
        assert performed(job) == Failure("out of memory on cuda:0", spoilt=True, memory=True)


def test_a_recording_that_breaks_off_is_raised_to_who_trains_in_this_process():
    data, evaluation = problem()
    with EmulatedCuda(), pytest.raises(RecordingError, match=CAPTURING):
        train(lambda: Awkward(synchronised), data, evaluation, RECIPE, 0, "cuda")


def test_the_final_training_does_without_recording():
    data = problem()[0]
    space = SimpleNamespace(build=lambda architecture, shape: Awkward(synchronised))
    given = SimpleNamespace(config=SimpleNamespace(seed=0), space=space, shape=data.shape, device="cuda:0")
    with EmulatedCuda() as gpu:
        fitted, _ = final_training.fit_final(given, SimpleNamespace(key="a", architecture={}), data, RECIPE, SILENT)
        assert not gpu.dirty
    assert len(fitted.losses) == 3


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
