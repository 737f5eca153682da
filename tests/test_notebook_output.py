"""What cells of a notebook show: bars that leave what is worth knowing, tables, figures on light and dark ground."""

from typing import Any

import pandas as pd
import pytest

from nas_proxy import notebook, progress
from nas_proxy.report.figure_style import COLOURS, FAILED, INK, OTHER, SAMPLE, SEARCH


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What is drawn in the output of a cell, one after the other in the same place."""
    api = pytest.importorskip("IPython.display")
    found: list[dict[str, str]] = []

    class Place:
        def update(self, shown: dict[str, str], raw: bool) -> None:
            assert raw
            found.append(shown)

    def display(shown: dict[str, str], raw: bool, display_id: bool) -> Any:
        assert found == []  # all bars of a call stand in one place
        assert raw
        assert display_id
        found.append(shown)
        return Place()

    monkeypatch.setattr(api, "display", display)
    return found


def test_what_was_done_at_once_leaves_no_line(drawn: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bars = progress.Notebook()
    for title, seconds in (("Load", 0.2), ("Train", 70.0), ("Score", 0.9)):
        with bars.stage(title, 7) as bar:
            assert title in drawn[-1]["text/html"]
            now[0] += seconds
            bar.to(7, "best 93 %")
    assert drawn[-1]["text/plain"] == "Train: 7/7, 1:10 best 93 %"
    assert "<progress" not in drawn[-1]["text/html"]
    now[0] += 1000  # the clock of a stage stops with it
    with bars.stage("Search", 4):
        assert drawn[-1]["text/plain"] == "Train: 7/7, 1:10 best 93 %\nSearch: 0/4, 0:00"


def test_a_bar_that_was_stopped_stays_where_it_was(drawn: list[dict[str, str]]) -> None:
    with pytest.raises(KeyboardInterrupt), progress.Notebook().stage("Search", 4) as bar:
        bar.to(1)
        raise KeyboardInterrupt
    assert "<progress max='4' value='1'></progress>" in drawn[-1]["text/html"]
    assert drawn[-1]["text/plain"] == "Search: 1/4, 0:00"


def test_a_table_has_words_flush_left_and_numbers_as_they_are_read() -> None:
    rows = pd.DataFrame(
        {"key": ["<a>"], "phase": ["sample"], "score": [0.922004], "full": [float("nan")], "params": [1370.0]}
    )
    left = " style='text-align:left'"
    assert notebook.frame(rows) == (
        f"<table><thead><tr><th{left}>key</th><th{left}>phase</th><th>score</th><th>full</th><th>params</th></tr></thead>"
        f"<tbody><tr><td{left}>&lt;a&gt;</td><td{left}>sample</td><td>0.9220</td><td></td><td>1,370</td></tr></tbody></table>"
    )


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_figures_can_be_read_where_nobody_knows_the_ground(ground: str) -> None:
    def contrast(colour: str) -> float:
        darker, lighter = sorted((luminance(colour), luminance(ground)))
        return (lighter + 0.05) / (darker + 0.05)

    assert contrast(INK) > 4.25  # more on the one would be less on the other
    assert all(contrast(colour) > 3 for colour in (*COLOURS.values(), OTHER, FAILED, SAMPLE, SEARCH))  # WCAG 1.4.11
