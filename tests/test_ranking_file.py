"""`ranking.json` read once: what is refused in a sentence, what an earlier version wrote, and what comes out."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from made_up_runs import ranking_of, trials_of
from nas_proxy.errors import RunFolderError
from nas_proxy.names import BY
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.report.formats import UNDEFINED
from nas_proxy.report.page import write_report
from nas_proxy.report.signal_figures import Point, correlation_by_cost, pareto
from nas_proxy.report.signal_table import signal_table
from nas_proxy.report.summary import accuracy_of
from nas_proxy.report.table import markdown, table_csv
from nas_proxy.report.terminal import ranking_table
from nas_proxy.report.verdict import verdict

FIELDS = ("signals", "proxy", "random", "spearman", "value", "low", "minus_random", "reason", "cost", "pick", "n")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner),
    max_leaves=20,
)
EVIL = "<script>alert(1)</script>|x"


@given(st.dictionaries(st.sampled_from(FIELDS), JSON) | JSON)
@settings(max_examples=300)
def test_anything_is_a_ranking_or_refused_in_a_sentence(anything: Any) -> None:
    of = anything if isinstance(anything, dict) and "signals" in anything else {"signals": {"proxy": anything}}
    try:
        ranking = Ranking.of(of)
    except ValueError as error:
        assert 0 < len(str(error)) < 300
        return
    console = Console(width=100, file=io.StringIO(), color_system=None)
    console.print(ranking_table(ranking))
    for text in (verdict(ranking), markdown(ranking), table_csv(ranking), repr(ranking), console.file.getvalue()):  # type: ignore[attr-defined]
        assert text.encode()
        assert "nan" not in text
    json.dumps(ranking.as_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"[1, 2]", "it holds no ranking"),
        (b'{"n": 24}', "it holds no ranking"),
        (b'{"n": 24, "signals": {', "Expecting property name"),
        (b"\xff\xfe", "invalid start byte"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"signals": {"proxy": {"kendall": 3}}}', "signals.proxy.kendall: Input should be an object"),
        (b'{"signals": {}, "n": "24"}', "n: Input should be a valid integer"),
        (b'{"signals": {"dm": {"cost": {"passes": true}}}}', "signals.dm.cost.passes"),
        (b'{"signals": {}, "pick": {"truth": [0.5, "x"]}}', "pick.key: Field required"),
    ],
)
def test_a_damaged_file_gets_a_sentence(content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / "ranking.json"
    with pytest.raises(RunFolderError, match="does not exist; make it with: nas-proxy rank"):
        Ranking.read(path)
    path.write_bytes(content)
    with pytest.raises(RunFolderError) as error:
        Ranking.read(path)
    assert str(error.value).startswith(f"{path} cannot be read (")
    assert told in str(error.value)
    assert str(error.value).endswith(f"; delete it, then: nas-proxy rank {tmp_path}")


def test_what_cannot_be_a_number_or_a_text_is_none_or_made_safe() -> None:
    row = {"spearman": {"value": float("nan"), "reason": "\ud800 \x1b[31m é"}, "regret": 10**400}
    (found,) = Ranking.of({"signals": {"own": row}}).signals.values()
    assert (found.spearman.value, found.regret) == (None, None)
    assert found.spearman.reason == "? �[31m é"


@pytest.mark.parametrize(("score", "other"), [("accuracy", "loss_sum"), ("loss_sum", "accuracy")])
def test_a_signal_of_one_score_stands_in_the_column_that_the_table_ranks_by(score: str, other: str) -> None:
    values = {"proxy": 0.9, f"proxy:{other}": 0.8, "params": 0.3}
    rows = {name: {"spearman": {"value": value, "low": 0.1, "high": 0.95}} for name, value in values.items()}
    table = signal_table(Ranking.of({"signals": rows, "score": score, "n": 24}))
    assert table["scores"] == [BY[score], BY[other]]
    cells = {row["name"]: [value for value, _ in row["cells"]] for row in table["rows"]}
    assert cells == {"proxy": ["0.90", "0.80"], "params": ["0.30", UNDEFINED]}


def test_a_run_of_an_earlier_version() -> None:
    path = Path(__file__).parent / "data" / "ranking-of-an-earlier-version.json"
    ranking, old = Ranking.read(path), json.loads(path.read_text(encoding="utf-8"))
    proxy = old["signals"]["proxy"]
    assert ranking.signals["proxy"].spearman.as_json() == proxy["spearman"]
    assert (ranking.n, ranking.sample, ranking.score, ranking.searched) == (24, 24, "accuracy", True)
    cost = ranking.signals["proxy"].cost
    assert (cost.seconds, cost.passes, cost.stored_bytes) == (proxy["seconds"], 144_000, 6400)
    assert ranking.pick is not None
    assert ranking.pick.truth_mean == old["pick"]["truth_mean"]
    assert ranking["signals"]["proxy"]["spearman"] == proxy["spearman"]
    assert ranking["pick"] == old["pick"]
    assert Ranking.of(ranking.as_json()) == ranking


def test_rows_as_a_frame_and_as_a_file() -> None:
    ranking = Ranking.of(ranking_of(trials_of()))
    frame = ranking.to_frame()
    assert frame.loc["proxy", "spearman"] == 0.91
    assert frame.loc["flops", "seconds"] == 0.004
    assert (frame.index.name, list(frame.index)) == ("signal", list(ranking.signals))
    rows = list(csv.DictReader(io.StringIO(table_csv(ranking))))
    assert list(rows[0]) == ["signal", *frame.columns]
    assert (rows[0]["passes"], rows[0]["stored_images"]) == ("240000", "")
    assert repr(ranking).startswith("Ranking(n=24, Spearman: proxy 0.91, random 0.85, ")


def test_a_score_by_losses_stands_under_its_signal() -> None:
    names = ("dm", "random", "dm:loss_sum", "own:loss_sum", "repeatability")
    ranking = Ranking.of({"signals": {name: {"spearman": {"value": 0.5}} for name in names}})
    assert [name for name, _ in ranking.rows()] == ["dm", "dm:loss_sum", "random", "own:loss_sum", "repeatability"]


def test_the_pareto_line() -> None:
    found = pareto([Point("a", 1, 0.5), Point("b", 2, 0.4), Point("c", 2, 0.7), Point("d", 3, 0.7), Point("e", 0, 0.1)])
    assert [point.name for point in found] == ["e", "a", "c"]
    assert pareto([]) == []


def odd_comparison() -> dict[str, Any]:
    interval = {"value": 0.5, "low": None, "high": None, "reason": "no", "n": 4}
    nothing = {"value": None, "low": None, "high": None, "reason": "constant", "n": 4}
    free = {"seconds": 0.0, "passes": 0, "stored_images": 0, "stored_bytes": 0}
    return {
        "n": 4,
        "signals": {
            EVIL: {"spearman": interval, "cost": {**free, "seconds": 3.0}},
            "params": {"spearman": nothing, "cost": free},
            "flops": {"spearman": interval, "cost": free},
            "repeatability": {"spearman": nothing},
        },
        "equal_cost": {EVIL: {"what": EVIL, "target": "dm", "factor": 2.5}},
        "remarks": [EVIL],
    }


def test_an_odd_comparison_is_shown_and_nothing_in_it_is_obeyed(tmp_path: Path) -> None:
    (tmp_path / "compare.toml").write_text(f"name = {json.dumps(EVIL)}\n", encoding="utf-8")
    (tmp_path / "ranking.json").write_text(json.dumps(odd_comparison()), encoding="utf-8")
    path = write_report(tmp_path)
    page = path.read_text(encoding="utf-8")
    assert path.name == "compare.html"
    assert EVIL not in page
    assert "alert(1)" in page
    assert "&lt;wbr" not in page
    assert write_report(tmp_path).read_text(encoding="utf-8") == page
    assert "\\|x" in (tmp_path / "table.md").read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "table.csv").read_text(encoding="utf-8"))))
    assert [row["spearman"] for row in rows] == ["0.5", "", "0.5", ""]
    for cost in ("seconds", "passes"):
        figure = correlation_by_cost(Ranking.of(odd_comparison()), cost)
        assert len(figure.data) == 3  # two signals and the line
    for name, content in (("ranking.json", "[]"), ("compare.toml", "")):
        (tmp_path / name).write_text(content)
        write_report(tmp_path)
    assert "ranking.json cannot be read (it holds no ranking)" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("truth", "chosen_by", "told"),
    [
        ([0.98], 0, "test accuracy"),
        ([0.98, 0.97], 0, "test accuracy, mean of 2 full trainings"),
        ([0.98], 1, "test accuracy of the full training that it was chosen by"),
        ([0.98, 0.97], 1, "test accuracy of a full training that it was not chosen by"),
        ([0.98, 0.97, 0.96], 1, "test accuracy of 2 full trainings (mean) that it was not chosen by"),
    ],
)
def test_it_is_told_whether_the_accuracy_is_of_the_training_by_which_a_network_was_chosen(
    truth: list[float], chosen_by: int, told: str
) -> None:
    of = ranking_of(trials_of())
    of["pick"] |= {"truth": truth, "truth_chosen_by": chosen_by, "truth_mean": truth[-1]}
    found = accuracy_of(Ranking.of(of))
    assert found is not None
    assert (found.words, found.estimate.value) == (told, truth[-1])
