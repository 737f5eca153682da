"""Published accuracies as truth: what a file says, each mistake in a sentence, and a whole run that trains none."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nas_proxy
from conftest import blobs
from nas_proxy import Choice, DataError, DataShape, RunFolderError, Space, SpaceError, load_space
from nas_proxy.ranking.truth_table import known_part, load_truth_table
from nas_proxy.report.page import report_html
from nas_proxy.report.run_contents import read_run
from nas_proxy.report.verdict import truth_source
from nas_proxy.runs.resolving import resolve
from nas_proxy.spaces.function_space import FunctionSpace

SPACE = Space("toy", Choice("code", ("00", "01", "10", "11")), lambda _, __: None, name_of=lambda a: a["code"])
BENCHMARKS = Path(__file__).parents[2] / "shared" / "data" / "benchmarks"


@pytest.fixture
def write(tmp_path):
    def to(text, name: str = "table.csv") -> str:
        path = tmp_path / name
        path.write_text(text if isinstance(text, str) else json.dumps(text))
        return str(path)

    return to


def load(spec: str, space=SPACE, classes: int = 10):
    return load_truth_table(spec, space, classes)


def test_a_csv_keeps_leading_zeros_and_is_converted(write):
    table = load(write("code,index,val,test\n00,7,90,91.5\n11,8,70,\n01,9,80,81\n") + ":test")
    assert table.scores[0].to_dict() == {"00": 0.915, "01": 0.81}
    assert table.columns == ("test",)
    assert table.remarks == (
        "2 architectures have a truth, test of table.csv",
        "its percentages are divided by 100",
        "1 rows without an accuracy are left out",
    )


def test_several_columns_are_seeds(write):
    table = load(write("key,a,b,params\n00,0.9,0.8,5\n01,0.7,0.6,4\n") + ":b,a")
    assert table.scores.loc["00"].tolist() == [0.8, 0.9]


@pytest.mark.parametrize(
    ("content", "seeds"),
    [
        ({"00": {"test_acc": [50, 60], "mean_acc": 55}, "01": {"test_acc": [70, 80], "mean_acc": 75}}, [0.5, 0.6]),
        ({"00": 0.5, "01": 0.6}, [0.5]),
        ([{"arch": "00", "accuracy": 0.5, "params": 3}, {"arch": "01", "accuracy": 0.6, "params": 3}], [0.5]),
        ([{"key": "00", "accuracy_0": 0.5, "accuracy_1": 0.4, "accuracy": 0.45}], [0.5, 0.4]),
    ],
)
def test_json_in_each_form(write, content, seeds):
    assert load(write(content, "table.json")).scores.loc["00"].tolist() == seeds


def test_parquet_with_columns_and_with_an_index(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"key": ["00", "01"], "acc": [0.5, 0.6]})
    for name, stored in (("a", frame), ("b", frame.set_index("key"))):
        path = tmp_path / f"{name}.parquet"
        stored.to_parquet(path, engine="pyarrow")
        assert load(str(path)).scores[0].to_dict() == {"00": 0.5, "01": 0.6}


def test_parquet_without_pyarrow_names_the_line_that_installs_it(tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"")

    def missing(*_, **__):
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", missing)
    with pytest.raises(DataError, match=r"needs pyarrow; install it with: pip install -e '\.\[parquet\]'"):
        load(str(path))


MISTAKES = {
    "key,a\n00,1\n02,1\n": "has 1 of 2 rows that are not in the space toy, the first '02'; a key of it looks like '00'",
    "key,a\n00,1\n00,1\n": "lists '00' 2 times; keep one row of it",
    "name,a\n00,1\n": "has no column of keys; call one of its columns (name, a) key",
    "key,a,b\n00,1,2\n": (
        "has several columns of numbers; name the accuracy as table.csv:COLUMN, with a column of: a, b"
    ),
    "key,a\n00,x\n": "has no column of numbers; name the accuracy as table.csv:COLUMN, with a column of: a",
    "key,a\n00,1\n01,x\n": "has 'x' in 'a' for '01'; an accuracy is a number",
    "key,a\n00,1\n01,inf\n": "has 'inf' in 'a' for '01'; an accuracy is a number",
    "key,a\n00,93\n01,0.93\n": ("mixes percentages and fractions in a: 93 for '00', 0.93 for '01'; use one of them"),
    "key,a\n00,93\n01,101\n": (
        "has 101 in a for '01'; an accuracy is a fraction from 0 to 1 or a percentage up to 100"
    ),
    "key,a\n00,-1\n01,1\n": "has -1 in a for '00'; an accuracy is a fraction from 0 to 1 or a percentage up to 100",
    "key,a\n00,0.5\n01,0.5,7\n": (
        "cannot be read (Error tokenizing data. C error: Expected 2 fields in line 3, saw 3); mend or replace it"
    ),
    "": "cannot be read (No columns to parse from file); mend or replace it",
    "key,a,a\n00,1,2\n": "has two columns that are called 'a'; rename one of them",
    "key,key,a\n00,01,2\n": "has two columns that are called 'key'; rename one of them",
    "key,a\n00,0.5\n01,5_5\n": "has '5_5' in 'a' for '01'; an accuracy is a number",
    "key,a\n00,0.5\n01,0.٥\n": "has '0.٥' in 'a' for '01'; an accuracy is a number",
    "key,epochs\n00,200\n01,200\n": (
        "has one column of numbers, which may be no accuracies; name the accuracy as table.csv:COLUMN, with a column "
        "of: epochs"
    ),
    "key,train_seconds\n00,20\n01,30\n": (
        "has one column of numbers, which may be no accuracies; name the accuracy as table.csv:COLUMN, with a column "
        "of: train_seconds"
    ),
}


@pytest.mark.parametrize("own", ["key", "arch"])
def test_a_row_that_contradicts_its_place_is_refused(write, own):
    with pytest.raises(DataError, match="the row of '00' says of itself that it is that of '01'"):
        load(write({"00": {own: "01", "accuracy": 0.5}, "01": {"accuracy": 0.6}}, "table.json"))
    same = write({"00": {own: "00", "accuracy": 0.5}, "01": {"accuracy": 0.6}}, "table.json")
    assert load(same).scores[0].to_dict() == {"00": 0.5, "01": 0.6}


def test_a_column_that_is_named_counts_whatever_it_is_called(write):
    assert load(write("key,epochs\n00,0.5\n01,0.6\n") + ":epochs").columns == ("epochs",)


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_gets_one_sentence(write, text):
    path = write(text)
    with pytest.raises(DataError) as caught:
        load(path)
    assert str(caught.value) == f"the truth table {path} {MISTAKES[text]}"


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("tset", "has no column 'tset'; did you mean 'test'? known: test, val"),
        ("test,vla", "has no column 'vla'; did you mean 'val'? known: test, val"),
        ("test,test", "name one twice; name each seed once"),
    ],
)
def test_a_wrong_column_gets_one_sentence(write, column, sentence):
    with pytest.raises(DataError) as caught:
        load(write("key,test,val\n00,1,1\n") + ":" + column)
    assert str(caught.value).endswith(sentence)


CELLS = st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3) | st.floats(0, 1)
VALUES = CELLS | st.lists(CELLS, max_size=3) | st.dictionaries(st.text(max_size=2), CELLS, max_size=2)
ROWS = st.dictionaries(st.sampled_from(["test_acc", "accuracy", "accuracy_0", "code", "x"]), VALUES, max_size=4)
NAMED = st.dictionaries(st.sampled_from(["00", "01", "10"]), ROWS | VALUES, max_size=3)


@given(NAMED | st.lists(ROWS, max_size=3) | VALUES, st.sampled_from(["", ":test_acc", ":accuracy_0,x"]))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_json_gives_fractions_or_one_sentence(write, content, columns):
    try:
        scores = load(write(content, "table.json") + columns).scores.to_numpy()
    except DataError as error:
        assert "\n" not in str(error)
    else:
        assert scores.size and scores.min() >= 0 and scores.max() <= 1


def test_wrong_json(write):
    with pytest.raises(DataError, match="it lists '00' twice"):
        load(write('{"00": 1, "00": 2}', "table.json"))
    with pytest.raises(DataError, match="neither an object from keys to rows nor a list of rows"):
        load(write("[1, 2]", "table.json"))
    with pytest.raises(DataError, match="rows with different numbers of seeds in 'test_acc'"):
        load(write({"00": {"test_acc": [1, 2]}, "01": {"test_acc": [1]}}, "table.json"))


@pytest.mark.parametrize("name", ["table.pth", "table.pkl", "table.NPY"])
def test_nothing_is_unpickled(write, name):
    with pytest.raises(DataError, match="can run code when it is loaded, so it is not"):
        load(write("x", name))


def test_a_file_that_is_none(tmp_path, write):
    with pytest.raises(DataError, match=r"nowhere.csv does not exist; give a CSV, JSON or Parquet file"):
        load(str(tmp_path / "nowhere.csv:accuracy"))
    with pytest.raises(DataError, match="is a folder"):
        load(str(tmp_path))
    with pytest.raises(DataError, match=r"ends in .txt; it must be .csv, .json or .parquet"):
        load(write("", "table.txt"))


def test_a_name_with_a_colon_is_a_file(write):
    assert len(load(write("key,a\n00,0.5\n", "a:b.csv")).scores) == 1


def test_percentages_below_one_are_believed_where_chance_is(write):
    table = load(write("key,a\n00,0.83\n01,45\n"), classes=120)
    assert table.scores[0].tolist() == [0.0083, 0.45]


def test_a_space_that_cannot_be_listed_is_refused(write):
    path = write("key,a\n00,0.5\n")
    with pytest.raises(SpaceError, match="the space any cannot list its architectures, which a truth table needs"):
        load(path, FunctionSpace("any", lambda trial: None, DataShape(1, 8, 8, 2)))


def test_what_valid_leaves_out_is_left_out_of_the_table(write):
    odd = Space("odd", SPACE.choices, SPACE.build, valid=lambda a: a["code"][1] == "1", name_of=SPACE.name_of)
    assert list(load(write("key,a\n00,0.5\n01,0.5\n"), odd).scores.index) == ["01"]


@given(st.sets(st.sampled_from(["00", "01", "10", "11"]), min_size=1), st.integers(0, 9))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_part_that_is_known_keeps_the_order_of_the_space(write, keys, seed):
    path = write("key,a\n" + "".join(f"{key},0.5\n" for key in keys))
    part = known_part(SPACE, load(path))
    whole = [SPACE.key(a) for a in SPACE.sample(seed)]
    assert [part.key(a) for a in part.sample(seed)] == [key for key in whole if key in keys]
    assert part.size == len(keys)


def test_the_fingerprint_is_of_the_accuracies_and_not_of_the_file(write):
    prints = [
        load(write("key,a\n00,0.5\n01,0.25\n")).fingerprint,
        load(write("b,arch,a\nx,01,25\nx,00,50\n") + ":a").fingerprint,
        load(write("key,a\n00,0.5\n01,0.26\n")).fingerprint,
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("file", "space", "rows"),
    [
        ("nas_bench_201_public.csv:cifar10_valid_200ep", "nas_bench_201", (2000, 1)),
        ("nas_bench_macro_public.json", "nas_bench_macro", (1000, 3)),
    ],
)
def test_the_published_files_are_read(file, space, rows):
    if not (BENCHMARKS / file.split(":")[0]).exists():
        pytest.skip(f"{file} is not here")
    table = load(str(BENCHMARKS / file), load_space(space, DataShape(3, 32, 32, 10)))
    assert table.scores.shape == rows
    assert table.scores.to_numpy().min() >= 0.09 and table.scores.to_numpy().max() < 0.95


SETTINGS = {
    "trials": 10,
    "truth": 6,
    "judge": 6,
    "workers": 1,
    "device": "cpu",
    "condense": {"images_per_class": 2, "steps": 2, "width": 8},
    "proxy_training": {"epochs": 1, "batch_size": 6},
}


@pytest.fixture
def go(tmp_path, tiny_space):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    space = load_space(str(tiny_space), DataShape(1, 8, 8, 3))
    keys = [space.key(a) for a in space.sample(5)][:12]

    def run(seeds: int = 2, shift: float = 0.0, **changes):
        rows = {k: {"test_acc": [30 + i + 3 * s + shift for s in range(seeds)]} for i, k in enumerate(keys)}
        (tmp_path / "truth.json").write_text(json.dumps(rows))
        given = {"truth_table": str(tmp_path / "truth.json"), **SETTINGS, **changes}
        return nas_proxy.run(f"npz:{tmp_path / 'blobs.npz'}", str(tiny_space), out=tmp_path / "run", **given)

    return run, space, keys


def test_a_run_takes_its_truth_from_the_table(go):
    run, space, keys = go
    finished = run()
    truth = pd.read_csv(finished.folder / "truth.csv")
    trials = pd.read_csv(finished.folder / "trials.csv")
    assert set(truth["key"]) == set(trials["key"]) <= set(keys) and len(truth) == 10
    assert truth["accuracy"].tolist() == pytest.approx([0.315 + keys.index(key) / 100 for key in truth["key"]])
    assert "seconds" not in truth
    stream = [key for key in map(space.key, space.sample(0)) if key in keys]
    assert set(pd.read_csv(finished.folder / "scores.csv")["key"]) == set(stream[:6])
    ranking = finished.ranking
    assert ranking["truth"] == {
        "source": "table",
        "file": "truth.json",
        "columns": ["test_acc"],
        "seeds": 2,
        "architectures": 12,
        "fingerprint": ranking["truth"]["fingerprint"],
    }
    sampled = "uniform sample of the 12 architectures in the truth table (6; it holds 12 of 14 of the space)"
    assert ranking["subset"] == sampled
    repeated = ranking["signals"]["repeatability"]
    assert repeated["spearman"]["value"] == 1.0
    assert repeated["seconds"] is None and repeated["image_passes"] is None and repeated["stored_bytes"] is None
    assert ranking["cost"]["truth_seconds"] is None and ranking["cost"]["speedup"] is None
    assert "truth" not in ranking["failures"]
    page = report_html(read_run(finished.folder))
    assert "The truth: published accuracies, test_acc of truth.json (12 architectures, 2 seeds)" in page
    assert "published accuracy" in page and "est accuracy" not in page.split("<script>")[0]


@pytest.mark.slow
def test_one_column_gives_no_repeatability(go):
    run, _, _ = go
    finished = run(seeds=1)
    assert finished.ranking["signals"]["repeatability"]["spearman"]["value"] is None
    assert truth_source(finished.ranking).endswith("(12 architectures, one seed); nothing was fully trained here")
    page = report_html(read_run(finished.folder))
    assert "Full training has one seed" in page and "Seed 1" not in page
    assert "averaged over its seeds" not in page and "repeats itself at" not in page and "by seed of" not in page


@pytest.mark.slow
def test_a_run_goes_on_and_grows_with_the_same_table_only(go):
    run, _, _ = go
    first = run().ranking["signals"]["proxy"]["spearman"]
    assert run().ranking["signals"]["proxy"]["spearman"] == first
    assert run(trials=12, truth=7, judge=7).ranking["n"] == 7
    with pytest.raises(RunFolderError, match="the truth table has changed since the trainings of this run"):
        run(trials=12, truth=7, judge=7, shift=1.0)
    with pytest.raises(RunFolderError, match="truth_table: "):
        run(trials=12, truth=7, judge=7, truth_table=None)


def test_the_path_comes_out_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve({"truth_table": "a.csv:x,y"}).truth_table == os.fspath(tmp_path / "a.csv:x,y")
    assert resolve({}).truth_table is None
