"""Space files: modules beside them, edits in one process, digests, and spaces that are given as they are."""

import os
import pathlib
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_proxy import Choice, DataShape, Space, SpaceError, load_space
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.loading import space_digest

SHAPE = DataShape(1, 4, 4, 3)
ROOT = Path(__file__).parents[1]


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder / "mine.py"


LAZY = """
    from torch import nn
    from nas_proxy import Choice, Space
    def build(architecture, shape):
        from blocks import WIDTH
        return nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH), nn.Linear(WIDTH, 3))
    space = Space("lazy", Choice("a", (1, 2)), build)
"""
FUNCTION = """
    from torch import nn
    def space(trial):
        from blocks import WIDTH
        trial.suggest_int("a", 1, 2)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH), nn.Linear(WIDTH, 3))
"""
SPACE_FOR = """
    def space_for(shape):
        import importlib
        return importlib.import_module("blocks").space_for(shape)
"""
BLOCKS = "from deeper import *\n"
DEEPER = """
    from torch import nn
    from nas_proxy import Choice, Space
    WIDTH = {width}
    def space_for(shape):
        return Space("s", Choice("a", (1, 2)), lambda a, s: nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH)))
"""


def width(path):
    space = load_space(str(path), SHAPE)
    return next(p for p in space.build({"a": 1}, SHAPE).parameters()).shape[0]


@pytest.mark.parametrize("text", [LAZY, FUNCTION, SPACE_FOR])
def test_modules_beside_the_file_are_found_whenever_they_are_imported_and_read_anew_once_edited(tmp_path, text):
    mine = write(tmp_path / "a", mine=text, blocks=BLOCKS, deeper=DEEPER.format(width=5))
    assert width(mine) == 5
    digest = space_digest(str(mine))
    write(tmp_path / "a", deeper=DEEPER.format(width=7))  # of the same size, in the same second
    assert width(mine) == 7
    assert space_digest(str(mine)) != digest
    write(tmp_path / "a", deeper=DEEPER.format(width=5))
    assert space_digest(str(mine)) == digest


def test_an_edited_file_is_read_anew(tmp_path):
    mine = write(tmp_path, mine="from nas_proxy import Choice, Space\nspace = Space('s', Choice('a', (1, 2)), print)\n")
    assert load_space(mine, SHAPE).choices.at(1) == {"a": 2}
    mine.write_text(mine.read_text().replace("(1, 2)", "(3, 4)"))
    assert load_space(mine, SHAPE).choices.at(1) == {"a": 4}


@pytest.mark.parametrize("text", [LAZY, FUNCTION])
def test_two_folders_may_have_modules_of_one_name(tmp_path, text):
    first = write(tmp_path / "a", mine=text, blocks="WIDTH = 5")
    second = write(tmp_path / "b", mine=text, blocks="WIDTH = 6")
    spaces = [load_space(str(path), SHAPE) for path in (first, second)]
    built = [space.build({"a": 1}, SHAPE) for space in (*spaces, *spaces)]
    assert [next(network.parameters()).shape[0] for network in built] == [5, 6, 5, 6]


def test_a_module_may_be_imported_while_the_network_runs(tmp_path):
    text = """
        from torch import nn
        from nas_proxy import Choice, Space
        class Net(nn.Linear):
            def forward(self, x):
                from only_in_forward import scale
                return super().forward(x.flatten(1)) * scale
        space = Space("s", Choice("a", (1, 2)), lambda a, s: Net(16, 3))
    """
    mine = write(tmp_path, mine=text, only_in_forward="scale = 2")
    code = (
        "import torch\nfrom nas_proxy import DataShape, load_space\n"
        f"space = load_space({str(mine)!r}, DataShape(1, 4, 4, 3))\n"
        "space.build({'a': 1}, None)(torch.zeros(2, 1, 4, 4))"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, cwd="/", check=True)


def test_packages_beside_the_file_count_and_folders_of_data_shadow_nothing(tmp_path):
    text = """
        import pack.inner, sklearn.base
        from nas_proxy import Choice, Space
        space = Space("s", Choice("a", pack.inner.A), print)
    """
    mine = write(tmp_path, mine=text, pack__inner="A = (1, 2)")
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "sklearn").mkdir()
    (tmp_path / "random.py").write_text("raise RuntimeError('Python has one')")
    assert load_space(mine, SHAPE).size == 2
    digest = space_digest(mine)
    write(tmp_path, pack__inner="A = (1, 2, 3)")
    assert load_space(mine, SHAPE).size == 3
    assert space_digest(mine) != digest


def test_what_importing_a_file_changes_of_the_process_is_put_back(tmp_path):
    text = """
        import os, pathlib, torch
        from nas_proxy import Choice, Space
        os.chdir(pathlib.Path(__file__).parent)
        os.environ["OF_A_SPACE"] = "1"
        torch.set_default_dtype(torch.float64)
        space = Space("s", Choice("a", (1, 2)), print)
    """
    before = (Path.cwd(), torch.get_default_dtype())
    assert load_space(write(tmp_path, mine=text), SHAPE).size == 2
    assert (Path.cwd(), torch.get_default_dtype()) == before
    assert "OF_A_SPACE" not in os.environ


def test_the_digest_of_a_file_alone_is_that_of_its_bytes(tmp_path):
    import hashlib

    mine = write(tmp_path, mine="space = print", unrelated="x = 1")
    assert space_digest(str(mine)) == hashlib.sha256(mine.read_bytes()).hexdigest()[:16]
    assert space_digest("convnet") == hashlib.sha256((ROOT / "search_spaces/convnet.py").read_bytes()).hexdigest()[:16]


def build(architecture, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


def test_a_space_a_function_and_a_path_are_spaces_themselves(tmp_path):
    space = Space("mine", Choice("a", (1, 2)), build)
    assert load_space(space, SHAPE) is space

    def suggested(trial):
        trial.suggest_int("a", 1, 2)
        return build(None, None)

    found = load_space(suggested, SHAPE)
    assert isinstance(found, FunctionSpace)
    assert found.name == "suggested"
    path = write(tmp_path, mine="from nas_proxy import Choice, Space\nspace = Space('p', Choice('a', (1,)), print)")
    assert load_space(pathlib.Path(path), SHAPE).name == "p"
    for wrong, kind in ((3, "int"), (Space, "class"), ({"a": 1}, "dict")):
        with pytest.raises(SpaceError, match=f"the space is a {kind}; it must be a nas_proxy.Space or a function"):
            load_space(wrong, SHAPE)


def test_the_digest_of_a_space_itself_changes_with_its_choices_and_functions():
    space = Space("mine", Choice("a", (1, 2)), build)
    assert space_digest(space) == space_digest(Space("mine", Choice("a", (1, 2)), build))
    others = [
        Space("mine", Choice("a", (1, 3)), build),
        Space("mine", Choice("a", (1, 2)), lambda a, s: nn.Flatten()),
        Space("mine", Choice("a", (1, 2)), build, valid=lambda a: True),
    ]
    assert len({space_digest(each) for each in (space, *others)}) == 4
