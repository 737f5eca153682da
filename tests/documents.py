"""What the tests of README and docs/ share: the blocks of a page, and the command line with a tiny budget."""

import re
import shlex
from pathlib import Path

import pytest

from nas_proxy.cli import app

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
# Whatever a command trains, it trains briefly. An option that comes later wins.
TINY = {
    "run": "--steps 2 --ipc 2 --epochs 1 --truth-epochs 1 --trials 6 --truth 4 --workers 1 --device cpu",
    "condense": "--steps 2 --ipc 2 --evaluate-epochs 1",
    "compare": "--sample 4 --steps 2 --ipc 2 --epochs 1 --draws 1 --workers 1 --device cpu",
    "final": "--epochs 1",
    "dashboard": "--port 0 --no-browser",
}


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def python_blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", read(page), re.DOTALL)


def block(page: str, containing: str) -> str:
    """The one Python block of a page that contains a text."""
    (found,) = (text for text in python_blocks(page) if containing in text)
    return found


def command_lines(text: str) -> list[str]:
    """The indented lines that call nas-proxy, without remarks; what a backslash continues is one line."""
    text = re.sub(r"\\\n +", "", text)
    return [re.sub(r"\s+#.*", "", line.strip()) for line in re.findall(r"^    nas-proxy .*$", text, re.MULTILINE)]


def tiny(line: str, also: str = "") -> list[str]:
    """The arguments of a line, with a tiny budget."""
    _, command, *arguments = shlex.split(line)
    return [command, *arguments, *TINY.get(command, "").split(), *also.split()]


def call(monkeypatch: pytest.MonkeyPatch, arguments: list[str]) -> None:
    """Run the command line in this process; a mistake fails the test."""
    monkeypatch.setattr("sys.argv", ["nas-proxy", *arguments])
    try:
        app.main()
    except SystemExit as end:
        assert end.code in (0, None), f"{arguments} ended with {end.code}"
