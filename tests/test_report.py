"""The report: one page that shows what a run folder holds, whatever that is."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from made_up_runs import (
    HOSTILE,
    ODD_RUNS,
    Builder,
    get_ranking,
    ordinary,
    put_ranking,
    without,
)
from nas_proxy.errors import RunFolderError
from nas_proxy.report.page import report_html, write_report
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


def test_the_regret_on_the_first_screen_is_that_of_the_network_there(tmp_path: Path) -> None:
    """The proxy's own pick is another one than what the run hands out, by what it believes of all."""
    ordinary(tmp_path)
    ranking = get_ranking(tmp_path)
    ranking["signals"]["proxy"] |= {"regret": 0.103, "pick": "another"}
    ranking["signals"]["calibrated"] = {**ranking["signals"]["proxy"], "regret": 0.002, "pick": ranking["pick"]["key"]}
    put_ranking(tmp_path, ranking)
    first = page_of(tmp_path).text.partition("What it saved")[0]
    assert "regret 0.20 pp: below the best" in first
    assert "10.3 pp" not in first
    ranking["signals"]["calibrated"]["pick"] = "a third"
    put_ranking(tmp_path, ranking)
    assert " pp" not in page_of(tmp_path).text.partition("What it saved")[0]


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
