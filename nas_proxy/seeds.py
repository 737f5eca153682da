"""Randomness: every random act draws from a generator derived from the run's seed, a purpose and indices.

Nothing here depends on the order in which things happen, so a run that is killed and continued, or spread
over workers, draws the same numbers.
"""

import hashlib

import numpy as np
import torch


def derive(seed: int, *purpose: str | int) -> int:
    """Return a seed in [0, 2**63) for one purpose, for example `derive(seed, "condense", step)`."""
    text = "/".join([str(seed), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def torch_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """Return a generator on the CPU; draws are made there so that every device sees the same numbers."""
    return torch.Generator().manual_seed(derive(seed, *purpose))


def numpy_generator(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return a NumPy generator for one purpose."""
    return np.random.default_rng(derive(seed, *purpose))
