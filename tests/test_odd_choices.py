"""Choices and keys that are called like a column, a number or nothing: files, commands and reports tell them apart."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import nas_proxy
from conftest import blobs
from nas_proxy.cli.app import app
from nas_proxy.names import MEASURED, choice_of, columns_of
from nas_proxy.pipeline.stages import run_all
from nas_proxy.pipeline.tables import trials_table
from nas_proxy.report.importance import LEAST, importances
from nas_proxy.runs.settings import Condensation, RunConfig
from nas_proxy.storage.records import Record
from nas_proxy.training.train import Recipe

NAMED_LIKE_COLUMNS = {"state": 32, "score": 1, "key": "q", "params": 8, "choice.state": 2, "width": 4}


def test_choices_have_columns_of_their_own():
    record = Record("odd", NAMED_LIKE_COLUMNS, "sample", 0, 0, 2410, 99, 0.25, seconds=1.0)
    (row,) = trials_table([record], set()).to_dict("records")
    measured = {"key": "odd", "state": "complete", "score": 0.25, "params": 2410, "width": 4}
    assert {name: row[name] for name in measured} == measured
    assert {name: row[name] for name in row if name.startswith("choice.")} == {
        "choice.state": 32,
        "choice.score": 1,
        "choice.key": "q",
        "choice.params": 8,
        "choice.choice.state": 2,
    }


@pytest.mark.parametrize(
    "name", [*NAMED_LIKE_COLUMNS, *sorted(MEASURED), "choice.", "choice.choice.key", "choice.mine"]
)
def test_a_column_names_its_choice(name):
    (column,) = columns_of({name: 1})
    assert column not in MEASURED
    assert choice_of(column) == name


def test_importances_name_the_choice():
    records = [Record(f"{n}", {"state": n % 2}, "sample", n, 0, 1, 1, n % 2 / 2) for n in range(LEAST)]
    rows = trials_table(records, set()).astype({"choice.state": str})
    assert importances(rows) == {"state": 1.0}


SPACE = """
from torch import nn
from nas_proxy import Choice, Space

KEYS = ["NA", "0012", "1e5", "None"]

space = Space(
    name="odd",
    choices=Choice("state", (0, 1, 2, 3)),
    build=lambda architecture, shape: nn.Sequential(
        nn.Flatten(), nn.Linear(shape.channels * shape.height * shape.width, shape.classes)
    ),
    name_of=lambda architecture: KEYS[architecture["state"]],
)
"""


@pytest.fixture
def odd_run(tmp_path):
    images = blobs()
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    (tmp_path / "odd.py").write_text(SPACE)
    few = Recipe(epochs=1, batch_size=6)
    config = RunConfig(
        dataset=f"npz:{tmp_path / 'blobs.npz'}",
        space=str(tmp_path / "odd.py"),
        trials=4,
        truth=4,
        workers=1,
        device="cpu",
        signals=("params",),
        condense=Condensation(method="random", images_per_class=2),
        proxy_training=few,
        full_training=few,
    )
    return run_all(config, tmp_path / "run").path


@pytest.mark.slow
def test_keys_are_text_in_every_table(odd_run):
    found = nas_proxy.open(odd_run)
    for frame in (found.trials, found.truth, found.scores):
        assert sorted(frame["key"]) == ["0012", "1e5", "NA", "None"]
    assert pd.api.types.is_numeric_dtype(found.trials["score"])
    for command, name, value in (("search", "trials.csv", "score"), ("truth", "truth.csv", "accuracy")):
        rows = pd.read_csv(odd_run / name, dtype={"key": str}, keep_default_na=False)
        best = rows.loc[rows[value].idxmax()]
        done = CliRunner().invoke(app, [command, str(odd_run)])
        assert done.exit_code == 0, done.output
        assert f"{best['key']} at {best[value]:.1%}" in done.stdout
