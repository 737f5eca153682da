"""Which values are black and white: pixels of any type become the 0 to 255 of 8-bit images.

In: the least and the greatest value of a whole set. Out: `Levels`, one for all of its images. What fits 8 bits stays
as it is; floats in 0..1, up to rounding, are taken for the whole range; wider numbers are scaled from the number of
bits that they need, or, where they fill less than a quarter of that, from the least and the greatest of them.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

# Kinds of pixels that do not fit 8 bits, which have levels each for itself.
Kind: TypeAlias = Literal["whole", "floats"]

# What arithmetic in single and half precision may leave over.
ROUNDING = 2e-3
# Where the values fill less of the range, their contrast counts for more than their brightness.
LEAST_SHARE = 0.25
_BITS = (10, 12, 14, 16)


@dataclass(frozen=True)
class Levels:
    """The values that become 0 and 255."""

    low: float
    high: float

    @property
    def as_stored(self) -> bool:
        """Whether values are 8-bit ones already."""
        return (self.low, self.high) == (0, 255)

    def eight_bit(self, values: np.ndarray) -> np.ndarray:
        """Return uint8 values; those beyond the range become its ends."""
        scaled = values.astype(np.float64)
        if not self.as_stored:
            scaled = (scaled - self.low) * (255 / (self.high - self.low))
        eight: np.ndarray = np.rint(scaled).clip(0, 255).astype(np.uint8)
        return eight

    def text(self) -> str:
        """Return the range in words."""
        return f"{self.low:g} to {self.high:g}"


def levels_of(low: float, high: float, *, floats: bool) -> Levels:
    """Return the levels of a set whose finite values go from `low` to `high`."""
    if floats and low >= -ROUNDING and high <= 1 + ROUNDING:
        return Levels(0, 1)
    if low >= 0 and high <= 255:
        return Levels(0, 255)
    top = next((2**bits - 1 for bits in _BITS if high < 2**bits), None)
    if low < high and (low < 0 or top is None or high - low < LEAST_SHARE * top):
        return Levels(low, high)
    return Levels(0, high if top is None else top) if high > 0 else Levels(low, low + 1)
