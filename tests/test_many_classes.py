"""A folder of 1,000 classes: memory does not grow with the number of images and classes."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

PIXELS = 16

# Prints, in KiB, how much memory of its own the program took beyond what it had when the images were first looked at.
PROGRAM = """
import sys
import threading
import time
from pathlib import Path

import torch

from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data import folders
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development


def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def work(folder, together):
    found = development(open_source(f"folder:{folder}", image_size=16, cache=Path(sys.argv[1])), seed=0)
    recipe = Condensation(images_per_class=1, steps=3, real_batch=8, width=8, augmentation=("colour", "scale"))
    make_proxy(found.train, recipe, 0, classes_per_step=together)


def watched(folder, together):
    before, most, ended = own(), [0], threading.Event()

    def watch():
        while not ended.is_set():
            most.append(own())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    work(folder, together)
    ended.set()
    watcher.join()
    return max(most) - before


torch.set_num_threads(1)
folders.IN_MEMORY = 0
few, many = sys.argv[2:]
work(few, 20)  # whatever is loaded and compiled on the way
print(watched(few, 20), watched(many, 20), watched(many, 1000))
"""


def folder(root: Path, classes: int, each: int) -> Path:
    """Write colour images as PPM, the quickest format."""
    pixels = np.random.default_rng(0).integers(0, 256, (each, PIXELS, PIXELS, 3), dtype=np.uint8)
    files = [f"P6 {PIXELS} {PIXELS} 255\n".encode() + image.tobytes() for image in pixels]
    for label in range(classes):
        (root / f"class{label:04d}").mkdir(parents=True)
        for number, content in enumerate(files):
            (root / f"class{label:04d}" / f"{number}.ppm").write_bytes(content)
    return root


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_memory_does_not_grow_with_classes_and_images(tmp_path):
    few, many = folder(tmp_path / "few", 50, 4), folder(tmp_path / "many", 1000, 12)
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "cache"), str(few), str(many)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    little, much, ungrouped = map(int, done.stdout.split())
    # The synthetic images, their momentum and their gradient are 1,000 × 3 kB each.
    assert much < little + 40 * 1024
    assert ungrouped > much + 20 * 1024  # the measurement sees what groups save
