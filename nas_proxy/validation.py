"""Settings that say themselves what they may be: an annotated field and a value in, the value or a sentence out.

A field of a dataclass is `name: Annotated[int, Field(ge=1, description="…")]`, as pydantic has it; `one_of`, `list_of`
and `strings` are for what is chosen by name. Nothing is converted: "5" is not 5, and true is not 1.
"""

import functools
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from nas_proxy.errors import nearest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from pydantic_core import ErrorDetails

    Filled = TypeVar("Filled", bound=DataclassInstance)

# A setting by its path, such as "condense.steps", and the sentence on it; the path stands first in it.
Mistake = tuple[str, str]

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
NEEDED = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "a string",
    "bool_type": "true or false",
    "finite_number": "finite",
}


@dataclass(frozen=True)
class OneOf:
    """A validator of one of a few names."""

    names: tuple[str, ...]

    def __call__(self, value: str) -> str:
        """Return the name. Raises ValueError for another."""
        if value not in self.names:
            raise ValueError(f"is {value!r}{nearest(value, self.names)}")
        return value


@dataclass(frozen=True)
class ListOf:
    """A validator of a list of a few names; lists come out as tuples. unique: each may stand there once."""

    names: tuple[str, ...]
    what: str
    unique: bool

    def __call__(self, value: Any) -> tuple[str, ...]:
        """Return the names. Raises ValueError for what is no such list."""
        if not isinstance(value, list | tuple):
            raise ValueError(f"is {value!r}; it must be a list of {self.what}: {', '.join(self.names)}")  # noqa: TRY004
        for name in value:
            if name not in self.names:
                raise ValueError(f"holds {name!r}{nearest(str(name), self.names)}")
            if self.unique and value.count(name) > 1:
                raise ValueError(f"holds {name!r} more than once; leave one")
        return tuple(value)


def one_of(*names: str) -> AfterValidator:
    """Return the metadata of a field that is one of `names`."""
    return AfterValidator(OneOf(names))


def list_of(names: Sequence[str], *, what: str = "names", unique: bool = True) -> BeforeValidator:
    """Return the metadata of a field that lists some of `names`."""
    return BeforeValidator(ListOf(tuple(names), what, unique))


def strings(what: str) -> BeforeValidator:
    """Return the metadata of a field that lists any texts; `what` they are is told of a value that is none."""

    def check(value: Any) -> tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
            raise ValueError(f"is {value!r}; it must be a list of {what}")
        if odd := [entry for entry in value if not _can_be_written(entry)]:
            raise ValueError(f"holds {odd[0]!r}, which is not UTF-8 and cannot be written down; leave it out")
        return tuple(value)

    return BeforeValidator(check)


def _text(value: str) -> str:
    if not value:
        raise ValueError("is empty; give a name")
    if not _can_be_written(value):
        raise ValueError(f"is {value!r}, which is not UTF-8 and cannot be written down; give a name that is")
    return value


def _can_be_written(text: str) -> bool:
    return not any(character == "\0" or "\ud800" <= character <= "\udfff" for character in text)


# A name or a path.
Text = Annotated[str, AfterValidator(_text)]


def filled(base: "Filled", values: Mapping[str, Any], mistakes: list[Mistake], prefix: str = "") -> "Filled":
    """Return the nested dataclass `base` with `values` in place, adding what cannot be to `mistakes`."""
    known = {f.name for f in fields(base)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        path = prefix + name
        current = getattr(base, name, None)
        if name not in known:
            mistakes.append((path, f"unknown setting {path!r}{nearest(name, known)}"))
        elif is_dataclass(current) and not isinstance(current, type):
            if isinstance(value, Mapping):
                changed[name] = filled(current, value, mistakes, f"{path}.")
            else:
                mistakes.append((path, f"{path} is {value!r}; it must be a table [{path}]"))
        else:
            try:
                changed[name] = checked(type(base), name, value)
            except ValueError as error:
                mistakes.append((path, f"{path} {error}"))
    return replace(base, **changed)


def checked(owner: type, name: str, value: Any) -> Any:
    """Return `value` as the field `name` of the dataclass `owner` has it.

    Raises ValueError with what follows the setting's name in a sentence, such as "is 0; it must be at least 1".
    """
    try:
        return _adapter(owner, name).validate_python(value)
    except ValidationError as error:
        raise ValueError(_sentence(error.errors()[0], value, bounds(owner, name))) from None


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number; true is none."""
    return isinstance(value, int) and not isinstance(value, bool)


@functools.cache
def hints(owner: type) -> dict[str, Any]:
    """Return the annotations of a dataclass's fields."""
    return typing.get_type_hints(owner, include_extras=True)


def described(owner: type, name: str) -> str:
    """Return what a field's annotation says of it."""
    return _information(owner, name).description or ""


def bounds(owner: type, name: str) -> dict[str, Any]:
    """Return the bounds of a number by pydantic's names: "ge", "gt" and "le"."""
    found = _information(owner, name).metadata
    return {bound: getattr(part, bound) for part in found for bound in ("ge", "gt", "le") if hasattr(part, bound)}


def choices(owner: type, name: str) -> tuple[str, ...]:
    """Return the names that a field may have, or list; () where it may have others."""
    parts = getattr(hints(owner)[name], "__metadata__", ())
    known = (getattr(part, "func", None) for part in parts)
    return next((check.names for check in known if isinstance(check, OneOf | ListOf)), ())


def kind(owner: type, name: str) -> type:
    """Return the one type of a field that is not None."""
    hint = hints(owner)[name]
    while not isinstance(hint, type):
        origin = typing.get_origin(hint)
        if isinstance(origin, type) and origin is tuple:
            return tuple
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return hint


@functools.cache
def _adapter(owner: type, name: str) -> TypeAdapter[Any]:
    return TypeAdapter(hints(owner)[name], config=STRICT)


def _information(owner: type, name: str) -> FieldInfo:
    parts = getattr(hints(owner)[name], "__metadata__", ())
    return next((part for part in parts if isinstance(part, FieldInfo)), FieldInfo())


def _sentence(error: "ErrorDetails", value: Any, bound: dict[str, Any]) -> str:
    kind = error["type"]
    if kind == "value_error":  # of a validator, which has said all
        return str(error["ctx"]["error"])
    told = value if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)
    return f"is {told}; it must be {NEEDED.get(kind) or _allowed(kind, bound)}"


def _allowed(kind: str, bound: dict[str, Any]) -> str:
    if kind == "greater_than":
        return f"above {bound['gt']}"
    if "le" not in bound:
        return f"at least {bound['ge']}"
    return f"between {bound['ge']} and {bound['le']}" if "ge" in bound else f"at most {bound['le']:,}"
