"""Channels-last layers: the same values and gradients as PyTorch's, and no map that changes its memory format."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_proxy.seeds import torch_generator
from nas_proxy.training import channels_last as layers
from nas_proxy.training.channels_last import ChannelsLast, WrittenError, is_channels_last


def maps(n: int, channels: int, height: int, width: int) -> torch.Tensor:
    values = torch.randn(n, channels, height, width, generator=torch_generator(0), dtype=torch.float64)
    return values.contiguous(memory_format=torch.channels_last)


def gradients(function, *inputs):
    """Values of `function`, and gradients of a fixed weighting of them."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    found = function(*inputs)
    slope = torch.randn(found.shape, generator=torch_generator(1), dtype=found.dtype)
    return [found, *torch.autograd.grad(found, inputs, slope)]


def assert_same(function, *inputs):
    expected = gradients(function, inputs[0].contiguous(), *inputs[1:])
    with ChannelsLast():
        found = gradients(function, *inputs)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, check_stride=False)
    return found


def parameters(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch_generator(2)
    return tuple(torch.randn(shape, generator=draws, dtype=torch.float64) for _ in range(2))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 20), st.integers(1, 5), st.integers(2, 5))
def test_group_norm(n, groups, per_group, height, width):
    channels = groups * per_group
    assert_same(
        lambda x, w, b: F.group_norm(x, groups, w, b, 1e-3), maps(n, channels, height, width), *parameters(channels)
    )
    assert_same(lambda x: F.group_norm(x, groups), maps(n, channels, height, width))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(1, 5), st.integers(2, 5))
def test_instance_norm_image_by_image(n, channels, height, width):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "LARGE_MAP", 1)
        found = assert_same(
            lambda x, w, b: F.group_norm(x, channels, w, b), maps(n, channels, height, width), *parameters(channels)
        )
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 3), st.integers(2, 6), st.integers(1, 5), st.integers(2, 5))
def test_layer_norm(n, channels, height, width):
    shape = (channels, height, width)
    assert_same(lambda x, w, b: F.layer_norm(x, shape, w, b), maps(n, *shape), *parameters(*shape))
    assert_same(lambda x: F.layer_norm(x, shape), maps(n, *shape))
    assert_same(lambda x: F.layer_norm(x, (width,)), maps(n, *shape))


@pytest.mark.parametrize(
    "rows",
    [
        lambda x: x.view(x.size(0), -1),
        lambda x: x.view((x.size(0), -1)),
        lambda x: x.reshape(len(x), -1),
        lambda x: torch.reshape(x, (len(x), -1)),
        lambda x: x.flatten(1),
        lambda x: torch.flatten(x, 1),
        lambda x: x.flatten(start_dim=2).mean(2),
        lambda x: x.view(x.size(0), 2, x.size(1) // 2, x.size(2), x.size(3)).transpose(1, 2),
    ],
)
def test_rows_of_maps(rows):
    assert_same(lambda x: rows(x * 2), maps(3, 4, 5, 6))


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.view(x.size(0), -1).sub_(1),
        lambda x: x.flatten(2)[0].mul_(2),
        lambda x: x.reshape(len(x), -1).__setitem__((0, 0), 1.0),
        lambda x: torch.flatten(x, 1).__iadd__(1),
    ],
)
def test_writing_through_a_view_is_not_lost_in_silence(write):
    images = maps(2, 3, 4, 5).contiguous(memory_format=torch.channels_last)
    with ChannelsLast(), pytest.raises(WrittenError, match="it writes in place to a view of its maps"):
        write(images)
    with ChannelsLast():  # of its own, or of maps themselves
        images.add_(1)
        (images.flatten(1) + 1).sub_(1)
        ~torch.tensor([1])


def test_a_view_as_another_type_is_left_alone():
    with ChannelsLast():
        assert torch.equal(maps(1, 2, 3, 4).view(torch.int64).view(torch.float64), maps(1, 2, 3, 4))


class Watched(nn.Module):
    """Notes whether its input and the gradient of its output are channels-last."""

    def __init__(self, seen: list[bool]):
        super().__init__()
        self.seen = seen

    def forward(self, x):
        self.seen.append(is_channels_last(x))
        if x.requires_grad:
            x.register_hook(lambda slope: self.seen.append(is_channels_last(slope)))
        return x.clone()  # whatever a later layer does to the gradient is done before this one sees it


@pytest.mark.parametrize(
    "norm", [lambda: nn.GroupNorm(4, 4), lambda: nn.LayerNorm([4, 6, 6]), lambda: nn.BatchNorm2d(4)]
)
def test_maps_and_gradients_stay_channels_last(norm):
    seen = []
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), Watched(seen), norm(), Watched(seen), nn.LeakyReLU(), nn.Flatten()
    ).to(memory_format=torch.channels_last)
    with ChannelsLast():
        out = network(maps(2, 3, 6, 6).float())
    out.square().sum().backward()
    assert seen == [True] * 4
