"""ResNet-18 with a small stem: torchvision's network, as embedding and as judge."""

import dataclasses
import json

import pytest
import torch
from torchvision.models import resnet18 as published
from typer.testing import CliRunner

from conftest import blobs
from nas_proxy.cli.app import app
from nas_proxy.condensation.evaluation import evaluate, paper_recipe
from nas_proxy.data.images import DataShape
from nas_proxy.errors import ConfigError
from nas_proxy.spaces.resnet18 import resnet18, resnet18_space

SHAPE = DataShape(3, 32, 32, 7)


def test_it_is_the_published_network_with_a_small_stem():
    theirs = published(num_classes=7)
    theirs.conv1 = torch.nn.Conv2d(3, 64, 3, padding=1, bias=False)
    theirs.maxpool = torch.nn.Identity()
    ours = resnet18(SHAPE)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), theirs.eval()(images))


def test_a_narrower_one_goes_with_narrower_convnets():
    assert resnet18_space(128).choices.at(0) == {"width": 64}
    (architecture,) = resnet18_space(9).sample(0)
    network = resnet18_space(9).build(architecture, DataShape(1, 8, 8, 3))
    assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 3)
    assert network[0][0].out_channels == 4


@pytest.mark.slow
def test_it_judges_a_set():
    train, validation = blobs(per_class=20, size=16), blobs(per_class=10, size=16, seed=1)
    recipe = dataclasses.replace(paper_recipe(15, ()), batch_size=15, learning_rate=0.05)
    good = evaluate(train, train, validation, recipe, 0, width=8, network="resnet18", networks=2)
    # Images with the labels of other classes teach nothing.
    wrong = train.select(torch.arange(len(train)).roll(20))
    wrong = type(wrong)(wrong.images, train.labels, wrong.scale, wrong.offset, wrong.classes)
    bad = evaluate(wrong, train, validation, recipe, 0, width=8, network="resnet18", networks=2)
    assert good.accuracy > 0.6 > 0.2 > bad.accuracy


@pytest.mark.slow
def test_the_command_condenses_and_judges_with_it(tmp_path):
    options = ["--dataset", "digits", "--limit", "20", "--steps", "2", "--ipc", "1", "--width", "4", "--device", "cpu"]
    judge = ["--embed", "resnet18", "--evaluate", "--evaluate-with", "resnet18", "--evaluate-epochs", "1", "--json"]
    done = CliRunner().invoke(app, ["condense", str(tmp_path / "run"), *options, *judge], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["images"] == 10
    assert {"accuracy", "std", "random_accuracy", "random_std"} <= set(found)
    with pytest.raises(ConfigError, match="--evaluate-with is 'resnet'; did you mean 'resnet18'"):
        CliRunner().invoke(
            app, ["condense", str(tmp_path / "run"), "--evaluate-with", "resnet"], catch_exceptions=False
        )
