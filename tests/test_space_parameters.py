"""Parameters of a space in its name: values, identity, paths, and each mistake in a sentence."""

from pathlib import Path

import pytest

from nas_proxy import DataShape, SpaceError, load_space
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import default_folder
from nas_proxy.spaces.loading import space_digest, split_spec

SHAPE = DataShape(1, 8, 8, 10)
FILE = """
from nas_proxy import Choice, Space


def space_for(shape, *, width=4, rate=0.5, deep=False, name="plain"):
    return Space(f"{name}-{width}-{rate}-{deep}", Choice("depth", (1, 2)), print)
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return str(path)


def test_values_have_the_types_of_the_defaults(file):
    assert load_space(file, SHAPE).name == "plain-4-0.5-False"
    assert load_space(f"{file}:width=8,rate=1,deep=true,name=x", SHAPE).name == "x-8-1.0-True"


def test_the_digest_tells_parameters_apart_whatever_their_order(file):
    plain, eight = space_digest(file), space_digest(f"{file}:width=8,deep=true")
    assert plain != eight == space_digest(f"{file}:deep=true,width=8")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ("widht=8", "has no parameter 'widht'; did you mean 'width'? known: deep, name, rate, width"),
        ("width=wide", "has width=wide; width must be a whole number, such as 4"),
        ("width=8.5", "has width=8.5; width must be a whole number, such as 4"),
        ("rate=high", "has rate=high; rate must be a number, such as 0.5"),
        ("deep=yes", "has deep=yes; deep must be true or false, such as false"),
        ("width=8,width=9", "is given width twice; give it once"),
    ],
)
def test_a_mistake_gets_a_sentence(file, parameters, sentence):
    with pytest.raises(SpaceError) as caught:
        load_space(f"{file}:{parameters}", SHAPE)
    assert str(caught.value) == f"the space {file} {sentence}"


def test_a_space_without_parameters_says_so():
    with pytest.raises(SpaceError, match="the space convnet takes no parameters, but cells=1 was given; leave it out"):
        load_space("convnet:cells=1", SHAPE)
    with pytest.raises(SpaceError, match="unknown search space 'convent'; did you mean 'convnet'"):
        load_space("convent:cells=1", SHAPE)


def test_a_file_whose_name_looks_like_parameters_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a:b=c.py").write_text(FILE)
    assert split_spec("a:b=c.py") == ("a:b=c.py", "")
    assert split_spec("mine.py:width=8") == ("mine.py", "width=8")


def test_paths_come_out_absolute_and_folders_get_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = resolve({"space": "mine.py:width=8"})
    assert config.space == f"{tmp_path}/mine.py:width=8"
    assert resolve({"space": "a.pyx/mine.py"}).space == f"{tmp_path}/a.pyx/mine.py"
    assert str(default_folder(config)) == "runs/digits-mine-width=8"
    assert str(default_folder(resolve({"space": "nas_bench_201:cells=1"}))) == "runs/digits-nas_bench_201-cells=1"
    assert str(default_folder(resolve({}))) == "runs/digits-convnet"
