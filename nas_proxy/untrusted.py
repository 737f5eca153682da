"""What comes from outside and is not believed: JSON, TOML and errors of a user's code in, values of known types out.

Guarantees: numbers are finite, and None where the file has none; text can be written, and holds nothing that a terminal
obeys. What is damaged is a ValueError whose text tells what and where.
"""

import functools
import json
import math
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_T = TypeVar("_T")
# Parts of a key of a TOML file; those of settings have three.
DEEPEST = 50
# Strings, those of several lines first, and comments, which begin in no string.
_LONG = r"(?s:'{3}.*?'{3}|\"{3}.*?\"{3})|"
_STRING = re.compile(_LONG + r"""'[^'\n]*'|"(?:[^"\\\n]|\\.)*\"|#[^\n]*""")
_ENDLESS = re.compile(r"(\S{150})\S{300,}?(\S{20})(?!\S)")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def safe(text: str) -> str:
    """Return text without lone surrogates, which cannot be written, and control characters, which terminals obey."""
    return _CONTROL.sub("�", text.encode("utf-8", "replace").decode("utf-8"))


def shortened(text: str) -> str:
    """Return text in which what has no blank for hundreds of characters, such as a damaged name, has its ends alone."""
    return _ENDLESS.sub(r"\1…\2", text)


def said(error: BaseException) -> str:
    """Return what an error of a user's code says, "" where saying it raises."""
    try:
        return safe(str(error)).strip()
    except Exception:  # noqa: BLE001 (a user's exception may do anything)
        return ""


def in_a_line(error: BaseException) -> str:
    """Return the kind of an error and the first line of what it says: "KeyError: 'no such layer'"."""
    first = (said(error).splitlines() or [""])[0]
    return f"{safe(type(error).__name__)}: {first}".removesuffix(": ")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds. Raises FileNotFoundError, and ValueError for what cannot be read."""
    try:
        return cleaned(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_toml(path: Path) -> dict[str, Any]:
    """Return what a TOML file holds. Raises OSError, and ValueError for what cannot be read.

    Python's reader recurses into brackets, and takes the square of the number of parts of a key for it.
    """
    text = path.read_text(encoding="utf-8")
    bare = re.sub(r"[ \t]*\.[ \t]*", ".", _STRING.sub("", text))
    if any(part.count(".") > DEEPEST for part in re.split(r"[\s=,{}\[\]]+", bare)):
        raise ValueError(f"a key in it has more than {DEEPEST} parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def cleaned(value: Any) -> Any:
    """Return plain values with numbers that are finite or None, and with text that is safe."""
    if isinstance(value, str):
        return safe(value)
    if isinstance(value, dict):
        return {safe(str(name)): cleaned(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [cleaned(inner) for inner in value]
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return value if math.isfinite(value) else None
        except OverflowError:  # a whole number beyond the range of float
            return None
    return value


def checked(kind: type[_T], value: object) -> _T:
    """Return plain values as the dataclass `kind`. Raises ValueError with the first that is of another type.

    Entries that the dataclass does not know are left out, and those that are null count as missing.
    """
    from pydantic import ValidationError

    try:
        # By way of JSON, whose objects and lists are strictly dataclasses and tuples; nothing else is converted.
        adapter: TypeAdapter[_T] = _adapter(cast("Any", kind))
        found = adapter.validate_json(json.dumps(_without_null(value)), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise ValueError(safe(f"{where[:100]}: {first['msg']}")) from None
    return found


@functools.cache
def _adapter(kind: type) -> "TypeAdapter[Any]":
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_null(inner) for name, inner in value.items() if inner is not None}
    return [_without_null(inner) for inner in value] if isinstance(value, list) else value
