"""What stands around Optuna's dashboard: the decision, the report, the order of studies, importances and curves."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from made_up_runs import HOSTILE, get_ranking, put_ranking
from nas_proxy.dashboard.frame import WRITING, table_of
from nas_proxy.dashboard.server import application
from nas_proxy.report.importance import importances
from nas_proxy.report.page import write_report
from nas_proxy.report.run_contents import read_run
from nas_proxy.storage.read_only import open_studies
from test_dashboard import call, fill, filled, get, run

__all__ = ["filled", "run"]


def test_every_page_has_the_decision_and_a_link_to_the_report(run: Path) -> None:
    app = application(run)
    page = call(app, "GET", "/dashboard/studies/1")[2].decode()
    assert '<aside id="nas-proxy"><strong>Use random images</strong>: they rank like full training, and' in page
    assert "/report.html" not in page
    assert call(app, "GET", "/report.html")[0] == "404 Not Found"
    path = write_report(run)
    assert '<a href="/report.html">Report</a>' in call(app, "GET", "/dashboard")[2].decode()
    status, headers, body = call(app, "GET", "/report.html")
    assert (status, headers["Content-Type"]) == ("200 OK", "text/html; charset=utf-8")
    assert body == path.read_bytes()
    assert int(headers["Content-Length"]) == len(body)


def test_the_decision_is_never_markup(run: Path) -> None:
    ranking = get_ranking(run)
    ranking["signals"] = {HOSTILE: ranking["signals"]["proxy"], "repeatability": ranking["signals"]["repeatability"]}
    put_ranking(run, ranking)
    page = call(application(run), "GET", "/dashboard")[2].decode()
    assert "<img" not in page.partition("</svg>")[2]
    assert "&lt;img src=x" in page


@pytest.mark.parametrize("writable", [False, True])
def test_buttons_that_write_are_hidden_where_nothing_may_be_written(run: Path, writable: bool) -> None:
    page = call(application(run, writable=writable), "GET", "/dashboard")[2].decode()
    assert all((f"data-testid={icon}" in page) is not writable for icon in WRITING)


def test_the_importances_are_those_of_the_report(run: Path) -> None:
    expected = importances(read_run(run).trials)
    assert len(expected) == 3
    app = application(run)
    for _ in range(2):  # the second time from what is kept
        (shown,) = get(app, "/api/studies/1/param_importances")["param_importances"]
        assert {one["name"]: one["importance"] for one in shown} == pytest.approx(expected)
    assert json.loads(call(app, "GET", "/api/studies/99/param_importances")[2])["reason"]


def test_the_importances_before_there_is_a_report_are_of_the_same_trials(run: Path) -> None:
    (run / "trials.csv").unlink()
    store = fill(run, {f"width={index}": index % 3 / 10 for index in range(10, 19)})
    trials = store.study("proxy").get_trials(deepcopy=False)
    frame = table_of(trials)
    assert frame.loc[frame["state"] == "complete", "score"].tolist()[-3:] == [0.1, 0.2, 0.0]
    assert set(frame.columns) == {"key", "state", "score", "width"}
    (shown,) = get(application(run), "/api/studies/1/param_importances")["param_importances"]
    assert [(one["name"], one["distribution"]) for one in shown] == [("width", "IntDistribution")]
    assert shown[0]["importance"] == pytest.approx(importances(frame)["width"])
    assert table_of([]).empty


def test_losses_are_shown_as_a_curve_and_stored_as_they_were(run: Path) -> None:
    told: Any = get(application(run), "/api/studies/1")
    curves = [trial["intermediate_values"] for trial in told["trials"]]
    assert curves[0] == [{"step": 1, "value": 2.0}, {"step": 2, "value": 1.0}]
    assert curves[1] == []  # it failed
    stored = open_studies(run).get_all_trials(1)
    assert all(trial.intermediate_values == {} for trial in stored)


def test_a_table_of_trials_is_like_the_file(run: Path) -> None:
    trials = open_studies(run).get_all_trials(1)
    frame = table_of(trials)
    assert frame["key"].tolist() == ["width=1", "width=2", "width=3"]
    assert frame["state"].tolist() == ["complete", "failed", "complete"]
    assert isinstance(frame["width"][0], str)
    assert pd.isna(frame["score"][1])
