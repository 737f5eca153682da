"""Ways of computing: chosen by what is known beforehand, in agreement with the plain one, plain where they fail."""

import time

import pytest
import torch
from torch import nn

from conftest import blobs
from nas_proxy import hardware
from nas_proxy.data.images import DataShape, ImageSet, from_raw
from nas_proxy.seeds import torch_generator
from nas_proxy.spaces.convnet import NORMS, ConvNet
from nas_proxy.training import execution as ways
from nas_proxy.training.execution import PLAIN, ExecutionMode, attempt, choose
from nas_proxy.training.train import Recipe, train, train_in

CPU = torch.device("cpu")
FAST = ExecutionMode(torch.bfloat16, channels_last=True)
LARGE, SMALL = DataShape(3, 16, 16, 3), DataShape(3, 15, 15, 3)


@pytest.mark.parametrize("units", [True, False])
def test_the_choice_follows_from_recipe_size_and_processor(monkeypatch, units):
    monkeypatch.setattr(ways, "has_bfloat16", lambda device: units)
    assert choose("auto", LARGE, CPU) == ExecutionMode(torch.bfloat16 if units else torch.float32, channels_last=True)
    assert choose("auto", SMALL, CPU) == choose("float32", SMALL, CPU) == PLAIN
    assert choose("float32", LARGE, CPU) == ExecutionMode(torch.float32, channels_last=True)
    assert choose("bfloat16", SMALL, CPU) == ExecutionMode(torch.bfloat16)


@pytest.mark.parametrize(("speed", "expected"), [(2.0, True), (0.55, False), (1.1, False)])
def test_bfloat16_is_for_processors_that_are_faster_in_it(monkeypatch, speed, expected):
    clock, calls, ticks = [0.0], [], {torch.float32: 4.0, torch.bfloat16: 4.0 / speed}

    def convolution(maps, weight, padding):
        calls.append(maps.dtype)
        # Other work on the machine: most of the calls take longer.
        clock[0] += ticks[maps.dtype] * (1 if len(calls) in {7, 8} else 1 + len(calls))

    monkeypatch.setattr(torch.nn.functional, "conv2d", convolution)
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    hardware.bfloat16_speed.cache_clear()
    assert hardware.bfloat16_speed() == pytest.approx(speed)
    assert hardware.has_bfloat16(CPU) == expected
    assert len(calls) == 2 * hardware.MEASURED
    monkeypatch.undo()
    hardware.bfloat16_speed.cache_clear()


def problem():
    return blobs(classes=3, channels=3, size=16), blobs(per_class=60, channels=3, size=16, seed=1)


@pytest.mark.parametrize("norm", NORMS)
def test_float32_channels_last_computes_what_plain_pytorch_does(norm):
    data, evaluation = problem()
    recipe = Recipe(epochs=2, batch_size=9)

    def build() -> nn.Module:
        return ConvNet(data.shape, depth=2, width=8, norm=norm)

    plain, fast = (
        train_in(way, build, data, evaluation, recipe, 0) for way in (PLAIN, ExecutionMode(channels_last=True))
    )
    assert fast.losses == pytest.approx(plain.losses, rel=1e-3)
    assert fast.score == pytest.approx(plain.score, abs=0.02)


def faint(per_class: int, seed: int) -> ImageSet:
    """Noise, in which a patch shows the class faintly."""
    labels = torch.arange(3).repeat_interleave(per_class)
    images = torch.randint(0, 200, (len(labels), 3, 16, 16), generator=torch_generator(seed, "faint"))
    for index, label in enumerate(labels.tolist()):
        images[index, label, 4:12, 4:12] += 25
    return from_raw(images.to(torch.uint8), labels, ("a", "b", "c"))


@pytest.mark.slow
def test_scores_agree_within_the_noise_of_seeds():
    data, evaluation = faint(20, 0), faint(100, 1)
    recipe = Recipe(epochs=8, batch_size=10, learning_rate=0.02)
    scores = {PLAIN: [], FAST: []}
    for norm in NORMS:
        for seed in range(4):
            for way, found in scores.items():
                build = lambda norm=norm: ConvNet(data.shape, depth=2, width=8, norm=norm)  # noqa: E731
                found.append(train_in(way, build, data, evaluation, recipe, seed).score)
    plain, fast = (torch.tensor(found).view(len(NORMS), -1) for found in scores.values())
    noise = plain.var(1).mean().sqrt()  # of one training, from seed to seed
    assert 0.5 < plain.mean() < 0.95
    assert 0.01 < noise < 0.2
    # The mean over 20 differences, of which each has twice the variance of one training.
    assert abs(float((fast - plain).mean())) < 3 * float(noise) * (2 / 20) ** 0.5
    assert float((fast - plain).abs().mean()) < 2 * float(noise)


def test_the_same_seed_gives_the_same_outcome():
    data, evaluation = problem()
    recipe = Recipe(epochs=1, batch_size=9, precision="bfloat16")
    one, two = (train(lambda: ConvNet(data.shape, width=8), data, evaluation, recipe, 3) for _ in range(2))
    assert (one.score, one.losses, one.note) == (two.score, two.losses, "")


class OnlyFloat32(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 16 * 16, 3)

    def forward(self, x):
        rows = self.linear(x.flatten(1))
        if rows.dtype != torch.float32:
            raise RuntimeError("no kernel for BFloat16\nand more")
        return rows


def test_a_network_that_does_not_take_a_type_loses_no_more_and_says_so():
    data, evaluation = problem()
    recipe = Recipe(epochs=1, batch_size=9, precision="bfloat16")
    outcome = train(OnlyFloat32, data, evaluation, recipe, 0)
    single = train_in(ExecutionMode(channels_last=True), OnlyFloat32, data, evaluation, recipe, 0)
    assert (outcome.score, outcome.losses) == (single.score, single.losses)
    assert outcome.note == (
        "a network cannot be trained in bfloat16 here (no kernel for BFloat16); it is trained without, more slowly"
    )


def test_a_network_at_fault_raises_as_ever_and_memory_is_no_reason_to_try_again():
    data, evaluation = problem()
    with pytest.raises(ValueError, match=r"returned shape \(9, 5\), expected \(9, 3\)"):
        train(lambda: nn.Sequential(nn.Flatten(), nn.Linear(768, 5)), data, evaluation, Recipe(1, 9), 0)
    tries = []

    def work(way: ExecutionMode) -> None:
        tries.append(way)
        raise MemoryError

    with pytest.raises(MemoryError):
        attempt(work, FAST)
    assert tries == [FAST]


def test_a_network_that_views_its_maps_as_rows_is_trained_fast():
    class Viewing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4 * 256, 3)

        def forward(self, x):
            maps = self.conv(x)
            return self.linear(maps.view(maps.size(0), -1))

    data, evaluation = problem()
    assert train(Viewing, data, evaluation, Recipe(1, 9, precision="bfloat16"), 0).note == ""
