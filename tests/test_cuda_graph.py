"""Recorded steps compute what steps taken one by one do, and leave no trace of how they were recorded."""

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn

from conftest import blobs
from nas_proxy.data import augment
from nas_proxy.spaces.convnet import NORMS, ConvNet
from nas_proxy.training import train as training
from nas_proxy.training.cuda_graph import WARM_UP, CudaGraphStep, NotRecordableError
from nas_proxy.training.execution import PLAIN, ExecutionMode, attempt, choose
from nas_proxy.training.train import Recipe, train, train_in

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
RECORDED = replace(PLAIN, recorded=True)
RECIPE = Recipe(epochs=3, batch_size=9)


class Noisy(nn.Module):
    """Has all that a step changes: weights, running statistics, a count, and random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(8 * 14 * 14, 3)
        )

    def forward(self, x):
        return self.layers(x)


def problem():
    return blobs(classes=3, channels=3, size=16), blobs(per_class=60, channels=3, size=16, seed=1)


def test_what_came_before_the_recording_leaves_no_trace():
    data, evaluation = problem()
    plain, recorded = (train_in(mode, Noisy, data, evaluation, RECIPE, 5) for mode in (PLAIN, RECORDED))
    assert len(plain.losses) == 3
    assert recorded.losses == pytest.approx(plain.losses, rel=1e-5)
    assert recorded.score == pytest.approx(plain.score, abs=0.01)


def test_a_step_is_warmed_up_once_and_its_loss_is_its_own():
    calls = []
    place = torch.zeros(())

    def step(images, labels, rate):
        calls.append(float(rate))
        place.add_(images.sum() * rate)
        return place

    take = CudaGraphStep(step, lambda: [place])
    images, labels = torch.ones(2), torch.zeros(2)
    found = [take(images, labels, torch.tensor(rate)) for rate in (1.0, 10.0)]
    assert [float(loss) for loss in found] == [2, 22]
    assert calls == [1.0] * WARM_UP + [1.0, 10.0]


class Remembering(Noisy):
    """Makes a buffer in its first pass, a scale that stays."""

    def forward(self, x):
        if "scale" not in self._buffers:
            self.register_buffer("scale", torch.full((1,), 2.0))
        return super().forward(x * self.scale)


def test_what_a_network_makes_in_its_first_pass_stays():
    data, evaluation = problem()
    plain, recorded = (train_in(mode, Remembering, data, evaluation, RECIPE, 5) for mode in (PLAIN, RECORDED))
    assert recorded.losses == pytest.approx(plain.losses, rel=1e-5)


class Counting(Noisy):
    """Puts a new tensor in the place of its buffer in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(1))

    def forward(self, x):
        self.passes = self.passes + 1
        return super().forward(x) / self.passes


def test_a_network_that_replaces_a_buffer_is_trained_without_recording():
    data, evaluation = problem()
    with pytest.raises(NotRecordableError, match="in the place of a parameter or buffer"):
        train_in(RECORDED, Counting, data, evaluation, RECIPE, 5)
    outcome, note = attempt(lambda mode: train_in(mode, Counting, data, evaluation, RECIPE, 5), RECORDED)
    assert outcome.losses == train_in(PLAIN, Counting, data, evaluation, RECIPE, 5).losses
    assert "as a recorded CUDA graph" in note


@pytest.mark.parametrize("together", [2, 5, 64])
def test_images_augmented_together_are_those_augmented_step_by_step(monkeypatch, together):
    data, _ = problem()
    order = torch.randint(len(data), (7, 4), generator=torch.Generator().manual_seed(0))

    def batches():
        return list(training._batches(order, data, augment.FULL, torch.Generator().manual_seed(1)))

    one_by_one = batches()
    sizes = []
    decode = type(data).decode
    monkeypatch.setattr(type(data), "decode", lambda self, index: sizes.append(len(index)) or decode(self, index))
    monkeypatch.setattr(training, "TOGETHER", {"cpu": together * 4 * 4 * 3 * 16 * 16})
    found = batches()
    # Memory is bounded, whatever the number of steps is.
    assert sizes[0] == 4 * min(together, 7)
    for (images, labels), (others, same) in itertools.zip_longest(one_by_one, found):
        torch.testing.assert_close(others, images, rtol=0, atol=1e-6)
        assert labels.tolist() == same.tolist()


def test_steps_are_recorded_on_a_gpu_alone():
    shape = problem()[0].shape
    assert choose("float32", shape, torch.device("cuda")) == ExecutionMode(channels_last=True, recorded=True)
    assert not choose("float32", shape, torch.device("cpu")).recorded


def test_what_cannot_be_recorded_is_done_without():
    def work(mode):
        if mode.recorded:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")
        return mode

    mode, note = attempt(work, ExecutionMode(torch.bfloat16, recorded=True))
    assert mode == ExecutionMode(torch.bfloat16)
    assert note == (
        "a network cannot be trained as a recorded CUDA graph here (operation not permitted when stream is capturing); "
        "it is trained without, more slowly"
    )


def test_every_mode_is_tried_before_a_network_is_at_fault():
    tries = []

    def work(mode):
        tries.append(mode)
        raise ValueError(f"try {len(tries)}")

    with pytest.raises(ValueError, match="try 4"):
        attempt(work, ExecutionMode(torch.bfloat16, recorded=True))
    assert tries == [
        ExecutionMode(torch.bfloat16, recorded=True),
        ExecutionMode(torch.bfloat16),
        ExecutionMode(recorded=True),
        PLAIN,
    ]


@pytest.mark.gpu
@needs_cuda
@pytest.mark.parametrize("norm", NORMS)
def test_a_recorded_training_is_the_training(norm):
    data, evaluation = (part.to("cuda") for part in problem())

    def build():
        return ConvNet(data.shape, depth=2, width=8, norm=norm)

    mode = ExecutionMode(channels_last=True)
    plain, recorded = (train_in(w, build, data, evaluation, RECIPE, 0) for w in (mode, replace(mode, recorded=True)))
    assert recorded.losses == pytest.approx(plain.losses, rel=0.05)
    assert recorded.score == pytest.approx(plain.score, abs=0.1)


@pytest.mark.gpu
@needs_cuda
def test_recorded_steps_are_replayed(monkeypatch):
    calls = []

    class Counting(Noisy):
        def forward(self, x):
            calls.append(self.training)
            return super().forward(x)

    data, evaluation = problem()
    outcome = train(Counting, data, evaluation, RECIPE, 0, "cuda")
    assert outcome.note == ""
    # Python saw the steps before the recording and the recorded one, whatever the number of steps is.
    assert calls.count(True) == WARM_UP + 1 < RECIPE.steps(len(data))


@pytest.mark.gpu
@needs_cuda
def test_a_network_that_waits_for_the_device_is_trained_all_the_same():
    class Waiting(Noisy):
        def forward(self, x):
            return super().forward(x * float(x.abs().max() > 0))

    data, evaluation = problem()
    outcome = train(Waiting, data, evaluation, RECIPE, 0, "cuda")
    assert "as a recorded CUDA graph" in outcome.note
    assert not outcome.diverged
