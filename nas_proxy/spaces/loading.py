"""From what the user names, a built-in space or a Python file, or gives, to a search space.

A name may set keyword parameters of the file's `space_for(shape, *, …)`: `nas_bench_201:cells=1,unique=true`. They
are part of the space's identity. Their types are those of their defaults: whole numbers, numbers, true or false,
and text.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

from nas_proxy import time_limit
from nas_proxy.data.shape import DataShape
from nas_proxy.errors import RAISED, CodeChangedError, SpaceError, nearest
from nas_proxy.spaces import built_in, modules
from nas_proxy.spaces.apart import Complaint, apart, reason_of
from nas_proxy.spaces.built_in import split_spec
from nas_proxy.spaces.by_value import GIVEN, SpaceByValue, by_value, digest_of
from nas_proxy.spaces.checking import try_out
from nas_proxy.spaces.code_digest import code_digest, files_beside
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.space import SearchSpace, Space

__all__ = ["Given", "SpaceFile", "Spec", "as_space", "files_of", "load_space", "pinned", "space_digest", "spec_of"]
__all__ += ["split_spec", "try_import", "try_out"]


@dataclass(frozen=True)
class SpaceFile:
    """A user's file as jobs name it: what has changed since is not what the results are kept as.

    name: its path and parameters, as in the settings. code: of `nas_proxy.spaces.code_digest`.
    """

    name: str
    code: str

    def check(self) -> None:
        """Raise CodeChangedError where the file, or one beside it that it imports, is another one by now."""
        try:
            same = code_digest(Path(split_spec(self.name)[0]).resolve()) == self.code
        except OSError:
            same = False
        if not same:
            raise CodeChangedError(
                f"the code of the search space {self.name} has changed since the command began, and results are kept "
                "as those of the code that it had; undo the change and run the same command again to go on, or start "
                "a new run for the new code"
            )


# What worker processes are sent: a name or a path, also with the code that is meant, or the space itself.
Spec: TypeAlias = str | SpaceFile | SpaceByValue
# What a user gives: a name or a path, or the space itself, a `Space` or a function of a trial.
Given: TypeAlias = Spec | Path | Space | FunctionSpace | Callable[..., Any]


def spec_of(space: Given) -> str | SpaceByValue:
    """Return what names a space in settings. Raises SpaceError for one that cannot be sent to workers."""
    if isinstance(space, str | Path):
        return str(space)
    if isinstance(space, SpaceByValue):
        return space
    if isinstance(space, SpaceFile):
        return space.name
    if not isinstance(space, Space | FunctionSpace):
        _check_function(space, "the space")
    return by_value(space)


def pinned(spec: Spec) -> Spec:
    """Return what names a space in jobs so that they refuse a file that has changed since. Raises SpaceError."""
    if not isinstance(spec, str) or spec.startswith(GIVEN):
        return spec
    path = built_in.file_of(split_spec(spec)[0])
    return spec if path is None else SpaceFile(spec, code_digest(path.resolve()))


def load_space(spec: Given, shape: DataShape) -> SearchSpace:
    """Return the space `spec` for data of `shape`.

    spec: the name of a built-in space, or the path of a Python file that defines `space` (a `Space`, or a
    function `space(trial)` or `space(trial, shape)` that returns a network) or `space_for(shape) -> Space`;
    then, after a colon, parameters of `space_for`. Or a `Space`, or such a function, itself.
    Raises SpaceError when there is no such space or it yields no network, CodeChangedError for a `SpaceFile` that is
    another one by now.
    """
    if isinstance(spec, SpaceFile):
        spec.check()
        return load_space(spec.name, shape)
    if isinstance(spec, SpaceByValue):
        return as_space(spec.unpacked(), spec.name.removeprefix(GIVEN), shape)
    if not isinstance(spec, str | Path):
        return as_space(spec, getattr(spec, "__name__", "space"), shape, "the space")
    named, given = split_spec(str(spec))
    module = _module(named)
    name = Path(named).stem
    parameters = _parameters(named, module, given)
    path = _own_path(named)
    if hasattr(module, "space_for"):
        found = _called(named, module, shape, parameters, path)
    elif hasattr(module, "space"):
        found = module.space
    else:
        raise SpaceError(
            f"{spec} defines neither `space` nor `space_for(shape)`; the README's tutorial has a short example"
        )
    space = as_space(found, name, shape, f"`space` in {spec}")
    return space if path is None else _at_home(path, space)


def _at_home(path: Path, space: SearchSpace) -> SearchSpace:
    """Return a file's space, whose functions can import what lies beside the file whenever they are called."""
    if isinstance(space, FunctionSpace):
        return replace(space, function=modules.at_home(path, space.function))
    if not isinstance(space, Space):
        return space
    functions = {
        name: modules.at_home(path, function)
        for name in ("build", "valid", "name_of", "function_of")
        if (function := space.own(name)) is not None
    }
    return replace(space, **functions)  # type: ignore[arg-type]


def try_import(spec: Spec, shape: DataShape | None = None) -> None:
    """Import a space in a process apart, and make it where the `shape` is known.

    Raises SpaceError with what goes wrong there: what the user's code does when it is imported, it does there first.
    """
    found = apart(lambda: _imported(spec, shape), time_limit.SECONDS)
    if isinstance(found, Complaint):
        named = spec if isinstance(spec, str) else spec.name.removeprefix(GIVEN)
        raise SpaceError(found.text if found.own else f"the search space {named} {found.text} when it is imported")


def _imported(spec: Spec, shape: DataShape | None) -> None:
    space_digest(spec)
    if shape is not None:
        load_space(spec, shape)


def as_space(found: object, name: str, shape: DataShape, called: str = "`space`") -> SearchSpace:
    """Return a space or a function `space(trial)` as a search space, a function under `name`. Raises SpaceError."""
    if isinstance(found, Space | FunctionSpace):
        return found
    return FunctionSpace(name, _check_function(found, called), shape)


def _check_function(found: object, called: str) -> Callable[..., Any]:
    if isinstance(found, type) or not callable(found):
        kind = "class" if isinstance(found, type) else type(found).__name__
        raise SpaceError(f"{called} is a {kind}; it must be a nas_proxy.Space or a function of a trial")
    return found


def space_digest(spec: Given) -> str:
    """Return 16 hexadecimal digits that change with the code that defines the space and with its parameters.

    The code is the file and what it imports from beside it; of a space that is given itself, its choices and
    functions, and what these use.
    """
    if isinstance(spec, SpaceByValue):
        return spec.digest
    if isinstance(spec, SpaceFile):
        digest = space_digest(spec.name)
        spec.check()
        return digest
    if not isinstance(spec, str | Path):
        return digest_of(spec.function if isinstance(spec, FunctionSpace) else spec)
    named, given = split_spec(str(spec))
    module = _module(named)
    parameters = _parameters(named, module, given)
    text = "".join(f"\n{name}={parameters[name]!r}" for name in sorted(parameters))
    assert module.__file__ is not None
    return code_digest(Path(module.__file__), text)


def _parameters(named: str, module: ModuleType, given: str) -> dict[str, Any]:
    """Return the values of "name=value,…". Raises SpaceError for a name or value that `space_for` does not take."""
    known = _defaults(module)
    parameters: dict[str, Any] = {}
    for assignment in filter(None, given.split(",")):
        name, _, text = assignment.partition("=")
        if not known:
            raise SpaceError(f"the space {named} takes no parameters, but {assignment} was given; leave it out")
        if name not in known:
            raise SpaceError(f"the space {named} has no parameter {name!r}{nearest(name, known)}")
        if name in parameters:
            raise SpaceError(f"the space {named} is given {name} twice; give it once")
        parameters[name] = _value(named, name, text, known[name])
    return parameters


def _defaults(module: ModuleType) -> dict[str, Any]:
    """Return the keyword parameters of a file's `space_for` and their defaults."""
    if not callable(getattr(module, "space_for", None)):
        return {}
    signature = inspect.signature(module.space_for)
    return {n: p.default for n, p in signature.parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _value(named: str, name: str, text: str, default: object) -> Any:
    kind = type(default)
    if kind is bool and text in {"true", "false"}:
        return text == "true"
    if kind is not bool:
        try:
            return kind(text) if kind in {int, float} else text
        except ValueError:
            pass
    wanted = {bool: "true or false", int: "a whole number", float: "a number"}[kind]
    raise SpaceError(f"the space {named} has {name}={text}; {name} must be {wanted}, such as {str(default).lower()}")


def files_of(spec: str) -> tuple[Path, ...]:
    """Return a space's own file and those beside it that it imports, in its folder or below; () for a built-in one."""
    path = _own_path(split_spec(spec)[0])
    return () if path is None else (path, *sorted(files_beside(path)))


def _own_path(named: str) -> Path | None:
    """Return the user's file that is named, None for a built-in space."""
    return None if named in built_in.names() else Path(named).resolve()


def _module(spec: str) -> ModuleType:
    if spec.startswith(GIVEN):
        raise SpaceError(
            f"the space {spec.removeprefix(GIVEN)!r} was given as an object of Python, which no file holds; go on from "
            "Python and give it again: nas_proxy.run(space=…, out=…)"
        )
    path = built_in.file_of(spec)
    if path is None:
        return built_in.module(spec)
    return modules.imported(path.resolve())


def _called(spec: str, module: ModuleType, shape: DataShape, parameters: dict[str, Any], path: Path | None) -> object:
    function = module.space_for if path is None else modules.at_home(path, module.space_for)
    try:
        found: object = function(shape, **parameters)
    except SpaceError:
        raise
    except RAISED as error:
        raise SpaceError(f"space_for in {spec} raises {reason_of(error)}") from None
    return found
