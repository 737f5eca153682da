"""Options as labels: a user's options may be any objects, what is stored of them are values that JSON holds.

In: the options of one choice. Out: a label for each, None, a bool, a finite number or a line of text. Guarantees: an
option that is such a value already is its own label; labels differ wherever options do, also when they are written as
text; they are the same in every process.
"""

import functools
import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TypeAlias

import numpy as np

Scalar: TypeAlias = str | int | float | bool | None

LONGEST = 200
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{4,}")


def labels(options: Sequence[object]) -> tuple[Scalar, ...]:
    """Return the label of each option, in their order."""
    found = [label(option) for option in options]
    written = Counter(map(str, found))
    distinct: list[Scalar] = []
    taken = set(written)
    for number, (option, own) in enumerate(zip(options, found, strict=True)):
        if written[str(own)] == 1 or not isinstance(own, str):  # None keeps its label, "None" is quoted
            distinct.append(own)
            continue
        other = repr(own) if isinstance(option, str) else f"{own}#{number}"
        while other in taken:
            other += "'"
        taken.add(other)
        distinct.append(other)
    return tuple(distinct)


def label(option: object) -> Scalar:
    """Return one option's label, which other options may share."""
    if option is None or type(option) in {bool, int}:
        return option  # type: ignore[return-value]
    if type(option) is float:
        return option if math.isfinite(option) else str(option)
    if type(option) is str:
        return _line(option)
    if isinstance(option, np.generic):
        value = option.item()
        return str(option) if isinstance(value, np.generic) else label(value)
    text = _text(option)
    return _short(text if text.isprintable() else text.encode("unicode_escape").decode())


def _line(text: str) -> str:
    if not text.isprintable():
        return _short(text.encode("unicode_escape").decode())
    # In a key, "name=value,name=value", what looks like two choices is quoted.
    return repr(text) if "," in text and "=" in text else text


def _short(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f"{text[: LONGEST - 20]}… {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _text(option: object) -> str:
    """Return an object as text that holds no address and no order of a set."""
    if isinstance(option, Enum):
        return f"{type(option).__name__}.{option.name}"
    if isinstance(option, functools.partial):
        given = [*map(_text, option.args), *(f"{name}={_text(value)}" for name, value in option.keywords.items())]
        return f"{_text(option.func)}({', '.join(given)})"
    if isinstance(option, tuple | list | set | frozenset):
        return _container(option)
    if isinstance(option, Mapping):
        return f"{{{', '.join(f'{_text(name)}: {_text(value)}' for name, value in option.items())}}}"
    name = getattr(option, "__name__", None)
    if isinstance(name, str):
        return "lambda" if name == "<lambda>" else name
    written = " ".join(repr(option).split())
    return type(option).__name__ if _ADDRESS.search(written) or not written.isprintable() else written


def _container(option: tuple[object, ...] | list[object] | set[object] | frozenset[object]) -> str:
    parts = list(map(_text, option))
    if isinstance(option, list):
        return f"[{', '.join(parts)}]"
    if isinstance(option, tuple):
        return f"({', '.join(parts)}{',' * (len(parts) == 1)})"
    return f"{{{', '.join(sorted(parts))}}}"
