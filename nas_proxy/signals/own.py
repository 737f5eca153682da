"""Scores of the user's own, by the names that signals have on the command line.

    table:FILE:COLUMN     a column of a CSV, JSON or Parquet file with a row an architecture, keyed as truth tables are
    FILE.py:FUNCTION      score(network, images) -> float, of an untrained network and a few training images

Both are higher for better, have a row of the table like every other score, and take part in the search. In tables and
files they are called by their column or function. No module of PyTorch's is needed to read names; the function runs
in worker processes, as all code of the user's does.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from nas_proxy.errors import CodeChangedError, DataError, SpaceError, nearest
from nas_proxy.names import CALIBRATED, COMBINED, LABELS, ZERO_COST
from nas_proxy.spaces.code_digest import code_digest

TABLE = "table:"
_FUNCTION = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
# A column of scores.csv of ours: of a signal, its variants and its draws, such as dm+space and random_0.
_OURS = re.compile(rf"({'|'.join(LABELS.keys() - {*ZERO_COST, CALIBRATED, COMBINED})})([@+].*)?(_\d+)?|key")


def is_own(name: str) -> bool:
    """Return whether a name is of a score of the user's own."""
    return name.startswith(TABLE) or _FUNCTION.fullmatch(name) is not None


def is_function(name: str) -> bool:
    """Return whether it is a function, which is computed, rather than a table, which is looked up."""
    return not name.startswith(TABLE)


def place_of(name: str) -> tuple[Path, str]:
    """Return the file and the column or function that an own score's name is made of."""
    if (found := _FUNCTION.fullmatch(name)) and is_function(name):
        return Path(found["file"]), found["name"]
    file, _, column = name.removeprefix(TABLE).rpartition(":")
    return Path(file), column


def absolute(name: str, absolute_path: Callable[[str], str]) -> str:
    """Return the name with the path in it made absolute; other names, and those that are a mistake, stay."""
    if not is_own(name) or mistake(name) is not None:
        return name
    file, inner = place_of(name)
    return f"{'' if is_function(name) else TABLE}{absolute_path(str(file))}:{inner}"


def moved(name: str, file: Path) -> str:
    """Return the name of the same function where its file is `file`."""
    return absolute(name, lambda _: str(file))


def row_of(name: str) -> str:
    """Return what a signal is called in tables and files: an own score by its column or function."""
    return re.sub(r"[^\w.@+-]", "_", place_of(name)[1]) if is_own(name) else name


def mistake(name: str) -> str | None:
    """Return what is wrong with the name of an own score, whether or not there is such a file; None for nothing."""
    file, inner = place_of(name)
    if not inner or not str(file).strip(".") or (not is_function(name) and ":" not in name.removeprefix(TABLE)):
        return f"{name!r}; name a file and a column of it, as in table:scores.csv:naswot"
    ours = "the name of another signal" if row_of(name) in LABELS else "a column of scores.csv already"
    if row_of(name) in LABELS or _OURS.fullmatch(row_of(name)):
        kind = "function" if is_function(name) else "column"
        return f"{name!r}, but {row_of(name)!r} is {ours}; rename the {kind}"
    return None


def fingerprint(name: str) -> str:
    """Return what tells the code of an own function, with what it imports from beside its file, from other code."""
    return code_digest(place_of(name)[0].resolve())


def check_unchanged(name: str, code: str, file: Path | None = None) -> None:
    """Raise CodeChangedError where the code of an own function is not that of the fingerprint, or is gone.

    file: where it is looked for, if not where the name says.
    """
    try:
        same = fingerprint(name if file is None else moved(name, file)) == code
    except OSError:
        same = False
    if not same:
        raise CodeChangedError(
            f"the code of the score {name} has changed since the command began, and scores are kept as those of what "
            "it was; run the same command again: scores of the new code are then computed, and those of the old kept"
        )


def looked_up(name: str) -> Mapping[str, float]:
    """Return the numbers of a table's column, by key; what is no finite number is left out.

    Raises DataError for a file that cannot be read, and for a column that is not there.
    """
    from nas_proxy.ranking.table_files import number_of, read_table

    path, column = place_of(name)
    keys, frame = read_table(path, "table of scores")
    if column not in frame:
        known = [str(other) for other in frame.columns]
        raise DataError(f"the table of scores {path} has no column {column!r}{nearest(column, known)}")
    if len(set(keys)) < len(keys):
        twice, _ = Counter(keys).most_common(1)[0]
        raise DataError(f"the table of scores {path} has several rows of {twice!r}; keep one of them")
    found = {key: number_of(value) for key, value in zip(keys, frame[column], strict=True)}
    return {key: value for key, value in found.items() if value is not None and not math.isnan(value)}


def function(name: str) -> Callable[..., float]:
    """Return the function of an own score. Raises SpaceError where the file defines none of that name."""
    from nas_proxy.spaces.modules import at_home, imported

    path, inner = place_of(name)
    found = getattr(imported(path), inner, None)
    if not callable(found):
        raise SpaceError(f"{path} defines no function {inner!r}; it must be {inner}(network, images) -> float")
    called: Callable[..., float] = at_home(path, found)
    return called
