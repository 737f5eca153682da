"""Limits on size hold for the sample, the proposals and the pick; limits on the search end it early."""

import numpy as np
import pandas as pd
import pytest
from torch import nn

import nas_proxy
from conftest import blobs
from nas_proxy import Choice, Space
from nas_proxy.data.images import DataShape
from nas_proxy.errors import ConfigError, RunFolderError, SpaceError
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.cost import Sizes, measure
from nas_proxy.spaces.limits import small_part
from nas_proxy.storage.records import Record
from nas_proxy.strategy.samplers import SAMPLERS
from proposals import fruitless, propose

SHAPE = DataShape(1, 2, 2, 3)


def build(architecture, shape):
    if architecture["a"] == 4:
        raise ValueError("four")
    return nn.Sequential(nn.Flatten(), nn.Linear(4, architecture["a"]), nn.Linear(architecture["a"], shape.classes))


SPACE = Space("plain", Choice("a", tuple(range(1, 21))) & Choice("b", (0, 1)), build)


def small(params, flops=None, space=SPACE):
    return small_part(space, params, flops, Sizes(space, SHAPE).of)


# Width a: 5a parameters, then 3a + 3; and 2 × (4a + 3a) FLOPs.


def test_the_part_by_hand():
    part = small(8 * 7 + 3)
    assert sorted({a["a"] for a in part.sample(0)}) == [1, 2, 3, 4, 5, 6, 7]
    part = small(8 * 7 + 3, 14 * 5)
    assert sorted({a["a"] for a in part.sample(0)}) == [1, 2, 3, 4, 5]
    assert small(None) is SPACE
    with pytest.raises(
        SpaceError, match="no architecture of the space 'plain' was found within --max-flops 1; raise it"
    ):
        small(None, 1, Space("plain", Choice("a", (1, 2)), build))


def test_the_stream_is_the_whole_spaces_without_what_is_too_large():
    part = small(8 * 7 + 3)
    assert part.left_out() is None
    assert list(part.sample(3)) == [a for a in SPACE.sample(3) if a["a"] <= 7]
    assert part.left_out() == "26 of 40 architectures drawn are not within --max-params 59 and were not trained"


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_are_within_and_all_of_the_part(sampler):
    part, seen = small(8 * 7 + 3), set()
    while (architecture := propose(part, [], seen, len(seen), sampler)) is not None:
        assert architecture["a"] <= 7
        seen.add(part.key(architecture))
    assert len(seen) == 14


@pytest.mark.slow
def test_a_run_within_limits(tmp_path, tiny_space):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    dataset = f"npz:{tmp_path / 'blobs.npz'}"
    settings = {
        "trials": 8,
        "truth": 5,
        "judge": 5,
        "workers": 1,
        "device": "cpu",
        "condense": {"images_per_class": 2, "steps": 2, "width": 8},
        "proxy_training": {"epochs": 1, "batch_size": 6},
        "full_training": {"epochs": 1, "batch_size": 12},
        "max_params": 65 * 6 + 3 * 6 + 3,
    }
    run = nas_proxy.run(dataset, str(tiny_space), out=tmp_path / "run", **settings)
    trials = pd.read_csv(run.folder / "trials.csv")
    # Widths 1, 2, 4 and 6, with two activations each.
    assert sorted(trials["width"]) == [1, 1, 2, 2, 4, 4, 6, 6]
    assert trials["params"].max() == settings["max_params"]
    assert run.ranking["subset"] == (
        "uniform sample of the architectures within --max-params 411 (5 of an unknown number; the space has 14)"
    )
    with pytest.raises(RunFolderError, match="max_params: 411 → 500"):
        nas_proxy.run(dataset, str(tiny_space), out=tmp_path / "run", **settings | {"max_params": 500})
    with pytest.raises(ConfigError, match="max_params is 0; it must be at least 1"):
        resolve({"max_params": 0})
    assert measure(SPACE, {"a": 2, "b": 0}, SHAPE).params == 19


def record(phase, score) -> Record:
    return Record("", {}, phase, 0, 0, 1, 1, score)


def test_fruitless_by_hand():
    sample = [record("sample", 0.5), record("sample", 0.4)]
    assert fruitless(sample) == 0
    worse = [record("search", 0.5), record("search", None)]
    assert fruitless([*sample, *worse]) == 2
    assert fruitless([*sample, *worse, record("search", 0.6), record("search", 0.1)]) == 1


@pytest.mark.slow
def test_patience_and_hours_end_the_proposals_and_not_the_sample(tmp_path, tiny_space):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    base = {
        "dataset": f"npz:{tmp_path / 'blobs.npz'}",
        "space": str(tiny_space),
        "trials": 13,
        "truth": 3,
        "sampler": "tpe",
        "workers": 1,
        "device": "cpu",
        "condense": {"images_per_class": 2, "steps": 2, "width": 8},
        # So that all diverge, score as chance, and none is better than the first.
        "proxy_training": {"epochs": 1, "batch_size": 6, "learning_rate": 1e30},
    }

    def keys(**settings) -> list[str]:
        run = run_all(resolve({**base, **settings}), tmp_path / "run", names=("condense", "search"))
        return list(pd.read_csv(run / "trials.csv")["key"])

    assert len(keys(hours=1e-9)) == 3
    short = keys(patience=4)
    # Four are under way: once four results are known to be no better, three more have begun.
    assert len(short) == 3 + 4 + 3
    assert keys(patience=4) == short
    longer = keys()
    assert len(longer) == 13
    assert longer[:10] == short
