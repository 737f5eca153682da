"""Tables in CSV, JSON and Parquet files: keys, and the other columns as they stand in the file.

Guarantees: nothing is unpickled; a column or a row that is there twice, and a row that contradicts its own place, are
refused with a sentence, where readers would silently take one of them.
"""

from __future__ import annotations

import json
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nas_proxy.errors import DataError

KEYS = ("key", "arch_str", "arch", "architecture", "code")
READABLE = frozenset({".csv", ".json", ".parquet"})
PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".pbz2", ".npy", ".npz"})


def read_table(path: Path, what: str = "truth table") -> tuple[list[str], pd.DataFrame]:
    """Return the keys of the rows, and their other columns as they stand in the file; `what` it is called in errors."""
    kind = path.suffix.lower()
    if kind in PICKLES:
        raise DataError(
            f"the {what} {path} is a file that can run code when it is loaded, so it is not; "
            "write the numbers as CSV, JSON or Parquet"
        )
    if kind not in READABLE:
        raise DataError(f"the {what} {path} ends in {kind or 'nothing'}; it must be .csv, .json or .parquet")
    try:
        frame = {".csv": _read_csv, ".json": _read_json, ".parquet": _read_parquet}[kind](path)
    except ImportError:
        raise DataError(f"reading {path} needs pyarrow; install it with: pip install -e '.[parquet]'") from None
    except (OSError, ValueError, RecursionError, pd.errors.ParserWarning) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"the {what} {path} cannot be read ({reason}); mend or replace it") from None
    twice = [str(name) for name in frame.columns[frame.columns.duplicated()]]
    if twice:
        raise DataError(f"the {what} {path} has two columns that are called {twice[0]!r}; rename one of them")
    column = next((name for name in KEYS if name in frame), None)
    if column is None:
        raise DataError(
            f"the {what} {path} has no column of keys; call one of its columns "
            f"({', '.join(map(str, frame.columns)) or 'it has none'}) {KEYS[0]}"
        )
    return [str(key) for key in frame.pop(column)], frame


def _read_csv(path: Path) -> pd.DataFrame:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # a row that is too long is a damaged file
        # As text: the code 00000100 is no number. A row that is too short has NaN where it ends. The names are read as
        # a row, since pandas renames one that comes twice.
        frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, header=None, encoding="utf-8-sig")
    frame.columns = pd.Index([str(name) for name in frame.iloc[0]])
    return frame.iloc[1:].reset_index(drop=True)


def _read_parquet(path: Path) -> pd.DataFrame:
    frame = pd.read_parquet(path, engine="pyarrow")
    return frame if frame.index.name is None else frame.reset_index()


def _read_json(path: Path) -> pd.DataFrame:
    found = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_once)
    if isinstance(found, dict):
        rows = {key: row if isinstance(row, dict) else {"accuracy": row} for key, row in found.items()}
        for key, row in rows.items():
            own = [name for name in KEYS if isinstance(row.get(name), str) and row[name] != key]
            if own and (own[0] == KEYS[0] or row[own[0]] in rows):
                raise ValueError(f"the row of {key!r} says of itself that it is that of {row[own[0]]!r}")
        return pd.DataFrame([{**row, KEYS[0]: key} for key, row in rows.items()])
    if isinstance(found, list) and all(isinstance(row, dict) for row in found):
        return pd.DataFrame(found)
    raise ValueError("it is neither an object from keys to rows nor a list of rows")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object that names nothing twice, which Python would read as if the last one counted."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = Counter(name for name, _ in pairs)
        raise ValueError(f"it lists {names.most_common(1)[0][0]!r} twice")
    return found


def number_of(cell: object) -> float | None:
    """Return a cell as a number, NaN where it is empty, None where it is anything else."""
    if cell is None or cell == "" or (isinstance(cell, float) and math.isnan(cell)):
        return math.nan
    if isinstance(cell, bool) or not isinstance(cell, str | int | float | np.number):
        return None
    if isinstance(cell, str) and ("_" in cell or not cell.isascii()):  # which Python reads: 5_5 as 55
        return None
    try:
        number = float(cell)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
