"""Randomness: every random act draws from a generator derived from the run's seed, a purpose and indices.

Nothing here depends on the order in which things happen, so a run that is killed and continued, or spread
over workers, draws the same numbers. A user's networks may draw from Python's and NumPy's own generators as well:
`seeded` and `drawn_alike` set those too.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2**63) for one purpose, for example `derive(seed, "condense", step)`."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a generator on the CPU; draws are made there so that every device sees the same numbers."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))


@contextlib.contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Seed PyTorch's, Python's and NumPy's global generators in the block; afterwards all are as they were before.

    PyTorch draws as after `torch.manual_seed(seed)`. device: of the GPU whose generator is restored as well.
    """
    import torch

    place = torch.device(device)
    gpus = [place] if place.type == "cuda" else []
    # Not `torch.manual_seed`, which, where no GPU is in use, keeps a list of calls for when one will be.
    with torch.random.fork_rng(devices=gpus, enabled=bool(gpus)), _python_and_numpy(seed):
        before = torch.get_rng_state()
        torch.default_generator.manual_seed(seed)
        if gpus or torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.manual_seed_all(seed)
        try:
            yield
        finally:
            torch.set_rng_state(before)


@contextlib.contextmanager
def drawn_alike() -> Iterator[None]:
    """In the block, Python and NumPy draw numbers that follow from the state of PyTorch's generator.

    For the building of networks: whoever has seeded PyTorch for it gets the same network again, whichever of the
    three generators a user's code draws from. PyTorch's own is not touched, the others are as before afterwards.
    """
    import torch

    state = hashlib.sha256(torch.get_rng_state().numpy().tobytes()).digest()
    with _python_and_numpy(int.from_bytes(state[:8], "big") >> 1):
        yield


@contextlib.contextmanager
def _python_and_numpy(seed: int) -> Iterator[None]:
    before, before_numpy = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed % 2**32)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)
