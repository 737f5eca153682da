"""What is told before the long work of data, space and settings that do not go together."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pandas as pd
import pytest
from torch import nn

from nas_proxy import Choice, Space
from nas_proxy.errors import ConfigError, DataError
from nas_proxy.pipeline import checks
from nas_proxy.pipeline.checks import check, check_enough, check_own_scores, check_proposals, check_room
from nas_proxy.pipeline.problem import Prospect
from nas_proxy.ranking.truth_table import KnownPart
from nas_proxy.runs.settings import RunConfig
from nas_proxy.spaces.limits import small_part
from nas_proxy.spaces.measured import Size


def space_of(*widths: int) -> Space:
    return Space("widths", Choice("width", widths), lambda architecture, shape: nn.Identity())


def prospect_of(whole: Space, space: Any = None, **settings: Any) -> Prospect:
    config: Any = RunConfig(**{"signals": (), **settings})
    few: Any = None
    enqueued = [{"width": 1}] * len(config.enqueue)
    return Prospect(config, "", "", "cpu", few, few, few, whole, None, few, space or whole, enqueued)


def test_a_table_of_scores_is_looked_up_in_the_part_of_the_space_that_is_searched(tmp_path: Path) -> None:
    whole = space_of(*range(1, 1001))
    keys = [f"width={width}" for width in range(1, 5)]
    pd.DataFrame({"key": keys, "mine": range(4)}).to_csv(tmp_path / "scores.csv", index=False)
    named = (f"table:{tmp_path / 'scores.csv'}:mine",)
    for seed in range(5):  # of which 200 architectures of the whole space seldom have one
        check_own_scores(prospect_of(whole, KnownPart(whole, frozenset(keys[:2])), signals=named, seed=seed))
    with pytest.raises(
        DataError, match="a number for none of 2 architectures of the space; its keys look like 'width=1'"
    ):
        check_own_scores(prospect_of(whole, KnownPart(whole, frozenset({"width=8", "width=9"})), signals=named))
    pd.DataFrame({"key": keys, "mine": ["fast", "slow", None, ""]}).to_csv(tmp_path / "scores.csv", index=False)
    with pytest.raises(DataError, match=r"the column 'mine' of .*scores.csv has no number; name a column of scores"):
        check_own_scores(prospect_of(whole, signals=named))


def test_how_many_architectures_there_are_within_limits_is_counted_where_they_are_few() -> None:
    sizes = Mock(side_effect=lambda a: Size(1, int(str(a["width"]))))
    few, many = space_of(*range(1, 101)), space_of(*range(1, 2001))
    found = prospect_of(few, small_part(few, None, 30, sizes))
    assert (found.most, found.number, found.number) == (100, 30, 30)
    assert sizes.call_count == 100  # each once
    assert (prospect_of(few).most, prospect_of(few).number) == (100, 100)
    large = prospect_of(many, small_part(many, None, 30, sizes))
    assert (large.most, large.number) == (2000, 2000)


def test_too_few_architectures_are_told_where_they_are_to_be_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check_recipe", lambda *_: None)
    small, large = space_of(1, 2, 3), space_of(*range(1, 100))
    check_enough(prospect_of(space_of(1, 2, 3, 4)))
    check(prospect_of(small), ("condense", "search"))
    with pytest.raises(
        ConfigError, match="at least 4 architectures, but there are 3 in the space 'widths'; give it more"
    ):
        check(prospect_of(small), ("search", "rank"))
    part = small_part(large, None, 3, lambda a: Size(1, int(str(a["width"]))))
    with pytest.raises(ConfigError, match="there are 3 in the space 'widths' within --max-flops 3; raise it"):
        check_enough(prospect_of(large, part, max_flops=3))
    table: Any = object()
    few = replace(prospect_of(large, KnownPart(large, frozenset({"width=1"}))), table=table)
    with pytest.raises(ConfigError, match="there are 1 in the truth table; give a larger table"):
        check_enough(few)


def test_what_is_enqueued_has_room_beside_the_sample() -> None:
    check_proposals(prospect_of(space_of(1), enqueue=("width=1",) * 24))
    with pytest.raises(
        ConfigError, match=r"--trials 48 leaves room for 24 beside the sample of 24 .*; give --trials 54 or"
    ):
        check_proposals(prospect_of(space_of(1), enqueue=("width=1",) * 30))
    planned = prospect_of(space_of(1), enqueue=("width=1",) * 30, budget="10h")
    check_proposals(planned)  # before the plan, which makes room
    with pytest.raises(
        ConfigError, match=r"the plan of --budget 10h leaves room for 24 beside .*; give a larger --budget"
    ):
        check_room(planned)  # of a plan that was made before
