"""The built-in search spaces: where their files are, their names, what each is, and their modules.

In a clone they are the folder `search_spaces` beside the package, for people to read and copy. In an installed
package the same files are `nas_proxy.search_spaces`, since a top-level `search_spaces` may be anybody's. Either way a
space's module is `nas_proxy.search_spaces.<name>`. Guarantee: names and descriptions, and that a name is nobody's, come
without importing a space or PyTorch.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from nas_proxy.errors import SpaceError, nearest

_PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path:
    """Return the folder that holds the files of the built-in spaces."""
    installed = _PACKAGE / "search_spaces"
    return installed if installed.is_dir() else _PACKAGE.parent / "search_spaces"


def names() -> list[str]:
    """Return the names of the built-in spaces, sorted."""
    return sorted(path.stem for path in folder().glob("*.py") if not path.stem.startswith("_"))


def list_spaces() -> list[tuple[str, str]]:
    """Return the built-in spaces as (name, first line of the docstring)."""
    return [(name, _first_line(folder() / f"{name}.py")) for name in names()]


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_bytes())) or "").split("\n")[0]


def split_spec(spec: str) -> tuple[str, str]:
    """Return the name or path of a space and the text of its parameters: ("mine.py", "width=8,deep=true")."""
    named, colon, given = spec.rpartition(":")
    return (named, given) if colon and "=" in given and not Path(spec).exists() else (spec, "")


def file_of(spec: str) -> Path | None:
    """Return the Python file that is named, None for a built-in space. Raises SpaceError for what is neither."""
    known = names()
    if spec in known:
        return None
    path = Path(spec)
    if path.suffix != ".py" and not path.exists():
        raise SpaceError(f"unknown search space {spec!r}{nearest(spec, known)}, or the path of a Python file")
    if not path.is_file():
        raise SpaceError(
            f"the search space file {spec} {'is a folder' if path.is_dir() else 'does not exist'}; "
            f"give a Python file, or one of: {', '.join(known)}"
        )
    if path.suffix != ".py":
        raise SpaceError(f"the search space file {path} is not a Python file (its name must end in .py)")
    return path


def module(name: str) -> ModuleType:
    """Return the module of the built-in space `name`, imported once."""
    full = f"nas_proxy.search_spaces.{name}"
    if full in sys.modules:
        return sys.modules[full]
    specification = importlib.util.spec_from_file_location(full, folder() / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    found = sys.modules[full] = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(found)
    except BaseException:
        del sys.modules[full]
        raise
    return found
