"""How long work shows itself without a terminal."""

from nas_proxy import progress
from nas_proxy.progress import Terminal


def test_no_stage_ends_with_the_same_line_twice(monkeypatch, capsys):
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Terminal().stage("Search", 2) as bar:
        bar.to(1)
        bar.to(2, "best 90 %")
    lines = [line.split(" in ")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["Search: 1/2", "Search: 2/2"]


def test_a_stage_that_was_quiet_tells_how_it_ended(capsys):
    with Terminal().stage("Search", 2) as bar:
        bar.to(2, "best 90 %")
    assert capsys.readouterr().err.startswith("Search: 2/2 in 0:00; best 90 %")
