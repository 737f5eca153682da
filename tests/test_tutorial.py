"""The tutorial of the README, every line of it, with a tiny budget."""

import re

import pytest

from documents import call, read, tiny

TUTORIAL = read("README.md").split("## Tutorial")[1].split("\n## ")[0]
STEP = re.compile(r"```python\n(?P<code>.*?)```|^    (?P<command>nas-proxy [^\n]*)$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
def test_the_tutorial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nas_proxy.dashboard.server.serve", lambda folder, **_: print("served", folder))
    told = ""
    for step in STEP.finditer(TUTORIAL):
        code, command = step["code"], step["command"]
        if command:
            call(monkeypatch, tiny(command))
        elif "def build" in code:
            assert "Save this as `mine.py`" in TUTORIAL
            (tmp_path / "mine.py").write_text(code)
        else:
            exec(compile(code, "README.md", "exec"), {})
        told += capsys.readouterr().out
    assert len(list((tmp_path / "photos").glob("*/*.png"))) == 240
    check_output(told)
    assert "runs/first: done" in told
    assert "served" in told
    assert re.search(r"photos/flat/0.png: (flat|steep|slanted) [\d.]+%, ", told)
    assert re.search(r"\{'(flat|steep|slanted)': [\d.]+, ", told)
    assert (tmp_path / "runs" / "first" / "final" / "model.pt2").exists()


def check_output(told: str) -> None:
    """What the tutorial shows has the rows and the words of what comes out; the numbers are a longer run's."""
    shown = re.search(r"```text\n(.*?)```", TUTORIAL, re.DOTALL)[1]
    table, _, verdict = shown.partition("…\n")
    for line in table.splitlines():
        label = re.split(r"\s{2,}| +[−\d]", line)[0]
        assert re.search(rf"^{re.escape(label)} ", told, re.MULTILINE), label
    assert [line.split()[0] for line in table.splitlines()][1:] == rows(told, len(table.splitlines()) - 1)
    for words in ("Spearman", "over", "full training repeats itself at", "against random images"):
        assert words in " ".join(verdict.split())
        assert words in " ".join(told.split())


def rows(told: str, count: int) -> list[str]:
    lines = told[told.index("Signal ") :].splitlines()[1:]
    return [line.split()[0] for line in lines if re.search(r" [\d.]+k?$", line)][:count]


@pytest.mark.parametrize("page", ["docs/data-and-spaces.md", "docs/reading-the-ranking.md", "docs/how-it-works.md"])
def test_the_tutorial_leads_on(page):
    assert f"({page})" in read("README.md")
