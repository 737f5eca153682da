"""The benchmarks of cost to quality and of calibrated correlation, on small made-up tables."""

import contextlib
import io
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
import table_options  # noqa: E402
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


BOTH = pytest.mark.parametrize("benchmark", [cost_to_quality, calibrated_correlation])


def refused(benchmark, *options: str) -> str:
    """Return the last line on stderr of a benchmark that ends with exit code 2."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as told:
        patch.setattr(sys, "argv", ["benchmark", *options])
        with pytest.raises(SystemExit) as ended:
            benchmark.main()
    assert ended.value.code == 2
    return told.getvalue().splitlines()[-1]


@BOTH
def test_without_tables_one_sentence_says_so(benchmark, tmp_path, monkeypatch):
    told = refused(benchmark, "--data", str(tmp_path / "nowhere"))
    assert told == f"{tmp_path / 'nowhere'} does not exist; give a table with --table FILE:COLUMN"
    monkeypatch.setattr(table_options, "BESIDE", tmp_path / "nowhere")
    assert refused(benchmark).startswith("give the folder of the published tables with --data DIR, or a table with ")


@BOTH
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--mid", "{cells}:epochs12"], "does not end in a share of a full training, above 0 and up to 1"),
        (["--mid", "{cells}:epochs12:0"], "does not end in a share of a full training, above 0 and up to 1"),
        (["--mid", "{cells}:epochs12:nan"], "does not end in a share of a full training, above 0 and up to 1"),
        (["--mid", "{cells}:eleven:0.1"], "has no column 'eleven'"),
        (["--cheapest", "30"], "argument --cheapest: '30' is no number above 0 and up to 1"),
        (["--cheapest", "-0.3"], "argument --cheapest: '-0.3' is no number above 0 and up to 1"),
        (["--cheapest", "0.5", "--scores", "{cells}"], "has none whose numbers differ"),
        (["--scores", "{folder}"], "is no file; give a CSV, JSON or Parquet file"),
        (["--out", "{folder}"], "is a folder; name a file in it"),
        (["--scores", "{folder}/twice.csv"], "lists 'a' 2 times; keep one row of it"),
        (["--scores", "{folder}/unnamed.csv"], "has 1 rows without a key, the first is row 2"),
        (["--table", "{folder}/beyond.csv:accuracy"], "has 300 in accuracy for 'b'; an accuracy is a fraction"),
        (["--table", "{folder}/mixed.csv:accuracy"], "mixes fractions and percentages in accuracy; use one of them"),
    ],
)
def test_a_mistake_is_one_sentence(benchmark, options, sentence, tables, tmp_path):
    (tmp_path / "twice.csv").write_text("key,mine\na,1\na,2\n")
    (tmp_path / "unnamed.csv").write_text("key,mine\na,1\n,2\n")
    (tmp_path / "beyond.csv").write_text("key,accuracy\na,0.1\nb,300\n")
    (tmp_path / "mixed.csv").write_text("key,accuracy\na,0.91\nb,93\n")
    given = [option.format(cells=tables / "cells.csv", folder=tmp_path) for option in options]
    table = [] if "--table" in given else ["--table", f"{tables / 'cells.csv'}:full"]
    assert sentence in refused(benchmark, *table, *given)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            ["--arms", "random,hyperband"],
            "the arm hyperband needs a cheap training (--mid); leave it out of --arms, or",
        ),
        (["--arms", "vote"], "the arm vote needs scores; leave it out of --arms, or give it"),
        (["--arms", "annealing"], "there is no arm 'annealing'; there are "),
        (["--repeats", "0"], "argument --repeats: '0' is no whole number from 1 on"),
        (["--budgets", "8,inf"], "argument --budgets: 'inf' is no number above 0"),
        (["--score-share", "nan"], "argument --score-share: 'nan' is no number 0 or more and up to 1"),
    ],
)
def test_a_mistake_in_arms_and_budgets_is_told(options, sentence, tables):
    assert sentence in refused(cost_to_quality, "--table", f"{tables / 'cells.csv'}:full", *options)


def test_options_of_a_table_need_one(tables):
    told = refused(cost_to_quality, "--scores", str(tables / "scores.csv"))
    assert told == "--scores goes with --table FILE:COLUMN; the published tables have their own"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "table has no scores and no cheap training to calibrate; give --scores or --mid"),
        (["--scores", "{scores}", "--trainings", "100000"], "leave fewer than 4 to judge by; give --trainings up to "),
        (["--scores", "{scores}", "--trainings", "3"], "argument --trainings: '3' is no whole number from 4 on"),
    ],
)
def test_what_cannot_be_calibrated_is_told(options, sentence, tables):
    given = [option.format(scores=tables / "scores.csv") for option in options]
    assert sentence in refused(calibrated_correlation, "--table", f"{tables / 'cells.csv'}:full", *given)


def test_what_is_left_out_of_files_is_told(tmp_path):
    rows = "".join(f"a{i},{0.5 + i / 100},{i}\n" for i in range(8))
    (tmp_path / "truth.csv").write_text(f"key,accuracy,flops\n{rows}a8,,8\na9,n/a,9\n")
    scores = [{"key": f"a{i}", "naswot": {"score": -i, "time": 1}, "same": 1, "flops": i} for i in range(1, 10)]
    (tmp_path / "scores.json").write_text(json.dumps(scores))
    task = published_tables.load_task("mine", f"{tmp_path / 'truth.csv'}:accuracy", tmp_path / "scores.json")
    assert task.keys == tuple(f"a{i}" for i in range(1, 8))
    assert task.names == ("naswot", "flops")
    assert task.remarks == (
        "no scores, since they hold no two different numbers: same",
        "3 of 10 rows of truth.csv are left out (no accuracy: 2; no row of scores: 1)",
    )
    plain = published_tables.load_task("mine", str(tmp_path / "truth.csv"))
    assert plain.names == ("flops",)  # by default the column of accuracies is found, and is no score


def test_a_missing_score_is_the_lowest():
    found = calibrated_correlation.lowest(np.array([-3.0, np.nan, -9.0]))
    assert found.argmin() == 1
    assert np.isfinite(found).all()


def test_kept_traces_that_a_kill_cut_off_go_on(tmp_path):
    path = tmp_path / "kept.jsonl"
    path.write_text('{"name": "a", "trace": [[1, 2]]}\n{"name": "b", "tra')
    assert cost_to_quality.kept_in(path) == {"a": [[1, 2]]}
    assert path.read_text() == '{"name": "a", "trace": [[1, 2]]}\n'
    path.write_text("something else\n")
    with pytest.raises(DataError, match="holds something else than traces"):
        cost_to_quality.kept_in(path)
    assert cost_to_quality.kept_in(tmp_path / "none") == {}


def test_no_arm_goes_on_where_all_is_trained(tables):
    task = load(tables)
    until = cost_to_quality.horizon("random", [1e6], 64, task, 0.01)
    assert len(task.keys) < until < 2 * len(task.keys)
    assert cost_to_quality.horizon("ours", [8, 32], 64, task, 0.01) == 32


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
        (["a+1", "a-1"], {"place0": "a", "place1": "+", "place2": "1"}),
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
