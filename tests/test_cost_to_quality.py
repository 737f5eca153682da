"""The benchmarks of cost to quality and of calibrated correlation, on small made-up tables."""

import json
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import arms  # noqa: E402
import calibrated_correlation  # noqa: E402
import cost_to_quality  # noqa: E402
import published_tables  # noqa: E402
from nas_proxy.errors import DataError  # noqa: E402

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3")


@pytest.fixture(scope="module")
def tables(tmp_path_factory) -> Path:
    """Cells of NAS-Bench-201 with made-up accuracies, and codes in the format of NAS-Bench-Macro."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)
    cells = [c for c in product(OPERATIONS, repeat=6) if rng.random() < 0.03]
    keys = ["|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*cell) for cell in cells]
    quality = np.array([sum(map(OPERATIONS.index, cell)) for cell in cells]) + rng.standard_normal(len(cells))
    truth, early = 60 + 2 * quality, 40 + 2 * quality + rng.standard_normal(len(cells))
    pd.DataFrame({"arch_str": keys, "full": truth, "epochs12": early}).to_csv(folder / "cells.csv", index=False)
    scores = {
        "arch_str": keys,
        "naswot": quality + 2 * rng.standard_normal(len(cells)),
        "flops": rng.uniform(1, 9, len(cells)),
    }
    pd.DataFrame(scores).to_csv(folder / "scores.csv", index=False)
    codes = ["".join(c) for c in product("012", repeat=4)]
    rows = {c: {"test_acc": [90 + int(c, 3) / 10] * 3, "mean_acc": 90 + int(c, 3) / 10, "std": 0.1} for c in codes}
    for code, row in rows.items():
        row |= {"params": 100 + sum(map(int, code)), "flops": 10 + int(code[0])}  # as published: counts
    (folder / "macro.json").write_text(json.dumps(rows))
    return folder


def specified(tables: Path) -> tuple[str, ...]:
    where = ("--table", f"{tables / 'cells.csv'}:full", "--scores", str(tables / "scores.csv"))
    return (*where, "--mid", f"{tables / 'cells.csv'}:epochs12:0.06")


def last_line(script: str, *options: str) -> dict:
    command = [sys.executable, str(BENCHMARKS / f"{script}.py"), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
def test_all_arms_go_on_where_they_were(tables, tmp_path):
    more = ("--repeats", "2", "--budgets", "4,12", "--horizon", "12", "--keep", str(tmp_path / "kept.jsonl"))
    found = last_line("cost_to_quality", *specified(tables), *more, "--out", str(tmp_path / "out.json"))
    assert set(found["regret"]) == set(arms.ARMS)
    for regret in found["regret"].values():
        assert regret["4"] >= regret["12"] >= 0
    assert found["regret"]["ours"]["12"] < found["regret"]["random"]["12"]
    kept = (tmp_path / "kept.jsonl").read_text()
    assert len(kept.splitlines()) == 2 * (len(arms.ARMS) + len(arms.PLANNED))  # those once for each budget
    assert last_line("cost_to_quality", *specified(tables), *more)["regret"] == found["regret"]
    assert (tmp_path / "kept.jsonl").read_text() == kept
    assert json.loads((tmp_path / "out.json").read_text())["regret"] == found["regret"]


@pytest.mark.slow
def test_calibrated_correlation(tables):
    more = ("--draws", "2", "--trainings", "12", "--crossed", "1")
    found = last_line("calibrated_correlation", *specified(tables), *more)["tables"]["table"]
    assert found["12"]["calibrated"] > 0.8
    assert set(found["12"]["best_single"]) == {"mid"}
    assert -1 <= found["12"]["cross_fitted"] <= 1


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", [cost_to_quality, calibrated_correlation])
def test_without_tables_one_sentence_says_so(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "--data", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit, match=r"^\S+ does not exist; give a table with --table FILE:COLUMN$"):
        benchmark.main()
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    monkeypatch.setattr(cost_to_quality, "BESIDE", tmp_path / "nowhere")
    with pytest.raises(SystemExit, match=r"^give the folder of the published tables with --data DIR, or a table with "):
        benchmark.main()


def load(tables: Path, cheapest: float = 1.0) -> published_tables.Task:
    cells = tables / "cells.csv"
    return published_tables.load_task(
        "cells", f"{cells}:full", tables / "scores.csv", f"{cells}:epochs12:0.06", cheapest
    )


def test_what_is_known_before_training(tables):
    task = published_tables.load_task("macro", f"{tables / 'macro.json'}:mean_acc", cheapest=1 / 3)
    assert set(task.names) == {"params", "flops"}
    assert len(task.keys) == 27
    assert task.truth.max() == pytest.approx(0.926)
    named = published_tables.load_task("macro", f"{tables / 'macro.json'}:test_acc", tables / "macro.json")
    assert set(named.names) == {"params", "flops"}
    assert named.truth == pytest.approx(np.array([0.9 + i / 1000 for i in range(81)]))
    cells = tables / "cells.csv"
    assert load(tables).names == ("naswot", "flops")
    assert published_tables.load_task("cells", f"{cells}:full", cells).names == ()


def test_the_cheapest_part_is_by_flops(tables):
    whole, part = load(tables), load(tables, 0.3)
    assert len(part.keys) == round(0.3 * len(whole.keys))
    flops = dict(zip(whole.keys, whole.scores[:, whole.names.index("flops")], strict=True))
    assert max(flops[key] for key in part.keys) <= min(flops[key] for key in set(whole.keys) - set(part.keys))


@pytest.mark.parametrize(
    ("keys", "first"),
    [
        (["|none~0|+|none~0|none~1|+|none~0|none~1|skip_connect~2|"], {"edge_2_3": "skip_connect"}),
        (["00121200", "00121201"], {"place2": "1", "place7": "0"}),
        (["depth=3,width=8", "depth=4,width=8"], {"depth": "3", "width": "8"}),
        (["conv/pool/conv", "conv/conv"], {"place0": "conv", "place1": "pool", "place2": "conv"}),
    ],
)
def test_keys_say_what_was_chosen(keys, first):
    assert published_tables.parse(keys)[0].items() >= first.items()


def test_misleading_signals(tables):
    task = load(tables)
    noise, turned = (published_tables.misled(task, kind, 3) for kind in ("noise", "reversed"))
    assert np.sort(noise.scores, axis=0) == pytest.approx(np.sort(task.scores, axis=0))
    assert abs(np.corrcoef(noise.scores[:, 0], task.scores[:, 0])[0, 1]) < 0.4
    assert np.corrcoef(turned.mid, task.mid)[0, 1] == pytest.approx(-1)
    assert (noise.truth == task.truth).all()
    assert published_tables.misled(task, "", 3) is task


@pytest.mark.parametrize("arm", ["ours", "random", "vote", "flops", "tpe", "evolution_warm", "hyperband_16"])
def test_a_trace_counts_everything_and_trains_nothing_twice(arm, tables):
    task = load(tables)
    trace = arms.ARMS[arm](task, 5, 14, 0.01)
    costs, indices = zip(*trace, strict=True)
    assert len(set(indices)) == len(indices)
    assert all(later - earlier >= 1 - 1e-9 for earlier, later in pairwise(costs))
    paid = 0.01 * len(task.keys) if arm in {"ours", "vote", "evolution_warm"} else 0.0  # naswot; flops are free
    cheap = 16 * task.share if arm == "ours" else 0.0  # as many again only where they agree with the vote
    assert costs[0] >= paid + cheap + 1 - 1e-9
    assert trace == arms.ARMS[arm](task, 5, 14, 0.01)


def test_regret_is_of_the_best_that_was_paid_for(tables):
    task = load(tables)
    worst, best = int(task.truth.argmin()), int(task.truth.argmax())
    found = cost_to_quality.regrets(task, [(1.5, worst), (2.5, best)], [1, 2, 2.5])
    span = 100 * (task.truth.max() - task.truth.min())
    assert found == pytest.approx([100 * (task.truth.max() - task.truth.mean()), span, 0])


def test_times_fewer():
    def times(**arms):
        reach = {arm: {"equivalents": equivalents, "tried": tried} for arm, (equivalents, tried) in arms.items()}
        found = cost_to_quality.times_fewer(reach)
        return [(each["times"], each["at_least"]) for each in found.values()]

    assert times(ours=(4, 32), tpe=(30, 64)) == [(7.5, False)] * 2
    assert times(ours=(4, 32), tpe=(30, 64), hyperband_16=(12, 64)) == [(7.5, False), (3, False)]
    assert times(ours=(4, 32), tpe=(40, 64), gp=(None, 32)) == [(8, True)] * 2
    assert times(ours=(None, 32), tpe=(3, 64)) == []
    assert cost_to_quality.reached(np.array([0.9, 0.4, 0.3]), [1, 2, 3]) == 3


@pytest.mark.parametrize(
    ("spec", "words"),
    [("cells.csv:fulll", "no column 'fulll'"), ("absent.csv:full", "does not exist")],
)
def test_mistakes_get_a_sentence(spec, words, tables):
    with pytest.raises(DataError, match=words):
        published_tables.load_task("cells", f"{tables / spec}")
