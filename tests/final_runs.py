"""A searched run of five tiny networks, of which final ones are made."""

from pathlib import Path

import numpy as np

from conftest import blobs
from nas_proxy.data.images import ImageSet
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development, held_out_test
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.runs.folder import RunFolder, prepare_run
from nas_proxy.runs.resolving import resolve

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


def searched_run(folder: Path) -> RunFolder:
    """Make images, a space and a run on them, condensed and searched."""
    images = blobs(per_class=30)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    (folder / "small.py").write_text(SPACE)
    given = {"dataset": f"npz:{folder / 'blobs.npz'}", "space": str(folder / "small.py"), **SETTINGS}
    run = prepare_run(folder / "run", resolve(given))
    run_stages(run, ("condense", "search"))
    return run


def held_out(run: RunFolder) -> ImageSet:
    """Return the test images of the run."""
    source = open_source(run.config.dataset, image_size=None)
    return held_out_test(source, development(source, seed=0), seed=0)
