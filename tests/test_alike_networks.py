"""Networks of one architecture that are built again are alike, in every branch of a space."""

import numpy as np
import pytest
import torch
from torch import nn

from nas_proxy import Choice, DataShape, Space, SpaceError
from nas_proxy.spaces.checking import try_out

SHAPE = DataShape(1, 4, 4, 3)


@pytest.mark.parametrize(("kind", "reason"), [("drawn", "built from the same seed differ"), ("kept", "share '")])
def test_one_branch_that_does_not_repeat_is_refused(kind, reason):
    kept = nn.Linear(16, 3)

    def build(architecture, shape):
        if architecture["arm"] == "a":
            return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
        layer = kept if kind == "kept" else nn.Linear(16, 3)
        if kind == "drawn":
            layer.weight.data = torch.from_numpy(np.random.default_rng().random((3, 16), dtype=np.float32))
        return nn.Sequential(nn.Flatten(), layer)

    for arms in (("a", "b"), ("b", "a")):  # the first to be drawn is one of the other arm
        with pytest.raises(SpaceError, match=reason):
            try_out(Space("bent", Choice("arm", arms), build), SHAPE)
