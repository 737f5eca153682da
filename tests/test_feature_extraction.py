"""Features of networks of every kind: the last maps or tokens, whatever computes them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas_proxy.condensation.feature_extraction import FeatureExtractor
from nas_proxy.errors import SpaceError
from nas_proxy.seeds import torch_generator

IMAGES = torch.randn(4, 2, 8, 8, generator=torch_generator(0, "images"))


def features(module, images=IMAGES, *, every_block=False):
    module = module.eval().requires_grad_(False)
    return FeatureExtractor(module, torch.zeros(3, 2, 8, 8), every_block=every_block).features(images)


class Keeps(nn.Module):
    """A network whose forward keeps what its features should be in `expected`."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 4, 3, stride=2, padding=1)
        self.linear = nn.Linear(6, 3)
        self.head = nn.Linear(4, 3)
        self.classifier = nn.Sequential(nn.Linear(6 * 64, 7), nn.ReLU(), nn.Linear(7, 3))

    def keep(self, tensor):
        self.expected = tensor.clone()
        return tensor


class FunctionalResidual(Keeps):
    def forward(self, images):
        maps = self.conv(images)
        maps = self.keep(F.relu(maps + self.conv2(maps)))
        return self.linear(F.adaptive_avg_pool2d(maps, 1).flatten(1))


class InPlace(Keeps):
    def forward(self, images):
        maps = self.conv(images)
        sums = self.conv2(maps)
        sums += maps
        return self.linear(self.keep(sums.relu_()).mean((2, 3)))


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(5, 2, 3, 3))
        self.last = nn.Parameter(torch.randn(5, 3))

    def forward(self, images):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        self.expected = F.conv2d(images, weight, padding=1).relu()
        return self.expected.amax((2, 3)) @ self.last


class PoolsInTwo(Keeps):
    def forward(self, images):
        return self.linear(self.keep(self.conv(images).tanh()).mean(3).mean(2))


class PoolsKeepingSides(Keeps):
    def forward(self, images):
        pooled = self.keep(self.conv(images).tanh()).mean(3, keepdim=True).mean(2, keepdim=True)
        return self.linear(F.layer_norm(pooled.permute(0, 2, 3, 1), (6,)).flatten(1))


class ReturnsPooled(Keeps):
    def forward(self, images):
        return F.adaptive_avg_pool2d(self.keep(self.conv(images).tanh()), 1)


class VGG(Keeps):
    def forward(self, images):
        return self.classifier(self.keep(F.relu(self.conv(images))).flatten(1))


class Gate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps):
        return maps * 2

    @staticmethod
    def backward(ctx, slope):
        return slope * 2


class OwnFunction(Keeps):
    def forward(self, images):
        return self.linear(self.keep(Gate.apply(self.conv(images))).mean((2, 3)))


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(2, 8, 4, stride=4)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)

    def forward(self, images):
        tokens = self.encoder(self.patch(images).flatten(2).transpose(1, 2))
        self.expected = tokens.clone()
        return self.head(self.pool(tokens))

    def pool(self, tokens):
        return tokens.mean(1)


class ClassToken(ViT):
    def pool(self, tokens):
        return tokens[:, 0]


class OwnAttention(ViT):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, images):
        tokens = self.patch(images).flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        mixed = ((q @ k.transpose(2, 3)).softmax(3) @ v).transpose(1, 2).flatten(2)
        self.expected = tokens + self.proj(mixed)
        return self.head(self.expected.mean(1))


class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.head = nn.LSTM(16, 5, num_layers=3, batch_first=True), nn.Linear(5, 3)

    def forward(self, images):
        self.expected, (_, _) = self.lstm(images.transpose(1, 2).flatten(2))
        return self.head(self.expected[:, -1])


@pytest.mark.parametrize(
    "kind",
    [
        FunctionalResidual,
        InPlace,
        Functional,
        PoolsInTwo,
        PoolsKeepingSides,
        ReturnsPooled,
        VGG,
        OwnFunction,
        ViT,
        ClassToken,
        OwnAttention,
        Rows,
    ],
)
@pytest.mark.parametrize("count", [4, 3, 1])
def test_features_are_the_last_maps_or_tokens(kind, count):
    module = kind()
    found = features(module, IMAGES[:count])
    assert torch.equal(found, module.expected.flatten(1))
    assert len(found) == count


class Mixed(Keeps):
    def forward(self, images):
        full = self.keep(F.relu(self.conv(images)))
        self.half = F.relu(self.down(full) + 1)
        return self.head(self.half.mean((2, 3)))


def test_every_block_has_the_last_maps_of_each_resolution():
    module = Mixed()
    last, every = features(module), features(module, every_block=True)
    assert torch.equal(last, module.half.flatten(1))
    assert tuple(every.shape) == (4, 6 * 8 * 8 + 64)
    torch.testing.assert_close(every[:, 384:], last)
    # The maps at full resolution count as much as the last ones: 384 features at half their size.
    torch.testing.assert_close(every[:, :384], module.expected.flatten(1) * (64 / 384) ** 0.5)


@pytest.mark.parametrize("scaled", [False, True])
def test_a_network_without_maps_embeds_by_what_its_classifier_sees(scaled):
    module = nn.Sequential(nn.Flatten(), nn.Linear(128, 7), nn.ReLU(), nn.Linear(7, 3))

    class Scales(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = module

        def forward(self, images):
            return self.layers((images - 0.5) / 2)

    # Images that are scaled are no feature maps.
    found = features(Scales() if scaled else module)
    torch.testing.assert_close(found, module[:3]((IMAGES - 0.5) / 2 if scaled else IMAGES))


def test_a_network_that_needs_no_classifier_embeds_by_its_logits():
    class Sums(nn.Module):
        def forward(self, images):
            return images.flatten(1).cumsum(1)

    assert torch.equal(features(Sums()), IMAGES.flatten(1).cumsum(1))


def test_the_gradient_goes_through_all_that_came_before():
    module = FunctionalResidual()
    images = IMAGES.clone().requires_grad_()
    weights = torch.randn(4, 6 * 64, generator=torch_generator(1))
    (found,) = torch.autograd.grad((features(module, images) * weights).sum(), images, retain_graph=True)
    (expected,) = torch.autograd.grad((module.expected.flatten(1) * weights).sum(), images)
    assert torch.equal(found, expected)
    assert not any(p.requires_grad for p in module.parameters())


def test_a_network_that_computes_something_else_for_other_images_is_a_mistake():
    class Moody(Keeps):
        def forward(self, images):
            maps = self.conv(images)
            return self.linear((maps.tanh() if images.sum() == 0 else self.conv2(maps)).mean((2, 3)))

    with pytest.raises(SpaceError, match="computes other maps for some images than for others"):
        features(Moody())
