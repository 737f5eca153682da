"""Names and tables of scores of the user's own: what is no number has no score, and no column replaces one of ours."""

from dataclasses import replace

import pytest

from conftest import blobs
from nas_proxy.errors import CodeChangedError, ConfigError
from nas_proxy.names import LABELS
from nas_proxy.runs.resolving import resolve
from nas_proxy.signals import own
from nas_proxy.signals.score_job import ScoreJob
from nas_proxy.training.jobs import performed


def test_a_cell_that_is_no_number_is_left_out(tmp_path):
    cells = {"a": "5_5", "b": "0.5", "c": "", "d": "inf", "e": "٣", "f": "1e3", "g": "yes"}
    file = tmp_path / "scores.csv"
    file.write_text("key,mine\n" + "".join(f"{key},{cell}\n" for key, cell in cells.items()), encoding="utf-8")
    assert own.looked_up(f"table:{file}:mine") == {"b": 0.5, "f": 1000.0}


@pytest.mark.parametrize(
    "name",
    [*LABELS, "key", "random_0", "truth_0", "truth_12", "proxy_1", "dm+space", "dm+space_0", "random_total@dm_1"],
)
def test_a_column_of_ours_is_refused(name):
    with pytest.raises(
        ConfigError, match=r"is (the name of another signal|a column of scores\.csv already); rename the column"
    ):
        resolve({"signals": [f"table:scores.csv:{name}"]})


@pytest.mark.parametrize("name", ["mine", "mine_0", "random_forest", "truthful_0", "naswot_2", "keys", "dm2"])
def test_other_columns_may_be_called_as_they_like(name):
    assert own.mistake(f"table:scores.csv:{name}") is None
    assert own.mistake(f"scores.py:{name}") is None


@pytest.fixture
def job(tmp_path, tiny_space):
    """A score by a function of a file that imports another one, both of which tests change."""
    (tmp_path / "mine.py").write_text("from helper import value\n\n\ndef first(network, images):\n    return value()\n")
    (tmp_path / "helper.py").write_text("def value():\n    return 1.0\n")
    images = tmp_path / "images.safetensors"
    blobs(per_class=4).save(images)
    name, architecture = f"{tmp_path / 'mine.py'}:first", {"width": 2, "act": "relu"}
    whose = {"file": tmp_path / "mine.py", "code": own.fingerprint(name)}
    return ScoreJob(name, str(tiny_space), architecture, images, 0, "cpu", **whose)


@pytest.mark.parametrize("edited", ["mine.py", "helper.py", None])
def test_a_function_that_is_edited_while_a_command_is_at_work_gives_no_scores(job, tmp_path, edited):
    assert performed(job).score.value == 1.0
    if edited is None:
        (tmp_path / "mine.py").unlink()
    else:
        (tmp_path / edited).write_text((tmp_path / edited).read_text() + "# edited\n")
    with pytest.raises(CodeChangedError, match=r"mine\.py:first has changed since the command began"):
        performed(job)


def test_scores_by_what_a_function_imports_from_beside_it_are_those_of_that_code(job, tmp_path):
    (tmp_path / "helper.py").write_text("def value():\n    return 2.0\n")
    code = own.fingerprint(job.name)
    assert code != job.code
    assert performed(replace(job, code=code)).score.value == 2.0


def test_what_a_function_does_to_its_images_no_other_sees(tmp_path, tiny_space):
    """Gradients add up where a tensor is kept, and what is changed in place stays changed."""
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\n"
        "def gradient(network, images):\n"
        "    network(images.requires_grad_(True)).sum().backward()\n"
        "    return images.grad.abs().sum()\n\n\n"
        "def emptied(network, images):\n"
        "    images.mul_(0)\n"
        "    return 1.0\n\n\n"
        "def seen(network, images):\n"
        "    return images.abs().sum()\n"
    )
    images = tmp_path / "images.safetensors"
    blobs(per_class=4).save(images)

    def score(of: str, width: int) -> float:
        name = f"{tmp_path / 'mine.py'}:{of}"
        whose = {"file": tmp_path / "mine.py", "code": own.fingerprint(name)}
        job = ScoreJob(name, str(tiny_space), {"width": width, "act": "relu"}, images, 0, "cpu", **whose)
        return performed(job).score.value

    before = [score("gradient", width) for width in (2, 4, 2)]
    assert before[0] == before[2] != before[1]
    whole = score("seen", 2)
    assert score("emptied", 2) == 1.0
    assert score("seen", 4) == whole > 0


def test_the_name_of_a_table_without_a_column_is_told_as_it_was_given():
    with pytest.raises(ConfigError, match=r"'table:scores\.csv'; name a file and a column of it"):
        resolve({"signals": ["table:scores.csv"]})
