"""The steps of a run from Python: what each returns, what it shows, and what a user's mistake gets for an answer."""

import html
import re
import shutil
from pathlib import Path

import optuna
import pytest
from torch import nn

import nas_proxy
from nas_proxy import Choice, Space, notebook, progress
from nas_proxy.errors import ConfigError, DataError, RunFolderError
from nas_proxy.pipeline import api
from nas_proxy.runs.folder import open_run
from nas_proxy.runs.resolving import resolve

SET = {"images_per_class": 2, "steps": 12, "width": 4, "real_batch": 4}
SHORT = {
    "trials": 6,
    "truth": 4,
    "device": "cpu",
    "proxy_training": {"epochs": 2},
    "full_training": {"epochs": 1},
}


def build(architecture, shape):
    pixels = shape.channels * shape.height * shape.width
    layers = [nn.Flatten(), nn.Linear(pixels, architecture["width"]), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(architecture["width"], shape.classes))


SPACE = Space("mine", Choice("width", (1, 2, 4, 6, 8, 12, 16, 24)), build)


@pytest.fixture(scope="module")
def data():
    return nas_proxy.load_data("digits", limit=20)


@pytest.fixture(scope="module")
def steps(data, tmp_path_factory):
    """Everything that the steps return, in the order of the steps."""
    folder = tmp_path_factory.mktemp("steps") / "run"
    proxy = nas_proxy.condense(data, out=folder, device="cpu", **SET)
    found = nas_proxy.search(data, proxy, SPACE, **SHORT)
    searched = repr(found), found._repr_html_()
    ranking = nas_proxy.rank(found, signals=("params",))
    return data, proxy, found, searched, ranking, nas_proxy.final(found)


def test_each_step_gives_what_the_next_one_takes(steps):
    data, proxy, found, _, ranking, network = steps
    assert proxy.images.shape == data.train.shape
    assert len(proxy.images) == 2 * 10
    assert len(proxy.losses) == 2  # of each tenth step
    assert isinstance(found.study, optuna.Study)
    assert len(found.study.trials) == len(found.trials) == 6
    assert found.study.best_value == found.trials["score"].max()
    assert set(found.studies) == {"proxy", "random", "early_stop", "truth"}
    assert list(found.truth["key"]) == sorted(found.truth["key"])
    assert ranking.n == len(found.scores) == 4
    assert "params" in ranking.to_frame().index
    assert "flops" not in ranking.to_frame().index
    assert "Spearman" in ranking.verdict
    assert network.told["key"] == found.pick["key"]
    assert network.network()(data.train.images[:3]).shape == (3, 10)


@pytest.mark.slow
def test_the_steps_are_the_stages_of_a_run(steps, tmp_path, monkeypatch):
    _, proxy, found, _, ranking, _ = steps
    settings = {**SHORT, "signals": ("params",), "limit": 20, "condense": SET}
    whole = nas_proxy.run("digits", SPACE, out=tmp_path / "whole", **settings)
    assert resolve({}, whole.folder / "run.toml") == resolve({}, found.folder / "run.toml")
    assert whole.proxy.made.fingerprint == proxy.made.fingerprint
    assert list(whole.trials["score"]) == list(found.trials["score"])
    assert whole.ranking.row("proxy").spearman == ranking.row("proxy").spearman
    assert whole.report.exists()
    assert found.report.exists()


def test_nothing_is_done_twice(steps, monkeypatch):
    data, proxy, found, _, ranking, network = steps

    def never(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("nas_proxy.signals.sets.make_proxy", never)
    monkeypatch.setattr("nas_proxy.training.jobs.train", never, raising=False)
    monkeypatch.setattr("nas_proxy.pipeline.final_training.fit", never)
    again = nas_proxy.condense(data, out=proxy.folder, device="cpu", **SET)
    assert again.made == proxy.made
    assert list(nas_proxy.search(data, again, SPACE, **SHORT).trials["score"]) == list(found.trials["score"])
    assert nas_proxy.rank(found).n == ranking.n
    assert nas_proxy.final(found).accuracy == network.accuracy


def test_objects_show_themselves_in_a_line_and_as_html(steps):
    data, proxy, found, searched, ranking, network = steps
    line, page = searched
    assert line.endswith("6 trainings)")
    assert page.count("<img") == 2
    assert "Verdict" not in page
    assert re.search(r"Run\('.*/run': run, 4 architectures ranked, pick width=\d+\)", repr(found))
    for shown in (data, data.train, proxy, found, network):
        assert "tensor(" not in repr(shown)
        assert "\n" not in repr(shown)
        assert len(repr(shown)) < 300
    assert data._repr_html_().count("<img") == 1
    assert ">9</td>" in data._repr_html_()  # a row a class
    assert proxy._repr_html_().count("<img") == 2  # condensed beside real
    assert ranking.verdict.split(":")[0] in ranking._repr_html_()
    assert "<th>Spearman</th>" in ranking._repr_html_()
    assert "full training" in found._repr_html_()
    assert network.told["key"] in network._repr_html_()
    assert all(len(shown._repr_html_()) < 200_000 for shown in (data, proxy, found, ranking, network))


def test_html_escapes_what_a_user_calls_things():
    assert notebook.line("<b>", bold="<i>") == "<p style='margin:0.4em 0'><b>&lt;i&gt;</b> &lt;b&gt;</p>"
    assert ">&lt;k&gt;</td>" in notebook.table([("<k>",)], ("a",))


def test_figures_of_a_ranking(steps):
    ranking = steps[4]
    assert ranking.plot().layout.xaxis.title.text == "rank by the proxy"
    assert ranking.plot("spearman").layout.xaxis.title.text == "Spearman"
    with pytest.raises(ConfigError, match="kind is 'spearmen'; did you mean 'spearman'"):
        ranking.plot("spearmen")


def test_in_a_notebook_figures_stand_under_the_page_and_elsewhere_there_is_a_line(steps, monkeypatch, capsys):
    api = pytest.importorskip("IPython.display")
    found = steps[2]
    found._ipython_display_()
    assert capsys.readouterr().out == f"{found!r}\n"
    shown = []
    monkeypatch.setattr(notebook, "in_notebook", lambda: True)
    monkeypatch.setattr(api, "display", lambda one, **_: shown.append(one))
    found._ipython_display_()
    page, figure = shown
    assert page == {"text/html": found._repr_html_(), "text/plain": repr(found)}
    assert figure.layout.xaxis.title.text == "rank by the proxy"


def test_another_search_on_the_same_set(steps, data, tmp_path):
    proxy = steps[1]
    with pytest.raises(RunFolderError, match=r"holds another run .*space: 'given:mine' → 'convnet'"):
        nas_proxy.search(data, proxy, "convnet", **SHORT)
    other = Space("other", Choice("width", (3, 5, 7, 9, 11)), build)
    found = nas_proxy.search(data, proxy, other, out=tmp_path / "other", **{**SHORT, "trials": 5})
    assert found.proxy.made.fingerprint == proxy.made.fingerprint
    assert found.proxy.made.seconds == pytest.approx(proxy.made.seconds, rel=0.01)  # what making it cost
    assert set(found.trials["width"]) == {3, 5, 7, 9, 11}


def test_a_set_that_nothing_was_trained_on_serves_any_search(data, tmp_path):
    proxy = nas_proxy.condense(data, out=tmp_path / "run", method="random", images_per_class=1)
    found = nas_proxy.search(data, proxy, SPACE, **SHORT)  # other trials, space and recipes than those of condense()
    assert open_run(found.folder).config.trials == 6
    with pytest.raises(RunFolderError, match=r"holds another run .condense.images_per_class: 1 → 2"):
        nas_proxy.condense(data, out=tmp_path / "run", method="random", images_per_class=2)


@pytest.mark.slow
def test_a_comparison_is_opened_too(data, tmp_path):
    settings = {"limit": 20, "truth": 4, "compare": {"signals": ["dm", "params"], "draws": 1}}
    short = {name: SHORT[name] for name in ("device", "proxy_training", "full_training")}
    nas_proxy.run("digits", SPACE, out=tmp_path / "table", condense=SET, **settings, **short)
    found = nas_proxy.open(tmp_path / "table")
    assert re.search(r"comparison, 4 architectures ranked", repr(found))
    assert len(found.trials) == sum(len(study.trials) for study in found.studies.values())
    assert set(found.trials["signal"]) >= {"dm", "random", "truth"}
    assert found.study.study_name == "random"
    assert found.ranking.plot().layout.xaxis.title.text == "Spearman"
    assert found.report.exists()
    assert "Beats random?" in found._repr_html_()
    with pytest.raises(RunFolderError, match="holds a comparison"):
        nas_proxy.final(found)


def test_a_folder_is_opened_again(steps):
    found = steps[2]
    again = nas_proxy.open(found.folder)
    assert again.ranking.n == 4
    assert again.final.accuracy == steps[5].accuracy
    with pytest.raises(ConfigError, match="the space 'mine' was given to this run itself; give it again as space="):
        nas_proxy.final(again)
    assert nas_proxy.final(str(found.folder), space=SPACE).accuracy == steps[5].accuracy


def test_a_run_that_has_not_come_far(data, tmp_path):
    nas_proxy.condense(data, out=tmp_path / "run", method="random", images_per_class=1)
    found = nas_proxy.open(tmp_path / "run")
    assert repr(found).endswith("nothing trained)")
    assert "<img" in found._repr_html_()
    for look in (lambda: found.ranking, lambda: found.trials, lambda: found.study):
        with pytest.raises(RunFolderError):
            look()
    (tmp_path / "run" / "trials.csv").write_text("\n")  # as a search leaves it that is cut off early
    assert repr(found).endswith("nothing trained)")
    assert found.trials.empty
    with pytest.raises(RunFolderError, match="does not exist"):
        nas_proxy.open(tmp_path / "nowhere")


def test_mistakes_get_a_sentence(steps, data, tmp_path):
    proxy = steps[1]
    with pytest.raises(ConfigError, match=r"unknown setting 'condense.stepz'; did you mean 'steps'"):
        nas_proxy.condense(data, out=tmp_path / "run", stepz=3)
    with pytest.raises(ConfigError, match="condense belongs to the condensed set"):
        nas_proxy.search(data, proxy, SPACE, condense={"steps": 3})
    with pytest.raises(ConfigError, match="overwrite=True would remove the condensed set"):
        nas_proxy.search(data, proxy, SPACE, overwrite=True)
    with pytest.raises(ConfigError, match=r"made of other data than Development\('digits'"):
        nas_proxy.search(nas_proxy.load_data("digits", limit=10), proxy, SPACE)
    with pytest.raises(DataError, match="unknown data set 'digitz'"):
        nas_proxy.load_data("digitz")
    assert not (tmp_path / "run").exists()


def test_a_budget_plans_a_whole_run_and_no_part_of_one(data, tmp_path):
    for part in (lambda: nas_proxy.search(data, None, budget="30m"), lambda: nas_proxy.rank(tmp_path, budget="30m")):
        with pytest.raises(ConfigError, match=r"give it to nas_proxy\.run\(\)"):
            part()


def test_what_is_given_beside_a_file_of_settings_takes_its_place(tmp_path, monkeypatch):
    (tmp_path / "run.toml").write_text('dataset = "mnist"\nspace = "resnet"\ntrials = 7\n')
    asked = []
    monkeypatch.setattr(api, "run_all", lambda config, *_, **__: asked.append(config))
    monkeypatch.setattr(api, "Run", lambda *_: None)
    for given, expected in (((), ("mnist", "resnet")), (("digits", "convnet"), ("digits", "convnet"))):
        nas_proxy.run(*given, config=tmp_path / "run.toml")
        assert (asked[-1].dataset, asked[-1].space, asked[-1].trials) == (*expected, 7)


@pytest.mark.slow
def test_a_killed_search_goes_on(steps, data, tmp_path, monkeypatch):
    proxy, found = steps[1], steps[2]
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(proxy.folder / "run.toml", folder)
    for name in ("proxy.safetensors", "proxy.png", "real.png"):
        shutil.copy(proxy.folder / name, folder)
    copied = nas_proxy.open(folder).proxy

    class Cut(progress.Terminal):
        def say(self, text):
            pass

    def cut():
        if (folder / "study.db").exists() and len(nas_proxy.open(folder).study.trials) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nas_proxy.search(data, copied, SPACE, progress=Cut(cut), **SHORT)
    whole = nas_proxy.search(data, copied, SPACE, **SHORT)
    assert list(whole.trials["score"]) == list(found.trials["score"])


def test_the_default_folder_is_that_of_the_data(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert nas_proxy.condense(data, method="random", images_per_class=1).folder == Path("runs/digits")


def test_progress_is_shown_where_somebody_looks(monkeypatch):
    assert progress.shown(None) is progress.SILENT  # the tests' output goes to a file
    assert progress.shown(False) is progress.SILENT
    assert isinstance(progress.shown(True), progress.Terminal)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert isinstance(progress.shown(None), progress.Terminal)
    assert progress.shown(False) is progress.SILENT
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    assert isinstance(progress.shown(None), progress.Notebook)


def test_a_bar_in_a_notebook(monkeypatch):
    api = pytest.importorskip("IPython.display")
    drawn = []

    class Cell:
        def update(self, shown, raw):
            assert raw
            drawn.append(shown["text/html"])
            assert shown["text/plain"] in html.unescape(drawn[-1])

    def display(shown, raw, display_id):
        Cell().update(shown, raw)
        return Cell()

    monkeypatch.setattr(api, "display", display)
    monkeypatch.setattr(progress, "DRAWN", 0.0)
    monkeypatch.setattr(progress, "BRIEF", 0.0)
    with progress.Notebook().stage("Search", 4) as bar:
        bar.to(1)
        bar.to(3, "best <90 %>")
        bar.to(4, "best 93 %")
    assert "<progress max='4' value='0'></progress><span>Search: 0/4, 0:00</span>" in drawn[0]
    assert re.search(r"value='3'></progress><span>Search: 3/4, 0:00 \(0:00 left\) best &lt;90 %&gt;<", drawn[-3])
    assert "<span>✓</span><span>Search: 4/4, 0:00 best 93 %</span>" in drawn[-1]
