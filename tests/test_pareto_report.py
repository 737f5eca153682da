"""The report of a run for several objectives, real images beside condensed ones, and pages that stay small."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from conftest import blobs
from failing_objectives import several, two
from made_up_runs import ordinary
from nas_proxy.data import picture
from nas_proxy.data.picture import GAP, TILE, write_grid, write_real
from nas_proxy.ranking.believed import Believed, write_order
from nas_proxy.report import pareto
from nas_proxy.report.figure_style import MOST, add_markers, blank, evenly
from nas_proxy.report.page import report_html, write_report
from nas_proxy.report.pictures import MOST_BYTES
from nas_proxy.report.run_contents import read_run
from test_report import page_of
from test_report_browser import opened

ROWS = pd.DataFrame(
    {
        "key": ["a", "b", "c", "d", "e"],
        "state": "complete",
        "score": [0.5, 0.9, 0.7, 0.6, 0.8],
        "proxy_accuracy": [0.5, 0.9, 0.7, 0.6, 0.8],
        "diverged": False,
        "params": [10.0, 1000.0, 100.0, 200.0, 50.0],
        "flops": ["7", "5", "9", "nan", ""],
        "latency_ms": [0.1, 0.25, 0.3, 0.04, 0.05],
    }
)


def with_objectives(folder: Path, change: Any = several) -> None:
    trials, _ = ordinary(folder)
    change(folder, trials)


def test_objectives_of_a_configuration() -> None:
    assert pareto.objectives_of({"objective": ["accuracy", "latency", "params"]}) == ("accuracy", "latency", "params")
    for odd in ({}, {"objective": "params"}, {"objective": ["accuracy", 3]}, {"objective": None}):
        assert pareto.objectives_of(odd) == ("accuracy",)


def test_places_by_hand() -> None:
    found = pareto.comparable(ROWS, ("accuracy", "params"))
    # c and d are beaten by e, which is better and smaller.
    assert found["key"].tolist() == ["a", "e", "b", "c", "d"]
    assert found["place"].tolist()[:3] == [1, 2, 3]
    assert found["place"].isna().tolist() == [False] * 3 + [True] * 2
    assert pareto.comparable(ROWS, ("accuracy", "flops"))["key"].tolist() == ["b", "a", "c"]
    assert pareto.comparable(ROWS.drop(columns="latency_ms"), ("accuracy", "latency")).empty
    failed = ROWS.assign(state=["complete", "failed", "complete", "complete", "failed"])
    assert pareto.comparable(failed, ("accuracy", "params"))["key"].tolist() == ["a", "c", "d"]


def test_the_figure_of_two_objectives_joins_the_front() -> None:
    figure = pareto.pareto_figure(pareto.comparable(ROWS, ("accuracy", "params")), ("accuracy", "params"))
    beaten, front = figure.data
    assert (list(beaten.x), list(beaten.y)) == ([100, 200], [70, 60])
    assert (list(front.x), list(front.y)) == ([10, 50, 1000], [50, 80, 90])
    assert (beaten.mode, front.mode, front.line.shape) == ("markers", "lines+markers+text", "hv")
    assert front.text == ("1", "2", "3")
    assert figure.layout.xaxis.type == "log"
    assert front.hovertext[1] == ("<b>e</b><br>place 2 on the front<br>validation accuracy: 80.00 %<br>parameters: 50")
    assert "place" not in beaten.hovertext[0]


def test_three_objectives_have_a_plot_a_cost() -> None:
    objectives = ("accuracy", "params", "latency")
    figure = pareto.pareto_figure(pareto.comparable(ROWS, objectives), objectives)
    assert [(trace.name, trace.xaxis, trace.showlegend) for trace in figure.data] == [
        ("beaten by another", "x", True),
        ("on the Pareto front", "x", True),
        ("beaten by another", "x2", False),
        ("on the Pareto front", "x2", False),
    ]
    assert {trace.mode for trace in figure.data} == {"markers", "markers+text"}
    assert figure.layout.xaxis2.title.text == "latency, ms"
    assert figure.layout.yaxis.domain[0] > figure.layout.yaxis2.domain[1]
    # d is the fastest; c is beaten by e in everything.
    assert set(figure.data[1].x) == {10, 50, 200, 1000}
    across = pareto.pareto_figure(pareto.comparable(ROWS, objectives), objectives, across=True).layout
    assert across.xaxis.domain[1] < across.xaxis2.domain[0]
    assert across.height < figure.layout.height


def test_the_section_of_the_report(tmp_path: Path) -> None:
    with_objectives(tmp_path)
    page = page_of(tmp_path)
    rows = pareto.comparable(read_run(tmp_path).trials, ("accuracy", "params", "latency"))
    number = rows["place"].notna().sum()
    sentence = "that no other beats in validation accuracy, parameters, latency at once"
    assert f"{number} architectures of {len(rows)} {sentence}" in page.text
    assert "Latency was measured once for each architecture" in page.text
    assert f"Place N is trained in full by nas-proxy final {tmp_path.name} --front N" in page.text
    assert "figure-pareto" in page.figures
    with_objectives(tmp_path / "two", two)
    text = page_of(tmp_path / "two").text
    assert "that no other beats in validation accuracy and in FLOPs of one image at once" in text
    assert "Latency was measured" not in text
    ordinary(tmp_path / "one")
    assert "Pareto" not in page_of(tmp_path / "one").text


def test_after_full_trainings_the_front_is_of_what_is_believed(tmp_path: Path) -> None:
    with_objectives(tmp_path, two)
    proxied, full = read_run(tmp_path).trials["key"].tolist()[5:], read_run(tmp_path).truth["key"].tolist()
    believed = [Believed(key, 0.9 - 0.01 * n, 0.1, 1.0, 0.9) for n, key in enumerate(dict.fromkeys(proxied + full))]
    write_order(tmp_path, believed, reach={})
    rows = pareto.of_run(read_run(tmp_path))
    assert rows["accuracy"].tolist() == [{b.key: b.mean for b in believed}[key] for key in rows["key"]]
    assert len(rows) == len(set(rows["key"])) <= len(believed)
    text = page_of(tmp_path).text
    assert "in believed accuracy after full training and in FLOPs of one image at once" in text
    (tmp_path / "search.json").write_text('{"order": [{"key": 3}]}')
    assert "search.json cannot be read" in page_of(tmp_path).text
    assert pareto.of_run(read_run(tmp_path))["accuracy"].max() > 0.9  # of the proxy


def test_every_section_of_a_whole_report(tmp_path: Path) -> None:
    with_objectives(tmp_path)
    page = page_of(tmp_path)
    sections = [attrs["id"] for tag, attrs in page.elements if tag == "section"]
    assert sections == [
        *("best", "pareto", "images", "truth", "signals", "choices"),
        *("scores", "numbers", "random", "cost", "notes", "history", "failures", "reading", "run"),
    ]
    assert "nas-proxy run --config run.toml" in page.text
    assert {"figure-ranks", "figure-cost-seconds", "figure-pareto"} <= set(page.figures)


def test_real_images_are_the_first_of_each_class(tmp_path: Path) -> None:
    real, condensed = blobs(per_class=5), blobs(per_class=2, seed=1)
    write_real(condensed, real, tmp_path / "real.png")
    write_grid(real.select(torch.tensor([0, 1, 5, 6, 10, 11])), real, tmp_path / "expected.png")
    assert (tmp_path / "real.png").read_bytes() == (tmp_path / "expected.png").read_bytes()
    with Image.open(tmp_path / "real.png") as image:
        assert image.size == (2 * (TILE + GAP) + GAP, 3 * (TILE + GAP) + GAP)
        assert image.getpixel((GAP, GAP)) == (int(real.images[0, 0, 0, 0]),) * 3
    # A class with fewer real images than condensed ones has fewer in its row.
    write_real(blobs(per_class=9), blobs(per_class=3), tmp_path / "few.png")
    with Image.open(tmp_path / "few.png") as image:
        assert image.width == 3 * (TILE + GAP) + GAP


def test_a_picture_of_large_images_has_fewer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, condensed = blobs(classes=6, per_class=9), blobs(classes=6, per_class=8, seed=1)
    write_grid(condensed, real, tmp_path / "all.png")
    monkeypatch.setattr(picture, "MOST_PIXELS", 12 * (TILE + GAP) ** 2)
    write_grid(condensed, real, tmp_path / "proxy.png")
    write_real(condensed, real, tmp_path / "real.png")
    images = []
    for name in ("all", "proxy", "real"):
        with Image.open(tmp_path / f"{name}.png") as image:
            images.append(image.copy())
    assert [(image.width // (TILE + GAP), image.height // (TILE + GAP)) for image in images] == [(8, 6), (4, 3), (4, 3)]
    corner = (0, 0, 4 * (TILE + GAP), 3 * (TILE + GAP))
    assert images[1].crop(corner).tobytes() == images[0].crop(corner).tobytes()


def test_real_images_stand_beside_condensed_ones(tmp_path: Path) -> None:
    with_objectives(tmp_path)
    pictures = [attrs for tag, attrs in page_of(tmp_path).elements if tag == "img"]
    content = [base64.b64decode(str(attrs["src"]).partition(",")[2]) for attrs in pictures]
    assert content == [(tmp_path / name).read_bytes() for name in ("proxy.png", "real.png")]
    assert [attrs["alt"] for attrs in pictures] == [
        "The condensed images, in a grid",
        "As many real images of the same classes, in a grid",
    ]
    assert "beside the first training images of the same classes, a row a class" in page_of(tmp_path).text
    (tmp_path / "real.png").unlink()
    old = page_of(tmp_path)
    assert old.count("img") == 1
    assert "beside the first" not in old.text
    assert "not complete" not in old.text


@pytest.mark.slow
def test_pictures_and_points_do_not_make_a_page_large(tmp_path: Path) -> None:
    ordinary(tmp_path, n=12_000)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 1000, 3), dtype=np.uint8)
    for name in ("proxy.png", "real.png"):
        Image.fromarray(noise).save(tmp_path / name)
    run = read_run(tmp_path)
    assert run.image is not None
    assert run.image == run.real
    assert len(run.image.content) <= MOST_BYTES
    with Image.open(io.BytesIO(run.image.content)) as image:
        assert image.width == run.image.width
        assert image.height == pytest.approx(2 * image.width, abs=2)
    html = report_html(run)
    assert len(html.encode()) < 6_000_000
    (figure,) = [figure for name, figure in page_of(tmp_path).figures.items() if name == "figure-history"]
    assert {trace["name"] for trace in figure["data"]} >= {f"search ({MOST} of 11,976 drawn)", "failed"}
    assert json.dumps(figure).count("depth=") < 2 * MOST


def test_very_many_points_are_drawn_evenly() -> None:
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(9, 5) == [0, 2, 4, 6, 8]
    figure = blank("x", "y", height=100)
    count = 3 * MOST
    spread = {"array": list(range(count)), "arrayminus": list(range(count)), "width": 0}
    numbers = list(range(count))
    hover = list(map(str, numbers))
    add_markers(figure, numbers, numbers, hover, name="many", color="red", symbol="x", error_y=spread)
    (trace,) = figure.data
    assert len(trace.x) == MOST
    assert (trace.x[0], trace.x[-1]) == (0, count - 1)
    assert list(trace.x) == list(trace.y) == list(trace.error_y.array) == [int(text) for text in trace.hovertext]


@pytest.mark.browser
@pytest.mark.parametrize("change", [pytest.param(two, marks=pytest.mark.slow), several])
def test_the_figure_in_a_browser(tmp_path: Path, browser: Any, change: Any, screenshot: Any) -> None:
    with_objectives(tmp_path, change)
    page, wrong = opened(browser, write_report(tmp_path), viewport={"width": 1200, "height": 900})
    figure = page.locator("#figure-pareto")
    plots = 1 if change is two else 2
    assert figure.locator(".cartesianlayer .subplot").count() == plots
    for number in range(plots):
        plot = figure.locator(".cartesianlayer .subplot").nth(number)
        assert plot.locator(".points path").first.is_visible()
        plot.locator(".scatterlayer .trace").last.locator(".points path").last.hover(force=True)
        figure.locator(".hoverlayer text").filter(has_text="on the front").first.wait_for()
        page.mouse.move(0, 0)
    images = page.locator("#images img")
    for number in range(images.count()):
        assert images.nth(number).evaluate("async image => { await image.decode(); return image.naturalWidth }") > 20
    if change is several:
        left, right = (images.nth(number).bounding_box() for number in range(2))
        assert right["x"] > left["x"] + left["width"]
        assert right["y"] == left["y"]
        assert right["height"] == pytest.approx(left["height"], rel=0.02)
    screenshot(page, f"report-pareto-{change.__name__}")
    assert wrong == []
    page.close()
