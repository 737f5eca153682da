"""The files of NATS-Bench: made-up accuracies in files that the official package writes and reads, and each mistake.

The real files are 1 GB and more and are not here; that they are read as these are is not tested.
"""

import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from nas_proxy import DataError, DataShape, load_space
from nas_proxy.cli.app import app
from nas_proxy.ranking import truth_table
from nas_proxy.ranking.nats_bench import SETS, read_nats
from nas_proxy.ranking.truth_table import load_truth_table
from nas_proxy.runs.resolving import resolve

CELLS = (
    "|none~0|+|none~0|none~1|+|none~0|none~1|nor_conv_3x3~2|",
    "|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|",
    "|skip_connect~0|+|none~0|none~1|+|none~0|nor_conv_3x3~1|none~2|",
)
SEEDS = {0: (777, 888), 1: (777,), 2: (777, 888, 999)}


def accuracy(index: int, dataset: str, seed: int) -> float:
    return 10 + 20 * index + list(SETS).index(dataset) + seed / 1000


def result(package, index: int, dataset: str, seed: int, epochs: int = 2):
    config = {"channel": 16, "num_cells": 5, "arch_str": CELLS[index], "class_num": 10}
    trained = dict.fromkeys(range(epochs), 50.0)
    found = package.ResultsCount(dataset, None, trained, trained, 1.0, 1.0, config, seed, epochs, None)
    of = {f"{SETS[dataset]}@{e}": accuracy(index, dataset, seed) - (epochs - 1 - e) for e in range(epochs)}
    found.update_eval(of, of, of)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as NATS-tss-v1_0-3ffb9-simple is, of three cells, and the one file, of two of them."""
    package = pytest.importorskip("nats_bench", reason="nats_bench is not installed")
    at = tmp_path_factory.mktemp("nats") / "a:simple"
    at.mkdir()
    states = {}
    for index, name in enumerate(CELLS):
        results = package.ArchResults(index, name)
        for dataset in SETS:
            for seed in SEEDS[index]:
                results.update(dataset, seed, result(package, index, dataset, seed))
        states[index] = {"12": results.state_dict(), "200": results.state_dict()}
        package.pickle_save(states[index], str(at / f"{index:06d}.pickle"))
    package.pickle_save({"meta_archs": list(CELLS)}, str(at / "meta.pickle"))
    whole = {"meta_archs": list(CELLS), "arch2infos": {i: states[i] for i in (0, 2)}, "evaluated_indexes": [0, 2]}
    package.pickle_save(whole, str(at.parent / "NATS-tss.pickle"))
    return at


@pytest.fixture(scope="module")
def space():
    return load_space("nas_bench_201", DataShape(3, 32, 32, 10))


@pytest.mark.parametrize("dataset", ["", *SETS])
def test_the_seeds_of_all_architectures_are_read(folder, space, dataset):
    spec = f"nats:{folder}" + (f":{dataset}" if dataset else "")
    table = load_truth_table(spec, space, 10, allow_pickle=True)
    named = dataset or "cifar10"
    assert table.columns == (f"{named} 777",)
    assert table.scores[0].to_dict() == {
        name: pytest.approx(accuracy(i, named, 777) / 100) for i, name in enumerate(CELLS)
    }
    # The second and the third cell are one function; the first, a convolution of zeros, another.
    assert table.isomorphic == (tuple(pytest.approx(accuracy(i, named, 777) / 100) for i in (1, 2)),)


def test_named_seeds_leave_out_what_was_not_trained_with_them(folder, space):
    table = load_truth_table(f"nats:{folder}:cifar100:888,777", space, 10, allow_pickle=True)
    assert table.columns == ("cifar100 888", "cifar100 777")
    assert list(table.scores.index) == [CELLS[0], CELLS[2]]
    assert table.scores.loc[CELLS[2]].tolist() == pytest.approx([accuracy(2, "cifar100", s) / 100 for s in (888, 777)])
    assert "1 rows without an accuracy are left out" in table.remarks
    assert table.isomorphic == ()


def test_the_one_file_is_read_as_far_as_it_goes(folder):
    path, keys, frame = read_nats(f"nats:{folder.parent / 'NATS-tss.pickle.pbz2'}:cifar10-valid", allow_pickle=True)
    assert path.name == "NATS-tss.pickle.pbz2" and keys == [CELLS[0], CELLS[2]]
    assert list(frame) == ["cifar10-valid 777", "cifar10-valid 888"]
    np.testing.assert_allclose(frame.loc[CELLS[2]], [accuracy(2, "cifar10-valid", s) for s in (777, 888)])


def test_the_package_keeps_nothing_of_what_was_read(folder, monkeypatch):
    package = pytest.importorskip("nats_bench")
    made = []
    create = package.create
    monkeypatch.setattr(package, "create", lambda *a, **k: made.append(create(*a, **k)) or made[-1])
    read_nats(f"nats:{folder}", allow_pickle=True)
    assert not made[0].arch2infos_dict


def test_nothing_is_opened_without_consent(tmp_path, monkeypatch):
    class Trap:
        def __getattr__(self, name):
            raise AssertionError(f"nats_bench.{name} was used")

    monkeypatch.setitem(sys.modules, "nats_bench", Trap())
    with pytest.raises(DataError) as caught:
        load_truth_table(f"nats:{tmp_path}", load_space("nas_bench_201", DataShape(3, 32, 32, 10)), 10)
    assert str(caught.value) == (
        f"the NATS-Bench files in {tmp_path} are pickles, which can run any code when they are loaded; if you trust "
        "where they come from, give --allow-pickle"
    )


def test_a_missing_package_names_the_line_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "nats_bench", None)
    with pytest.raises(DataError, match=r"needs nats_bench; install it with: pip install -e '\.\[nats\]'"):
        read_nats(f"nats:{tmp_path}", allow_pickle=True)


def test_mistakes_get_one_sentence(folder, tmp_path):
    form = (
        "give nats:FOLDER or nats:FOLDER:DATASET, with a data set of: cifar10, cifar10-valid, cifar100, ImageNet16-120"
    )
    for spec, sentence in (
        (f"nats:{tmp_path}/no:cifar10", f"there are no NATS-Bench files at '{tmp_path}/no:cifar10'; {form}"),
        ("nats:", f"there are no NATS-Bench files at ''; {form}"),
        (f"nats:{folder}:cifar-10", "NATS-Bench has no data set 'cifar-10'; did you mean 'cifar10'? known: "),
        (f"nats:{folder}:cifar10:x", f"the seeds of 'nats:{folder}:cifar10:x' are not whole numbers with commas"),
        (f"nats:{folder}:cifar10:777,5", f"cifar10 in {folder} has no seed 5; known: 777, 888, 999"),
        (f"nats:{tmp_path}", f"nats_bench cannot read {tmp_path} ("),
    ):
        with pytest.raises(DataError) as caught:
            read_nats(spec, allow_pickle=True)
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)


def test_the_settings_keep_prefix_and_consent(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve({"truth_table": "nats:a:cifar10"}).truth_table == f"nats:{tmp_path}/a:cifar10"
    assert resolve({}).allow_pickle is False


def test_the_command_line_asks_for_consent(folder, tmp_path, monkeypatch):
    def read(spec, *, allow_pickle):
        read_nats(spec, allow_pickle=allow_pickle)
        raise DataError("it was read")

    monkeypatch.setattr(truth_table, "read_nats", read)
    arguments = ["run", "--dataset", "digits", "--space", "nas_bench_201:cells=1", "--out", str(tmp_path / "run")]
    arguments += ["--truth-table", f"nats:{folder}", "--trials", "4", "--truth", "4", "--steps", "1"]
    for more, told in (([], "give --allow-pickle"), (["--allow-pickle"], "it was read")):
        done = CliRunner().invoke(app, arguments + more)
        assert isinstance(done.exception, DataError) and told in str(done.exception)
