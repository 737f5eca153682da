"""The report: one page that shows what a run folder holds, whatever that is."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from made_up_runs import (
    HOSTILE,
    ODD_RUNS,
    Builder,
    get_ranking,
    ordinary,
    put_ranking,
    ranking_of,
    trials_of,
    without,
)
from nas_proxy.errors import RunFolderError
from nas_proxy.ranking.ranking import Curves, Ranking
from nas_proxy.report import best_figures, signal_figures, trial_figures
from nas_proxy.report.page import report_html, write_report
from nas_proxy.report.rank_figure import ranks_against_truth
from nas_proxy.report.run_contents import read_run
from nas_proxy.report.verdict import verdict_of


class Page(HTMLParser):
    """The visible text of a page, its elements, and the data of its figures."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.figures: dict[str, Any] = {}
        self._words: list[str] = []
        self.feed(html)
        self.text = " ".join(" ".join(self._words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        attrs = self.elements[-1][1] if self.elements else {}
        if attrs.get("id") == "figures" and data.strip().startswith("{"):
            self.figures = json.loads(data)
        elif self.cdata_elem is None:
            self._words.append(data)

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def page_of(folder: Path) -> Page:
    return Page(report_html(read_run(folder)))


@pytest.mark.parametrize("build", ODD_RUNS)
def test_an_odd_run_has_a_report(build: Builder, tmp_path: Path) -> None:
    build(tmp_path)
    path = write_report(tmp_path)
    first = path.read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert len(first) < 6_000_000
    page = Page(first.decode("utf-8"))
    run = read_run(tmp_path)
    told = verdict_of(run.ranking)
    assert f"{told.head} {told.because[0].upper()}{told.because[1:]}." in page.text
    for name, text in told.evidence:
        assert name == "Saving" or " ".join(text.split()) in page.text
    assert page.count("script") == (3 if page.figures else 0)
    assert page.count("img") == (run.image is not None) * (1 + (run.real is not None))
    assert not re.search(r"\b(nan|NaN|inf|None|Undefined)\b", page.text)
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert set(page.figures) == {attrs["id"] for _, attrs in page.elements if attrs.get("class") == "figure"}


@pytest.mark.parametrize(
    ("name", "words", "stage"),
    [
        ("trials.csv", "No proxy trials yet", "search"),
        ("truth.csv", "No full training yet", "truth"),
        ("ranking.json", "No ranking yet", "rank"),
        ("proxy.png", "No synthetic images yet", "condense"),
    ],
)
def test_what_is_missing_is_named_with_its_command(name: str, words: str, stage: str, tmp_path: Path) -> None:
    folder = tmp_path / "a run"
    ordinary(folder)
    assert "not complete" not in page_of(folder).text
    (folder / name).unlink()
    text = page_of(folder).text
    assert f"{words}: nas-proxy {stage} 'a run'" in text
    (folder / name).write_bytes(b'{"a": "\xff')
    text = page_of(folder).text
    assert f"{words}:" not in text
    assert re.search(rf"{re.escape(name)} cannot be read \([^)]+\)+; delete it, then nas-proxy {stage} 'a run'", text)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    none = tmp_path / "none"
    with pytest.raises(RunFolderError) as error:
        write_report(none)
    assert str(error.value) == (f"{none} holds no run (it has no run.toml); make one with: nas-proxy run --out {none}")
    (tmp_path / "run.toml").write_text("seed = ", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"run\.toml is not readable TOML \(.*\); restore it or start a new run"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_the_page_shows_the_numbers(tmp_path: Path) -> None:
    ordinary(tmp_path)
    text = page_of(tmp_path).text
    for expected in (
        "How good it is 97.90 % Test accuracy, mean of 2 full trainings. 98.10 %, 97.70 % by seed of full training",
        "regret 0.40 pp: below the best of all architectures trained in full",
        "What it saved 32 min saved 24 candidates take 12.3 s, their full training 32 min.",
        "condensing 1.6 min search 1.0 min full training 19 min random images and other controls 1.3 min",
        "P@5 chance 0.21 Regret",
        "Proxy 0.91 [0.85, 0.94] 0.71 [0.41, 0.86] +0.06 [−0.02, 0.10] 0.40 pp 12.3 s 240k",
        "Proxy 0.91 [0.85, 0.94] 0.71 [0.41, 0.86] 0.81 [0.75, 0.84] 0.60 0.40 pp",
        "Proxy +0.06 [−0.02, 0.10]",
        "Proxy 12.3 s 240k 6.4 kB",
        "Intervals: BCa.",
        "1 of 40 proxy trials failed; 1 of those with a score diverged",
        "RuntimeError: the image is smaller than the kernel 1 depth=",
        "By signal: proxy 1, random 0, early stop 0, truth 0.",
        "torch 2.11.0",
        '[condense] images_per_class 10 augmentation ["crop", "colour"]',
        "nas-proxy run --config run.toml",
        "depth 95 % width 4 % norm 1 %",
    ):
        assert expected in text


def test_a_slow_proxy_and_an_untrained_pick_are_said_plainly(tmp_path: Path) -> None:
    ordinary(tmp_path)
    ranking = get_ranking(tmp_path)
    ranking["signals"]["proxy"]["seconds"] = 3000
    ranking["pick"] |= {"truth": None, "truth_mean": None}
    ranking["signals"]["proxy"] |= {"regret": None, "regret_reason": "the pick has no full training"}
    put_ranking(tmp_path, ranking)
    text = page_of(tmp_path).text
    assert "What it saved Nothing (18 min lost) 24 candidates take 50 min, their full training 32 min." in text
    assert "How good it is – Not trained in full yet." in text
    assert "regret –: the pick has no full training" in text
    assert "the pick has no full training : Regret of Proxy" in text
    ranking["signals"]["proxy"] |= {"regret": -0.0041, "regret_reason": None}
    put_ranking(tmp_path, ranking)
    assert "regret −0.41 pp: no loss against the architecture that the other seed" in page_of(tmp_path).text


def test_names_are_never_markup(tmp_path: Path) -> None:
    next(param.values[0] for param in ODD_RUNS if param.id == "hostile_names")(tmp_path)
    page = page_of(tmp_path)
    ordinary(tmp_path / "ordinary")
    plain = page_of(tmp_path / "ordinary")
    assert page.count("b") == plain.count("b") - 2  # of the one choice of the pick instead of three
    assert page.text.count(" ".join(HOSTILE.split())) >= 6
    hover = json.dumps(page.figures["figure-history"], ensure_ascii=False)
    assert "&lt;/script&gt;" in hover
    assert "<img" not in hover


def test_many_reasons_are_counted_and_cut(tmp_path: Path) -> None:
    next(param.values[0] for param in ODD_RUNS if param.id == "all_failed")(tmp_path)
    text = page_of(tmp_path).text
    assert "40 of 40 proxy trials failed." in text
    assert text.count("RuntimeError: number") == 20
    assert "And 10 other reasons" in text


def test_keys_that_look_like_missing_values_stay(tmp_path: Path) -> None:
    without("ranking.json")(tmp_path)
    (tmp_path / "truth.csv").write_text("key,phase,accuracy\nNA,sample,0.9\nnull,search,\n", encoding="utf-8")
    truth = read_run(tmp_path).truth
    assert truth["key"].tolist() == ["NA", "null"]
    assert truth["accuracy"].isna().tolist() == [False, True]


def test_the_first_screen_draws_the_network_and_says_how_good_it_is(tmp_path: Path) -> None:
    ordinary(tmp_path)
    ranking = get_ranking(tmp_path)
    conv = {"layers": ["conv 3×3", "ReLU"], "shape": [32, 4, 4], "params": 9312}
    ranking["pick"] |= {
        **{"test_images": 719, "params": 10_986, "flops": 334_336, "latency_ms": 0.0966, "latency_device": "cpu"},
        **{"latency_batch": 1, "input": [1, 8, 8]},
        "blocks": [conv, conv, {"layers": ["linear"], "shape": [10], "params": 1290, "skipped": 3}],
    }
    put_ranking(tmp_path, ranking)
    text = page_of(tmp_path).text
    assert "1×8×8 image → 2× 32×4×4 conv 3×3 , ReLU 9.3k parameters each → 10 after 3 more: linear 1.3k" in text
    assert "11k parameters 334k FLOPs 0.097 ms for an image on cpu" in text
    assert (
        "97.90 % [96.6, 98.7] Test accuracy, mean of 2 full trainings; in brackets the 95 % interval over 719" in text
    )


def test_the_search_says_what_it_saved_and_where_its_time_went(tmp_path: Path) -> None:
    ordinary(tmp_path)
    told = {
        "ratio": 2.5,
        "interval": [1.5, 4.0],
        "random_hours": 5.0,
        "spent_hours": 2.0,
        "sentence": "Saved: it took 2 h.",
    }
    put_ranking(tmp_path, get_ranking(tmp_path) | {"saving": told | {"spent": {"condensing": 0.5, "full": 1.5}}})
    text = page_of(tmp_path).text
    assert "What it saved 3.0 h saved It took 2 h. condensing 30 min full training 1.5 h" in text
    put_ranking(tmp_path, get_ranking(tmp_path) | {"saving": {"reason": "nothing was fully trained"}})
    assert "What it saved Not known Nothing was fully trained." in page_of(tmp_path).text


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


def opened(browser: Any, path: Path, **context: Any) -> tuple[Any, list[str]]:
    """Open a page offline; the list fills with whatever is wrong with it."""
    page = browser.new_page(**context)
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: request.url != path.as_uri() and wrong.append(request.url[:200]))
    page.goto(path.as_uri())
    return page, wrong


def unfold(page: Any) -> None:
    """Open all that is folded, which draws its figures."""
    page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    page.wait_for_function(
        "document.querySelectorAll('.figure').length == document.querySelectorAll('.subplot.xy').length"
    )


IN_BROWSER = {"one_trial", "all_failed", "constant_scores", "hostile_names", "thousands", "no_intervals"}
IN_BROWSER |= {"several_objectives", "thousands_for_several", "objectives_not_finite"}
IN_BROWSER |= {"not_finite", "only_config"}  # the others lack files, and draw what these draw or less


@pytest.mark.slow
@pytest.mark.browser
@pytest.mark.parametrize("build", [param for param in ODD_RUNS if param.id in IN_BROWSER])
def test_an_odd_run_in_a_browser(build: Builder, tmp_path: Path, browser: Any) -> None:
    build(tmp_path)
    page, wrong = opened(browser, write_report(tmp_path), viewport={"width": 390, "height": 844})
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wrong == []
    page.close()


@pytest.mark.browser
def test_figures_answer_the_mouse_and_follow_the_theme(tmp_path: Path, browser: Any) -> None:
    ordinary(tmp_path)
    page, wrong = opened(browser, write_report(tmp_path), viewport={"width": 1200, "height": 900})
    shown = page.locator(".figure:visible").count()
    unfold(page)
    assert (shown, page.locator(".figure").count()) == (4, 8)
    for number in range(8):
        assert page.locator(".figure").nth(number).locator(".points path").first.is_visible()
    page.locator("#figure-score-against-truth .points path").first.hover(force=True)
    hover = page.locator("#figure-score-against-truth .hoverlayer text").first
    hover.wait_for()
    assert re.search(r"depth=\d.*proxy score .* %truth .* %", hover.text_content())
    colours = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ink = "getComputedStyle(document.querySelector('.figure .xtick text')).fill"
        paper = "getComputedStyle(document.body).backgroundColor"
        colours.append((page.evaluate(ink), page.evaluate(paper)))
    assert colours == [("rgb(31, 36, 43)", "rgb(251, 251, 249)"), ("rgb(230, 232, 235)", "rgb(20, 23, 27)")]
    page.emulate_media(media="print")
    assert page.evaluate(ink) == "rgb(31, 36, 43)"
    assert wrong == []
    page.close()


TOUCHES = """figure => {
    const box = element => element.getBoundingClientRect(), bar = box(figure.querySelector('.modebar'));
    return [...figure.querySelectorAll('.points path, .legend, .xtick, .annotation')].map(box).some(
        one => one.right > bar.left + 1 && one.left < bar.right - 1 && one.top < bar.bottom && one.bottom > bar.top);
}"""
"""Whether the tool bar of a figure lies over anything of it."""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 390])
def test_the_first_screen_fits_and_the_tool_bar_covers_nothing(width: int, tmp_path: Path, browser: Any) -> None:
    ordinary(tmp_path)
    page, wrong = opened(browser, write_report(tmp_path), viewport={"width": width, "height": 900})
    if width == 1200:
        answers = page.locator(".first .answer")
        assert answers.count() == 3
        assert page.locator(".first").bounding_box()["height"] + page.locator(".first").bounding_box()["y"] < 900
    unfold(page)
    figures = page.locator(".figure")
    for number in range(figures.count()):
        figures.nth(number).hover()
        assert not figures.nth(number).evaluate(TOUCHES), figures.nth(number).get_attribute("id")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    if width == 390:
        wide = page.locator("#signals .scroll").first
        assert wide.evaluate("box => box.scrollWidth > box.clientWidth")
        assert "gradient" in wide.evaluate("box => getComputedStyle(box).backgroundImage")  # the shadow of what is more
    assert wrong == []
    page.close()
