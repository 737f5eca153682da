"""Real sets larger than memory: they stay in their file, and a step reads what it needs, class by class."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas_proxy.condensation import distribution_matching as condensation
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet

PIXELS, CLASSES, COUNT = 64, 4, 40_000
RECIPE = Condensation(images_per_class=1, steps=20, real_batch=8, width=8)

# Linux does not limit resident memory, so the program watches its own: what is in no file, in KiB.
PROGRAM = """
import sys
from pathlib import Path

import torch

from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import ImageSet


def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


torch.set_num_threads(1)
found = ImageSet.load(Path(sys.argv[1]))
make_proxy(found, Condensation(images_per_class=1, steps=1, real_batch=8, width=8), 0)
before, most = own(), [0]
make_proxy(
    found, Condensation(images_per_class=1, steps=20, real_batch=8, width=8), 0,
    preview=lambda step, images: most.append(own()), preview_every=1,
)
copied = found.images.clone()
print(max(most) - before, own() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process's memory")
def test_a_set_in_a_file_is_never_copied_into_memory(tmp_path):
    path = tmp_path / "large.safetensors"
    images = torch.zeros(COUNT, 1, PIXELS, PIXELS, dtype=torch.uint8)
    images[:, :, ::7, ::5] = torch.arange(COUNT).view(-1, 1, 1, 1) % 251
    labels = torch.arange(COUNT) % CLASSES
    large = ImageSet(images, labels, torch.ones(1) / 50, -torch.ones(1), tuple("abcd"))
    large.save(path)
    size = large.stored_bytes // 1024
    command = [sys.executable, "-c", PROGRAM, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    condensing, copying = map(int, done.stdout.split())
    assert copying > 0.9 * size  # the measurement sees a copy
    assert condensing < 0.25 * size


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_set_that_does_not_fit_a_gpu_is_read_from_the_host(images, monkeypatch):
    fits = make_proxy(images, RECIPE, 0, device="cuda").images
    monkeypatch.setattr(condensation, "SHARE_OF_MEMORY", 0.0)
    assert make_proxy(images, RECIPE, 0, device="cuda").images.fingerprint() == fits.fingerprint()
