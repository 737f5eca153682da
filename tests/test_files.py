"""Files that are written at once or not at all."""

import os
import stat

import pytest
import torch
from safetensors.torch import save_file

from nas_proxy.files import atomic_path


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_others_may_read_what_they_could_read_of_any_file(tmp_path, umask):
    (tmp_path / ".set.safetensors.part").touch(mode=0o600)  # of a command that was killed
    with atomic_path(tmp_path / "set.safetensors") as temporary:
        save_file({"x": torch.zeros(2)}, temporary)
    assert stat.S_IMODE((tmp_path / "set.safetensors").stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.iterdir()] == ["set.safetensors"]


def test_a_failure_leaves_the_last_version(tmp_path):
    path = tmp_path / "set.txt"
    path.write_text("good")
    with pytest.raises(ValueError, match="half"), atomic_path(path) as temporary:
        temporary.write_text("hal")
        raise ValueError("half")
    assert path.read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["set.txt"]
