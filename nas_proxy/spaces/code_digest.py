"""What a user's file is made of: a digest of its code, and the files beside it that it imports.

Nothing is imported to know it, and no module of PyTorch's is needed. The digest is that of the file alone where it
imports nothing from beside it.
"""

import ast
import hashlib
import sys
from pathlib import Path


def code_digest(path: Path, more: str = "") -> str:
    """Return 16 hexadecimal digits of a file's code, of that of the modules beside it that it imports, and of `more`.

    Imports are found where they are written, in functions too, and followed; of a package all of its files count.
    """
    digest = hashlib.sha256(path.read_bytes() + more.encode())
    for file in sorted(files_beside(path)):
        digest.update(f"\n{file.relative_to(path.parent)} {hashlib.sha256(file.read_bytes()).hexdigest()}".encode())
    return digest.hexdigest()[:16]


def files_beside(path: Path) -> set[Path]:
    """Return the files beside `path` that it imports, and those that they import."""
    folder, waiting = path.parent, [path]
    found: set[Path] = set()
    while waiting:
        file = waiting.pop()
        for name in _imports(file):
            top = folder / name.partition(".")[0]
            if top.is_dir():
                files = set(top.rglob("*.py"))
            else:
                files = {single} if (single := top.with_name(f"{top.name}.py")).is_file() else set()
            waiting += files - found - {path}
            found |= files - {path}
    return found


def _imports(file: Path) -> set[str]:
    """Return the names of modules that a file imports, by statements or by a text given to `import_module`."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return set()  # importing it will tell
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in {"import_module", "__import__"} and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return names - set(sys.stdlib_module_names)
