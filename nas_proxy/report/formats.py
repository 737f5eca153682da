"""Numbers as a reader sees them: a value in, text out; what is not known reads as "–"."""

import math

from nas_proxy.ranking.intervals import Interval

UNDEFINED = "–"


def known(value: float | None) -> bool:
    """Return whether there is a number."""
    return value is not None and math.isfinite(value)


def finite(cell: object) -> float | None:
    """Return what stands in a cell of a table as a finite number; None where it is none."""
    try:
        value = float(str(cell))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def number(cell: object) -> str:
    """Return a cell of a table, "12.34", with three significant digits."""
    value = finite(cell)
    return UNDEFINED if value is None else f"{value:.3g}"


def decimal(value: float | None, digits: int = 2, *, sign: bool = False) -> str:
    """Return 0.914 as "0.91", −0.01 with a true minus sign."""
    if value is None or not math.isfinite(value):
        return UNDEFINED
    text = f"{value:+z.{digits}f}" if sign else f"{value:z.{digits}f}"
    return text.replace("-", "−")


def percent(value: float | None) -> str:
    """Return the fraction 0.979 as "97.90 %"."""
    return UNDEFINED if value is None or not known(value) else f"{decimal(100 * value)} %"


def score(value: float | None, by: str = "accuracy") -> str:
    """Return a score of a training, higher for better: an accuracy as percent, a negated sum of losses as it is."""
    return decimal(value) if by == "loss_sum" else percent(value)


def points(value: float | None) -> str:
    """Return a difference of two fractions, 0.004, as "0.40 pp" (percentage points)."""
    if value is None or not known(value):
        return UNDEFINED
    return f"{decimal(100 * value, 2 if abs(value) < 0.1 else 1)} pp"


def interval(estimate: Interval, *, sign: bool = False) -> str:
    """Return an estimate as "0.91 [0.84, 0.95]"."""
    if estimate.value is None:
        return UNDEFINED
    return f"{decimal(estimate.value, sign=sign)} [{decimal(estimate.low)}, {decimal(estimate.high)}]"


def count(value: float | None) -> str:
    """Return 240000 as "240k", 1.2 million as "1.2M"."""
    if value is None or not known(value):
        return UNDEFINED
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            text = decimal(value / unit, _digits(value / unit))
            return text.removesuffix(".0") + suffix
    return f"{value:.3g}"


def _digits(number: float) -> int:
    """Two significant digits are enough of a cost."""
    return 1 if abs(number) < 10 else 0


def size(value: float | None) -> str:
    """Return a number of bytes, 6400, as "6.4 kB"."""
    text = count(value)
    if text == UNDEFINED:
        return text
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def duration(seconds: float | None) -> str:
    """Return seconds as "3 ms", "12.3 s", "4.1 min", "2.5 h" or "12 d"."""
    if seconds is None or not known(seconds):
        return UNDEFINED
    if 0 < abs(seconds) < 0.1:
        return f"{1000 * seconds:.2g} ms" if abs(seconds) >= 0.001 else "< 1 ms"
    for unit, suffix in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= unit:
            return f"{seconds / unit:.{_digits(seconds / unit)}f} {suffix}"
    return f"{seconds:.3g} s" if abs(seconds) >= 10 else f"{seconds:.2g} s"


def faster(factor: float) -> str:
    """Return 3.6 as "3.6 times faster", 0.5 as "2.0 times slower", and of nothing "slower beyond measure"."""
    if factor <= 0:
        return "slower beyond measure"
    return f"{decimal(max(factor, 1 / factor), 1)} times {'faster' if factor >= 1 else 'slower'}"


def architectures(number: int | None) -> str:
    """Return "24 architectures", "1 architecture"."""
    if number is None:
        return "an unknown number of architectures"
    return f"{number:,} architecture{'' if number == 1 else 's'}"


def one_line(text: str) -> str:
    """Return a text without breaks and runs of blanks."""
    return " ".join(text.split())
