"""A space's `valid` and `name_of` meet nobody's process but their own, however late they misbehave."""

import os
import random
import sys
import time

import pytest
from torch import nn

from nas_proxy import Choice, Space, time_limit
from nas_proxy.errors import SpaceError
from nas_proxy.spaces import asked
from nas_proxy.spaces.apart import GRACE
from nas_proxy.spaces.asked import asked_apart

WIDTHS = Choice("width", tuple(range(2_500))) & Choice("act", ("relu", "gelu"))


def build(architecture, shape):
    return nn.Flatten()


def space_of(valid=None, name_of=None) -> Space:
    return Space("mine", WIDTHS, build, valid, name_of)


def late(act):
    """A function that is a good one until it meets one architecture."""

    def function(architecture):
        if architecture["width"] == 1_234 and architecture["act"] == "gelu":
            return act()
        return f"{architecture['width']} {architecture['act']}"

    return function


def interrupted():
    raise KeyboardInterrupt


ENDS = {
    "raises ValueError: no luck for 'width=1234,act=gelu'": lambda: (_ for _ in ()).throw(ValueError("no luck")),
    "raises SystemExit: 3 for 'width=1234,act=gelu'": lambda: sys.exit(3),
    "raises KeyboardInterrupt for 'width=1234,act=gelu'": interrupted,
    "ended its process with exit code 3 for 'width=1234,act=gelu'": lambda: os._exit(3),
    "was killed by signal 9 for 'width=1234,act=gelu'": lambda: os.kill(os.getpid(), 9),
}


@pytest.mark.parametrize("told", ENDS)
@pytest.mark.parametrize("name", ["valid", "name_of"])
def test_whatever_it_does_late_is_a_sentence(name, told):
    space = asked_apart(space_of(**{name: late(ENDS[told])}))
    one = {"width": 1, "act": "relu"}
    assert (space.key(one), space.is_valid(one)) == (("1 relu" if name == "name_of" else "width=1,act=relu"), True)
    with pytest.raises(SpaceError) as error:
        (space.key if name == "name_of" else space.is_valid)({"width": 1_234, "act": "gelu"})
    assert str(error.value) == f"`{name}` of the space 'mine' {told}"
    assert space.key(one) == space.key(one)  # and goes on answering for others
    # Where many are asked about together, what ended the process may be any of them.
    with pytest.raises(SpaceError, match=f"`{name}` of the space 'mine' "):
        list(space.sample(0))


def test_one_that_never_answers_is_a_sentence(monkeypatch):
    monkeypatch.setattr(time_limit, "SECONDS", 0.3 - GRACE)
    space = asked_apart(space_of(late(lambda: time.sleep(600))))
    with pytest.raises(SpaceError, match=r"`valid` of the space 'mine' took longer than .* for 'width=1234,act=gelu'"):
        space.is_valid({"width": 1_234, "act": "gelu"})


def test_a_name_that_is_no_text_is_a_sentence():
    space = asked_apart(space_of(name_of=late(lambda: 5)))
    with pytest.raises(SpaceError, match="`name_of` of the space 'mine' returns 5, which is not text, for 'width=1234"):
        space.key({"width": 1_234, "act": "gelu"})


def test_the_answers_are_those_of_the_functions_and_nothing_is_left_here(monkeypatch):
    def valid(architecture):
        os.chdir("/")
        random.random = None
        return architecture["width"] % 3 == 1

    def name_of(architecture):
        return str(architecture["width"] // 2)

    monkeypatch.setattr(asked, "PAUSE", 0.001)  # so that answers come in many parts
    plain, apart = space_of(lambda a: a["width"] % 3 == 1, name_of), asked_apart(space_of(valid, name_of))
    before, folder = random.random, os.getcwd()  # noqa: PTH109 (as text)
    assert (apart.size, list(apart.sample(7))) == (plain.size, list(plain.sample(7)))
    assert (random.random, os.getcwd()) == (before, folder)  # noqa: PTH109


def test_options_are_given_as_they_are():
    options = (nn.ReLU, nn.GELU)
    space = Space("classes", Choice("act", options), build, lambda a: a["act"] is nn.GELU, lambda a: a["act"].__name__)
    found = asked_apart(space)
    assert [found.key(a) for a in found.sample(0)] == ["GELU"]
    assert asked_apart(space_of()).valid is None
