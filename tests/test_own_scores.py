"""Names and tables of scores of the user's own: what is no number has no score, and no column replaces one of ours."""

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


def test_a_function_that_is_edited_while_a_command_is_at_work_gives_no_scores(tmp_path, tiny_space):
    file, images = tmp_path / "mine.py", tmp_path / "images.safetensors"
    file.write_text("def first(network, images):\n    return 1.0\n")
    blobs(per_class=4).save(images)
    name = f"{file}:first"
    job = ScoreJob(name, str(tiny_space), {"width": 2, "act": "relu"}, images, 0, "cpu", code=own.fingerprint(name))
    assert performed(job).score.value == 1.0
    file.write_text("def first(network, images):\n    return 2.0\n")
    with pytest.raises(CodeChangedError, match=r"mine\.py:first has changed since the command began"):
        performed(job)
