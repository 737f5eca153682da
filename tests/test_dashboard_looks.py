"""How Optuna's dashboard of a folder looks: on light and dark ground and on a phone, in a real browser."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nas_proxy.dashboard.notes import FIGURES
from nas_proxy.dashboard.server import application, serving
from test_dashboard import filled, run

__all__ = ["filled", "run"]
pytestmark = pytest.mark.browser

# Of each text of each figure of ours the contrast to the card it stands on, by WCAG 2; and what covers the card.
SEEN = """() => [...document.querySelectorAll('[id^="user-defined-plot:"]')].map(place => {
    const light = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(n => n / 255)
            .map(n => n <= 0.03928 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
        return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const style = element => getComputedStyle(element)
    const ground = light(style(place.closest('.MuiPaper-root')).backgroundColor)
    const contrasts = [...place.querySelectorAll('.main-svg text')].filter(text => text.textContent)
        .map(text => light(style(text).fill))
        .map(ink => (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05))
    return {id: place.id.split(':')[1], texts: contrasts.length, least: Math.min(...contrasts),
            paper: style(place.querySelector('.main-svg')).backgroundColor}
})"""


@pytest.fixture
def page(browser: Any, run: Path) -> Iterator[Any]:
    with serving(application(run), "127.0.0.1", 0) as server:
        threading.Thread(target=server.run, daemon=True).start()
        page = browser.new_page(viewport={"width": 1200, "height": 900}, base_url=f"http://127.0.0.1:{server.port}")
        yield page
        page.close()


def wait_for_figures(page: Any) -> None:
    for name in ("rank", "signals", "cost"):
        page.locator(f'[id="user-defined-plot:{name}"] .points path').first.wait_for()


def check_figures(page: Any) -> None:
    found = page.evaluate(SEEN)
    assert {one["id"] for one in found} <= set(FIGURES)
    assert {"rank", "signals", "cost"} <= {one["id"] for one in found}
    for one in found:
        assert one["texts"] > 5, one
        assert one["least"] > 4.5, one
        assert one["paper"] == "rgba(0, 0, 0, 0)", one


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_figures_have_the_colours_of_the_page_and_follow_its_switch(
    page: Any, screenshot: Callable[[Any, str], Path], scheme: str
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/dashboard/studies/1")
    wait_for_figures(page)
    check_figures(page)
    screenshot(page, f"dashboard-figures-{scheme}")
    page.locator("li[title='Dark Mode'] .MuiListItemButton-root").click()
    turned = {"light": "===", "dark": "!=="}[scheme]
    page.wait_for_function(f"getComputedStyle(document.body).backgroundColor {turned} 'rgb(18, 18, 18)'")
    page.wait_for_timeout(400)  # the colours of cards fade over
    check_figures(page)


@pytest.mark.slow
def test_on_a_phone_one_figure_stands_under_the_other(page: Any, screenshot: Callable[[Any, str], Path]) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto("/dashboard/studies/1")
    wait_for_figures(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    lefts = {page.locator(f'[id="user-defined-plot:{name}"]').bounding_box()["x"] for name in ("rank", "signals")}
    assert len(lefts) == 1
    cards = page.locator("main .MuiGrid-root > .MuiPaper-root")
    edges = cards.evaluate_all("cards => cards.map(card => card.getBoundingClientRect().x)")
    assert len(edges) > 5
    assert max(edges) - min(edges) < 1
    screenshot(page, "dashboard-phone")
