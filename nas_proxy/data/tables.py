"""Images listed in a table: `csv:labels.csv`, a row an image with its path and label, optionally its part and group.

In: a CSV file with the columns `path` (or file, filename, image, …) and `label` (or class, category, …), optionally
`split`; paths are relative to the file. `csv:labels.csv:group=patient` names a column of groups: images of one value
there stay on one side of every split. Out: the class names, a part for each split, and the groups of the train images.
Guarantees: nothing is decoded; every row counts or is refused; several labels an image, in one cell or in several rows,
and labels that are amounts, are refused by name; no file is on both sides of a split.
"""

import csv
import hashlib
import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nas_proxy.data.decoding import SUFFIXES
from nas_proxy.data.folders import Files, FolderPart
from nas_proxy.data.frame import Frame
from nas_proxy.data.listing import PARTS, shown
from nas_proxy.data.store import Say
from nas_proxy.errors import DataError, nearest

PATHS = ("path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "img", "img_path")
LABELS = ("label", "class", "category", "target", "y", "label_name", "class_name")
SPLITS = ("split", "part", "subset", "set", "fold")


@dataclass(frozen=True)
class Row:
    """An image of the table: its place, its label, its part and its group, "" for none."""

    path: Path
    label: str
    part: str
    group: str


@dataclass(frozen=True)
class Listed:
    """What a table says: classes, parts, and a number for the group of each train image, None without groups."""

    classes: tuple[str, ...]
    parts: Mapping[str, FolderPart]
    groups: Tensor | None


def open_table(
    path: Path, group: str | None, image_size: int | None, cache: Path, say: Say = lambda text: None
) -> Listed:
    """Return what the table lists. Raises DataError for one that cannot be used, with the row where there is one."""
    rows = _rows(path, group, say)
    of_part: dict[str, list[Row]] = {}
    for row in rows:
        of_part.setdefault(row.part, []).append(row)
    if "train" not in of_part:
        raise DataError(f"{path} has no rows of the part train; it has {', '.join(of_part)}")
    classes = tuple(sorted({row.label for row in of_part["train"]}, key=_in_order))
    if len(classes) == 1:
        raise DataError(f"{path} has only one class, {classes[0]!r}; two or more are needed")
    number = {name: label for label, name in enumerate(classes)}
    frame, parts = Frame(_files(of_part["train"])[0], image_size, say), {}
    for part, listed in of_part.items():
        unknown = next((row for row in listed if row.label not in number), None)
        if unknown is not None:
            raise DataError(f"{path} has the class {unknown.label!r} in {part}, which train lacks")
        files, labels = _files(listed)
        digest = hashlib.sha256(f"{path.resolve()} {part} {image_size}".encode()).hexdigest()[:16]
        place = cache / "folders" / f"{path.stem}-{digest}"
        name = f"{path}, {part}" if len(of_part) > 1 else str(path)
        own = frame if part == "train" else Frame(files, image_size, say, frame)
        own.check_size()
        parts[part] = FolderPart(name, files, tuple(number[label] for label in labels), own, place, say)
    return Listed(classes, parts, None if group is None else _groups(path, of_part, group, say))


def _rows(path: Path, group: str | None, say: Say) -> list[Row]:
    header, lines = _lines(path)
    columns = {name.strip().casefold(): place for place, name in enumerate(header)}
    if len(columns) < len(header):
        raise DataError(f"{path} has two columns of one name; its columns are {', '.join(header)}")
    file, label, part = (next((columns[n] for n in known if n in columns), None) for known in (PATHS, LABELS, SPLITS))
    several = [name for name in header if name.strip().casefold().rstrip("0123456789_") in LABELS]
    if len(several) > 1:
        raise DataError(f"{path} has several columns of labels ({', '.join(several)}); multi-label is not supported")
    if file is None or label is None:
        what = "paths, called path" if file is None else "labels, called label"
        raise DataError(f"{path} has no column of {what}; its columns are {', '.join(map(shown, header)) or 'none'}")
    if group is not None and group.strip().casefold() not in columns:
        raise DataError(f"{path} has no column {group!r} of groups{nearest(group, header)}")
    of_group = None if group is None else columns[group.strip().casefold()]
    rows = []
    for number, cells in lines:
        if len(cells) != len(header):
            raise DataError(f"row {number} of {path} has {len(cells)} cells, not {len(header)}; mend it")
        rows.append(
            Row(
                path.parent / cells[file].strip(),
                shown(cells[label].strip()),
                _part(path, number, "train" if part is None else cells[part]),
                "" if of_group is None else cells[of_group].strip(),
            )
        )
    _check_labels(path, rows)
    _check_files(path, rows)
    _check_repeats(path, rows, say)
    return rows


def _lines(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            first = file.readline()
            file.seek(0)
            delimiter = max(",;\t", key=first.count)
            lines = [(number, cells) for number, cells in enumerate(csv.reader(file, delimiter=delimiter), 1) if cells]
    except FileNotFoundError:
        raise DataError(f"the file {path} does not exist; give an existing one as csv:FILE") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read ({error}); give a CSV file in UTF-8") from None
    if len(lines) < 2:
        raise DataError(f"{path} lists no images; give a row of names, such as path,label, and a row for each image")
    return lines[0][1], lines[1:]


def _part(path: Path, number: int, named: str) -> str:
    part = PARTS.get(named.strip().casefold())
    if part is None:
        raise DataError(f"row {number} of {path} is of the part {named!r}; known: {', '.join(PARTS)}")
    return part


def _check_labels(path: Path, rows: Sequence[Row]) -> None:
    empty = next((row for row in rows if not row.label), None)
    if empty is not None:
        raise DataError(f"{path} has no label for {empty.path.name}; give every image one")
    first: dict[str, str] = {}
    for row in rows:
        first.setdefault(row.label, row.path.name)
    check_names(str(path), first)


def check_names(where: str, labels: Mapping[str, str]) -> None:
    """Raise DataError for labels that stand for several classes, for none, or for amounts.

    where: they are. labels: each with the first image that has it, in any order.
    """
    for label, image in labels.items():
        pieces = [piece.strip(" ()[]{}'\"") for piece in label.split(",")]
        several = len(pieces) > 1 and (label[0] + label[-1] in ("()", "{}") or all(p in labels for p in pieces))
        if several or (any(mark in label for mark in "|;[") and not _is_number(label)):
            raise DataError(
                f"{where} has the label {label!r} for {image}, which looks like several; multi-label is "
                "not supported, so give each image one class"
            )
    if not all(map(_is_number, labels)):
        return
    absent = next((label for label in labels if not math.isfinite(float(label))), None)
    if absent is not None:
        raise DataError(f"{where} has the label {absent!r} for {labels[absent]}, which is none; give every image one")
    fractions = sorted((label for label in labels if float(label) % 1), key=_in_order)
    if fractions:
        raise DataError(
            f"{where} has labels with fractions, such as {fractions[0]}; regression is not supported, so give classes"
        )


def _check_repeats(path: Path, rows: Sequence[Row], say: Say) -> None:
    """Raise DataError for an image with two labels, and for one that would be on both sides of a split."""
    seen: dict[str, Row] = {}
    again: list[Row] = []
    for row in rows:
        first = seen.setdefault(os.path.normpath(row.path), row)
        if first.label != row.label:
            raise DataError(
                f"{path} lists {row.path} with the labels {first.label!r} and {row.label!r}; multi-label is not "
                "supported, so give each image one class"
            )
        if first.part != row.part:
            raise DataError(f"{path} lists {row.path} in {first.part} and in {row.part}; keep it in one of them")
        if first is not row:
            again.append(row)
    if not again:
        return
    count = f"{len(again):,} {'row' if len(again) == 1 else 'rows'}"
    told = f"{path} has {count} of images that it lists before, the first {again[0].path}"
    parts = {row.part for row in rows}
    if len(parts) < len(set(PARTS.values())) and any(row.part == "train" for row in again):
        raise DataError(f"{told}; copies would be on both sides of the split of train, so list each image once")
    say(f"{told}; they count again")


def _check_files(path: Path, rows: Sequence[Row]) -> None:
    # Not Path.is_file, which raises for a name that is too long.
    absent = [row for row in rows if not os.path.isfile(row.path)]  # noqa: PTH113
    if absent:
        raise DataError(
            f"{path} lists {len(absent):,} of {len(rows):,} files that do not exist, the first {absent[0].path}; "
            f"paths are relative to {path.parent}"
        )
    other = next((row for row in rows if not row.path.name.lower().endswith(SUFFIXES)), None)
    if other is not None:
        raise DataError(f"{path} lists {other.path}, which is no image by its name; leave it out")


def _files(rows: Sequence[Row]) -> tuple[Files, list[str]]:
    """Return the files in the order of the rows, and the label of each run of one folder and one label."""
    runs = [(key, list(some)) for key, some in itertools.groupby(rows, key=lambda row: (row.path.parent, row.label))]
    return Files([(key[0], [row.path.name for row in some]) for key, some in runs]), [key[1] for key, _ in runs]


def _groups(path: Path, of_part: Mapping[str, Sequence[Row]], column: str, say: Say) -> Tensor:
    train = [row.group for row in of_part["train"]]
    for part, rows in of_part.items():
        both = {row.group for row in rows} & set(train) if part != "train" else set()
        if both:
            say(f"{len(both)} values of {column} in {path} are in train and in {part}, such as {min(both)!r}")
    absent = sum(not name for name in train)
    if absent:
        say(f"{absent:,} train images of {path} have no {column}; they count as one group")
    number = {name: place for place, name in enumerate(dict.fromkeys(train))}
    return torch.tensor([number[name] for name in train])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def _in_order(name: str) -> tuple[bool, float, str]:
    number = _is_number(name) and not math.isnan(float(name))
    return not number, float(name) if number else 0.0, name
