"""Computed scores that are kept: a line of JSON a score, added as soon as it is there, so that a kill costs one.

The first line says of which data and space they are; scores of others are no use, and the file begins anew. A line that
was cut off half-way counts as not there. Folders of earlier versions have one object, `computed.json`, which is read
where there are no lines. No module of PyTorch's is needed.
"""

import contextlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nas_proxy.untrusted import checked, read_json, safe

NAME, BEFORE = "computed.jsonl", "computed.json"


@dataclass(frozen=True)
class KeptScore:
    """A score; value: None where there is none, for `reason`. traits: what a score that is a rank is made of."""

    signal: str
    key: str
    value: float | None = None
    seconds: float = 0.0
    reason: str | None = None
    traits: tuple[float, ...] = ()


@dataclass(frozen=True)
class _Column:
    of: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Before:
    scores: Mapping[str, _Column] = field(default_factory=dict)


class ScoreFile:
    """The scores of one run or comparison, of the data and the space that `stamp` names; None reads those of any."""

    def __init__(self, folder: Path, stamp: Mapping[str, str] | None = None) -> None:
        self._path = folder / NAME
        self._stamp = None if stamp is None else dict(stamp)
        self._same = False
        self._known: dict[str, dict[str, KeptScore]] = {}
        for score in self._read() if self._path.exists() else self._of_before(folder):
            self._known.setdefault(score.signal, {})[score.key] = score

    def of(self, signal: str) -> Mapping[str, KeptScore]:
        """Return the scores by one signal, by key, in the order in which they came."""
        return self._known.get(signal, {})

    def last_of(self, signal: str) -> Mapping[str, KeptScore]:
        """Return the scores by an own function as its file was when it was last computed; see `score_name`."""
        names = [name for name in self._known if name.partition("#")[0] == signal]
        return self.of(names[-1]) if names else {}

    def add(self, score: KeptScore) -> None:
        """Keep a score."""
        scores = [score]
        if not self._same:  # none yet, or of other data, or cut off: written anew
            self._path.unlink(missing_ok=True)
            scores = [*(kept for of in self._known.values() for kept in of.values()), score]
        lines = [] if self._same else [json.dumps(self._stamp)]
        with self._path.open("a", encoding="utf-8") as file:
            file.write("\n".join([*lines, *map(_line, scores)]) + "\n")
        self._same = True
        self._known.setdefault(score.signal, {})[score.key] = score

    def _read(self) -> Iterator[KeptScore]:
        stamp, *lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        try:
            self._same = self._stamp is None or json.loads(stamp) == self._stamp
        except ValueError:
            self._same = False
        if not self._same:
            return
        if lines and lines[-1]:  # cut off
            self._same = False  # is written anew with the next score
        for line in lines:
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
                yield _read_line(line)

    def _of_before(self, folder: Path) -> Iterator[KeptScore]:
        try:
            told = read_json(folder / BEFORE)
            columns = checked(_Before, told).scores
        except (FileNotFoundError, ValueError):
            return
        if self._stamp is not None and any(told.get(name) != value for name, value in self._stamp.items()):
            return
        for signal, column in columns.items():
            for key, row in column.of.items():
                value, seconds, reason = (*row, None, None, None)[:3]
                yield KeptScore(signal, key, value, float(seconds or 0), str(reason) if reason else None)


def _line(score: KeptScore) -> str:
    return json.dumps({name: value for name, value in vars(score).items() if value is not None and value != ()})


def _read_line(line: str) -> KeptScore:
    told = json.loads(line)
    value, reason = told.get("value"), told.get("reason")
    found = KeptScore(
        safe(str(told["signal"])),
        safe(str(told["key"])),
        None if value is None else float(value),
        float(told.get("seconds", 0.0)),
        None if reason is None else safe(str(reason)),
        tuple(map(float, told.get("traits", ()))),
    )
    if not math.isfinite(found.value or 0.0) or not math.isfinite(found.seconds) or any(map(math.isnan, found.traits)):
        raise ValueError("it is not finite")  # of traits minus infinity is the lowest of all
    return found
