"""The pages of docs/: what is made from the code is as the code is, links lead somewhere, and commands can be given."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import torch

from documents import PAGES, ROOT, block, call, command_lines, read, tiny
from nas_proxy.cli import app
from nas_proxy.data.images import DataShape
from nas_proxy.spaces.loading import load_space, try_out

SPECIFICATION = importlib.util.spec_from_file_location("make", ROOT / "docs" / "make.py")
make = importlib.util.module_from_spec(SPECIFICATION)
SPECIFICATION.loader.exec_module(make)
COMMANDS = {command.name: command for command in app.app.registered_commands}


@pytest.mark.parametrize("name", make.PAGES)
def test_a_page_made_from_the_code_is_as_the_code_is(name):
    page = make.PAGES[name]()
    assert read(f"docs/{name}") == page, "run `python docs/make.py`"


def test_the_reference_has_every_name_command_and_module():
    import nas_proxy

    api, commands, modules = (page() for page in make.PAGES.values())
    assert all(f"### `{name}`" in api for name in nas_proxy.__all__ if name != "__version__")
    assert all(f"## `nas-proxy {name}`" in commands for name in COMMANDS)
    named = [path for path in (ROOT / "nas_proxy").rglob("*.py") if not path.name.startswith("_")]
    assert all(f"(../{path.relative_to(ROOT).as_posix()})" in modules for path in named)


def test_what_has_no_help_or_docstring_is_an_error(tmp_path):
    (tmp_path / "silent.py").write_text("x = 1\n")
    with pytest.raises(LookupError, match=r"silent\.py has no docstring"):
        make._first(tmp_path / "silent.py")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_every_option(name, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    call(monkeypatch, [name, "--help"])
    told = capsys.readouterr().out
    assert {*options(name), "--help"} == set(re.findall(r"^│ +(--[a-z-]+)", told, re.MULTILINE))


def options(name: str) -> list[str]:
    """The options of a command on its page."""
    section = make.commands().split(f"## `nas-proxy {name}`\n")[1].split("\n## ")[0]
    return re.findall(r"^\| `(--[a-z-]+)", section, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link, source in re.findall(r"\]\(([^)#]+)[^)]*\)|src=\"([^\"]+)\"", text):
        target = link or source
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_take_these_options(page):
    for line in command_lines(page.read_text(encoding="utf-8")):
        check_options(line)


def check_options(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    known = {*options(name), "--help"}
    assert {argument for argument in arguments if argument.startswith("--")} <= known, line


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    """A folder in which `nas-proxy run`, with a tiny budget, has been."""
    folder = tmp_path_factory.mktemp("examples")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        call(patch, tiny("nas-proxy run"))
    return folder


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in {"run", "worker"}])
def test_the_examples_of_help_run(name, digits, monkeypatch):
    monkeypatch.chdir(digits)
    served = []
    monkeypatch.setattr("nas_proxy.dashboard.server.serve", lambda folder, **_: served.append(folder))
    lines = make.examples(COMMANDS[name])
    assert len(lines) >= 2
    for line in lines:
        check_options(line)
        if "://" not in line and not re.search(r"\.(csv|json|toml)\b", line):  # a place or a file that is not here
            call(monkeypatch, tiny(line))
    assert len(served) == (len(lines) if name == "dashboard" else 0)


def test_the_examples_of_worker_take_these_options():  # they need a database, see test_postgres.py
    for line in make.examples(COMMANDS["worker"]):
        check_options(line)


def test_the_examples_of_run_itself(digits, monkeypatch):
    monkeypatch.chdir(digits)
    lines = make.examples(COMMANDS["run"])
    assert lines[0] == "nas-proxy run"  # which made `digits`
    call(monkeypatch, tiny(lines[1]))


def test_the_function_of_the_page_on_spaces(tmp_path):
    (tmp_path / "function.py").write_text(block("docs/data-and-spaces.md", "def space(trial, shape)"))
    shape = DataShape(1, 8, 8, 10)
    space = load_space(str(tmp_path / "function.py"), shape)
    try_out(space, shape)
    assert space.build(next(space.sample(0)), shape)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
