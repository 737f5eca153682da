"""Draw the kept results of the benchmarks of scale: a figure as HTML, and a picture of it by a headless Chromium.

    python benchmarks/pictures.py scaling benchmarks/results/scaling-cpu.json
    python benchmarks/pictures.py images_per_class benchmarks/results/images-per-class-cpu.json
    python benchmarks/pictures.py rank_per_class benchmarks/results/rank-per-class-cpu.json

Writes the PNG beside the JSON. And the pictures of the README, of a run with its study, into its parent folder:

    python benchmarks/pictures.py run runs/digits-convnet

Needs Playwright and Chromium.
"""

import argparse
import contextlib
import json
import shutil
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

WIDTH, HEIGHT = 900, 380
COLOURS = ("#2563eb", "#f59e0b", "#059669", "#7c3aed")


def scaling(result: dict[str, Any]) -> go.Figure:
    """Seconds a step and memory against what grows, both logarithmic."""
    figure = make_subplots(1, 2, subplot_titles=("seconds a step", "peak memory, MB"))
    for colour, row in zip(COLOURS, result["growth"], strict=True):
        points = [point for point in result["points"] if point["row"] == row]
        x = [point["number"] for point in points]
        panels = ([point["seconds_per_step"] for point in points], [point["memory_bytes"] / 1e6 for point in points])
        name = {"size": "pixels a side", "ipc": "images a class"}.get(row, row)
        for column, y in enumerate(panels, start=1):
            style = {"color": colour, "dash": "dot" if "," in row else "solid"}
            shown = go.Scatter(x=x, y=y, name=name, legendgroup=row, showlegend=column == 1, line=style)
            figure.add_trace(shown, 1, column)
    return figure.update_xaxes(type="log", dtick=1).update_yaxes(type="log", dtick=1)


def images_per_class(result: dict[str, Any]) -> go.Figure:
    """Accuracy on validation images against images a class, with standard deviations."""
    figure, points = go.Figure(), result["points"]
    for colour, (name, prefix) in zip(COLOURS, (("condensed", ""), ("random real", "random_")), strict=False):
        figure.add_scatter(
            x=[point["ipc"] for point in points],
            y=[point[f"{prefix}accuracy"] for point in points],
            error_y={"array": [point[f"{prefix}std"] for point in points]},
            name=f"{name} images",
            line={"color": colour},
        )
    ticks = [point["ipc"] for point in points]
    figure.update_xaxes(type="log", title="images a class", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    return figure.update_yaxes(title=f"accuracy (n = {result['n']} networks)", tickformat=".0%", rangemode="tozero")


def rank_per_class(result: dict[str, Any]) -> go.Figure:
    """Spearman against images a class, with intervals: by accuracy, and by the sum of training losses."""
    points = result["points"]
    figure = make_subplots(1, 2, subplot_titles=("by accuracy", "by the sum of training losses"), shared_yaxes=True)
    for column, score in enumerate(("", ":loss_sum"), start=1):
        for colour, name, words in zip(COLOURS, ("dm", "random"), ("condensed", "random real"), strict=False):
            found = [point[name + score] for point in points]
            # Side by side, so that no interval hides another.
            x = [point["ipc"] * (0.95 if name == "dm" else 1.05) for point in points]
            y = [one["value"] for one in found]
            above, below = ([abs(one[end] - one["value"]) for one in found] for end in ("high", "low"))
            spread = {"array": above, "arrayminus": below, "symmetric": False}
            style = {"name": f"{words} images", "legendgroup": name, "showlegend": column == 1}
            figure.add_trace(go.Scatter(x=x, y=y, error_y=spread, line={"color": colour}, **style), 1, column)
    ticks = [point["ipc"] for point in points]
    figure.update_xaxes(type="log", title="images a class", tickvals=ticks, ticktext=[str(tick) for tick in ticks])
    return figure.update_yaxes(title=f"Spearman (n = {result['n']})", col=1)


@contextlib.contextmanager
def browser_page(width: int, height: int) -> Iterator[Any]:
    """Yield a page of a headless Chromium."""
    from playwright.sync_api import sync_playwright

    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": width, "height": height})
        browser.close()


def photograph_run(run: Path) -> list[Path]:
    """Write the first screen of a run's report, and of its main study in the dashboard; return where."""
    from nas_proxy.dashboard.server import application, serving

    report, dashboard = (run.resolve().parent / name for name in ("report.png", "dashboard.png"))
    with browser_page(1200, 900) as page, serving(application(run), "127.0.0.1", 0) as server:
        threading.Thread(target=server.run, daemon=True).start()
        page.goto((run / "report.html").resolve().as_uri())
        page.wait_for_selector(".figure .main-svg")
        page.screenshot(path=report)
        page.goto(f"http://127.0.0.1:{server.port}/dashboard/studies/1")
        page.wait_for_selector("[id='user-defined-plot:signals'] .main-svg")
        page.wait_for_timeout(1000)  # figures come one by one
        page.screenshot(path=dashboard)
    return [report, dashboard]


def photograph(figure: go.Figure, path: Path) -> None:
    """Write a PNG of the figure."""
    figure.update_layout(
        width=WIDTH, height=HEIGHT, template="plotly_white", margin={"t": 40, "b": 50, "l": 60, "r": 20}
    )
    with tempfile.TemporaryDirectory() as folder, browser_page(WIDTH + 16, HEIGHT + 16) as page:
        page_path = Path(folder) / "figure.html"
        figure.write_html(page_path, include_plotlyjs=True, config={"displayModeBar": False})
        page.goto(page_path.as_uri())
        page.wait_for_selector(".main-svg")
        page.screenshot(path=path)


FIGURES = {"scaling": scaling, "images_per_class": images_per_class, "rank_per_class": rank_per_class}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=[*FIGURES, "run"])
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    if options.figure == "run":
        paths = [path.name for path in photograph_run(options.result)]
        print(json.dumps({"benchmark": "pictures", "figure": "run", "paths": paths}))
        return
    result = json.loads(options.result.read_text(encoding="utf-8"))
    path = options.result.with_suffix(".png")
    photograph(FIGURES[options.figure](result), path)
    print(json.dumps({"benchmark": "pictures", "figure": options.figure, "path": path.name}))


if __name__ == "__main__":
    main()
