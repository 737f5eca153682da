"""README and docs/: the reference has every option, links lead somewhere, and commands and examples can be given."""

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer

from documents import PAGES, block, call, command_lines, read, tiny
from nas_proxy.cli import app
from nas_proxy.data.images import DataShape
from nas_proxy.spaces.loading import load_space, try_out

COMMANDS = typer.main.get_command(app.app).commands


def options(name: str) -> set[str]:
    """The options of a command."""
    return {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}


def examples(name: str) -> list[str]:
    """The examples with which the help of a command ends."""
    return [line for line in COMMANDS[name].epilog.split("\n\n")[1:] if line]


def test_the_reference_has_every_command_and_option():
    sections = re.split(r"^## `nas-proxy (\w+)`$", read("docs/commands.md"), flags=re.MULTILINE)[1:]
    told = dict(zip(sections[::2], sections[1::2], strict=True))
    again = "make it again, see CONTRIBUTING.md"
    assert set(told) == set(COMMANDS), again
    for name, section in told.items():
        assert set(re.findall(r"^\* `(--[a-z-]+)", section, re.MULTILINE)) == {*options(name), "--help"}, again


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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "run"])
def test_the_examples_of_help_run(name, digits, monkeypatch):
    monkeypatch.chdir(digits)
    served = []
    monkeypatch.setattr("nas_proxy.dashboard.server.serve", lambda folder, **_: served.append(folder))
    lines = examples(name)
    assert len(lines) >= 2
    for line in lines:
        check_options(line)
        if "://" not in line and not re.search(
            r"\.(csv|json|toml|png|jpg)\b", line
        ):  # a place or a file that is not here
            call(monkeypatch, tiny(line))
    assert len(served) == (len(lines) if name == "dashboard" else 0)


@pytest.mark.slow
def test_the_examples_of_run_itself(digits, monkeypatch):
    monkeypatch.chdir(digits)
    lines = examples("run")
    assert lines[0] == "nas-proxy run"  # which made `digits`
    call(monkeypatch, tiny(lines[1]))


def test_the_function_of_the_page_on_spaces(tmp_path):
    (tmp_path / "function.py").write_text(block("docs/data-and-spaces.md", "def space(trial, shape)"))
    shape = DataShape(1, 8, 8, 10)
    space = load_space(str(tmp_path / "function.py"), shape)
    try_out(space, shape)
    assert space.build(next(space.sample(0)), shape)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
