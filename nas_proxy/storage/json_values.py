"""Dataclasses as plain values that JSON holds, and back: what one process tells another through a database."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

_T = TypeVar("_T")


def to_plain(value: Any) -> dict[str, Any]:
    """Return a dataclass as nested mappings; JSON makes lists of its tuples."""
    return dataclasses.asdict(value)


def from_plain(kind: type[_T], values: Mapping[str, Any]) -> _T:
    """Return the dataclass that `to_plain` was given, also after JSON. Raises TypeError for unknown fields."""
    hints = typing.get_type_hints(kind)
    return kind(**{name: _restored(hints.get(name), value) for name, value in values.items()})


def _restored(hint: Any, value: Any) -> Any:
    if value is None:
        return None
    if isinstance(hint, types.UnionType):  # of one type and None
        hint = next(arm for arm in typing.get_args(hint) if arm is not type(None))
    if isinstance(value, Mapping) and dataclasses.is_dataclass(hint):
        return from_plain(typing.cast("type[Any]", hint), value)
    if not isinstance(value, list | tuple):
        return value
    kinds = typing.get_args(hint)
    if not kinds or kinds[-1] is Ellipsis:  # tuple[kind, ...], or nothing is known
        return tuple(_restored(kinds[0] if kinds else None, one) for one in value)
    return tuple(_restored(kind, one) for kind, one in zip(kinds, value, strict=True))
