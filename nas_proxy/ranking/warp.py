"""The scale on which accuracies are modelled: minus the logarithm of the error, and what noise they have on it.

In: accuracies as fractions. Out: warped ones, centred at the median and scaled by the quartiles of those that were
seen, and cut off below, since how bad a bad architecture is tells nothing about which is best. Where the upper half are
all the same, as after trainings that are perfect on few images, or stay at chance, quartiles tell no scale: then it is
the standard deviation.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Warped accuracies below this, in standard deviations, are cut off.
FLOOR = -2.0
# An accuracy of 1 counts as this error, so that it has a logarithm.
LEAST_ERROR = 1e-3
# Minus log errors that differ by less are the same.
TIED = 1e-9


@dataclass(frozen=True)
class Warp:
    """A monotone map of accuracies (fractions): centre and scale of minus log error."""

    centre: float
    scale: float

    def __call__(self, accuracy: Floats) -> Floats:
        """Return warped accuracies, never below `FLOOR`."""
        warped: Floats = np.maximum((minus_log_error(accuracy) - self.centre) / self.scale, FLOOR)
        return warped

    def inverse(self, warped: Floats) -> Floats:
        """Return accuracies."""
        return 1 - np.exp(-(warped * self.scale + self.centre))


def minus_log_error(accuracy: Floats) -> Floats:
    """Return minus the logarithm of 1 - accuracy, larger for better."""
    return -np.log(np.maximum(1 - accuracy, LEAST_ERROR))


def warp_of(accuracy: Floats, least: float = 0.0) -> Warp:
    """Return the warp of accuracies (m,), m at least 1; least: the smallest scale."""
    values = minus_log_error(accuracy)
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    # The upper quartile counts: a few that fail spread the lower half widely.
    scale = max((high - middle) / 0.6745, (high - low) / 1.349 / 2, least, 1e-3)
    if high - middle < TIED:
        scale = max(scale, float(values.std()))
    return Warp(float(middle), float(scale))


def warps(cheap: Floats, full: Floats) -> tuple[Warp, Warp]:
    """Return the warps of cheap and of full accuracies; few full ones borrow the scale of the cheap ones."""
    below = warp_of(cheap) if len(cheap) else Warp(0.0, 1.0)
    if len(full) >= 2:
        borrowed = 0.5 * below.scale if len(cheap) and len(full) < 8 else 0.0
        return below, warp_of(full, least=borrowed)
    return below, Warp(float(minus_log_error(full).mean()) if len(full) else 0.0, below.scale)


def of_images(accuracy: Floats, images: int | None) -> Floats:
    """Return the variance of minus log error (m,) that comes of measuring on so many images; 0 where it is exact."""
    if images is None:
        return np.zeros_like(accuracy)
    error = np.clip(1 - accuracy, 0.5 / images, 1.0)
    return np.asarray((1 - error) / (error * images), dtype=np.float64)
