"""Published accuracies instead of full training: a table file and a search space in, a ground truth out.

    --truth-table nas_bench_201.csv:cifar10_valid_200ep
    --truth-table nas-bench-macro_cifar10.json
    --truth-table mine.parquet:seed1,seed2
    --truth-table nats:NATS-tss-v1_0-3ffb9-simple:cifar10-valid --allow-pickle

CSV and Parquet: a row an architecture; its key, or published name, in the column `key`, `arch_str`, `arch`,
`architecture` or `code`. JSON: an object from keys to rows, as NAS-Bench-Macro publishes it, or to numbers; or a list
of rows. The accuracy is a column, and several columns, or a list of numbers in one, are seeds of full training. Where
none is named it is `test_acc`, `accuracy_0`, `accuracy_1`, …, or `accuracy`, or the only column of numbers if its name
is not that of something else, such as `epochs`.
The files of NATS-Bench are read by `nats.py`. Guarantees: every row belongs to the space, no architecture occurs twice,
accuracies come out as fractions, and no file is unpickled without the user's consent.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from torch import nn

from nas_proxy.data.images import DataShape
from nas_proxy.errors import DataError, SpaceError, nearest
from nas_proxy.ranking.intervals import Floats
from nas_proxy.ranking.nats_bench import PREFIX, read_nats
from nas_proxy.ranking.repeatability import isomorphic_of
from nas_proxy.ranking.table_files import READABLE, number_of, read_table
from nas_proxy.spaces.space import ENUMERABLE, TOGETHER, Architecture, SearchSpace, Space, chunks
from nas_proxy.untrusted import safe


@dataclass(frozen=True)
class TruthTable:
    """Accuracies of full training that somebody else did.

    path: the file. columns: where in it the accuracies stand.
    scores: fractions; index: the architecture's key; columns 0, 1, …: a seed each.
    remarks: what was done to the file's numbers, for the user to read.
    fingerprint: changes with the architectures and their accuracies, and with nothing else.
    isomorphic: where the truth has one seed, the accuracies of each function that several rows of the file compute,
        those that the space's `valid` leaves out included.
    """

    path: Path
    columns: tuple[str, ...]
    scores: pd.DataFrame
    remarks: tuple[str, ...]
    fingerprint: str
    isomorphic: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, eq=False)
class KnownPart:
    """The architectures of `whole` that `keys` names, as a search space; they keep the order of its stream."""

    whole: SearchSpace
    keys: frozenset[str]

    @property
    def name(self) -> str:
        """The name of the whole space."""
        return self.whole.name

    @property
    def size(self) -> int:
        """The number of architectures in the table."""
        return len(self.keys)

    def key(self, architecture: Architecture) -> str:
        """Return the canonical name."""
        return self.whole.key(architecture)

    def sample(self, seed: int) -> Iterator[Architecture]:
        """Yield the architectures that are named, in the order of the whole space's own stream."""
        return (a for a in self.whole.sample(seed) if self.key(a) in self.keys)

    def suggest(self, trial: optuna.trial.BaseTrial) -> Architecture | None:
        """Let an Optuna trial choose; None when it chose one that is not named."""
        architecture = self.whole.suggest(trial)
        return architecture if architecture is not None and self.key(architecture) in self.keys else None

    def build(self, architecture: Architecture, shape: DataShape) -> nn.Module:
        """Return a freshly initialised network."""
        return self.whole.build(architecture, shape)


def load_truth_table(spec: str, space: SearchSpace, classes: int, *, allow_pickle: bool = False) -> TruthTable:
    """Return the table FILE or FILE:COLUMN,… for a space whose data has so many classes.

    allow_pickle: whether files that can run code may be loaded, which only those of NATS-Bench are.
    Rows that lack an accuracy, and rows that the space leaves out by its `valid`, are left out.
    Raises DataError for a table that cannot be used, SpaceError for a space whose keys cannot be listed.
    """
    of_nats = spec.startswith(PREFIX)
    path, wanted = (Path(), "") if of_nats else _split(spec)
    names = _names(space)
    if of_nats:
        path, keys, frame = read_nats(spec, allow_pickle=allow_pickle)
    else:
        keys, frame = read_table(path)
    _check_keys(path, keys, names, space.name)
    columns = tuple(map(str, frame)) if of_nats else _columns(path, frame, wanted)
    scores = pd.DataFrame(_numbers(path, frame, columns, keys), index=pd.Index(keys, name="key"))
    missing = scores.isna().any(axis=1)
    known = scores[~missing]
    scores = scores[~missing & np.array([names[key] for key in keys], dtype=bool)]
    if scores.empty:
        raise DataError(f"the truth table {path} has no accuracy in {_named(columns)}; name another column")
    percent = _are_percentages(path, scores, columns, classes)
    scores = scores / 100 if percent else scores
    remarks = [f"{len(scores):,} architectures have a truth, {_named(columns)} of {path.name}"]
    remarks += ["its percentages are divided by 100"] if percent else []
    remarks += [f"{int(missing.sum()):,} rows without an accuracy are left out"] if missing.any() else []
    isomorphic = _isomorphic(space, known / 100 if percent else known)
    return TruthTable(path, columns, scores, tuple(remarks), _fingerprint(scores), isomorphic)


def known_part(space: SearchSpace, table: TruthTable) -> KnownPart:
    """Return the architectures of `space` that the table holds, as a search space."""
    return KnownPart(space, frozenset(table.scores.index))


def _split(spec: str) -> tuple[Path, str]:
    """Return the file and the columns, "" for none; a file whose name holds a colon is a file."""
    named, colon, columns = spec.rpartition(":")
    whole = not colon or Path(spec).exists() or not (Path(named).exists() or Path(named).suffix.lower() in READABLE)
    path = Path(spec if whole else named)
    if path.is_dir():
        raise DataError(f"the truth table {path} is a folder; give a CSV, JSON or Parquet file")
    if not path.exists():
        raise DataError(f"the truth table {path} does not exist; give a CSV, JSON or Parquet file, as FILE:COLUMN")
    return path, "" if whole else columns


# What a number that is no accuracy is called.
_NO_ACCURACY = frozenset(
    [
        *("batch", "batches", "cost", "costs", "count", "date", "day", "days", "depth"),
        *("duration", "energy", "epoch", "epochs", "err", "error", "errors", "flop", "flops"),
        *("hour", "hours", "id", "index", "iteration", "iterations", "latency", "lr", "loss"),
        *("losses", "mac", "macs", "memory", "minute", "minutes", "ms", "num", "number"),
        *("param", "parameters", "params", "rank", "sec", "second", "seconds", "seed", "seeds"),
        *("size", "step", "steps", "time", "times", "version", "width", "year"),
    ]
)


def _names(space: SearchSpace) -> dict[str, bool]:
    """Return every key of the space, and whether its `valid` accepts the architecture."""
    if not isinstance(space, Space) or space.choices.size > ENUMERABLE:
        raise SpaceError(
            f"the space {space.name} cannot list its architectures, which a truth table needs; "
            f"a nas_proxy.Space of at most {ENUMERABLE:,} would work"
        )
    found: dict[str, bool] = {}
    for some in chunks(space.choices.outcomes(), TOGETHER):
        found |= zip(space.keys(some), space.are_valid(some), strict=True)
    return found


def _isomorphic(space: SearchSpace, scores: pd.DataFrame) -> tuple[tuple[float, ...], ...]:
    if not isinstance(space, Space) or len(scores.columns) > 1:
        return ()
    return isomorphic_of(space, dict(zip(scores.index, scores[0], strict=True)))


def _check_keys(path: Path, keys: Sequence[str], names: Mapping[str, bool], space: str) -> None:
    """Raise where a key is not of the space, or occurs twice."""
    unknown = [key for key in keys if key not in names]
    if unknown:
        raise DataError(
            f"the truth table {path} has {len(unknown):,} of {len(keys):,} rows that are not in the space {space}, "
            f"the first {unknown[0]!r}; a key of it looks like {next(iter(names))!r}"
        )
    if len(set(keys)) < len(keys):
        key, times = Counter(keys).most_common(1)[0]
        raise DataError(f"the truth table {path} lists {key!r} {times} times; keep one row of it")


def _columns(path: Path, frame: pd.DataFrame, wanted: str) -> tuple[str, ...]:
    """Return the columns of the truth: those that are named, or those that can be meant."""
    known = [str(name) for name in frame.columns]
    if wanted:
        named = [wanted] if wanted in known else wanted.split(",")
        if unknown := [name for name in named if name not in known]:
            shown = map(_shown, known)
            raise DataError(f"the truth table {path} has no column {unknown[0]!r}{nearest(unknown[0], shown)}")
        if len(set(named)) < len(named):
            raise DataError(f"the columns {wanted} of the truth table {path} name one twice; name each seed once")
        return tuple(named)
    for found in (["test_acc"], [name for name in known if re.fullmatch(r"accuracy_\d+", name)], ["accuracy"]):
        if found and set(found) <= set(known):
            return tuple(found)
    numbers = [name for name in known if any(_is_number(cell) for cell in frame[name])]
    if len(numbers) == 1 and not _NO_ACCURACY & set(re.findall("[a-z]+", numbers[0].lower())):
        return (numbers[0],)
    how_many = {0: "no column", 1: "one column"}.get(len(numbers), "several columns")
    shown = map(_shown, numbers or known)
    raise DataError(
        f"the truth table {path} has {how_many} of numbers{', which may be no accuracies' * (len(numbers) == 1)}; "
        f"name the accuracy as {path.name}:COLUMN, with a column of: {', '.join(shown) or 'none'}"
    )


def _shown(name: str) -> str:
    """Return the name of a column as it stands in a sentence: on one line."""
    return " ".join(safe(name).split())


def _numbers(path: Path, frame: pd.DataFrame, columns: Sequence[str], keys: Sequence[str]) -> Floats:
    """Return the accuracies as they stand in the file, (rows, seeds), NaN where there is none."""
    seeds = [_seeds(path, frame[name], name, keys) for name in columns]
    return np.concatenate(seeds, axis=1)


def _seeds(path: Path, column: pd.Series[Any], name: str, keys: Sequence[str]) -> Floats:
    """Return the seeds in one column: a list in each row, or a number in each."""
    rows = [list(cell) if isinstance(cell, list | np.ndarray) else [cell] for cell in column]
    width = len(rows[0]) if rows else 1
    if not width or any(len(row) != width for row in rows):
        raise DataError(
            f"the truth table {path} has rows with different numbers of seeds in {name!r}; "
            "give every architecture as many"
        )
    values = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        for seed, cell in enumerate(row):
            number = number_of(cell)
            if number is None:
                raise DataError(
                    f"the truth table {path} has {_short(cell)} in {name!r} for {keys[index]!r}; "
                    "an accuracy is a number"
                )
            values[index, seed] = number
    return values


def _is_number(cell: object) -> bool:
    return (number := number_of(cell)) is not None and not math.isnan(number)


def _short(cell: object) -> str:
    text = repr(cell)
    return text if len(text) <= 40 else text[:39] + "…"


def _are_percentages(path: Path, scores: pd.DataFrame, columns: Sequence[str], classes: int) -> bool:
    """Return whether accuracies are percentages rather than fractions. Raises where they are neither, or both.

    Among percentages, one far below chance can only be a fraction.
    """
    lowest, highest = (getattr(scores, side)(axis=1) for side in ("min", "max"))
    for side, key in ((lowest, lowest.idxmin()), (highest, highest.idxmax())):
        if not 0 <= side[key] <= 100:
            raise DataError(
                f"the truth table {path} has {side[key]:g} in {_named(columns)} for {key!r}; "
                "an accuracy is a fraction from 0 to 1 or a percentage up to 100"
            )
    if highest.max() <= 1:
        return False
    small = scores[(scores > 0) & (scores <= min(1.0, 50 / classes))].min(axis=1)
    if small.notna().any():
        raise DataError(
            f"the truth table {path} mixes percentages and fractions in {_named(columns)}: "
            f"{highest.max():g} for {highest.idxmax()!r}, {small.min():g} for {small.idxmin()!r}; use one of them"
        )
    return True


def _named(columns: Sequence[str]) -> str:
    return ", ".join(columns)


def _fingerprint(scores: pd.DataFrame) -> str:
    ordered = scores.sort_index()
    rows = zip(ordered.index, ordered.to_numpy().tolist(), strict=True)
    return hashlib.sha256("\n".join(f"{key}\t{values}" for key, values in rows).encode()).hexdigest()[:16]
