"""Architectures as numbers, for a surrogate: what was chosen where, and how often in all.

In: architectures of one space, as plain dicts. Out: a matrix with a row each. Every value of every choice is a
column of zeros and ones (a choice that is not active is a value of its own), and so is, for values that several
choices share, how often an architecture has it. Guarantee: the rows' order changes nothing but their order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from nas_proxy.spaces.space import Scalar

INACTIVE = "(inactive)"


def encode(architectures: Sequence[Mapping[str, Scalar]]) -> NDArray[np.float64]:
    """Return (n, d), without columns that are the same for all; d is 0 where all architectures are equal.

    Indicators are scaled together to a mean standard deviation of 1, counts each to 0 and 1.
    """
    names = sorted({name for architecture in architectures for name in architecture})
    rows = [[repr(a[name]) if name in a else INACTIVE for name in names] for a in architectures]
    columns = [[row[i] for row in rows] for i in range(len(names))]
    indicators = [[value == one for value in column] for column in columns for one in sorted(set(column))]
    values = Counter(value for column in columns for value in set(column))
    counts = [[row.count(value) for row in rows] for value in sorted(values) if values[value] > 1]
    chosen, often = _varying(indicators, len(rows)), _varying(counts, len(rows))
    chosen = chosen / chosen.std(axis=0).mean() if chosen.shape[1] else chosen
    often = (often - often.mean(axis=0)) / often.std(axis=0) if often.shape[1] else often
    return np.hstack([chosen, often])


def _varying(columns: Sequence[Sequence[float]], n: int) -> NDArray[np.float64]:
    matrix = np.array(columns, dtype=np.float64).reshape(len(columns), n).T
    return matrix[:, np.ptp(matrix, axis=0) > 0] if n else matrix
