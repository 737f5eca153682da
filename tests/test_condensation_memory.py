"""Classes a group at a time: the same loss, the same images, and as many as fit the memory."""

import dataclasses

import pytest
import torch

from conftest import blobs, condense_until
from nas_proxy.condensation import distribution_matching as condensation
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.matching import Network
from nas_proxy.condensation.memory import classes_together, divided, few_networks, kept_bytes
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.step import Networks, Task, initial, open_networks, take_step
from nas_proxy.errors import ConfigError
from nas_proxy.hardware import free_bytes
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.space import Space
from search_spaces.convnet import build, space_for

REAL = blobs(per_class=9, classes=5, size=8)
RECIPE = Condensation(2, 3, learning_rate=0.1, real_batch=6, width=4, precision="float64")


def task(recipe: Condensation = RECIPE, together: int = 0) -> Task:
    return Task(REAL, tuple(REAL.of_class()), recipe, 0, torch.device("cpu"), ALONE, together)


def stepped(recipe: Condensation, together: int, space: Space | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images and the losses after the steps of a recipe."""
    whole = task(recipe, together)
    networks, state = open_networks(whole, space, (), print), initial(whole)
    losses = [take_step(state, whole, networks) for _ in range(recipe.steps)]
    return state.images, torch.stack(losses)


@pytest.mark.parametrize("formation", [1, 2])
def test_groups_of_classes_compute_what_all_classes_do(formation):
    recipe = dataclasses.replace(RECIPE, formation=formation)
    expected = stepped(recipe, 0)
    assert expected[0].dtype == torch.float64
    for together in (1, 2, 4, 5):
        torch.testing.assert_close(stepped(recipe, together), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_part_by_part_computes_what_all_at_once_does(norm):
    recipe = dataclasses.replace(RECIPE, embed="space")
    space = Space("one norm", space_for(REAL.shape).choices, build, valid=lambda a: a["norm"] == norm)
    torch.testing.assert_close(stepped(recipe, 2, space), stepped(recipe, 0, space), rtol=1e-9, atol=1e-9)


def test_a_resnet_embeds_part_by_part_too():
    recipe = dataclasses.replace(RECIPE, embed="resnet18", steps=2)
    torch.testing.assert_close(stepped(recipe, 1), stepped(recipe, 0), rtol=1e-9, atol=1e-9)
    assert not torch.equal(stepped(recipe, 0)[0], initial(task(recipe)).images)


def test_what_a_network_keeps_is_counted():
    # The square keeps its input, an image of 64 float64 values; the weight that it is multiplied with is no image's.
    square = Network(lambda images: (images * images * torch.ones(8, 8)).flatten(1), rows=8)
    assert kept_bytes(square, task()) == 64 * 8
    # The sum keeps nothing.
    assert kept_bytes(Network(lambda images: images.flatten(1).sum(1, keepdim=True), rows=8), task()) == 0


def test_as_many_classes_as_fit():
    networks = Networks(lambda step: Network(lambda images: (images * images).flatten(1), rows=8), 1.0)
    # A class: 6 real and 2 synthetic images of 64 float64 values, copied three and six times, and two of them kept.
    needed = 64 * 8 * (6 * 3 + 2 * 6 + 2)
    # Half of the memory is used.
    assert classes_together(task(), networks, 2 * needed * 3) == 3
    assert classes_together(task(), networks, 2 * needed * 3 - 1) == 2
    assert classes_together(task(), networks, 0) == 1
    assert classes_together(task(), networks, 2 * needed * 5) == 0
    assert [divided(task(), n).together for n in (0, 2, 5, 9)] == [0, 2, 0, 0]
    assert classes_together(task(), few_networks(task(), None, ()), free_bytes(torch.device("cpu"))) == 0


def test_too_little_memory_changes_nothing_but_the_rounding(monkeypatch, tmp_path):
    recipe = dataclasses.replace(RECIPE, precision="float32", steps=12)
    whole, told = make_proxy(REAL, recipe, 0), []
    monkeypatch.setattr(condensation, "free_bytes", lambda device: 0)
    one = make_proxy(REAL, recipe, 0, say=told.append)
    assert told == ["1 of 5 classes are in memory at a time."]
    assert int((one.images.images.int() - whole.images.images.int()).abs().max()) <= 1
    two = make_proxy(REAL, recipe, 0, classes_per_step=2, say=told.append)
    assert told[1:] == ["2 of 5 classes are in memory at a time."]
    assert int((two.images.images.int() - whole.images.images.int()).abs().max()) <= 1


def test_a_condensation_goes_on_with_the_groups_that_it_began_with(monkeypatch, tmp_path):
    recipe = dataclasses.replace(RECIPE, precision="float32", steps=20)
    monkeypatch.setattr(condensation, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(condensation, "CHECKPOINT_SHARE", 1e9)
    monkeypatch.setattr(condensation, "free_bytes", lambda device: 0)
    whole, path, told = make_proxy(REAL, recipe, 0), tmp_path / "state.safetensors", []

    condense_until(20, REAL, recipe, path)
    monkeypatch.setattr(condensation, "free_bytes", lambda device: 1 << 40)
    found = make_proxy(REAL, recipe, 0, checkpoint=path, say=told.append)
    assert told == ["1 of 5 classes are in memory at a time."]
    assert found.images.fingerprint() == whole.images.fingerprint()


def test_groups_that_would_change_the_loss_are_refused(tmp_path):
    given = {"device": "cpu", "classes_per_step": 3, "limit": 20}
    recipe = {"images_per_class": 1, "steps": 2, "embed": "resnet18", "width": 4, "real_batch": 4}
    with pytest.raises(ConfigError) as caught:
        run_all(resolve({**given, "condense": recipe}), tmp_path / "run", names=("condense",))
    assert str(caught.value) == (
        "--classes-per-step 3 would change the loss of --embed resnet18, whose networks see all 10 classes together "
        "(batch norm, spread of features); leave it out: where memory is short, images go through them part by part"
    )
    assert not (tmp_path / "run").exists()
    run = run_all(resolve({**given, "condense": {**recipe, "embed": "convnet"}}), tmp_path / "run", names=("condense",))
    assert (run / "proxy.safetensors").exists()
