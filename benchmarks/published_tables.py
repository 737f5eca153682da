"""Tables of published accuracies and scores as tasks for a search: files in, a pool of architectures out.

Any CSV, JSON or Parquet file whose rows have a key (`key`, `arch_str`, `arch`, `architecture` or `code`); JSON may be
an object from keys to rows, as NAS-Bench-Macro publishes it. What may not be known before training never becomes a
score: columns of accuracies that are used, and from the file of the truth itself all but `flops` and `params`. What is
left out of the files is told on stderr and with the result.
"""

import math
import re
import sys
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas_proxy.errors import DataError, SpaceError
from nas_proxy.ranking.encoding import encode
from nas_proxy.ranking.table_files import number_of, read_table
from nas_proxy.seeds import numpy_generator
from search_spaces import nas_bench_201

Floats = NDArray[np.float64]
FREE = ("flops", "params")
ACCURACIES = ("mean_acc", "test_acc", "accuracy")
# By how much a fraction may exceed 1, and what part of percentages may be as small as fractions.
ROUNDED, FEW = 1e-6, 0.05
MISLEADING = ("", "noise", "reversed")


@dataclass(frozen=True, eq=False)
class Task:
    """A pool of n architectures with all their accuracies.

    truth: (n,) fractions. scores: (n, s), named. mid: (n,) fractions after a cheap training, None without one.
    share: of a full training that it takes. architectures: what was chosen, by the name of the choice, each another.
    remarks: what of the files is left out.
    """

    name: str
    keys: tuple[str, ...]
    truth: Floats
    scores: Floats
    names: tuple[str, ...]
    mid: Floats | None
    share: float
    architectures: tuple[Mapping[str, str], ...]
    encoding: Floats
    remarks: tuple[str, ...] = ()


def load_task(name: str, table: str, scores: Path | None = None, mid: str | None = None, cheapest: float = 1.0) -> Task:
    """Return the task of FILE:COLUMN, a file of scores and FILE:COLUMN:SHARE; rows that lack any are left out.

    cheapest: the part of smallest `flops` that is kept. Raises DataError for what is missing or cannot be.
    """
    rows, path, column = _opened(table, "table of accuracies")
    found, remarks = {"truth": _numbers(rows, column)}, list[str]()
    used, share = {column}, 0.0
    if mid is not None:
        spec, share = _spec_and_share(mid)
        of_mid, mid_path, mid_column = _opened(spec, "table of cheap trainings")
        found["mid"] = _numbers(of_mid, mid_column)
        used |= {mid_column}
    known = _scores(scores, path, rows, used, remarks)
    needed = {"accuracy": _known(found["truth"])}
    needed |= {"accuracy after cheap training": _known(found["mid"])} if mid is not None else {}
    needed |= {"row of scores": frozenset(known.index)} if len(known.columns) else {}
    keys = [key for key in rows.index if all(key in there for there in needed.values())]
    if len(keys) < len(rows):
        lacking = {what: sum(key not in there for key in rows.index) for what, there in needed.items()}
        why = "; ".join(f"no {what}: {n:,}" for what, n in lacking.items() if n)
        remarks.append(f"{len(rows) - len(keys):,} of {len(rows):,} rows of {path.name} are left out ({why})")
    if cheapest < 1:
        if "flops" not in known:
            raise DataError(f"--cheapest needs a column flops, and {scores or path} has none whose numbers differ")
        keys = [*known["flops"].loc[keys].sort_values(kind="stable").index[: round(cheapest * len(keys))]]
    if len(keys) < 2:
        raise DataError(f"{path} and what belongs to it have {len(keys)} architectures in common; a search needs 2")
    for remark in remarks:
        print(f"{name}: {remark}", file=sys.stderr, flush=True)
    architectures = tuple(parse(tuple(keys)))
    return Task(
        name=name,
        keys=tuple(keys),
        truth=_fractions(found["truth"].loc[keys], path, column),
        scores=known.loc[keys].to_numpy(float) if len(known.columns) else np.zeros((len(keys), 0)),
        names=tuple(map(str, known.columns)),
        mid=None if mid is None else _fractions(found["mid"].loc[keys], mid_path, mid_column),
        share=share,
        architectures=architectures,
        encoding=encode(architectures),
        remarks=tuple(remarks),
    )


def misled(task: Task, kind: str, seed: int) -> Task:
    """Return the task with every signal, the cheap training among them, shuffled ("noise") or reversed."""
    if not kind:
        return task
    if kind == "reversed":
        return replace(task, scores=-task.scores, mid=None if task.mid is None else 1 - task.mid)
    rng = numpy_generator(seed, "noise")
    shuffled = [rng.permutation(column) for column in task.scores.T]
    scores = np.stack(shuffled, axis=1) if shuffled else task.scores
    return replace(task, scores=scores, mid=None if task.mid is None else rng.permutation(task.mid))


def split(spec: str) -> tuple[Path, str]:
    """Return file and column of FILE:COLUMN; "" where there is no column."""
    file, colon, column = spec.rpartition(":")
    return (Path(file), column) if colon and not Path(spec).exists() else (Path(spec), "")


def parse(keys: Sequence[str]) -> list[Mapping[str, str]]:
    """Return what each key says was chosen: cells of NAS-Bench-201, else names and values, else words, else letters.

    Words and letters are choices by their place. What would make two keys one is not what they say.
    """
    try:
        return [{n: str(v) for n, v in nas_bench_201.parse(key).items()} for key in keys]
    except SpaceError:
        pass
    pairs = [dict(part.split("=", 1) for part in key.split(",") if "=" in part) for key in keys]
    if all(pairs) and _differ(pairs):
        return list(pairs)
    words = [re.findall(r"\w+", key) for key in keys]
    if all(len(found) == 1 for found in words):  # a code of digits, such as those of NAS-Bench-Macro
        words = [list(found[0]) for found in words]
    by_place = [{f"place{i}": word for i, word in enumerate(found)} for found in words]
    return list(by_place if _differ(by_place) else [{f"place{i}": c for i, c in enumerate(key)} for key in keys])


def _differ(architectures: Sequence[Mapping[str, str]]) -> bool:
    return len({frozenset(one.items()) for one in architectures}) == len(architectures)


def _known(column: "pd.Series[float]") -> frozenset[str]:
    return frozenset(column.index[np.isfinite(column)])


def _spec_and_share(mid: str) -> tuple[str, float]:
    spec, _, text = mid.rpartition(":")
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not spec or not 0 < share <= 1:
        raise DataError(f"--mid {mid} does not end in a share of a full training, above 0 and up to 1, as in :0.06")
    return spec, share


def _opened(spec: str, what: str) -> tuple[pd.DataFrame, Path, str]:
    """Return the rows of FILE:COLUMN by their keys, the file, and the column, which may be left to be found."""
    path, column = split(spec)
    rows = _read(path, what)
    column = column or next((name for name in ACCURACIES if name in rows), "")
    if column not in rows:
        said = f"no column {column!r}" if column else "no column of accuracies that is called as usual"
        raise DataError(f"{path} has {said}; name one of {', '.join(map(str, rows.columns))}, as in FILE:COLUMN")
    return rows, path, column


def _scores(
    path: Path | None, of_truth: Path, truth: pd.DataFrame, used: Collection[str], remarks: list[str]
) -> pd.DataFrame:
    """Return the scores: numbers of which there are two, by key; what is left out is remarked on.

    used: columns of accuracies, which are no scores in any file.
    """
    free = truth[[name for name in FREE if name in truth]]
    frame = free
    if path is not None and path.resolve() != of_truth.resolve():
        frame = _read(path, "table of scores")
        frame = frame.join(free[[name for name in free if name not in frame]])
    columns = {str(name): _numbers(frame, name) for name in frame if name not in used}
    kept = {name: values for name, values in columns.items() if values.nunique() > 1}
    if left := sorted(columns.keys() - kept.keys()):
        remarks.append(f"no scores, since they hold no two different numbers: {', '.join(left)}")
    return pd.DataFrame(kept, index=frame.index)


def _read(path: Path, what: str) -> pd.DataFrame:
    """Return the rows of a file, by their keys."""
    if not path.is_file():
        raise DataError(
            f"{path} {'is no file' if path.exists() else 'does not exist'}; give a CSV, JSON or Parquet file"
        )
    keys, frame = read_table(path, what)
    if unnamed := [number for number, key in enumerate(keys, 1) if key.strip() in {"", "nan", "None"}]:
        raise DataError(f"the {what} {path} has {len(unnamed)} rows without a key, the first is row {unnamed[0]}")
    if len(set(keys)) < len(keys):
        key, times = Counter(keys).most_common(1)[0]
        raise DataError(f"the {what} {path} lists {key!r} {times} times; keep one row of it")
    return frame.set_index(pd.Index(keys, name="key"))


def _numbers(frame: pd.DataFrame, column: str) -> "pd.Series[float]":
    """Return a column, NaN where there is no finite number; of lists, such as seeds, their means.

    An object with a "score", as NAS-Bench-Suite-Zero has it, is that score.
    """
    return pd.Series([_number(cell) for cell in frame[column]], index=frame.index, dtype=float)


def _number(cell: object) -> float:
    if isinstance(cell, list | tuple | np.ndarray):
        return float(np.mean([_number(one) for one in cell])) if len(cell) else math.nan
    if isinstance(cell, Mapping):
        return _number(cell.get("score"))
    found = number_of(cell)
    return math.nan if found is None else found


def _fractions(column: "pd.Series[float]", path: Path, name: str) -> Floats:
    """Return accuracies as fractions. Raises DataError for what is neither that nor a percentage, or both."""
    values = column.to_numpy(float)
    for value, key in ((values.min(), column.idxmin()), (values.max(), column.idxmax())):
        if not 0 <= value <= 100:
            raise DataError(
                f"{path} has {value:g} in {name} for {key!r}; an accuracy is a fraction from 0 to 1 or a percentage"
            )
    if values.max() <= 1 + ROUNDED:
        return np.minimum(values, 1.0)
    if (values[values > 0] <= 1).mean() > FEW:
        raise DataError(f"{path} mixes fractions and percentages in {name}; use one of them")
    return values / 100
