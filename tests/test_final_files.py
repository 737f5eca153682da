"""The files of a final network: every program gives its logits, every door the same prediction."""

import ast
import csv
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from final_runs import SETTINGS, SPACE, held_out, searched_run
from nas_proxy.cli.app import main
from nas_proxy.data.shape import DataShape
from nas_proxy.errors import RunFolderError, SpaceError
from nas_proxy.pipeline import export, model_card
from nas_proxy.pipeline.deployed import Deployed
from nas_proxy.pipeline.final import load_final, train_final
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import NETWORK, open_run, prepare_run
from nas_proxy.runs.resolving import resolve


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    return searched_run(tmp_path_factory.mktemp("template"))


@pytest.fixture
def searched(template, tmp_path):
    """A run of its own, for each test."""
    shutil.copytree(template.path, tmp_path / "run")
    return open_run(tmp_path / "run")


@pytest.fixture(scope="module")
def found(template, tmp_path_factory):
    """A final network that no test changes."""
    shutil.copytree(template.path, folder := tmp_path_factory.mktemp("final") / "run")
    return train_final(open_run(folder))


@pytest.fixture(scope="module")
def test_images(template):
    return held_out(template)


def right(logits: torch.Tensor, images) -> float:
    return (logits.argmax(1) == images.labels).float().mean().item()


def test_every_file_gives_the_networks_logits_and_the_final_accuracy(found, test_images):
    onnxruntime = pytest.importorskip("onnxruntime")
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


@pytest.mark.slow
def test_a_kill_before_the_last_file_is_made_good(searched):
    whole = train_final(searched)
    (whole.folder / "architecture.json").unlink()
    (whole.folder / "load.py").unlink()
    (whole.folder / "model.pt2").unlink()
    (whole.folder / "model.onnx").unlink()
    again = train_final(searched)
    assert again.told["final_accuracy"] == whole.told["final_accuracy"]
    assert {path.name for path in again.folder.iterdir()} == set(NETWORK)


@pytest.mark.slow
def test_without_the_onnx_packages_the_rest_is_written(searched, monkeypatch):
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else name)
    found = train_final(searched)
    assert found.not_written == {"model.onnx": "it needs onnxscript: pip install onnx onnxscript"}
    assert {path.name for path in found.folder.iterdir()} == set(NETWORK) - {"model.onnx", "predict.py"}
    monkeypatch.undo()
    pytest.importorskip("onnxscript")
    assert train_final(searched).not_written == {}


@pytest.mark.slow
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


@pytest.mark.slow
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
    weights = (found.folder / "model.safetensors").read_bytes()
    (found.folder / "model.safetensors").write_bytes(weights[:-40])
    with pytest.raises(
        RunFolderError, match=r"cannot be loaded .*; make it again with: nas-proxy final RUN --overwrite"
    ):
        load_final(found.folder)
    (found.folder / "model.safetensors").write_bytes(weights)
    (tmp_path / "small.py").write_text(SPACE + "\n# changed\n")
    (found.folder / "architecture.json").write_text(json.dumps({**found.told, "space": str(tmp_path / "small.py")}))
    with pytest.raises(SpaceError, match=r"small.py has changed since .*final was made; restore it, or use model.pt2"):
        load_final(found.folder)


def test_predictions_agree_by_every_door(found, test_images, tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
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

    monkeypatch.setattr(
        sys, "argv", ["nas-proxy", "predict", str(found.folder.parent), str(tmp_path / "one.png"), "--json"]
    )
    with pytest.raises(SystemExit, match="0"):
        main()
    assert json.loads(capsys.readouterr().out)["predictions"] == [
        {"image": str(tmp_path / "one.png"), "classes": network.predict(raw)}
    ]


def test_what_stands_beside_the_weights(found, test_images):
    pytest.importorskip("onnxruntime")
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


def test_an_image_that_is_not_decoded_yet_stays_as_it_was(tmp_path):
    """A JPEG is decoded at a fraction of its size, and Pillow opens a file without decoding it."""
    network = Deployed(nn.Flatten(), torch.ones(1), torch.zeros(1), DataShape(1, 2, 2, 4), tuple("abcd"), image_size=2)
    values = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "photo.jpg")
    with Image.open(tmp_path / "photo.jpg") as photo:
        assert network.prepared(photo).equal(network.prepared(tmp_path / "photo.jpg"))
        assert photo.size == (64, 64)
        with Image.open(tmp_path / "photo.jpg") as other:
            assert np.array_equal(photo, other)
        assert network.prepared(photo).shape == (1, 2, 2)  # decoded by now
