"""From what the user names, a built-in space or a Python file, to a search space that has been tried out.

A name may set keyword parameters of the file's `space_for(shape, *, …)`: `nas_bench_201:cells=1,unique=true`. They
are part of the space's identity. Their types are those of their defaults: whole numbers, numbers, true or false,
and text.
"""

import hashlib
import importlib
import importlib.util
import inspect
import itertools
import pkgutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

import search_spaces
from nas_proxy.data.images import DataShape
from nas_proxy.errors import RAISED, SpaceError, nearest
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.space import Architecture, SearchSpace, Space
from nas_proxy.time_limit import deadline

# A space is refused when this many of its architectures in a row cannot be built; a single bad one is a failed trial.
TRIED = 8


def list_spaces() -> list[tuple[str, str]]:
    """Return the built-in spaces as (name, first line of the docstring)."""
    modules = [(name, importlib.import_module(f"search_spaces.{name}")) for name in _built_in()]
    return [(name, (module.__doc__ or "").split("\n")[0]) for name, module in modules]


def _built_in() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(search_spaces.__path__))


def load_space(spec: str, shape: DataShape) -> SearchSpace:
    """Return the space `spec` for data of `shape`.

    spec: a name from `search_spaces`, or the path of a Python file that defines `space` (a `Space`, or a
    function `space(trial)` or `space(trial, shape)` that returns a network) or `space_for(shape) -> Space`;
    then, after a colon, parameters of `space_for`.
    Raises SpaceError when there is no such space or it yields no network.
    """
    named, given = split_spec(spec)
    module = _module(named)
    name = Path(named).stem
    parameters = _parameters(named, module, given)
    if hasattr(module, "space_for"):
        found = _called(named, module, shape, parameters)
    elif hasattr(module, "space"):
        found = module.space
    else:
        raise SpaceError(
            f"{spec} defines neither `space` nor `space_for(shape)`; the README's tutorial has a short example"
        )
    return as_space(found, name, shape, f"`space` in {spec}")


def as_space(found: object, name: str, shape: DataShape, called: str = "`space`") -> SearchSpace:
    """Return a space or a function `space(trial)` as a search space, a function under `name`. Raises SpaceError."""
    if isinstance(found, Space | FunctionSpace):
        return found
    if callable(found):
        return FunctionSpace(name, found, shape)
    raise SpaceError(f"{called} is a {type(found).__name__}; it must be a nas_proxy.Space or a function of a trial")


def space_digest(spec: str) -> str:
    """Return 16 hexadecimal digits that change with the file that defines the space and with its parameters."""
    named, given = split_spec(spec)
    module = _module(named)
    path = module.__file__
    assert path is not None
    parameters = _parameters(named, module, given)
    text = "".join(f"\n{name}={parameters[name]!r}" for name in sorted(parameters))
    return hashlib.sha256(Path(path).read_bytes() + text.encode()).hexdigest()[:16]


def split_spec(spec: str) -> tuple[str, str]:
    """Return the name or path of a space and the text of its parameters: ("mine.py", "width=8,deep=true")."""
    named, colon, given = spec.rpartition(":")
    return (named, given) if colon and "=" in given and not Path(spec).exists() else (spec, "")


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


def try_out(space: SearchSpace, shape: DataShape) -> None:
    """Build architectures until one runs on two blank images. Raises SpaceError if none of the first few does."""
    reason, wrong = "it has no architectures", None
    try:
        for architecture in itertools.islice(space.sample(0), TRIED):
            try:
                with deadline():
                    network = space.build(architecture, shape)
                    _check_network(space, architecture, network, shape)
            except SpaceError as error:
                wrong = error
            except TimeoutError as error:
                reason = f"{space.key(architecture) or 'it'} {error}"
            except RAISED as error:
                reason = f"{space.key(architecture) or 'it'} raises {_reason(error)}"
            else:
                return
    except SpaceError:
        raise
    except RAISED as error:
        reason = f"it raises {_reason(error)}"
    raise wrong or SpaceError(f"the space {space.name!r} yields no network for images of {_size(shape)}: {reason}")


def _check_network(space: SearchSpace, architecture: Architecture, network: nn.Module, shape: DataShape) -> None:
    if not isinstance(network, nn.Module):
        raise SpaceError(
            f"the space {space.name!r} returned an object of type {type(network).__name__}"
            f"{_for(space, architecture)}; it must return a torch.nn.Module"
        )
    with torch.no_grad():
        logits = network.eval()(torch.zeros(2, *shape[:3]))
    if tuple(logits.shape) != (2, shape.classes):
        raise SpaceError(
            f"a network of the space {space.name!r} returned shape {tuple(logits.shape)} for 2 images of "
            f"{_size(shape)}{_for(space, architecture)}; expected (2, {shape.classes})"
        )


def _for(space: SearchSpace, architecture: Architecture) -> str:
    key = space.key(architecture)
    return f" ({key})" if key else ""


def _reason(error: BaseException) -> str:
    """Return the first line of what a user's code raised; nas_proxy's own sentences as they are."""
    first = (str(error).strip().splitlines() or [""])[0]
    return first if isinstance(error, SpaceError) else f"{type(error).__name__}: {first}".removesuffix(": ")


def _size(shape: DataShape) -> str:
    return f"{shape.channels}×{shape.height}×{shape.width}"


def _module(spec: str) -> ModuleType:
    built_in = _built_in()
    if spec in built_in:
        return importlib.import_module(f"search_spaces.{spec}")
    path = Path(spec)
    if path.suffix != ".py" and not path.exists():
        raise SpaceError(f"unknown search space {spec!r}{nearest(spec, built_in)}, or the path of a Python file")
    if not path.is_file():
        raise SpaceError(
            f"the search space file {spec} {'is a folder' if path.is_dir() else 'does not exist'}; "
            f"give a Python file, or one of: {', '.join(built_in)}"
        )
    return _imported(path.resolve())


def _imported(path: Path) -> ModuleType:
    # The path is part of the name: two files of one name in two folders are two modules.
    name = f"nas_proxy_space_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    specification = importlib.util.spec_from_file_location(name, path)
    if specification is None or specification.loader is None:
        raise SpaceError(f"the search space file {path} is not a Python file (its name must end in .py)")
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent))  # so that the file can import what lies beside it
    try:
        specification.loader.exec_module(module)
    except RAISED as error:
        del sys.modules[name]
        raise SpaceError(f"the search space file {path} does not import: {_reason(error)}") from None
    finally:
        sys.path.remove(str(path.parent))
    return module


def _called(spec: str, module: ModuleType, shape: DataShape, parameters: dict[str, Any]) -> object:
    try:
        found: object = module.space_for(shape, **parameters)
    except SpaceError:
        raise
    except RAISED as error:
        raise SpaceError(f"space_for in {spec} raises {_reason(error)}") from None
    return found
