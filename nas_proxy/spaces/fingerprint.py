"""The code behind Python objects as 16 hexadecimal digits: what a space that is given itself is known by.

In: functions, classes, and what they hold. Out: digits that change with their code, with their defaults and closures,
and with what they use of the globals around them; of libraries the names count alone. Guarantees: a cell of a notebook
that is executed again, and another process, give the same digits; nothing is called, and no address counts.
"""

import functools
import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from nas_proxy.spaces.labels import label

# Folders of what is installed; the package itself, and the built-in spaces beside it, count as that.
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_PACKAGE = Path(__file__).resolve().parents[1]
# What Python writes into every class.
_OF_CLASSES = frozenset(
    {"__dict__", "__doc__", "__module__", "__weakref__", "__qualname__", "__firstlineno__", "__static_attributes__"}
)


def fingerprint(*objects: object) -> str:
    """Return 16 hexadecimal digits of the code of `objects`."""
    walk = Walk()
    for each in objects:
        walk.add(each)
    return hashlib.sha256("\n".join(walk.parts).encode("utf-8", "backslashreplace")).hexdigest()[:16]


def is_library(module: str) -> bool:
    """Whether a module is installed, or Python's or nas_proxy's own, rather than a user's."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top == "nas_proxy":
        return True
    if top == "__main__":
        return False
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None:
        return module in sys.builtin_module_names
    return file.startswith(_INSTALLED) or _PACKAGE in Path(file).parents


class Walk:
    """Goes through objects and what they use.

    parts: what was found, as text, in the order of finding. modules: those of a user's that objects came from.
    """

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.modules: set[str] = set()
        self._seen: dict[int, object] = {}  # kept alive, so that no other object gets their place

    def add(self, found: object) -> None:
        """Go through one more object."""
        if _is_plain(found):
            self.parts.append(repr(found))
            return
        if id(found) in self._seen:
            self.parts.append(f"again {list(self._seen).index(id(found))}")
            return
        self._seen[id(found)] = found
        for kind, visit in self._visits():
            if isinstance(found, kind):
                visit(found)
                return
        self._instance(found)

    def _visits(self) -> Iterator[tuple[Any, Callable[[Any], None]]]:
        yield ModuleType, self._module
        yield functools.partial, lambda found: self._all((found.func, found.args, found.keywords))
        yield MethodType, lambda found: self._all((found.__func__, found.__self__))
        yield FunctionType, self._function
        yield (staticmethod, classmethod), lambda found: self.add(found.__func__)
        yield property, lambda found: self._all((found.fget, found.fset, found.fdel))
        yield type, self._class
        yield Mapping, lambda found: self._all(part for item in found.items() for part in item)
        yield (list, tuple), self._all
        yield (set, frozenset), lambda found: self._all(sorted(found, key=lambda each: str(label(each))))

    def _all(self, found: Any) -> None:
        self.parts.append("(")
        for each in found:
            self.add(each)
        self.parts.append(")")

    def _named(self, found: Any) -> bool:
        """Add the name of a function or a class; return whether that is all that counts of it."""
        module = getattr(found, "__module__", None) or "__main__"
        self.parts.append(f"{found.__qualname__}")
        if is_library(module):
            self.parts.append(module)
            return True
        self.modules.add(module)
        return False

    def _module(self, found: ModuleType) -> None:
        self.parts.append(f"module {found.__name__}")
        file = getattr(found, "__file__", None)
        if file is not None and not is_library(found.__name__) and Path(file).is_file():
            self.modules.add(found.__name__)
            self.parts.append(hashlib.sha256(Path(file).read_bytes()).hexdigest())

    def _function(self, found: FunctionType) -> None:
        if self._named(found):
            return
        self.parts.append(_text(found))
        self._all((found.__defaults__, found.__kwdefaults__, [_held(cell) for cell in found.__closure__ or ()]))
        for name in sorted(set(_names(found.__code__)) & found.__globals__.keys()):
            self.parts.append(name)
            self.add(found.__globals__[name])

    def _class(self, found: type) -> None:
        if self._named(found):
            return
        self._all(found.__bases__)
        for name in sorted(vars(found).keys() - _OF_CLASSES):
            self.parts.append(name)
            self.add(vars(found)[name])

    def _instance(self, found: object) -> None:
        self.add(type(found))
        if callable(found) and is_library(type(found).__module__) and hasattr(found, "__wrapped__"):
            self.add(found.__wrapped__)  # as of functools.cache
            return
        state = getattr(found, "__dict__", None)
        if is_library(type(found).__module__) or not isinstance(state, dict):
            self.parts.append(_contents(found))
        else:
            self.add(state)


def _is_plain(found: object) -> bool:
    return found is None or isinstance(found, bool | int | float | complex | str | bytes) or found is Ellipsis


def _contents(found: object) -> str:
    """Return what a library's object holds as text: arrays by their bytes, others by what they say of themselves."""
    array = getattr(found, "__array__", None)
    if callable(array):
        try:
            values = array()
            return f"{values.dtype} {values.shape} {hashlib.sha256(values.tobytes()).hexdigest()}"
        except Exception:  # noqa: BLE001 (of a GPU's tensor, or whatever a library does there)
            return ""
    return str(label(found))


def _held(cell: Any) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


def _text(function: FunctionType) -> str:
    """Return the source of a notebook's function; else the compiled code, since a file may have changed since."""
    if not Path(function.__code__.co_filename).is_file() and function.__name__ != "<lambda>":
        try:
            return inspect.getsource(function)
        except (TypeError, OSError):
            pass
    return _compiled(function.__code__)


def _compiled(code: CodeType) -> str:
    return "\n".join([code.co_code.hex(), *code.co_names, *code.co_varnames, *map(_constant, code.co_consts)])


def _constant(found: object) -> str:
    if isinstance(found, CodeType):
        return _compiled(found)
    return repr(sorted(found, key=repr)) if isinstance(found, frozenset) else repr(found)


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that code, and what is defined in it, looks up outside."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
