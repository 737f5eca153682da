"""The pages of docs/ that are made from the code: `python docs/make.py` writes them anew.

In: the docstrings of nas_proxy, read from its sources, and the options of its command line. Out: `api.md` (every
name that `import nas_proxy` offers), `commands.md` (every command, option and example) and `modules.md` (what is
where). Guarantees: the same sources give the same pages, and a name without a docstring or an option without help
is an error.
"""

import ast
import inspect
import re
import typing
from pathlib import Path
from typing import Any

from typer.models import ArgumentInfo

import nas_proxy

ROOT = Path(__file__).parents[1]
MADE = "<!-- Made by docs/make.py from the code; change it there. -->\n"
RULES = """Results go to stdout, progress and mistakes to stderr. The exit code is 2 for a mistake that you can mend
and 1 where the work itself failed. What was cut off goes on when the same command is given again.
"""
NAMES = {str: "TEXT", Path: "PATH", int: "N", float: "N"}
Definition = ast.FunctionDef | ast.ClassDef


def api() -> str:
    """Return the reference of the Python API: run, building blocks, data, errors."""
    objects = {name: getattr(nas_proxy, name) for name in nas_proxy.__all__ if not name.startswith("__")}
    errors = [name for name, value in objects.items() if isinstance(value, type) and issubclass(value, Exception)]
    functions = [name for name, value in objects.items() if inspect.isfunction(value)]
    rest = [name for name in objects if name not in {*errors, *functions}]
    parts = [MADE, "# Python API\n", "Everything that `import nas_proxy` offers.\n"]
    for title, names in (("Functions", functions), ("Classes and values", rest), ("Errors", errors)):
        parts.append(f"## {title}\n")
        parts += [_entry(name, objects[name]) for name in names]
    return "\n".join(parts)


def _entry(name: str, value: Any) -> str:
    if not inspect.isfunction(value) and not isinstance(value, type):
        return f"### `{name}`\n\n```python\n{name} = {value!r}\n```\n"
    node = _definition(value)
    lines = [f"### `{name}`\n", f"From `{value.__module__}`.\n", _code(_signatures(node)), _text(node)]
    lines += [f"- `{m.name}{_arguments(m)}`: {_text(m, indent=2).lstrip()}" for m in _members(node)]
    return "\n".join(lines)


def _definition(value: Any) -> Definition:
    """Return the syntax tree of a function or class."""
    file = Path(inspect.getsourcefile(value) or "")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, Definition) and node.name == value.__name__:
            return node
    raise LookupError(f"{value.__name__} is not defined in {file}")


def _members(node: Definition) -> list[ast.FunctionDef]:
    """Return the public methods and properties of a class."""
    if not isinstance(node, ast.ClassDef):
        return []
    return [member for member in node.body if isinstance(member, ast.FunctionDef) and not member.name.startswith("_")]


def _signatures(node: Definition) -> str:
    """Return how a function is called; of a class its fields, or how it is made."""
    if isinstance(node, ast.FunctionDef):
        return f"{node.name}{_call(node)}"
    made = [member for member in node.body if isinstance(member, ast.FunctionDef) and member.name == "__init__"]
    if made:
        return f"{node.name}{_call(made[0])}"
    fields = [ast.unparse(member) for member in node.body if isinstance(member, ast.AnnAssign)]
    bases = f"({', '.join(map(ast.unparse, node.bases))})" if node.bases else ""
    return "\n".join([f"class {node.name}{bases}", *(f"    {field}" for field in fields)])


def _call(node: ast.FunctionDef) -> str:
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    arguments = re.sub(r"(?<=[\w\]])=(?=\S)", " = ", ast.unparse(node.args)).removeprefix("self, ").removeprefix("self")
    text = f"({arguments}){returned}"
    return text if len(node.name) + len(text) <= 100 else f"(\n    {_split(arguments)},\n){returned}"


def _split(arguments: str) -> str:
    """Put each argument on a line of its own: a comma within brackets belongs to an annotation."""
    depth, found = 0, ""
    for character in arguments:
        depth += (character in "[(") - (character in "])")
        found += character if character != "," or depth else ",\n   "
    return found


def _arguments(member: ast.FunctionDef) -> str:
    is_property = any(isinstance(d, ast.Name) and d.id == "property" for d in member.decorator_list)
    return "" if is_property else _one_line(_call(member))


def _one_line(text: str) -> str:
    return re.sub(r"\(\s+", "(", re.sub(r",\s+\)", ")", re.sub(r"\s+", " ", text)))


def _text(node: Definition, indent: int = 0) -> str:
    """Return the docstring as Markdown: a line that begins "name: " or "name, name: " becomes a point of a list."""
    docstring = ast.get_docstring(node)
    if not docstring:
        raise LookupError(f"{node.name} has no docstring")
    lines, listed = [], False
    for line in docstring.splitlines():
        found = re.match(r"((?:[a-z_]+, )*[a-z_]+): (.*)", line)
        if found:
            lines += [""] * (not listed and lines[-1] != "") + [f"- `{found[1].replace(', ', '`, `')}`: {found[2]}"]
            listed = True
        elif listed and line and not line.startswith(" ") and re.match(r"(Raises|Returns|A |An )", line):
            lines += ["", line]
            listed = False
        else:
            lines.append(f"  {line.strip()}" if listed and line else line)
            listed = listed and bool(line)
    return "\n".join(f"{' ' * indent}{line}" if line else "" for line in lines) + "\n"


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text}\n```\n"


def commands() -> str:
    """Return the reference of the command line: a section a command."""
    from nas_proxy.cli.app import app

    about = f"{app.info.help} `nas-proxy COMMAND --help` says what this page says."
    parts = [MADE, "# Commands\n", f"{about}\n", RULES]
    for command in app.registered_commands:
        arguments, options = _parameters(command)
        parts += [f"## `nas-proxy {command.name}`\n", f"{inspect.getdoc(command.callback)}\n"]
        parts.append(_code(" ".join(["nas-proxy", str(command.name), *arguments, "[OPTIONS]"]), "text"))
        parts.append("\n".join(["| option | what |", "| --- | --- |", *options]) + "\n")
        parts += ["Examples:\n", *(f"    {line}" for line in examples(command)), ""]
    return "\n".join(parts)


def _parameters(command: Any) -> tuple[list[str], list[str]]:
    """Return the names of a command's arguments, and a row of the table for each option."""
    hints = typing.get_type_hints(command.callback, include_extras=True)
    arguments, options = [], []
    for name, parameter in inspect.signature(command.callback).parameters.items():
        kind, told = typing.get_args(hints[name])[:2]
        if isinstance(told, ArgumentInfo):
            arguments.append(str(told.metavar))
            continue
        if not told.help:
            raise LookupError(f"the option for {name} of {command.name} has no help")
        named = [told.default, *(told.param_decls or ())]  # with Annotated, the first name is where the default was
        option = next((n for n in named if isinstance(n, str)), f"--{name.replace('_', '-')}")
        default = f" Default: {parameter.default}." if parameter.default not in (None, False) else ""
        options.append(f"| `{option}{_value(kind, told)}` | {told.help}{default} |")
    return arguments, options


def _value(kind: Any, told: Any) -> str:
    """Return how the value of an option is called, nothing for a flag."""
    kinds = set(typing.get_args(kind) or (kind,)) - {type(None)}
    return "" if kinds == {bool} else f" {told.metavar or NAMES[kinds.pop()]}"


def examples(command: Any) -> list[str]:
    """Return the examples with which the help of a command ends."""
    return [line for line in str(command.epilog).split("\n\n")[1:] if line]


def modules() -> str:
    """Return what is where: every module with the first paragraph of its docstring."""
    parts = [MADE, "# What is where\n", "The first words of every module; the rest of its docstring says more.\n"]
    folders = sorted({path.parent for path in (ROOT / "nas_proxy").rglob("*.py")})
    for folder in [*folders, ROOT / "search_spaces", ROOT / "benchmarks", ROOT / "examples", ROOT / "docs"]:
        named = [path for path in sorted(folder.glob("*.py")) if not path.name.startswith("_")]
        about = _first(folder / "__init__.py") if (folder / "__init__.py").exists() else ""
        parts.append(f"## {folder.relative_to(ROOT).as_posix()}/\n")
        parts += [about + "\n"] * bool(about)
        parts.append("\n".join(["| module | what |", "| --- | --- |", *(_row(path) for path in named)]) + "\n")
    return "\n".join(parts)


def _row(path: Path) -> str:
    return f"| [`{path.name}`](../{path.relative_to(ROOT).as_posix()}) | {_first(path)} |".replace("|…", "\\|…")


def _first(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if not docstring:
        raise LookupError(f"{path} has no docstring")
    return " ".join(docstring.split("\n\n")[0].split()).replace("|", "\\|")


PAGES = {"api.md": api, "commands.md": commands, "modules.md": modules}


def main() -> None:
    """Write the pages."""
    for name, page in PAGES.items():
        (ROOT / "docs" / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
