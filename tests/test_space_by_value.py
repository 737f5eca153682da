"""Spaces that are given themselves, from a notebook or a script: what they are known by and how workers get them."""

import functools
import pickle
import subprocess
import sys
import textwrap
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn

import nas_proxy
from conftest import blobs
from nas_proxy import Branch, Choice, Space, SpaceError
from nas_proxy.data.images import DataShape
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import default_folder
from nas_proxy.spaces.by_value import by_value
from nas_proxy.spaces.loading import load_space, space_digest, spec_of

SHAPE = DataShape(1, 4, 4, 3)
CELL = """
from torch import nn
from nas_proxy import Choice, Space

{before}

def head(width, classes):
    return nn.Linear(width, classes)

def build(a, s):
    return nn.Sequential(nn.Flatten(), nn.Linear(s.channels * s.height * s.width, a["width"]), nn.ReLU(), {head})

space = Space("mine", Choice("width", (4, 8, 16)) & Choice("bias", (True, False)), build)
"""


def executed(head="head(a['width'], s.classes)", before="", **names):
    """Return what a cell defines, as a notebook executes it: in a module that no file holds."""
    module = types.ModuleType("__main__")
    vars(module).update(names)
    exec(compile(CELL.format(head=head, before=before), "<cell>", "exec"), vars(module))
    return module


def test_a_space_goes_by_value_and_comes_back_as_the_space_it_was():
    space = executed().space
    sent = pickle.loads(pickle.dumps(by_value(space)))
    found = load_space(sent, SHAPE)
    assert sent.name == "given:mine"
    assert [found.key(a) for a in found.sample(3)] == [space.key(a) for a in space.sample(3)]
    with torch.random.fork_rng():
        network = found.build(next(found.sample(0)), SHAPE)
    assert network(torch.zeros(2, 1, 4, 4)).shape == (2, 3)


def test_a_function_goes_by_value():
    def small(trial, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, trial.suggest_int("width", 2, 9)), nn.LazyLinear(3))

    found = load_space(by_value(small), SHAPE)
    assert found.name == "small"
    assert found.build({"width": 3}, SHAPE)(torch.zeros(1, 1, 4, 4)).shape == (1, 3)


def test_a_cell_executed_again_gives_the_same_digest_and_what_changes_gives_another():
    again = [space_digest(executed().space) for _ in range(2)]
    assert again[0] == again[1] == by_value(executed().space).digest
    others = [
        executed(head="nn.Linear(a['width'], s.classes)"),
        executed(before="def unused(): pass\n", head="head(a['width'], s.classes + 0)"),
        executed(head="head(a['width'], s.classes + EXTRA)", EXTRA=0),
        executed(head="head(a['width'], s.classes + EXTRA)", EXTRA=1),
        executed(head="Head(a['width'], s.classes)", before="class Head(nn.Linear): bias_too = True"),
        executed(head="Head(a['width'], s.classes)", before="class Head(nn.Linear): bias_too = False"),
    ]
    assert len({*again, *(space_digest(each.space) for each in others)}) == 1 + len(others)
    unused = executed(before="def unused(): pass\nimport math")
    assert space_digest(unused.space) == again[0], "what no function of the space uses is not part of it"


def test_what_a_helper_a_closure_a_default_and_an_option_do_is_part_of_the_digest():
    def with_helper(width):
        def helper(n):
            return nn.Linear(n, width)

        return Space("s", Choice("n", (1, 2)), lambda a, s: helper(a["n"]))

    def with_default(width):
        def build(a, s, width=width):
            return nn.Linear(a["n"], width)

        return Space("s", Choice("n", (1, 2)), build)

    def with_option(width):
        class Option:
            def made(self):
                return width

        return Space("s", Choice("n", (Option, nn.ReLU)), lambda a, s: a["n"]())

    def with_branch(width):
        return Space("s", Branch("n", {1: Choice("k", (3, 5)), 2: Choice("k", (3, width))}), lambda a, s: None)

    def with_kept(width):
        @functools.cache
        def helper(n):
            return width * n

        return Space("s", Choice("n", (1, 2)), lambda a, s: nn.Linear(a["n"], helper(a["n"])))

    for make in (with_helper, with_default, with_option, with_branch, with_kept):
        assert space_digest(make(7)) == space_digest(make(7)), make.__name__
        assert space_digest(make(7)) != space_digest(make(8)), make.__name__


def test_an_array_that_a_function_uses_counts_by_its_values_not_by_its_address():
    def digest(value):
        return space_digest(executed(head="nn.Linear(a['width'], int(SIZES[0]))", SIZES=np.array([value] * 9)).space)

    assert digest(3) == digest(3) != digest(4)


def test_functions_that_use_each_other_have_a_digest():
    before = "def odd(n): return n and even(n - 1)\ndef even(n): return not n or odd(n - 1)"
    one, other = (executed(before=before, head=f"head({w} + even(2), s.classes)") for w in ("8", "9"))
    assert space_digest(one.space) != space_digest(other.space)


@pytest.mark.parametrize(
    ("held", "reason"),
    [
        (threading.Lock(), "cannot be sent to worker processes .*lock.*write it into a Python file"),
        (np.zeros(3_000_000), "holds 24 MB.*load what is large inside the function that builds"),
    ],
    ids=["lock", "large"],
)
def test_what_cannot_be_sent_is_told_with_what_to_do(held, reason):
    module = executed(head="head(len(HELD), s.classes)", HELD=held)
    with pytest.raises(SpaceError, match=reason):
        by_value(module.space)
    for wrong in (3, Space, None):
        with pytest.raises(SpaceError, match=r"must be a nas_proxy\.Space or a function of a trial"):
            spec_of(wrong)


def test_the_settings_name_what_was_given_and_no_command_takes_it_for_a_file():
    config = resolve({"space": "given:mine"})
    assert config.space == "given:mine"
    assert str(default_folder(config)) == "runs/digits-mine"
    with pytest.raises(SpaceError, match=r"'mine' was given as an object of Python.*give it again"):
        load_space("given:mine", SHAPE)


SCRIPT = textwrap.dedent("""
    import sys
    from torch import nn
    import nas_proxy
    from nas_proxy import Choice, Space
    from helper_of_mine import activation

    WIDTHS = (4, 8, 12, 16)

    def build(a, s):
        import second_helper
        return nn.Sequential(nn.Flatten(), nn.Linear(144, a["width"]), activation(), second_helper.last(a, s))

    space = Space("mine", Choice("width", WIDTHS) & Choice("bias", (True, False)), build)
    done = nas_proxy.run(
        sys.argv[1], space, out=sys.argv[2], workers=1, device="cpu", trials=5, truth=4, signals=("params", "synflow"),
        condense={"images_per_class": 2, "steps": 2, "width": 8},
        proxy_training={"epochs": 2.0}, full_training={"epochs": 1.0},
    )
    print(done.pick["key"], done.config.space)
""")


@pytest.mark.slow
@pytest.mark.processes
def test_a_scripts_space_is_searched_by_worker_processes_and_goes_on_where_it_is_given_again(tmp_path):
    images = blobs(per_class=12, size=12)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    (tmp_path / "helper_of_mine.py").write_text("from torch.nn import ReLU as activation\n")
    (tmp_path / "second_helper.py").write_text(
        "from torch import nn\ndef last(a, s): return nn.Linear(a['width'], s.classes, bias=a['bias'])\n"
    )
    script, out = tmp_path / "script.py", tmp_path / "run"

    def started(text):
        script.write_text(text)
        command = [sys.executable, str(script), f"npz:{tmp_path / 'blobs.npz'}", str(out)]
        return subprocess.run(command, capture_output=True, text=True, timeout=200)

    first = started(SCRIPT)
    assert first.returncode == 0, first.stderr
    assert first.stdout.split()[-1] == "given:mine"
    trials = (out / "trials.csv").read_text()
    assert ",fail" not in trials
    assert not [path for path in out.rglob("*") if path.is_file() and b"cloudpickle" in path.read_bytes()]
    second = started(SCRIPT)
    assert second.stdout == first.stdout
    assert (out / "trials.csv").read_text() == trials, "nothing is trained again"
    changed = started(SCRIPT.replace("activation(),", "nn.Tanh(),"))
    assert "RunFolderError" in changed.stderr
    assert "space" in changed.stderr.splitlines()[-1]
    command = subprocess.run(
        [sys.executable, "-m", "nas_proxy", "search", str(out)], capture_output=True, text=True, timeout=100
    )
    assert command.returncode == 2
    assert "'mine' was given as an object of Python" in command.stderr


def test_load_final_takes_a_space_itself():
    with pytest.raises(nas_proxy.RunFolderError, match="holds no final network"):
        nas_proxy.load_final("/nowhere", executed().space)
