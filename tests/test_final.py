"""The final network: what it is trained on, that test is scored once, that every file gives its logits."""

import contextlib
import json
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

import nas_proxy
from conftest import blobs
from nas_proxy.cli.app import main
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development, held_out_test
from nas_proxy.errors import ConfigError, RunFailedError, RunFolderError, SpaceError
from nas_proxy.pipeline import export, final, image_files
from nas_proxy.pipeline.final import NAMES, load_final, train_final
from nas_proxy.pipeline.problem import open_problem
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.pipeline.work import open_store
from nas_proxy.progress import SILENT
from nas_proxy.ranking.scores import best_first
from nas_proxy.report.page import write_report
from nas_proxy.runs.folder import open_run, prepare_run
from nas_proxy.runs.settings import resolve

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
    assert {path.name for path in found.folder.iterdir()} == set(NAMES)
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
    fit = final.fit
    monkeypatch.setattr(final, "fit", lambda build, data, *rest: seen.append(data) or fit(build, data, *rest))
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
    opened, fit = image_files.held_out_test, final.fit
    monkeypatch.setattr(image_files, "held_out_test", lambda *a, **o: events.append("test") or opened(*a, **o))
    monkeypatch.setattr(final, "fit", lambda *a: events.append("fit") or fit(*a))
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
    assert {path.name for path in again.folder.iterdir()} == set(NAMES)


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
    assert {path.name for path in found.folder.iterdir()} == set(NAMES) - {"model.onnx"}
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
    assert {path.name for path in found.folder.iterdir()} == set(NAMES) - {"model.onnx"}


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
