"""The report in a browser: it is whole, nothing of it covers or leaves the page, and the mouse has answers."""

import re
from pathlib import Path
from typing import Any

import pytest

from made_up_runs import (
    ODD_RUNS,
    Builder,
    ordinary,
)
from nas_proxy.report.page import write_report


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
@pytest.mark.parametrize("width", [pytest.param(1200, marks=pytest.mark.slow), 390])
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
