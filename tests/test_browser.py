"""The dashboard of a small finished run, in a real browser; what a person should look at is kept as pictures."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.dashboard.server import application, serving
from nas_proxy.report.verdict import verdict, verdict_of
from test_report_browser import unfold

pytestmark = pytest.mark.browser
Keep = Callable[[Any, str], Path]


@pytest.fixture(scope="module")
def finished(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> nas_proxy.Run:
    del browser  # where there is none, nothing is trained
    folder = tmp_path_factory.mktemp("browser")
    images = blobs(per_class=30)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    return nas_proxy.run(
        f"npz:{folder / 'blobs.npz'}",
        str(write_space(folder / "tiny.py", (1, 2, 3, 4, 8))),
        out=folder / "blobs-tiny",
        trials=10,
        truth=8,
        judge=8,
        workers=1,
        device="cpu",
        condense={"images_per_class": 2, "steps": 10, "width": 8},
        proxy_training={"epochs": 4, "batch_size": 6},
        full_training={"epochs": 2, "batch_size": 12},
    )


@pytest.fixture(scope="module")
def address(finished: nas_proxy.Run) -> Iterator[str]:
    with serving(application(finished.folder), "127.0.0.1", 0) as server:
        threading.Thread(target=server.run, daemon=True).start()
        yield f"http://127.0.0.1:{server.port}"


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A page whose `wrong` collects errors, and requests that leave this machine."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000}, base_url=address)
    page.wrong = []
    page.on("console", lambda message: message.type in ("error", "warning") and page.wrong.append(message.text))
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on(
        "request", lambda request: request.url.startswith((address, "data:", "blob:")) or page.wrong.append(request.url)
    )
    yield page
    page.close()


@pytest.mark.slow
def test_the_list_of_studies(page: Any, screenshot: Keep) -> None:
    page.goto("/")
    for name in ("Proxy", "Random images", "Early stop", "Full training"):
        page.get_by_text(f"{name} · blobs-tiny").wait_for()
    first = page.locator("a[href^='/dashboard/studies/']").first
    assert "Proxy · blobs-tiny" in first.inner_text()
    assert page.get_by_role("button", name="Reload").is_visible()
    for name in ("Create", "rename study", "delete study"):
        assert page.get_by_role("button", name=name).count() == 0  # hidden ones have no role
    screenshot(page, "dashboard-studies")
    assert page.wrong == []


@pytest.mark.slow
def test_the_page_of_the_proxy_shows_figures_and_images(page: Any, finished: nas_proxy.Run, screenshot: Keep) -> None:
    page.goto("/dashboard/studies/1")
    rank, signals = (page.locator(f'[id="user-defined-plot:{name}"]') for name in ("rank", "signals"))
    rank.locator(".points path").first.wait_for()
    signals.get_by_text("full training repeats itself").wait_for()
    image = page.locator('img[src^="/artifacts/1/"]')
    image.wait_for()
    assert image.evaluate("async image => { await image.decode(); return image.naturalWidth }") > 20
    rank.locator(".points path").first.hover(force=True)
    rank.locator(".hoverlayer text").filter(has_text="full training: rank").first.wait_for()
    page.mouse.move(0, 0)
    page.get_by_text("validation accuracy").first.wait_for()
    page.locator('[id="graph-intermediate-values"] .scatterlayer .trace').first.wait_for()
    assert not page.get_by_text("Upload a New File").is_visible()
    told = verdict_of(finished.ranking)
    assert page.locator("#nas-proxy").inner_text().startswith(f"{told.head}: {told.because}.")
    screenshot(page, "dashboard-proxy")
    page.get_by_role("link", name="Report", exact=True).click()
    page.wait_for_url("**/report.html")
    assert page.locator(".decision .answer").inner_text() == told.head
    assert page.wrong == []


COLOURS = """() => ['body', '#nas-proxy', '#nas-proxy a'].map(name => {
    const style = getComputedStyle(document.querySelector(name))
    return [style.backgroundColor, style.color].map(text => text.match(/[\\d.]+/g).map(Number))
})"""


@pytest.mark.parametrize("scheme", [pytest.param("light", marks=pytest.mark.slow), "dark"])
def test_the_decision_is_in_the_colours_of_the_page(page: Any, screenshot: Keep, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/dashboard/studies/1")
    page.get_by_text("validation accuracy").first.wait_for()
    (ground, _), (bar, words), (_, link) = page.evaluate(COLOURS)
    assert bar == ground
    assert (sum(ground[:3]) < 3 * 64) == (scheme == "dark")
    assert abs(sum(words[:3]) - sum(bar[:3])) > 3 * 128 < abs(sum(link[:3]) - sum(bar[:3]))
    screenshot(page, f"dashboard-{scheme}")


@pytest.mark.slow
def test_the_note_says_how_far_to_trust_the_run_and_links_its_studies(
    page: Any, finished: nas_proxy.Run, screenshot: Keep
) -> None:
    page.goto("/dashboard/studies/1/note")
    page.get_by_text(verdict(finished.ranking)).wait_for()
    page.get_by_text("2 × ValueError: three is not a width").wait_for()
    screenshot(page, "dashboard-note")
    page.get_by_role("link", name="Full training").click()
    page.wait_for_url("**/dashboard/studies/*")
    page.get_by_text("Full training · blobs-tiny").first.wait_for()
    page.locator('[id="user-defined-plot:rank"] .points path').first.wait_for()
    assert page.wrong == []


@pytest.mark.slow
def test_the_page_of_a_failed_trial_gives_the_reason(page: Any, screenshot: Keep) -> None:
    number = page.request.get("/api/studies/1").json()
    failed = next(trial["number"] for trial in number["trials"] if trial["state"] == "Fail")
    page.goto(f"/dashboard/studies/1/trials?numbers={failed}")
    page.get_by_text("Failed: ValueError: three is not a width").wait_for()
    screenshot(page, "dashboard-failed-trial")
    assert page.wrong == []


def test_a_write_is_refused(page: Any) -> None:
    page.goto("/dashboard/studies/1")
    asked = """async method => {
        const answer = await fetch('/api/studies/1', {method, body: method == 'DELETE' ? null : '{}'})
        return [answer.status, answer.headers.get('allow')]
    }"""
    for method in ("DELETE", "POST", "PUT"):
        assert page.evaluate(asked, method) == [405, "GET, HEAD"]
    assert len(page.request.get("/api/studies").json()["study_summaries"]) == 4


@pytest.mark.parametrize(
    ("name", "context"),
    [
        pytest.param("light", {"viewport": {"width": 1200, "height": 900}}, marks=pytest.mark.slow),
        pytest.param(
            "dark", {"viewport": {"width": 1200, "height": 900}, "color_scheme": "dark"}, marks=pytest.mark.slow
        ),
        ("phone", {"viewport": {"width": 390, "height": 844}}),
    ],
)
def test_the_report(
    name: str, context: dict[str, Any], browser: Any, finished: nas_proxy.Run, screenshot: Keep
) -> None:
    page, wrong = browser.new_page(**context), []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(finished.report.as_uri())
    page.locator("#figure-curves-proxy .subplot.xy").wait_for()
    told = verdict_of(finished.ranking)
    assert page.locator(".decision .answer").inner_text() == told.head
    assert page.locator(".network .volume").count() >= 3  # the image, and two blocks at least
    screenshot(page, f"report-{name}")
    unfold(page)
    page.get_by_text("ValueError: three is not a width").first.wait_for()
    screenshot(page, f"report-{name}-unfolded")
    assert wrong == []
    page.close()
