"""The figures of the report, by what they draw of a few architectures."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from made_up_runs import (
    ordinary,
    ranking_of,
    trials_of,
)
from nas_proxy.ranking.ranking import Curves, Ranking
from nas_proxy.report import best_figures, signal_figures, trial_figures
from nas_proxy.report.rank_figure import ranks_against_truth
from nas_proxy.report.run_contents import read_run


def test_the_ten_best_bear_their_places_and_the_axis_shows_them(tmp_path: Path) -> None:
    trials, _ = ordinary(tmp_path)
    frame = read_run(tmp_path).trials
    frame.loc[0, "score"] = 0.01
    best = best_figures.best_of(frame, read_run(tmp_path).truth.head(3), pick=str(trials["key"][7]))
    assert best.ten["place"].tolist() == list(range(1, 11))
    assert best.ten["key"][0] == trials["key"][7]
    assert best.ten["score"][1:].is_monotonic_decreasing
    figure = best_figures.accuracy_by_size(best)
    named = {trace.name: trace.text for trace in figure.data}
    assert named["pick"] == ("1",)
    places = ", ".join((*named["the ten best"], *named.get("hidden", ()))).replace("\u2003", "")
    assert sorted(int(place) for place in places.split(", ") if place) == list(range(2, 11))
    low, high = figure.layout.yaxis.range
    assert 1 < low < 100 * best.ten["score"].min()
    assert 100 * best.ten["score"].max() < high
    outside = sum(100 * frame["score"].dropna() < low)
    assert figure.layout.annotations[0].text.startswith(f"{outside} more outside")


def test_the_ten_best_of_a_run_that_trains_them_in_full_are_compared_by_that(tmp_path: Path) -> None:
    _, truth = ordinary(tmp_path)
    run = read_run(tmp_path)
    order = list(truth["key"][:6])
    unscored = run.trials[run.trials["key"] != order[0]]
    best = best_figures.best_of(unscored, run.truth, order, order[0])
    assert best.ten["key"].tolist() == order
    assert np.isnan(best.ten["score"][0])
    assert best.ten["params"].notna().all()
    figure = best_figures.accuracy_by_size(best)
    assert figure.layout.yaxis.title.text == "test accuracy after full training, %"
    (pick,) = (trace for trace in figure.data if trace.name == "pick")
    assert pick.y == pytest.approx((100 * truth["accuracy"][truth.index[0]],))


def test_curves_are_drawn_epoch_by_epoch() -> None:
    curves = (Curves("a", (2.0, 1.0, 0.5), (1.5, 0.2)), Curves("b", (3.0, 0.1, 0.001), ()))
    *_, pick = best_figures.learning_curves(curves, "proxy", "a").data
    assert (pick.name, list(pick.x), list(pick.y)) == ("pick", [1, 2, 3], [2.0, 1.0, 0.5])
    figure = best_figures.learning_curves(curves, "truth", "a")
    assert [list(trace.y) for trace in figure.data] == [[1.5, 0.2]]
    assert figure.layout.yaxis.type == "log"


def two_rows() -> tuple[pd.DataFrame, pd.DataFrame]:
    trials = pd.DataFrame(
        {
            "key": ["a", "<b>", "a", "c"],
            "phase": ["sample", "search", "search", "search"],
            "state": ["complete", "complete", "complete", "failed"],
            "score": [0.5, 0.75, 0.6, np.nan],
            "diverged": [False, False, False, False],
            "reason": ["", "", "", "boom"],
        }
    )
    truth = pd.DataFrame(
        {
            "key": ["a", "<b>"],
            "phase": ["sample", "search"],
            "accuracy": [0.9, 0.94],
            "accuracy_0": [0.91, 0.94],
            "accuracy_1": [0.89, np.nan],
            "params": [1200.0, np.nan],
        }
    )
    return trials, truth


def test_the_scatter_of_two_architectures() -> None:
    sampled, searched, pick = trial_figures.score_against_truth(*two_rows(), "<b>").data
    assert (sampled.name, sampled.x, sampled.y) == ("sampled", (50.0,), (90.0,))
    assert sampled.error_y.array == pytest.approx((1.0,))
    assert sampled.error_y.arrayminus == pytest.approx((1.0,))
    assert sampled.hovertext == (
        "<b>a</b><br>proxy score 50.00 %<br>truth 90.00 % (seeds: 91.00 % and 89.00 %)<br>1.2k parameters",
    )
    assert (searched.name, searched.error_y.array) == ("found by the search", (0.0,))
    assert searched.hovertext == ("<b>&lt;b&gt;</b><br>proxy score 75.00 %<br>truth 94.00 % (seeds: 94.00 %)",)
    assert (pick.name, pick.marker.symbol, pick.x) == ("pick", "star", (75.0,))


def test_the_rank_plot_of_four_architectures() -> None:
    keys = ["a", "b", "<c>", "d"]
    trials = pd.DataFrame({"key": [*keys, "e"], "state": "complete", "score": [0.9, 0.8, 0.8, 0.1, 0.5]})
    truth = pd.DataFrame(
        {"key": [*keys, "e"], "phase": ["sample"] * 4 + ["search"], "accuracy": [0.8, 0.9, 0.7, 0.6, 1]}
    )
    identity, points = ranks_against_truth(trials, truth).data
    assert (identity.x, identity.y) == ((1, 4), (1, 4))
    assert (points.x, points.y) == ((1, 2.5, 2.5, 4), (2, 1, 3, 4))
    assert points.marker.color == (1, -1.5, 0.5, 0)  # full training's rank less the proxy's
    assert (points.marker.cmin, points.marker.cmax) == (-1.5, 1.5)
    assert points.hovertext[2] == "<b>&lt;c&gt;</b><br>proxy: rank 2.5, score 80.00 %<br>full training: rank 3, 70.00 %"


def test_the_history_of_four_trials() -> None:
    best, sampled, searched, failed = trial_figures.history(two_rows()[0]).data
    assert (best.x, best.y) == ((1, 2, 3), (50.0, 75.0, 75.0))
    assert (sampled.x, searched.x, searched.y) == ((1,), (2, 3), (75.0, 60.0))
    assert (failed.x, failed.hovertext) == ((4,), ("<b>c</b><br>boom",))
    assert failed.y[0] < 50


def test_dots_with_an_undefined_interval() -> None:
    ranking = ranking_of(trials_of())
    ranking["signals"]["params"]["spearman"] = {
        "value": None,
        "low": None,
        "high": None,
        "reason": "constant",
    }
    ranking["signals"]["flops"]["spearman"] = {"value": -0.25, "low": None, "high": None, "reason": "few"}
    ranking["signals"]["proxy:loss_sum"] = {"spearman": {"value": 0.8, "low": 0.7, "high": 0.9}}
    figure = signal_figures.spearman_dots(Ranking.of(ranking))
    dots = {dot.name: dot for dot in figure.data}
    both = ["Proxy, by accuracy", "Proxy, by loss sum"]
    assert list(dots) == [*both, "Random images", "Early stop", "Parameters", "FLOPs"]
    assert dots[both[0]].error_x.arrayminus == pytest.approx((0.06,))
    assert [dots[name].marker.symbol for name in both] == ["circle", "square"]
    assert round(dots[both[0]].y[0]) == round(dots[both[1]].y[0]) == 4  # one line, the uppermost
    assert dots["Parameters"].x == (None,)
    assert dots["FLOPs"].error_x.array == (0.0,)
    assert -0.4 < figure.layout.xaxis.range[0] < -0.25
    assert figure.layout.yaxis.ticktext[::-1] == ("Proxy", "Random images", "Early stop", "Parameters", "FLOPs")
    notes = {note.text: note for note in figure.layout.annotations}
    assert notes["undefined"].y == dots["Parameters"].y[0]
    assert "full training repeats itself: 0.97" in notes


def test_a_cost_of_nothing_stands_left_of_every_cost() -> None:
    figure = signal_figures.correlation_by_cost(Ranking.of(ranking_of(trials_of())), "passes")
    x = {trace.name: trace.x[0] for trace in figure.data}
    assert x["Parameters"] == x["FLOPs"] == figure.layout.xaxis.tickvals[0]
    assert x["Parameters"] < min(x["Proxy"], x["Early stop"], x["Full training"])
    assert figure.layout.xaxis.ticktext[:2] == ("none", "100k")
