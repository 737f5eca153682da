"""What a run refuses, in a sentence and before the work."""

import sys

import numpy as np
import pytest
import torch

from conftest import blobs, write_space
from nas_proxy.errors import ConfigError, RunFolderError
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import RunFolder, check_same, open_run, prepare_run
from nas_proxy.runs.resolving import resolve
from test_run import SETTINGS, dataset, go

__all__ = ["dataset", "go"]


def test_a_sample_too_small_to_be_ranked_is_refused_at_the_start(go, tmp_path):
    with pytest.raises(
        ConfigError, match="sample is of 3 architectures, but a ranking needs at least 4; give --truth 4"
    ):
        go(trials=8, truth=3, judge=3)


@pytest.mark.slow
def test_what_belongs_to_another_run_is_refused(go, dataset, tiny_space, tmp_path):
    run = go()
    with pytest.raises(
        RunFolderError,
        match=r"holds another run .seed: 0 → 5.; choose another folder with --out, or",
    ):
        go(seed=5)
    write_space(tiny_space, (1, 2, 4))
    sys.modules.pop(next(name for name in sys.modules if name.startswith("nas_proxy_space_tiny")))
    with pytest.raises(RunFolderError, match="the space has changed since the trainings of this run"):
        go()
    for mine in ("tensorboard/proxy/old", "notes/mine.txt"):
        (run.folder / mine).parent.mkdir(parents=True)
        (run.folder / mine).write_text("of before")
    assert go(seed=5, overwrite=True).config.seed == 5
    assert not (run.folder / "tensorboard").exists()  # its curves would be shown as this run's
    assert (run.folder / "notes" / "mine.txt").exists()
    images = blobs(per_class=30, seed=9)
    np.savez(dataset.removeprefix("npz:"), images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    with pytest.raises(RunFolderError, match="was made from other data"):
        go(seed=5)
    assert (run.folder / "ranking.json").exists()


def test_what_images_do_not_depend_on_may_change_until_something_is_trained(dataset, tiny_space, tmp_path):
    settings = {"dataset": dataset, "space": str(tiny_space), **SETTINGS}
    run = prepare_run(tmp_path / "run", resolve(settings))
    run_stages(run, ("condense",))
    others = [
        {"max_flops": 5000},
        {"max_params": 900},
        {"max_latency_ms": 9.0},
        {"truth_table": str(tmp_path / "t.csv")},
    ]
    for other in others:  # none of which is given at first
        check_same(RunFolder(run.path, resolve(settings | other)))
    with pytest.raises(RunFolderError, match="limit: None → 7"):
        check_same(RunFolder(run.path, resolve(settings | {"limit": 7})))
    run_stages(run, ("search",))
    for other in others:
        with pytest.raises(RunFolderError, match=f"{next(iter(other))}: None → "):
            check_same(RunFolder(run.path, resolve(settings | other)))


def test_a_damaged_proxy_gets_a_sentence(dataset, tiny_space, tmp_path):
    from safetensors.torch import save

    run = prepare_run(tmp_path / "run", resolve({"dataset": dataset, "space": str(tiny_space), **SETTINGS}))
    run_stages(run, ("condense",))
    path = run.path / "proxy.safetensors"
    for damaged in (path.read_bytes()[:-40], save({"weight": torch.zeros(3)}), b"not images"):
        path.write_bytes(damaged)
        with pytest.raises(RunFolderError, match=r"is not a readable image file|was not written by nas_proxy"):
            run_stages(run, ("search",))


@pytest.mark.slow
def test_two_commands_in_one_folder_do_not_mix(go):
    run = go()
    with open_run(run.folder).lock(), pytest.raises(RunFolderError, match="another nas-proxy is working in"):
        go()


def test_more_images_a_class_than_there_are_is_refused(go):
    sentence = "100 images a class were asked for, but the smallest class has 12 training images; give --ipc 12"
    with pytest.raises(ConfigError, match=sentence):
        go(condense={"images_per_class": 100})
