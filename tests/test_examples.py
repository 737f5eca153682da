"""The scripts of examples/, each as a user starts it, with a tiny budget."""

import copy
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT, call, tiny
from nas_proxy.progress import DRAWING

pytestmark = pytest.mark.slow

EXAMPLES = ROOT / "examples"
CONTINUAL = "--orders 2 --tasks 2 --ipc 3 --steps 2 --epochs 2 --width 4 --limit 20 --out out"


def start(name: str, folder: Path, arguments: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name), *arguments.split()]
    around = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, env=around, capture_output=True, text=True, timeout=120)


def told(name: str, folder: Path, arguments: str = "") -> str:
    done = start(name, folder, arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested_and_says_how_it_is_started():
    for path in EXAMPLES.glob("*.py"):
        assert f'"{path.name}"' in Path(__file__).read_text(encoding="utf-8")
        assert f"    python examples/{path.name}\n" in path.read_text(encoding="utf-8")


def test_own_space(tmp_path, monkeypatch, capsys):
    out = told("own_space.py", tmp_path)
    assert out.splitlines()[0] == "168 architectures"  # 2 widths × (4 + 4² + 4³) blocks
    assert out.count("(2, 10)") == 3
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, tiny(f"nas-proxy run --space {EXAMPLES / 'own_space.py'} --out run", "--limit 20"))
    assert "n = 4: uniform sample of the space (4 of 168 architectures)" in capsys.readouterr().out


def test_own_images(tmp_path):
    out = told("own_images.py", tmp_path, "--images 30 --steps 2 --epochs 1 --trials 6 --out waves")
    assert len(list((tmp_path / "waves" / "images").glob("*/*.png"))) == 90
    assert (tmp_path / "waves" / "run" / "report.html").exists()
    assert re.search(r"Spearman \S+ over n = 6, 95 % interval \S+ to", out)


def test_optuna_objective(tmp_path):
    out = told("optuna_objective.py", tmp_path, "--trials 3 --steps 2 --epochs 2")
    assert re.search(r"Best of 3: depth=\d,.*, accuracy 0\.\d+\n\d trials were pruned", out)


def test_continual_learning(tmp_path):
    out = told("continual_learning.py", tmp_path, CONTINUAL)
    result = json.loads(out.splitlines()[-1])
    assert result["n"] == 2
    for method in ("random", "herding", "dm"):
        rows = result["accuracy"][method]
        assert len(rows["mean"]) == len(rows["std"]) == 2  # tasks
        assert all(0 < mean <= 1 for mean in rows["mean"])
    html = (tmp_path / "out" / "curve.html").read_text(encoding="utf-8")
    assert all(f'"name":"{method}"' in html for method in ("random", "herding", "dm"))
    assert "plotly.js" in html[:200_000]  # not from another machine
    # What is done is not done again, and not mixed with other settings.
    scores = tmp_path / "out" / "scores.json"
    kept = json.loads(scores.read_text(encoding="utf-8"))
    kept["scores"]["dm 1"] = [0.125, 0.25]
    scores.write_text(json.dumps(kept), encoding="utf-8")
    again = json.loads(told("continual_learning.py", tmp_path, CONTINUAL).splitlines()[-1])
    assert again["accuracy"]["dm"]["mean"][1] == round((kept["scores"]["dm 0"][1] + 0.25) / 2, 4)
    assert again["accuracy"]["random"] == result["accuracy"]["random"]
    other = start("continual_learning.py", tmp_path, f"{CONTINUAL} --seed 1")
    assert other.returncode == 1
    assert "scores of other settings" in other.stderr


def shown(notebook: Any) -> list[list[str]]:
    """The kinds of what each cell of code shows, without the bars, which depend on the machine."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not [
        out for cell in cells for out in cell.outputs if out.output_type == "error" or out.get("name") == "stderr"
    ]
    outputs = [[out.data for out in cell.outputs if "data" in out] for cell in cells]
    return [[min(data) for data in those if DRAWING not in data.get("text/html", "")] for those in outputs]


def test_the_tour_runs_and_is_kept_as_it_was_executed(tmp_path, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    path = EXAMPLES / "tour.ipynb"
    assert path.stat().st_size < 1_000_000
    kept = nbformat.read(path, as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    around = {"metadata": {"path": str(tmp_path)}}
    executed = nbclient.NotebookClient(copy.deepcopy(kept), timeout=240, resources=around).execute()
    assert shown(executed) == shown(kept)
    assert "<img" in str(kept.cells[1].outputs)
    assert "application/vnd.plotly.v1+json" in {kind for kinds in shown(kept) for kind in kinds}
    assert (tmp_path / "runs" / "tour" / "final" / "model.safetensors").exists()
    assert not [cell for cell in kept.cells if str(ROOT) in str(cell)]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("--data digitz", "unknown data set 'digitz'"),
        ("--ipc 500", "cannot be drawn"),
        ("--methods dn", "known: random"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, arguments, sentence):
    done = start("continual_learning.py", tmp_path, f"{CONTINUAL} {arguments}")
    assert done.returncode in (1, 2)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
