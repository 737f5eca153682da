"""On which of many trainings a surrogate rests: its time grows with the cube of their number.

In: which trainings were full, and how good they were. Out: positions of at most so many, in their order; all where
there are no more. Guarantee: a pure function, and neither fidelity displaces the other: each has half of the places, or
as many as it needs where the other leaves more.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


def representative(full: Floats, most: int) -> Indices:
    """Return positions of `most` of m trainings that stand for all, whatever came of them.

    At even distances in the order in which they came, as the first are uniform and later ones chosen.
    full: (m,) 1 for full trainings, 0 for cheap ones.
    """
    found = [_spread(np.flatnonzero(full == kind), places) for kind, places in enumerate(_places(full, most))]
    return np.sort(np.concatenate(found))


def best_and_others(full: Floats, y: Floats, most: int) -> Indices:
    """Return positions of `most` of m trainings: of either kind half are the best, the others at even distances.

    full: (m,) 1 for full trainings, 0 for cheap ones. y: (m,) what came of them, larger for better.
    """
    found = []
    for kind, places in enumerate(_places(full, most)):
        these = np.flatnonzero(full == kind)
        best = these[np.argsort(-y[these], kind="stable")[: (places + 1) // 2]]
        found += [best, _spread(np.setdiff1d(these, best), places - len(best))]
    return np.sort(np.concatenate(found))


def _places(full: Floats, most: int) -> tuple[int, int]:
    """Return how many cheap and how many full trainings have a place."""
    fully = int((full > 0).sum())
    cheap = len(full) - fully
    of_full = min(fully, max(most // 2, most - cheap))
    return min(cheap, most - of_full), of_full


def _spread(positions: Indices, count: int) -> Indices:
    """Return `count` of the positions at even distances."""
    return positions[np.linspace(0, len(positions) - 1, count).round().astype(np.intp)] if count else positions[:0]
