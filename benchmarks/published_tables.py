"""Tables of published accuracies and scores as tasks for a search: files in, a pool of architectures out.

Any CSV, JSON or Parquet file whose rows have a key (`key`, `arch_str`, `arch`, `architecture` or `code`); JSON may be
an object from keys to rows, as NAS-Bench-Macro publishes it. What may not be known before training never becomes a
score: columns of the truth, and from the file of the truth itself all but `flops` and `params`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nas_proxy.errors import DataError, SpaceError
from nas_proxy.ranking.encoding import encode
from nas_proxy.ranking.truth_table import KEYS
from nas_proxy.seeds import numpy_generator
from search_spaces import nas_bench_201

Floats = NDArray[np.float64]
FREE = ("flops", "params")
MISLEADING = ("", "noise", "reversed")


@dataclass(frozen=True, eq=False)
class Task:
    """A pool of n architectures with all their accuracies.

    truth: (n,) fractions. scores: (n, s), named. mid: (n,) fractions after a cheap training, None without one.
    share: of a full training that it takes. architectures: what was chosen, by the name of the choice.
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


def load_task(name: str, table: str, scores: Path | None = None, mid: str | None = None, cheapest: float = 1.0) -> Task:
    """Return the task of FILE:COLUMN, a file of scores and FILE:COLUMN:SHARE; rows that lack any are left out.

    cheapest: the part of smallest `flops` that is kept. Raises DataError for what is missing.
    """
    path, column = split(table)
    truth = _numbers(_read(path), column, path)
    frame = pd.DataFrame({"truth": truth[np.isfinite(truth)]})
    known = _scores(scores, path, column)
    frame = frame.join(known, how="inner" if len(known.columns) else "left")
    share = 0.0
    if mid:
        spec, _, text = mid.rpartition(":")
        mid_path, mid_column = split(spec)
        share = float(text)
        frame = frame.drop(columns=[mid_column], errors="ignore").join(
            _numbers(_read(mid_path), mid_column, mid_path).rename("mid")
        )
        frame = frame[np.isfinite(frame["mid"])]
    if cheapest < 1:
        if "flops" not in frame:
            raise DataError(f"--cheapest needs a column flops among the scores of {path}")
        frame = frame.sort_values("flops", kind="stable").head(round(cheapest * len(frame)))
    if len(frame) < 2:
        raise DataError(f"{path} and its scores have {len(frame)} architectures in common; a search needs 2")
    names = tuple(str(c) for c in frame.columns if c not in {"truth", "mid"})
    keys = tuple(map(str, frame.index))
    architectures = tuple(parse(keys))
    return Task(
        name, keys, _fractions(frame["truth"]), frame[list(names)].to_numpy(float), names,
        _fractions(frame["mid"]) if mid else None, share, architectures, encode(architectures),
    )  # fmt: skip


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

    Words and letters are choices by their place.
    """
    try:
        return [{n: str(v) for n, v in nas_bench_201.parse(key).items()} for key in keys]
    except SpaceError:
        pass
    pairs = [dict(part.split("=", 1) for part in key.split(",") if "=" in part) for key in keys]
    if all(pairs):
        return list(pairs)
    words = [re.findall(r"\w+", key) for key in keys]
    if all(len(found) == 1 for found in words):  # a code of digits, such as those of NAS-Bench-Macro
        words = [list(found[0]) for found in words]
    return [{f"place{i}": word for i, word in enumerate(found)} for found in words]


def _scores(path: Path | None, of_truth: Path, column: str) -> pd.DataFrame:
    source = of_truth if path is None else path
    frame = _read(source)
    if source.resolve() == of_truth.resolve():
        frame = frame[[name for name in FREE if name in frame]]
    frame = frame.drop(columns=[column, "index"], errors="ignore")
    frame = frame.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    return frame.loc[:, frame.notna().any() & (frame.nunique() > 1)]


def _read(path: Path) -> pd.DataFrame:
    """Return the rows of a file, by their keys."""
    if not path.exists():
        raise DataError(f"{path} does not exist; give a CSV, JSON or Parquet file")
    kind = path.suffix.lower()
    if kind == ".json":
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            found = [{"key": k, **(row if isinstance(row, dict) else {"accuracy": row})} for k, row in found.items()]
        frame = pd.DataFrame(found)
    elif kind == ".parquet":
        frame = pd.read_parquet(path).reset_index()
    else:
        frame = pd.read_csv(path, dtype=dict.fromkeys(KEYS, str))
    key = next((name for name in KEYS if name in frame), None)
    if key is None:
        raise DataError(f"{path} has no column of keys; call one of {', '.join(map(str, frame.columns))} key")
    return frame.drop_duplicates(key).set_index(key)


def _numbers(frame: pd.DataFrame, column: str, path: Path) -> "pd.Series[float]":
    """Return a column; of lists, such as the seeds of NAS-Bench-Macro, their means."""
    column = column or next((c for c in ("mean_acc", "test_acc", "accuracy") if c in frame), "")
    if column not in frame:
        raise DataError(f"{path} has no column {column!r}; it has {', '.join(map(str, frame.columns))}")
    values = [float(np.mean(v)) if isinstance(v, list | np.ndarray) else v for v in frame[column]]
    return pd.to_numeric(pd.Series(values, index=frame.index), errors="coerce")


def _fractions(column: "pd.Series[float]") -> Floats:
    values = column.to_numpy(float)
    return values / 100 if values.max() > 1 else values
