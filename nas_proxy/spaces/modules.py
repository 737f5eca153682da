"""A user's space file as a module, with the modules that lie beside it.

In: the path of a Python file. Out: its module. Guarantees: a file, or a module beside it that it imports, is read anew
once it has changed, in the same process too; modules beside the file can be imported at any time, also while a network
is built or trained, and in every process that has loaded the file; they never stand in for a module of Python's
standard library; what importing the file changes of the whole process, such as the working directory, is put back.
"""

import contextlib
import hashlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from nas_proxy.errors import RAISED, SpaceError
from nas_proxy.process_state import restored
from nas_proxy.spaces.code_digest import code_digest
from nas_proxy.untrusted import in_a_line


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Reads the source itself: a compiled copy counts as fresh when size and second of the file are the same."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)

    def exec_module(self, module: ModuleType) -> None:
        """Run the code, and remember whose module it is."""
        top = sys.modules.get(module.__name__.partition(".")[0], module)
        place = Path(str(getattr(top, "__file__", None) or next(iter(getattr(top, "__path__", [])), "")))
        _HOMES[module.__name__] = place.parent.parent if place.name == "__init__.py" else place.parent
        super().exec_module(module)


# The folder beside whose space file each module lies.
_HOMES: dict[str, Path] = {}


class _Beside:
    """Finds modules in the folders of space files: in that of the file at work first, in the others last."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        self.at_work: list[Path] = []

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where the module is; see `importlib.abc.MetaPathFinder`."""
        if fullname.partition(".")[0] in sys.stdlib_module_names:
            return None
        if path is not None:  # a module of a package: ours where the package is
            inside = [place for place in path if any(Path(place).is_relative_to(folder) for folder in self.folders)]
            return next(filter(None, (_found_in(place, fullname) for place in inside)), None)
        for folder in self.at_work[-1:]:
            specification = _found_in(str(folder), fullname)
            if specification is not None and specification.loader is not None:  # a folder of data is no package
                return specification
        return None

    def last(self, fullname: str) -> ModuleSpec | None:
        """Return where a module is that no other finder knows."""
        places = [*self.at_work[::-1], *self.folders[::-1]]
        return next(filter(None, (_found_in(str(folder), fullname) for folder in places)), None)


class _Last:
    """Asked when all other finders have found nothing."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where the module is; see `importlib.abc.MetaPathFinder`."""
        return BESIDE.last(fullname) if path is None else None


def _found_in(folder: str, fullname: str) -> ModuleSpec | None:
    # A finder of its own each time, since one that is kept remembers which files there were.
    return FileFinder(folder, (ExtensionFileLoader, EXTENSION_SUFFIXES), (_SourceLoader, SOURCE_SUFFIXES)).find_spec(
        fullname
    )


BESIDE = _Beside()
_LAST = _Last()


@dataclass
class _Loaded:
    digest: str
    module: ModuleType
    beside: dict[str, ModuleType]


_LOADED: dict[Path, _Loaded] = {}


def imported(path: Path) -> ModuleType:
    """Return the module of a space file, imported once for each content. Raises SpaceError if it cannot be."""
    digest = code_digest(path)
    known = _LOADED.get(path)
    if known is not None and known.digest == digest:
        return known.module
    if known is not None:
        for name, module in known.beside.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
        del _LOADED[path]
    # The path is part of the name: two files of one name in two folders are two modules.
    name = f"nas_proxy_space_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    loader = _SourceLoader(name, str(path))
    specification = importlib.util.spec_from_file_location(name, path, loader=loader)
    assert specification is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[name] = module
    loaded = _LOADED[path] = _Loaded(digest, module, {})
    try:
        with restored(), beside(path):
            loader.exec_module(module)
    except SpaceError:
        _forget(path, name)
        raise
    except RAISED as error:
        _forget(path, name)
        raise SpaceError(f"the search space file {path} does not import: {in_a_line(error)}") from None
    except BaseException:
        _forget(path, name)
        raise
    return loaded.module


def _forget(path: Path, name: str) -> None:
    sys.modules.pop(name, None)
    for beside_it, module in _LOADED.pop(path).beside.items():
        if sys.modules.get(beside_it) is module:
            del sys.modules[beside_it]


@contextlib.contextmanager
def beside(path: Path) -> Iterator[None]:
    """In the block, what lies beside the space file `path` is imported before what other folders have of that name."""
    folder, own = path.parent, _LOADED[path].beside
    _install(folder)
    for name in _of_other_folders(folder):
        del sys.modules[name]
    sys.modules.update(own)
    BESIDE.at_work.append(folder)
    try:
        yield
    finally:
        BESIDE.at_work.pop()
        own.update({name: module for name, module in _from(folder) if not name.startswith("nas_proxy")})


def _install(folder: Path) -> None:
    if BESIDE not in sys.meta_path:
        paths = importlib.machinery.PathFinder
        place = sys.meta_path.index(paths) if paths in sys.meta_path else len(sys.meta_path)
        sys.meta_path.insert(place, BESIDE)
        sys.meta_path.append(_LAST)
    if folder not in BESIDE.folders:
        BESIDE.folders.append(folder)


def _of_other_folders(folder: Path) -> list[str]:
    """Return the names of modules from beside other space files that this folder has a module for as well."""
    others = [other for other in BESIDE.folders if other != folder]
    foreign = {name for other in others for name, _ in _from(other)}
    tops = {name.partition(".")[0] for name in foreign}
    ours = {top for top in tops if _found_in(str(folder), top) is not None}
    return [name for name in foreign if name.partition(".")[0] in ours]


def _from(folder: Path) -> list[tuple[str, ModuleType]]:
    """Return the modules that have been imported from beside the space files of a folder."""
    return [(name, sys.modules[name]) for name, home in _HOMES.items() if home == folder and name in sys.modules]


def at_home(path: Path, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of a space file so that it can import what lies beside the file."""
    return _AtHome(path, function)


@dataclass(frozen=True)
class _AtHome:
    path: Path
    function: Callable[..., Any]

    @property
    def __wrapped__(self) -> Callable[..., Any]:  # for inspect.signature
        return self.function

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        with beside(self.path):
            return self.function(*arguments, **named)
