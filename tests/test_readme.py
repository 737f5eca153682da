"""What the README shows works, and what it says is so."""

import pytest
import torch

import nas_proxy
from documents import ROOT, block, read
from nas_proxy.data.images import DataShape
from nas_proxy.names import label
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.report.formats import decimal, interval
from nas_proxy.report.verdict import verdict
from nas_proxy.runs.identity import differences
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.loading import load_space, try_out

README = read("README.md")
REFERENCE = ROOT / "runs" / "digits-reference"
TINY = {
    "trials": 5,
    "truth": 4,
    "workers": 1,
    "device": "cpu",
    "limit": 20,
    "condense": {"images_per_class": 2, "steps": 2},
    "proxy_training": {"epochs": 1},
    "full_training": {"epochs": 1},
}


@pytest.mark.slow
def test_the_space_of_the_readme_runs(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(block("README.md", "def build"))
    shape = DataShape(1, 8, 8, 10)
    space = load_space(str(path), shape)
    try_out(space, shape)
    assert space.size == 3 * 4
    for architecture in space.sample(0):
        assert space.build(architecture, shape)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    run = nas_proxy.run("digits", str(path), out=tmp_path / "run", **TINY)
    assert run.ranking["n"] == 4


def short(monkeypatch):
    """Let the steps have a tiny budget, whatever a page asks for."""
    load, condense, search = nas_proxy.load_data, nas_proxy.condense, nas_proxy.search
    given = {name: value for name, value in TINY.items() if name not in {"limit", "condense"}}
    monkeypatch.setattr(nas_proxy, "load_data", lambda name: load(name, limit=TINY["limit"]))
    monkeypatch.setattr(nas_proxy, "condense", lambda data, **told: condense(data, **{**told, **TINY["condense"]}))
    monkeypatch.setattr(nas_proxy, "search", lambda *args, **told: search(*args, **{**told, **given}))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "folder"), [("README.md", "runs/from-python"), ("docs/python.md", "runs/steps")], ids=["README", "python"]
)
def test_the_python_of_a_page_runs(page, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    short(monkeypatch)
    exec(compile(block(page, "nas_proxy.rank("), page, "exec"), {})
    assert verdict(nas_proxy.open(folder).ranking) in capsys.readouterr().out
    assert (tmp_path / folder / "report.html").exists()
    assert (tmp_path / folder / "final" / "model.safetensors").exists()


def test_the_table_is_that_of_the_reference_run():
    ranking = Ranking.read(REFERENCE / "ranking.json")
    table = README.split("<!-- table:begin -->")[1].split("<!-- table:end -->")[0]
    for name, row in ranking.signals.items():
        line = next(line for line in table.splitlines() if line.startswith(f"| {label(name)} |"))
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        assert cells[1] == interval(row.spearman)
        assert cells[2] == interval(row.spearman_top_half)
        assert cells[3] == ("–" if name == "random" else interval(row.minus_random, sign=True))
    assert verdict(ranking) in table
    assert decimal(ranking.cost.speedup) in table


def test_the_reference_run_is_the_default_run():
    config = resolve({}, REFERENCE / "run.toml")
    assert differences(config, resolve({})) == []
