"""Choices and keys that are called like a column, a number or nothing: files, commands and reports tell them apart."""

import pytest

from nas_proxy.names import MEASURED, choice_of, columns_of
from nas_proxy.pipeline.tables import trials_table
from nas_proxy.report.importance import LEAST, importances
from nas_proxy.storage.records import Record

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
