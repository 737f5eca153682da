"""The training contract: seeded, exact in its cost, honest about divergence."""

import contextlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from conftest import blobs
from nas_proxy.training import train as train_module
from nas_proxy.training.train import Recipe, accuracy, train

RECIPE = Recipe(epochs=6, batch_size=8)


def network(width: int = 16) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3))


def test_the_same_seed_gives_the_same_outcome_and_leaves_the_global_generator_alone(images):
    before = torch.random.get_rng_state()
    one, two = (train(network, images, images, RECIPE, 1) for _ in range(2))
    assert (one.score, one.losses) == (two.score, two.losses)
    assert torch.equal(before, torch.random.get_rng_state())
    assert train(network, images, images, RECIPE, 2).losses != one.losses


def test_training_learns(images):
    outcome = train(network, images, blobs(seed=1), Recipe(epochs=30, batch_size=8), 0)
    assert outcome.score > 0.8
    assert outcome.losses[-1] < outcome.losses[0]
    assert len(outcome.losses) == 30


@given(st.floats(0.01, 50), st.integers(1, 500), st.integers(1, 500))
def test_cost_follows_from_the_recipe(epochs, batch, images):
    recipe = Recipe(epochs=epochs, batch_size=batch)
    size = min(batch, images)
    assert recipe.image_passes(images) == recipe.steps(images) * size
    assert abs(recipe.image_passes(images) - epochs * images) <= max(size / 2 + 1e-6, size - epochs * images)


@given(st.integers(1, 300), st.floats(0, 1))
def test_the_rate_rises_and_falls_within_its_bound(steps, warm_up):
    recipe = Recipe(epochs=1, learning_rate=0.1, warm_up=warm_up)
    rates = [recipe.rate(step, steps) for step in range(steps)]
    assert all(0 <= rate <= 0.1 + 1e-12 for rate in rates)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


def test_image_passes_are_what_the_network_saw(images):
    seen = []

    class Counting(nn.Sequential):
        def forward(self, x):
            if self.training:
                seen.append(len(x))
            return super().forward(x)

    outcome = train(lambda: Counting(nn.Flatten(), nn.Linear(64, 3)), images, images, Recipe(2.5, 10), 0)
    assert outcome.image_passes == sum(seen) == Recipe(2.5, 10).image_passes(len(images))


def test_a_divergence_scores_chance(images):
    outcome = train(network, images, images, Recipe(epochs=20, batch_size=8, learning_rate=1e18), 0)
    assert outcome.diverged
    assert outcome.score == 1 / 3
    assert outcome.image_passes < Recipe(20, 8).image_passes(len(images))


def test_logits_that_are_not_finite_score_chance(images):
    class Broken(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(64, 3)

        def forward(self, x):
            return self.linear(x.flatten(1)) + (0 if self.training else math.nan)

    outcome = train(Broken, images, images, RECIPE, 0)
    assert outcome.diverged
    assert outcome.score == 1 / 3


def test_a_wrong_shape_is_an_error(images):
    with pytest.raises(ValueError, match=r"returned shape \(8, 64\), expected \(8, 3\)"):
        train(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 64)), images, images, RECIPE, 0)


def test_accuracy_counts_over_batches():
    data = blobs(per_class=400)
    labels = data.labels.float()

    class Right(nn.Module):
        def forward(self, x):
            start = self.start
            self.start += len(x)
            return torch.eye(3)[labels[start : start + len(x)].long()] * torch.tensor([1.0, 1.0, 0.0])

    network = Right()
    network.start = 0
    assert accuracy(network, data) == pytest.approx(2 / 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_training_on_a_gpu_learns(images):
    outcome = train(network, images, blobs(seed=1), Recipe(epochs=30, batch_size=8), 0, "cuda")
    assert outcome.score > 0.8


def test_the_papers_schedule_drops_to_a_tenth_at_half():
    recipe = Recipe(epochs=1, learning_rate=0.01, warm_up=0.0, schedule="step")
    assert [recipe.rate(step, 4) for step in range(4)] == pytest.approx([0.01, 0.01, 0.001, 0.001])


def test_what_judges_a_training_is_as_reproducible_as_the_training(monkeypatch):
    inside = []

    @contextlib.contextmanager
    def reproducible(device):
        inside.append(device)
        yield
        inside.pop()

    class Looking(nn.Module):
        def forward(self, x):
            seen.append(len(inside))
            return torch.zeros(len(x), 3)

    seen: list[int] = []
    monkeypatch.setattr(train_module, "reproducible", reproducible)
    accuracy(Looking(), blobs(per_class=2))
    assert seen == [1]
