"""Computed scores that are kept: a line each, of one data set and space, whatever cut them off."""

import json
import math

import numpy as np
import pytest

import nas_proxy
from conftest import blobs, write_space
from nas_proxy.signals.score_file import KeptScore, ScoreFile

STAMP = {"data": "d", "space": "s"}
ONE = KeptScore("naswot", "a", 1.5, 0.1)
TWO = KeptScore("az_nas", "b", 0.0, 0.2, None, (1.0, 2.0))
FAILED = KeptScore("naswot", "b", None, 0.3, "E: no")


def kept(*scores: KeptScore):
    def write(folder):
        file = ScoreFile(folder, STAMP)
        for score in scores:
            file.add(score)
        return folder / "computed.jsonl"

    return write


def test_what_is_added_is_read_again(tmp_path):
    kept(ONE, TWO, FAILED)(tmp_path)
    for file in (ScoreFile(tmp_path, STAMP), ScoreFile(tmp_path)):
        assert dict(file.of("naswot")) == {"a": ONE, "b": FAILED}
        assert dict(file.of("az_nas")) == {"b": TWO}
        assert dict(file.of("synflow")) == {}


def test_scores_of_other_data_are_no_use_and_begin_anew(tmp_path):
    kept(ONE, TWO)(tmp_path)
    other = ScoreFile(tmp_path, {**STAMP, "data": "e"})
    assert dict(other.of("naswot")) == {}
    other.add(FAILED)
    assert dict(ScoreFile(tmp_path, STAMP).of("naswot")) == {}
    assert dict(ScoreFile(tmp_path, {**STAMP, "data": "e"}).of("naswot")) == {"b": FAILED}


@pytest.mark.parametrize("lost", range(1, 60, 7))
def test_a_line_that_was_cut_off_is_lost_alone(tmp_path, lost):
    path = kept(ONE, TWO, FAILED)(tmp_path)
    path.write_bytes(path.read_bytes()[:-lost])
    file = ScoreFile(tmp_path, STAMP)
    assert file.of("naswot")["a"] == ONE
    file.add(FAILED)
    again = ScoreFile(tmp_path, STAMP)
    assert dict(again.of("naswot")) == {"a": ONE, "b": FAILED}


@pytest.mark.parametrize(
    "line", ["null", "[]", "{}", '{"signal": "naswot", "key": "c", "value": NaN}', '{"signal": "x"}', "{"]
)
def test_a_damaged_line_counts_as_not_there(tmp_path, line):
    path = kept(ONE)(tmp_path)
    path.write_text(path.read_text() + line + "\n")
    assert dict(ScoreFile(tmp_path, STAMP).of("naswot")) == {"a": ONE}


def test_folders_of_earlier_versions_are_read(tmp_path):
    of = {"naswot": {"images": 64, "of": {"a": [1.5, 0.1, None], "b": [None, 0.3, "E: no"]}}}
    (tmp_path / "computed.json").write_text(json.dumps({**STAMP, "scores": of}))
    assert dict(ScoreFile(tmp_path, STAMP).of("naswot")) == {"a": ONE, "b": FAILED}
    assert dict(ScoreFile(tmp_path, {**STAMP, "data": "e"}).of("naswot")) == {}


def test_a_trait_of_minus_infinity_is_kept_and_none_that_is_no_number(tmp_path):
    handed_through = KeptScore("az_nas", "a", 0.0, 0.2, traits=(-math.inf, 1.5))
    file = ScoreFile(tmp_path, STAMP)
    file.add(handed_through)
    file.add(KeptScore("az_nas", "b", 0.0, 0.2, traits=(math.nan, 1.5)))
    assert dict(ScoreFile(tmp_path, STAMP).of("az_nas")) == {"a": handed_through}


@pytest.mark.slow
def test_a_run_that_is_cut_off_computes_no_score_twice(tmp_path, monkeypatch):
    images = blobs(per_class=20)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    space = write_space(tmp_path / "tiny.py", (4, 5, 6, 7, 8, 10))
    settings = {
        **{"trials": 6, "truth": 5, "judge": 4, "workers": 1, "device": "cpu", "signals": ["params", "synflow"]},
        "condense": {"method": "random", "images_per_class": 2},
        "proxy_training": {"epochs": 1, "batch_size": 6},
        "full_training": {"epochs": 1, "batch_size": 12},
    }
    add, added = ScoreFile.add, list[tuple[str, str]]()

    def dying(self, score):
        add(self, score)
        added.append((score.signal, score.key))
        if len(added) in {3, 11, 17}:
            raise KeyboardInterrupt

    monkeypatch.setattr(ScoreFile, "add", dying)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            nas_proxy.run(f"npz:{tmp_path / 'blobs.npz'}", str(space), out=tmp_path / "run", **settings)
    nas_proxy.run(f"npz:{tmp_path / 'blobs.npz'}", str(space), out=tmp_path / "run", **settings)
    assert len(added) == len(set(added)) == 2 * 12
