"""What a training frees stays with its process for the next step, and goes back to the system before the next job."""

import os
import platform
import subprocess
import sys

import pytest

from nas_proxy.training.memory import KEEPING

FREED = """
import torch
from nas_proxy.training.memory import MB, give_back, held
for _ in range(2):
    maps = [torch.ones(10, 1_000_000) for _ in range(4)]
    most = held()
    del maps
print((most - held()) // MB)
give_back()
print((most - held()) // MB)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_kept_until_it_is_given_back():
    environment = {**os.environ, **KEEPING}
    done = subprocess.run([sys.executable, "-c", FREED], env=environment, capture_output=True, text=True, check=True)
    kept, given = map(int, done.stdout.split())
    assert kept < 20
    assert given > 100
