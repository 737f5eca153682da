"""What a job leaves of warnings and of the places of modules: nothing that fails another, all that modules need."""

import sys
import warnings

import pytest

from nas_proxy.training.jobs import performed
from test_apart import Spoils


@pytest.mark.filterwarnings("default")
def test_warnings_of_the_next_job_are_what_they_were():
    """A filter that raises, or that takes another one's place, is gone; one of a library that was imported is not."""

    def warns():
        warnings.warn("implicit dimension", UserWarning, stacklevel=1)
        return "done"

    warnings.filterwarnings("ignore", "implicit")
    before = list(warnings.filters)
    for act in (lambda: warnings.simplefilter("error"), warnings.resetwarnings, warnings.filters.reverse):
        performed(Spoils(act))
        assert warnings.filters == before
        assert performed(Spoils(warns)) == "done"
    performed(Spoils(lambda: warnings.filterwarnings("ignore", "of a library")))
    assert len(warnings.filters) == len(before) + 1


def test_places_of_modules_that_a_job_adds_stay_as_its_modules_do(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = list(sys.path)
    performed(Spoils(lambda: sys.path.insert(0, "/of/a/library")))
    assert sys.path == ["/of/a/library", *before]
    performed(Spoils(lambda: sys.path.remove(before[-1])))
    assert sorted(sys.path) == sorted(["/of/a/library", *before])
