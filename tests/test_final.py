"""The final network: what it is trained on, that test is scored once, that every file gives its logits."""

import ast
import contextlib
import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from PIL import Image

import nas_proxy
from conftest import blobs
from nas_proxy import time_limit
from nas_proxy.cli.app import main
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development, held_out_test
from nas_proxy.errors import ConfigError, DataError, RunFailedError, RunFolderError, SpaceError
from nas_proxy.pipeline import export, final_training, image_files, model_card
from nas_proxy.pipeline.final import load_final, train_final
from nas_proxy.pipeline.problem import open_problem
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.pipeline.work import open_store
from nas_proxy.progress import SILENT
from nas_proxy.ranking.scores import best_first
from nas_proxy.report.page import write_report
from nas_proxy.runs.folder import NETWORK, open_run, prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.loading import load_space

SETTINGS = {
    "trials": 5,
    "truth": 3,
    "workers": 1,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 4, "batch_size": 6},
    "full_training": {"epochs": 6, "batch_size": 12},
}
SPACE = """
from torch import nn
from nas_proxy import Choice, Space

def build(architecture, shape):
    width = architecture["width"]
    body = [nn.Conv2d(shape.channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, shape.classes))

space = Space("small", Choice("width", (2, 3, 4, 6, 8, 10)), build)
"""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> str:
    images, path = blobs(per_class=30), tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    return f"npz:{path}"


@pytest.fixture(scope="module")
def template(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("template")
    (folder / "small.py").write_text(SPACE)
    run = prepare_run(folder / "run", resolve({"dataset": dataset, "space": str(folder / "small.py"), **SETTINGS}))
    run_stages(run, ("condense", "search"))
    return run


@pytest.fixture
def searched(template, tmp_path):
    """A run of its own, for each test."""
    shutil.copytree(template.path, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture
def no_onnx(monkeypatch):
    """Leave out the slowest file where it does not matter."""
    monkeypatch.setattr(export, "find_spec", lambda _: None)


@pytest.fixture(scope="module")
def test_images(dataset):
    source = open_source(dataset, image_size=None)
    return held_out_test(source, development(source, seed=0), seed=0)


def ranked(run) -> list[str]:
    with contextlib.closing(open_store(run, SILENT)) as store:
        return [r.key for r in best_first(store.records("proxy"))]


def right(logits: torch.Tensor, images) -> float:
    return (logits.argmax(1) == images.labels).float().mean().item()


def test_every_file_gives_the_networks_logits_and_the_final_accuracy(searched, test_images):
    onnxruntime = pytest.importorskip("onnxruntime")
    found = train_final(searched)
    assert {path.name for path in found.folder.iterdir()} == set(NETWORK)
    assert found.not_written == {}
    raw = test_images.images
    with torch.no_grad():
        ours = found.network()(raw)
        # What the files take is 8 bits; what the network itself sees is decoded, as everywhere else.
        torch.testing.assert_close(found.network().network(test_images.decode()), ours)
    assert right(ours, test_images) == pytest.approx(found.accuracy)
    program = torch.export.load(found.folder / "model.pt2").module()
    session = onnxruntime.InferenceSession(found.folder / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 2, len(raw)):
        torch.testing.assert_close(program(raw[:count]), ours[:count], rtol=1e-4, atol=1e-5)
        logits = session.run(None, {"images": raw[:count].numpy()})[0]
        torch.testing.assert_close(torch.from_numpy(logits), ours[:count], rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("no_onnx")
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


@pytest.mark.usefixtures("no_onnx")
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


@pytest.mark.usefixtures("no_onnx")
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


@pytest.mark.usefixtures("no_onnx")
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


def test_a_kill_before_the_last_file_is_made_good(searched):
    whole = train_final(searched)
    (whole.folder / "architecture.json").unlink()
    (whole.folder / "load.py").unlink()
    (whole.folder / "model.pt2").unlink()
    (whole.folder / "model.onnx").unlink()
    again = train_final(searched)
    assert again.told["final_accuracy"] == whole.told["final_accuracy"]
    assert {path.name for path in again.folder.iterdir()} == set(NETWORK)


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


def test_before_the_search_and_after_a_divergence(searched, tmp_path, dataset):
    run = prepare_run(tmp_path / "new", resolve({"dataset": dataset, "space": searched.config.space, **SETTINGS}))
    run_stages(run, ("condense",))
    with pytest.raises(RunFolderError, match=r"nothing is searched yet; first run: nas-proxy search .*new"):
        train_final(run)
    recipe = replace(searched.config.full_training, learning_rate=1e20)
    with pytest.raises(RunFailedError, match=r"the final training of width=\d+ diverged; a lower learning rate may"):
        train_final(searched, recipe=recipe)


def test_without_the_onnx_packages_the_rest_is_written(searched, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    found = train_final(searched)
    assert found.not_written == {"model.onnx": "it needs onnxscript: pip install onnx onnxscript"}
    assert {path.name for path in found.folder.iterdir()} == set(NETWORK) - {"model.onnx", "predict.py"}
    monkeypatch.undo()
    pytest.importorskip("onnxscript")
    assert train_final(searched).not_written == {}


def test_a_network_that_cannot_be_exported_keeps_its_weights(searched, tmp_path):
    space = tmp_path / "branching.py"
    space.write_text(
        SPACE
        + """
class Branching(nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x) if x.sum() > 0 else self.network(-x)

plain = space.build
space = Space("branching", space.choices, lambda architecture, shape: Branching(plain(architecture, shape)))
"""
    )
    run = prepare_run(tmp_path / "b", resolve({"dataset": searched.config.dataset, "space": str(space), **SETTINGS}))
    run_stages(run, ("condense", "search"))
    found = train_final(run)
    assert set(found.not_written) == {"model.pt2", "model.onnx"}
    assert all("data-dependent" in reason for reason in found.not_written.values())
    assert load_final(found.folder)(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape == (2, 3)


def test_a_program_that_is_wrong_is_not_written(searched, monkeypatch):
    pytest.importorskip("onnxruntime")
    wrong = export._onnx_function
    monkeypatch.setattr(export, "_onnx_function", lambda path: lambda images: wrong(path)(images) + 1)
    found = train_final(searched)
    assert found.not_written == {
        "model.onnx": "the program does not give the network's logits; it may depend on the number of images"
    }
    assert {path.name for path in found.folder.iterdir()} == set(NETWORK) - {"model.onnx", "predict.py"}


@pytest.mark.slow
def test_loading(searched, tmp_path):
    found = train_final(searched)
    done = subprocess.run([sys.executable, found.folder / "load.py"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["model.pt2", "model.onnx", "model.safetensors"]
    assert len({line.partition(":")[2] for line in lines}) == 1
    with pytest.raises(RunFolderError, match="holds no final network; make one with: nas-proxy final RUN"):
        load_final(tmp_path)
    (tmp_path / "small.py").write_text(SPACE + "\n# changed\n")
    (found.folder / "architecture.json").write_text(json.dumps({**found.told, "space": str(tmp_path / "small.py")}))
    with pytest.raises(SpaceError, match=r"small.py has changed since .*final was made; restore it, or use model.pt2"):
        load_final(found.folder)


@pytest.mark.usefixtures("no_onnx")
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


def test_predictions_agree_by_every_door(searched, test_images, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    found = train_final(searched)
    network = found.network()
    raw = test_images.images[0]
    with torch.no_grad():
        expected = network(raw[None]).softmax(1)[0]
    told = {name: expected[label].item() for label, name in enumerate(test_images.classes)}
    pixels = raw[0].numpy()
    Image.fromarray(pixels).save(tmp_path / "one.png")
    colour = np.stack([pixels] * 3, 2)
    for door in (
        *(str(tmp_path / "one.png"), tmp_path / "one.png", Image.open(tmp_path / "one.png")),
        *(pixels, pixels[None], pixels[..., None], raw, raw[0], raw / 255, (pixels / 255).astype(np.float64)),
        *(colour, colour.transpose(2, 0, 1), colour / 255, Image.fromarray(colour)),
    ):
        assert network.predict(door) == told
    assert list(told) == list(test_images.classes)  # told in this order, which predictions need not have
    chances = list(network.predict(raw).values())
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1)
    assert network.predict([raw, pixels]) == [told, told]
    torch.testing.assert_close(network(test_images.images / 255), network(test_images.images), rtol=0, atol=0)

    # Of any size, and as the script without nas_proxy has it.
    large = Image.fromarray(pixels).resize((40, 24)).convert("RGBA")
    large.putalpha(200)
    large.save(tmp_path / "large.png")
    Image.fromarray(colour).resize((64, 64)).save(tmp_path / "large.jpg")
    for name in ("one.png", "large.png", "large.jpg"):
        done = subprocess.run(
            [sys.executable, "-c", f"import predict; print(predict.predict({str(tmp_path / name)!r}))"],
            cwd=found.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = ast.literal_eval(done.stdout)
        ours = network.predict(tmp_path / name)
        assert list(theirs) == list(ours)
        assert list(theirs.values()) == pytest.approx(list(ours.values()), abs=1e-5)

    monkeypatch.setattr(sys, "argv", ["nas-proxy", "predict", str(searched.path), str(tmp_path / "one.png"), "--json"])
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out)["predictions"] == [
        {"image": str(tmp_path / "one.png"), "classes": network.predict(raw)}
    ]


@pytest.mark.usefixtures("no_onnx")
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


def test_what_stands_beside_the_weights(searched, test_images):
    pytest.importorskip("onnxruntime")
    found = train_final(searched)
    with (found.folder / "confusion.csv").open() as file:
        head, *rows = list(csv.reader(file))
    matrix = np.array([[int(value) for value in row[1:]] for row in rows])
    assert head[1:] == [row[0] for row in rows] == list(test_images.classes)
    assert matrix.sum(1).tolist() == [12, 12, 12]
    assert matrix.trace() / 36 == pytest.approx(found.accuracy)
    with torch.no_grad():
        guessed = found.network()(test_images.images).argmax(1)
    for true, taken in itertools.product(range(3), repeat=2):
        assert matrix[true, taken] == int(((test_images.labels == true) & (guessed == taken)).sum())
    card = (found.folder / "README.md").read_text(encoding="utf-8")
    low, high = model_card.accuracy_interval(matrix.trace(), 36)
    assert f"[{100 * low:.1f}, {100 * high:.1f}] of 36 test images" in card
    assert "trained on 36 train and 18 validation images" in card
    assert found.told["key"] in card.splitlines()[0]
    assert "5 architectures trained on 2 condensed images a class, proposed by ei" in card
    assert set(found.told["latency"]) == {"PyTorch", "ONNX Runtime"}
    assert f"{found.told['latency']['PyTorch']['ms']:.3g} ms by PyTorch" in card
    assert "Condensing" in card.partition("What it cost")[2]
    known = json.loads((found.folder / "preprocessing.json").read_text())
    assert (known["classes"], known["height"], known["image_size"]) == (["0", "1", "2"], 8, None)
    # Wilson's interval by hand, 30 of 36.
    assert model_card.accuracy_interval(30, 36) == pytest.approx((0.6811, 0.9212), abs=5e-4)


def test_many_classes_are_told_by_their_worst_pairs(tmp_path):
    classes = [f"c{number}" for number in range(13)]
    matrix = np.diag([9] * 13)
    matrix[3, 5], matrix[7, 1] = 4, 6
    model_card.write_confusion(matrix.tolist(), classes, tmp_path / "confusion.csv")
    text = model_card._confused({"classes": classes}, tmp_path)
    assert text.splitlines()[-2:] == ["- c7 taken for c1: 6 of 15", "- c3 taken for c5: 4 of 13"]


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
