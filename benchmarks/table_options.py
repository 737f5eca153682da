"""Options of the benchmarks on tables: which tables, and numbers that make sense; a mistake ends them with exit code 2.

In: an `argparse` parser. Out: the same with options, whose values have been checked before any work.
"""

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from nas_proxy.errors import DataError

# Where the published tables are looked for if nobody says: beside the checkout.
BESIDE = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"


def add_tables(parser: argparse.ArgumentParser) -> None:
    """Add the options of what is searched: a table of one's own, or the published ones."""
    parser.add_argument("--table", help="FILE:COLUMN of the truth; without it, the published tables")
    parser.add_argument("--scores", type=Path, help="file of scores, larger for better, keyed like the table")
    parser.add_argument("--mid", help="FILE:COLUMN:SHARE of a cheap training, and its share of a full one")
    parser.add_argument(
        "--cheapest", type=number(0, 1), default=1.0, metavar="PART", help="part of the table that is kept, by flops"
    )
    parser.add_argument("--data", type=Path, help="folder of the published tables, needed without --table")
    parser.add_argument("--out", type=Path, help="file for the result, beside the last line")


def check(options: argparse.Namespace, *files: str) -> None:
    """Refuse options that do not go together, and folders in place of the `files` that are to be written."""
    if options.table is None:
        for name in ("scores", "mid", "cheapest"):
            if getattr(options, name) not in (None, 1.0):
                refuse(f"--{name} goes with --table FILE:COLUMN; the published tables have their own")
    for name in ("out", *files):
        path = getattr(options, name)
        if path is not None and path.is_dir():
            refuse(f"--{name} {path} is a folder; name a file in it")


def number(least: float, most: float, *, with_least: bool = False) -> Callable[[str], float]:
    """Return what reads a number above `least` and up to `most`, which may be infinite; a number itself never is."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not least <= value <= most or (value == least and not with_least):
            up_to = f" and up to {most:g}" if math.isfinite(most) else ""
            over = f"{least:g} or more" if with_least else f"above {least:g}"
            raise argparse.ArgumentTypeError(f"{text!r} is no number {over}{up_to}")
        return value

    return read


def count(least: int) -> Callable[[str], int]:
    """Return what reads a whole number from `least` on."""

    def read(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} on")
        return int(text)

    return read


def several(read: Callable[[str], float]) -> Callable[[str], list[float]]:
    """Return what reads such numbers with commas between."""
    return lambda text: [read(part) for part in text.split(",")]


def folder_of(data: Path | None) -> Path:
    """Return the folder of the published tables. Raises DataError where none is given, or where it does not exist."""
    if data is None and BESIDE.exists():
        return BESIDE
    if data is None:
        raise DataError("give the folder of the published tables with --data DIR, or a table with --table FILE:COLUMN")
    if not data.exists():
        raise DataError(f"{data} does not exist; give a table with --table FILE:COLUMN")
    return data


def refuse(sentence: object) -> NoReturn:
    """End with one sentence on stderr, and exit code 2."""
    print(sentence, file=sys.stderr)
    raise SystemExit(2)
