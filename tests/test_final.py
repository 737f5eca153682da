"""The final network: which it is, what it is trained on, that test is scored once. Its files: test_final_files.py."""

import contextlib
import json
import re
import shutil
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch

import nas_proxy
from final_runs import SETTINGS, held_out, searched_run
from nas_proxy import time_limit
from nas_proxy.cli.app import main
from nas_proxy.errors import ConfigError, DataError, RunFailedError, RunFolderError
from nas_proxy.pipeline import export, final_training, image_files
from nas_proxy.pipeline.final import train_final
from nas_proxy.pipeline.problem import open_problem
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.pipeline.work import open_store
from nas_proxy.progress import SILENT
from nas_proxy.ranking.scores import best_first
from nas_proxy.report.page import write_report
from nas_proxy.runs.folder import open_run, prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.loading import load_space


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return searched_run(tmp_path_factory.mktemp("template"))


@pytest.fixture
def searched(template, tmp_path):
    """A run of its own, for each test."""
    shutil.copytree(template.path, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture
def no_programs(monkeypatch):
    """Leave out the slowest files where they do not matter."""

    def left_out(*_):
        raise export.ExportError("left out")

    monkeypatch.setattr(export, "write_program", left_out)
    monkeypatch.setattr(export, "write_onnx", left_out)


@pytest.fixture(scope="module")
def test_images(template):
    return held_out(template)


def ranked(run) -> list[str]:
    with contextlib.closing(open_store(run, SILENT)) as store:
        return [r.key for r in best_first(store.records("proxy"))]


@pytest.mark.usefixtures("no_programs")
def test_what_is_told(searched, test_images):
    told = json.loads((train_final(searched).folder / "architecture.json").read_text())
    assert told["key"] == ranked(searched)[0]
    assert told["rank"] == 1
    assert told["architecture"] == {"width": int(told["key"].partition("=")[2])}
    assert told["shape"] == {"channels": 1, "height": 8, "width": 8, "classes": 3}
    assert told["classes"] == ["0", "1", "2"]
    assert told["recipe"]["epochs"] == 6
    # 30 a class: 12 for test, 12 for training, 6 for validation.
    assert told["trained_on"] == {"train": 36, "validation": 18}
    assert told["test_images"] == len(test_images) == 36
    assert told["image_passes"] == 6 * 54 // 12 * 12
    assert told["environment"]["torch"] == version("torch")
    assert 0 <= told["final_accuracy"] <= 1
    assert told["final_accuracy"] * 36 == pytest.approx(round(told["final_accuracy"] * 36))


@pytest.mark.usefixtures("no_programs")
def test_it_trains_on_train_and_validation_and_never_on_test(searched, test_images, monkeypatch):
    seen = []
    fit = final_training.fit
    monkeypatch.setattr(
        final_training, "fit", lambda build, data, *rest, **more: seen.append(data) or fit(build, data, *rest, **more)
    )
    train_final(searched)
    data = open_problem(searched.config).data
    train, validation = data.train, data.validation
    (data,) = seen
    assert torch.equal(data.images, torch.cat([train.images, validation.images]))
    assert torch.equal(data.labels, torch.cat([train.labels, validation.labels]))
    pixels = {image.numpy().tobytes() for image in data.images}
    assert not pixels & {image.numpy().tobytes() for image in test_images.images}


def test_the_test_images_are_opened_once_after_the_training_and_not_again(searched, monkeypatch):
    events = []
    opened, fit = image_files.held_out_test, final_training.fit
    monkeypatch.setattr(image_files, "held_out_test", lambda *a, **o: events.append("test") or opened(*a, **o))
    monkeypatch.setattr(final_training, "fit", lambda *a, **more: events.append("fit") or fit(*a, **more))
    first = train_final(searched)
    (first.folder / "model.pt2").unlink()
    again = train_final(searched)
    assert events == ["fit", "test"]
    assert again.told == first.told
    assert (again.folder / "model.pt2").exists()


def test_only_trust_names_the_function_that_opens_test():
    package = Path(nas_proxy.__file__).parent
    naming = {path.name for path in package.rglob("*.py") if "held_out_test" in path.read_text(encoding="utf-8")}
    assert naming == {"splits.py", "image_files.py"}


@pytest.mark.usefixtures("no_programs")
def test_rank_key_recipe_and_folder(searched, tmp_path):
    keys = ranked(searched)
    second = train_final(searched, rank=2, out=tmp_path / "second")
    assert second.told["key"] == keys[1]
    recipe = replace(searched.config.full_training, epochs=1.0)
    third = train_final(searched, key=keys[2], recipe=recipe, out=tmp_path / "third")
    assert (third.told["rank"], third.told["recipe"]["epochs"]) == (3, 1.0)
    repeated = train_final(searched, key=keys[2], recipe=recipe, out=tmp_path / "repeated")
    assert repeated.told["final_accuracy"] == third.told["final_accuracy"]
    weights = [(folder / "model.safetensors").read_bytes() for folder in (third.folder, repeated.folder)]
    assert weights[0] == weights[1]


@pytest.mark.usefixtures("no_programs")
def test_a_search_that_went_on_is_told_and_trains_nothing_again(searched, monkeypatch):
    first = train_final(searched)
    before = {"rank": 3, "search_score": 0.123, "search": {**first.told["search"], "trained": 1}}
    (first.folder / "architecture.json").write_text(json.dumps({**first.told, **before}))
    (first.folder / "README.md").write_text("of before")
    monkeypatch.setattr(final_training, "fit", None)
    assert train_final(searched).told == first.told
    assert json.loads((first.folder / "architecture.json").read_text()) == first.told
    assert f"{first.told['search_score']:.1%}"[:-1] in (first.folder / "README.md").read_text()


@pytest.mark.usefixtures("no_programs")
def test_another_network_in_the_folder_is_left_alone(searched):
    first = train_final(searched)
    keys = ranked(searched)
    sentence = rf"final holds another final network \(key: {keys[0]} → {keys[1]}\); choose another folder with --out"
    with pytest.raises(RunFolderError, match=sentence):
        train_final(searched, rank=2)
    assert json.loads((first.folder / "architecture.json").read_text()) == first.told
    assert train_final(searched, rank=2, overwrite=True).told["key"] == keys[1]


def test_a_file_that_is_not_ours_is_left_alone(searched, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "model.onnx").write_text("mine")
    with pytest.raises(RunFolderError, match=r"other holds model.onnx, which nas-proxy did not write; choose another"):
        train_final(searched, out=tmp_path / "other")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file is a file; choose a folder with --out"):
        train_final(searched, out=tmp_path / "file")
    (tmp_path / "other" / "architecture.json").write_text("{}")
    with pytest.raises(RunFolderError, match=r"architecture.json was not written by nas_proxy; choose another folder"):
        train_final(searched, out=tmp_path / "other")


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"rank": 0}, r"--rank is 0; it must be between 1 and 5, the architectures of the search"),
        ({"rank": 6}, r"--rank is 6; it must be between 1 and 5"),
        ({"rank": 1, "key": "width=2"}, r"--rank and --key both name an architecture; give one of them"),
        ({"key": "width=5"}, r"the search trained no architecture with the key 'width=5'; trials.csv lists its 5 keys"),
    ],
)
def test_a_wrong_choice_gets_a_sentence(searched, choice, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train_final(searched, **choice)


def test_before_the_search_and_after_a_divergence(searched, tmp_path):
    run = prepare_run(
        tmp_path / "new", resolve({"dataset": searched.config.dataset, "space": searched.config.space, **SETTINGS})
    )
    run_stages(run, ("condense",))
    with pytest.raises(RunFolderError, match=r"nothing is searched yet; first run: nas-proxy search .*new"):
        train_final(run)
    recipe = replace(searched.config.full_training, learning_rate=1e20)
    with pytest.raises(RunFailedError, match=r"the final training of width=\d+ diverged; a lower learning rate may"):
        train_final(searched, recipe=recipe)


@pytest.mark.usefixtures("no_programs")
def test_the_report_tells_it_apart(searched):
    before = write_report(searched.path).read_text(encoding="utf-8")
    assert "Final accuracy" not in before
    accuracy = train_final(searched).accuracy
    section = write_report(searched.path).read_text(encoding="utf-8").partition('<section id="final">')[2]
    assert f"<dt>Final accuracy</dt><dd>{100 * accuracy:.2f}" in section or f"{100 * accuracy:.1f}" in section
    assert "36 train and 18 validation images together, and scored once on 36 test images" in section


def test_the_command(searched, monkeypatch, capsys):
    def command(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nas-proxy", "final", str(searched.path), *options])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()

    monkeypatch.setattr(optuna.logging, "set_verbosity", lambda _: None)
    write_report(searched.path)
    code, out, _ = command("--json")
    told = json.loads(out)
    assert (code, told["not_written"]) == (0, {})
    assert "Final accuracy" in (searched / "report.html").read_text(encoding="utf-8")
    code, out, _ = command()
    assert f"Final accuracy: {told['final_accuracy']:.1%} of 36 test images, one seed" in out
    assert "the search's score was" in out
    code, out, sentence = command("--epochs", "0")
    assert (code, out) == (2, "")
    assert sentence == "nas-proxy: --epochs (full_training.epochs) is 0; it must be above 0\n"
    assert open_run(searched.path).config.full_training.epochs == 6


@pytest.mark.usefixtures("no_programs")
def test_images_that_are_none_get_a_sentence(searched, tmp_path):
    network = train_final(searched).network()
    image = torch.zeros(1, 8, 8)
    with pytest.raises(DataError, match=r"floats from -1 to 1; give floats in 0..1 that are not normalised, or uint8"):
        network(torch.linspace(-1, 1, 64).view(1, 1, 8, 8))
    with pytest.raises(DataError, match=r"floats from 0 to 255"):
        network(torch.linspace(0, 255, 64).view(1, 1, 8, 8))
    with pytest.raises(DataError, match=r"of type torch.int64; give uint8"):
        network(image[None].long())
    with pytest.raises(DataError, match=r"takes images of n×1×8×8 .*, and got 1×3×8×8; predict\(\) resizes"):
        network(torch.zeros(1, 3, 8, 8))
    with pytest.raises(DataError, match=r"and got 1×8×8"):
        network(image)
    with pytest.raises(DataError, match=r"takes one image, .* and got 2×1×8×8; give a list of images"):
        network.predict(torch.zeros(2, 1, 8, 8))
    with pytest.raises(DataError, match=r"not a dict"):
        network.predict({})
    with pytest.raises(DataError, match=r"absent.png"):
        network.predict(tmp_path / "absent.png")
    with pytest.raises(DataError, match=r"expected uint8, or floats in 0..1"):
        network.predict(np.full((8, 8), 7.5))


@pytest.mark.parametrize(
    ("does", "told"),
    [
        ("os._exit(3)", "it ended its process with exit code 3"),
        ("sys.exit(3)", "it raises SystemExit: 3"),
        ("os.kill(os.getpid(), 9)", "it was killed by signal 9"),
        ("time.sleep(600)", "it took longer than 0.5 s"),
    ],
)
@pytest.mark.parametrize("where", ["build", "training"])
def test_a_network_that_has_come_to_misbehave_is_told(searched, tmp_path, monkeypatch, does, told, where):
    good = Path(searched.config.space)
    space = tmp_path / good.name
    bad = f"import os, sys, time\n{good.read_text()}\n" + (
        f"def build(a, s):\n    {does}\nspace = Space(space.name, space.choices, build)\n"
        if where == "build"
        else "class Bad(nn.Module):\n    def __init__(self, inner):\n        super().__init__()\n"
        f"        self.inner = inner\n    def forward(self, x):\n        if self.training:\n            {does}\n"
        "        return self.inner(x)\n"
        "whole = space.own('build')\nspace = Space(space.name, space.choices, lambda a, s: Bad(whole(a, s)))\n"
    )
    problem = open_problem(searched.config)
    space.write_text(bad)
    monkeypatch.setattr(time_limit, "SECONDS", 0.5)
    spoilt = replace(problem, space=load_space(str(space), problem.shape))
    monkeypatch.setattr("nas_proxy.pipeline.final.open_problem", lambda *_: spoilt)
    with pytest.raises(RunFailedError) as error:
        train_final(searched, out=tmp_path / "out")
    wanted = rf"the network of width=\d+ cannot be used any more: {re.escape(told)} when it is built and run"
    assert re.fullmatch(wanted, str(error.value))
    assert not (tmp_path / "out").exists()
