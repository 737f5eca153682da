"""What stands beside the weights for whoever uses a final network: class names, preprocessing, a card, a script.

In: what is told of the network, its confusion matrix. Out: files.

    preprocessing.json    class names, and how an image is cropped, resized and converted
    predict.py            predicts from image files; needs onnxruntime, numpy and Pillow, nothing of nas_proxy
    confusion.csv         test images by their class, in rows, and the class that they are taken for
    README.md             the model card
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from nas_proxy.files import write_json, write_text
from nas_proxy.report.formats import count, duration, percent, size

# More classes than this are not shown as a table, but by the pairs that are taken for each other most.
SHOWN, PAIRS = 12, 10


def write_preprocessing(told: Mapping[str, Any], folder: Path) -> None:
    """Write what the ONNX program does not do itself."""
    shape = told["shape"]
    write_json(
        folder / "preprocessing.json",
        {
            "classes": told["classes"],
            "channels": shape["channels"],
            "height": shape["height"],
            "width": shape["width"],
            "image_size": told["image_size"],
            "input": "uint8, (n, channels, height, width), 0 to 255; scale and offset are inside the program",
            "crop": "the middle, as wide and high as the network's images are",
            "resize": "bilinear, antialiased",
            "levels": told["levels"],
            "about_levels": "the values that become 0 and 255, of whole numbers of more than 8 bits and of floats",
            "scale": told["scale"],
            "offset": told["offset"],
        },
    )


def write_predict(folder: Path) -> None:
    """Write the script that needs none of nas_proxy and PyTorch."""
    write_text(folder / "predict.py", PREDICT)


def write_confusion(confusion: Sequence[Sequence[int]], classes: Sequence[str], path: Path) -> None:
    """Write the matrix with the names of the classes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["class", *classes])
    table.writerows([name, *row] for name, row in zip(classes, confusion, strict=True))
    write_text(path, text.getvalue())


def read_confusion(path: Path) -> list[list[int]] | None:
    """Return the matrix, None where there is none."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
        return [[int(value) for value in row[1:]] for row in rows[1:]]
    except (FileNotFoundError, ValueError):
        return None


def accuracy_interval(right: int, images: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a fraction (JASA 22, 1927)."""
    found = binomtest(right, images).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


def write_card(told: Mapping[str, Any], folder: Path) -> None:
    """Write the model card from what is told and what is in the folder."""
    write_text(folder / "README.md", card(told, folder))


def card(told: Mapping[str, Any], folder: Path) -> str:
    """Return the model card as Markdown."""
    sections = [_head(told, folder), _use(told, folder), _found(told), _confused(told, folder), LIMITS]
    return "\n\n".join(section for section in sections if section) + "\n"


def _head(told: Mapping[str, Any], folder: Path) -> str:
    shape, images = told["shape"], told["test_images"]
    accuracy = percent(told["final_accuracy"])
    low, high = accuracy_interval(round(told["final_accuracy"] * images), images)
    trained = " and ".join(f"{number:,} {part}" for part, number in told["trained_on"].items())
    rows = [
        (
            "accuracy",
            f"{accuracy} [{100 * low:.1f}, {100 * high:.1f}] of {images:,} test images",
        ),
        ("data", f"`{told['dataset']}`, trained on {trained} images"),
        ("images", f"{shape['channels']}×{shape['height']}×{shape['width']} (channels, height, width)"),
        ("classes", f"{shape['classes']}: {', '.join(told['classes'][:20])}{' …' * (shape['classes'] > 20)}"),
        ("size", f"{count(told['params'])} parameters, {count(told['flops'])} FLOPs an image{_on_disk(folder)}"),
        *_latency(told),
    ]
    table = "\n".join(f"| {name} | {text} |" for name, text in rows)
    return (
        f"# {told['key']}\n\nA network that tells {shape['classes']} classes of images apart.\n\n| | |\n| --- | --- |\n"
        f"{table}\n\nThe accuracy's interval is Wilson's, 95 %; it is that of these test images, one training."
    )


def _on_disk(folder: Path) -> str:
    weights = folder / "model.safetensors"
    return f", {size(weights.stat().st_size)} of weights" if weights.exists() else ""


def _latency(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = told.get("latency")
    if not found:
        return []
    each = ", ".join(f"{value['ms']:.3g} ms by {name}" for name, value in found.items())
    return [("latency", f"{each}; one image, one thread of {told['environment']['cpu']}")]


def _use(told: Mapping[str, Any], folder: Path) -> str:
    lines = ["## Use", "", "With nas_proxy and the search space's file:", "", "```python", "import nas_proxy", ""]
    lines += ['network = nas_proxy.load_final(".")', 'print(network.predict("image.png"))', "```"]
    if (folder / "predict.py").exists():
        lines += ["", "Without either, with `pip install onnxruntime numpy pillow`:", ""]
        lines += ["    python predict.py image.png"]
    lines += ["", "`load.py` shows how each file is loaded. Programs take uint8 images and give logits."]
    return "\n".join(lines)


def _found(told: Mapping[str, Any]) -> str:
    text = f"## How it was found\n\nRank {told['rank']} of a search in the space `{told['space']}`"
    search = told.get("search")
    if search:
        text += (
            f": {search['architectures']:,} architectures trained on {search['images']}, proposed by "
            f"{search['sampler']}, ranked by {search['score']} (its own: {_score(told)})"
        )
    text += f", seed {told['seed']}."
    if search:
        parts = [f"{name} {duration(seconds)}" for name, seconds in search["seconds"].items() if seconds]
        text += f"\n\nWhat it cost, in seconds of one worker: {', '.join(parts)}; "
        text += f"the final training {duration(told['seconds'])}."
    recipe = told["recipe"]
    return text + (
        f"\n\nThe final training: {recipe['epochs']:g} epochs, batches of {recipe['batch_size']}, learning rate "
        f"{recipe['learning_rate']:g}, {recipe['schedule']} schedule, augmentation: "
        f"{', '.join(recipe['augmentation']) or 'none'}."
    )


def _score(told: Mapping[str, Any]) -> str:
    return "unknown" if told["search_score"] is None else f"{percent(told['search_score'])} of validation images"


def _confused(told: Mapping[str, Any], folder: Path) -> str:
    matrix, classes = read_confusion(folder / "confusion.csv"), told["classes"]
    if matrix is None:
        return ""
    head = "## What is taken for what\n\nTest images; all numbers are in `confusion.csv`.\n\n"
    if len(classes) <= SHOWN:
        titles = "| class | " + " | ".join(map(_cell, classes)) + " |"
        rows = [
            f"| **{_cell(name)}** | {' | '.join(map(str, row))} |" for name, row in zip(classes, matrix, strict=True)
        ]
        return head + "\n".join([titles, "| --- " * (len(classes) + 1) + "|", *rows])
    wrong = [(row[j], i, j) for i, row in enumerate(matrix) for j in range(len(row)) if i != j and row[j]]
    pairs = [
        f"- {_cell(classes[i])} taken for {_cell(classes[j])}: {number} of {sum(matrix[i])}"
        for number, i, j in sorted(wrong, key=lambda pair: (-pair[0], pair[1:]))[:PAIRS]
    ]
    return head + ("\n".join(pairs) or "None is taken for another.")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


LIMITS = """## Limits

It knows its classes alone, and says one of them for any image. Its probabilities are not calibrated. On images that
differ from those above (another camera, other light, other people) its accuracy is not known; measure it."""

PREDICT = '''"""Classify images: python predict.py IMAGE …  (needs onnxruntime, numpy and Pillow)."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
KNOWN = json.loads((HERE / "preprocessing.json").read_text(encoding="utf-8"))
SESSION = onnxruntime.InferenceSession(str(HERE / "model.onnx"), providers=["CPUExecutionProvider"])


def prepared(image):
    """Return a Pillow image as the network takes it: uint8, (1, channels, height, width)."""
    if KNOWN["image_size"] is not None:  # a JPEG decodes at a fraction of its size, as in training
        image.draft(None, (2 * KNOWN["image_size"],) * 2)
    image = ImageOps.exif_transpose(image)
    if image.mode == "F" or image.mode.startswith("I"):
        kind = "floats" if image.mode == "F" else "whole"
        if kind not in KNOWN["levels"]:
            sys.exit("the image has more than 8 bits a pixel, and those of training had 8; convert it")
        low, high = KNOWN["levels"][kind]
        scaled = (np.asarray(image).astype(np.float64) - low) * (255 / (high - low))
        image = Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    image = image.convert("L" if KNOWN["channels"] == 1 else "RGB")
    width, height = KNOWN["width"], KNOWN["height"]
    scale = min(image.width / width, image.height / height)
    across, down = round(width * scale), round(height * scale)
    left, top = (image.width - across) // 2, (image.height - down) // 2
    image = image.crop((left, top, left + across, top + down)).resize((width, height), Image.Resampling.BILINEAR)
    pixels = np.asarray(image, dtype=np.uint8)
    return pixels[None, None] if KNOWN["channels"] == 1 else pixels.transpose(2, 0, 1)[None]


def predict(path):
    """Return the probability of each class, the most probable first."""
    with Image.open(path) as image:
        logits = SESSION.run(None, {"images": np.ascontiguousarray(prepared(image))})[0][0]
    odds = np.exp(logits - logits.max())
    chances = (odds / odds.sum()).tolist()
    return dict(sorted(zip(KNOWN["classes"], chances), key=lambda pair: -pair[1]))


if __name__ == "__main__":
    for path in sys.argv[1:] or sys.exit(__doc__):
        best = list(predict(path).items())[:3]
        print(f"{path}: " + ", ".join(f"{name} {chance:.1%}" for name, chance in best))
'''
