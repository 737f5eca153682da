"""What is written in figures can be read: names of points that lie together, ticks of short logarithmic axes."""

from math import log10
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from made_up_runs import ordinary, ranking_of, trials_of
from nas_proxy.ranking.ranking import Curves, Ranking
from nas_proxy.report import best_figures, pareto, signal_figures
from nas_proxy.report.figure_style import blank, joint_names, log_axis, outside
from nas_proxy.report.page import write_report

ROW = {"latency": None, "loss_sum": None, "flops": 10.0, "truth": None}


def test_names_that_would_cover_each_other_stand_together_at_the_first() -> None:
    x, y = (0.0, 50.0, 1.0, 50.0, 52.0), (0.5, 0.8, 0.52, 0.2, 0.81)
    assert joint_names("abcde", x, y, (0, 100), (0, 1)) == ["a, c", "b, e", "", "d", ""]
    assert joint_names("abcde", x, y, (0, 20), (0, 1)) == ["a", "b", "c", "d", "e"]  # there is room for all
    assert joint_names("ab", (3.0, 3.0), (0.5, 0.5), (3, 3), (0.5, 0.5)) == ["a, b", ""]
    assert joint_names([], [], [], (0, 1), (0, 1)) == []


def test_one_of_the_ten_best_that_is_hidden_by_another_is_named_beside_it() -> None:
    scores, sizes = (0.9, 0.9, 0.7, 0.5, 0.7), (100.0, 100.0, 200.0, 400.0, 201.0)
    rows = [
        {"key": key, "score": score, "params": size, **ROW}
        for key, score, size in zip("abcde", scores, sizes, strict=True)
    ]
    known = pd.DataFrame(rows).astype({"latency": float, "truth": float})
    best = best_figures.Best(known, known.assign(place=range(1, 6)), "a")
    figure = best_figures.accuracy_by_size(best)
    traces = {trace.name: trace for trace in figure.data}
    assert traces["pick"].text == ("1",)
    assert traces["the ten best"].text == ("", "4", "3", "")  # from the worst, so that the better lie on top
    beside = traces["hidden"]
    assert [text.strip() for text in beside.text] == ["2", "5"]
    assert (beside.x, beside.y, beside.mode) == ((100, 200), (90, 70), "text")
    assert not beside.showlegend


def test_names_of_a_front_that_lie_together_are_one() -> None:
    sizes, accuracies = (100.0, 1000.0, 1005.0, 3000.0), (0.5, 0.8, 0.801, 0.9)
    rows = pd.DataFrame({"key": list("abcd"), "score": accuracies, "params": sizes, "place": [1.0, 2.0, 3.0, 4.0]})
    rows["accuracy"] = rows["score"]
    figure = pareto.pareto_figure(rows, ("accuracy", "params"))
    (front,) = (trace for trace in figure.data if trace.name == "on the Pareto front")
    assert front.text == ("1", "2, 3", "", "4")


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [
        (0.02, 60.0, ["0.1", "1", "10"]),
        (0.6, 9.0, ["1", "2", "5"]),
        (0.55, 1.5, ["0.6", "0.8", "1", "1.2", "1.4"]),
        (0.6, 2.4, ["0.6", "0.7", "0.8", "0.9", "1", "2"]),
        (1.05, 1.9, ["1.2", "1.4", "1.6", "1.8"]),
        (1.5, 1.52, ["1.5", "1.505", "1.51", "1.515", "1.52"]),
        (2.0, 2.0, None),
    ],
)
def test_a_short_logarithmic_axis_has_numbers_to_read_it_by(low: float, high: float, told: list[str] | None) -> None:
    axis = log_axis(low, high)
    assert axis["type"] == "log"
    assert axis["ticktext"] == (told if told is not None else ["2"])
    assert all(low <= mark <= high * (1 + 1e-9) for mark in axis["tickvals"])


def test_learning_curves_have_numbers_at_both_axes() -> None:
    figure = best_figures.learning_curves((Curves("a", (1.4, 0.6), ()), Curves("b", (1.2, 0.8), ())), "proxy", "a")
    assert len(figure.layout.yaxis.tickvals) >= 3
    assert (figure.layout.xaxis.tick0, figure.layout.xaxis.dtick) == (1, 1)  # an epoch and a half is none
    long = Curves("a", tuple(1 / (1 + epoch) for epoch in range(60)), ())
    assert best_figures.learning_curves((long,), "proxy").layout.xaxis.dtick is None


def test_names_at_the_ends_of_a_cost_are_written_inwards() -> None:
    figure = signal_figures.correlation_by_cost(Ranking.of(ranking_of(trials_of())), "seconds")
    start, end = figure.layout.xaxis.range
    named = [trace for trace in figure.data if trace.text]
    assert {trace.name for trace in named} >= {"Parameters", "FLOPs", "Proxy"}
    for trace in named:
        along = (log10(trace.x[0]) - start) / (end - start)
        assert along < 0.8 or "left" in trace.textposition
        assert along > 0.3 or "right" in trace.textposition


def test_of_signals_that_lie_together_the_better_one_is_named() -> None:
    names = {"dm": (0.9, 10.0), "random": (0.895, 9.0), "params": (0.3, 0.01)}
    signals = {
        name: {"spearman": {"value": value, "low": 0.2, "high": 1.0, "n": 9}, "cost": {"seconds": cost, "passes": 1}}
        for name, (value, cost) in names.items()
    }
    figure = signal_figures.correlation_by_cost(Ranking.of({"n": 9, "signals": signals}))
    assert {trace.text[0] for trace in figure.data if trace.text} == {"Condensed", "Parameters"}
    assert len(figure.data) == 4


def test_what_an_axis_leaves_out_is_told_where_no_point_is() -> None:
    known = outside(blank("x", "y", height=220).update_yaxes(range=[0, 1]), y=[0.5, 2.0])
    (note,) = known.layout.annotations
    assert note.text == "1 more outside; autoscale shows it"
    assert (note.y, note.yanchor, note.yref) == (1, "bottom", "paper")
    assert known.layout.legend.y == pytest.approx(1.1)  # above it


@pytest.mark.browser
@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_lines_and_names_in_the_report_have_the_colours_of_its_ground(
    scheme: str, tmp_path: Path, browser: Any
) -> None:
    ordinary(tmp_path)
    page = browser.new_page(color_scheme=scheme)
    page.goto(write_report(tmp_path).as_uri())
    page.locator("#figure-best .textpoint text").first.wait_for()
    told = "selector => [...document.querySelectorAll(selector)].map(one => getComputedStyle(one))"
    seen = f"selector => ({told})(selector).map(style => [style.fill, style.stroke, style.strokeOpacity])"
    grid = {"light": "rgb(230, 232, 234)", "dark": "rgb(47, 54, 62)"}[scheme]
    ink = {"light": "rgb(31, 36, 43)", "dark": "rgb(230, 232, 235)"}[scheme]
    assert {(stroke, opacity) for _, stroke, opacity in page.evaluate(seen, "#figure-best .gridlayer path")} == {
        (grid, "1")
    }
    assert {fill for fill, *_ in page.evaluate(seen, "#figure-best .xtick text")} == {ink}
    assert "rgb(20, 23, 27)" in {fill for fill, *_ in page.evaluate(seen, "#figure-best .textpoint text")}
    page.close()
