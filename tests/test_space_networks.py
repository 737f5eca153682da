"""Networks of users' code: the modes in which they are tried, what is made right by itself, and what is refused."""

import copy
import math
import os
import random
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from torch import nn

from nas_proxy import Choice, DataShape, Space, SpaceError
from nas_proxy.seeds import drawn_alike, seeded
from nas_proxy.spaces.checking import try_out
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.function_space import FunctionSpace

SHAPE = DataShape(1, 4, 4, 3)
WIDTHS = Choice("width", (2, 3, 4))


class Net(nn.Module):
    """A network whose behaviour a test bends."""

    def __init__(self, width, shape):
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.BatchNorm1d(width), nn.ReLU())
        self.head = nn.Linear(width, shape.classes)

    def forward(self, x):
        return self.head(self.body(x))


def space_of(kind):
    return Space("bent", WIDTHS, lambda a, shape: kind(a["width"], shape))


class TrainReturnsNothing(Net):
    def train(self, mode=True):
        super().train(mode)
        self.body[2].eval()


class EvalReturnsNothing(Net):
    def eval(self):
        super().eval()


@pytest.mark.parametrize("kind", [TrainReturnsNothing, EvalReturnsNothing])
def test_train_and_eval_may_return_nothing(kind):
    space = space_of(kind)
    try_out(space, SHAPE)
    network = space.build({"width": 2}, SHAPE)
    for one in (network, copy.deepcopy(network)):
        assert one.eval() is one
        assert one.train() is one
    assert isinstance(network, kind)
    assert network.body[2].training == (kind is EvalReturnsNothing)


class InPlace(Net):
    def forward(self, x):
        x.clamp_(-2, 2).div_(2)
        return super().forward(x)


def test_what_happens_to_the_input_in_place_happens_to_a_copy():
    space = space_of(InPlace)
    try_out(space, SHAPE)
    network = space.build({"width": 2}, SHAPE).eval()
    for one in (network, copy.deepcopy(network)):
        for _ in range(2):
            images = torch.full((2, 1, 4, 4), 5.0, requires_grad=True)
            one(images).sum().backward()
            assert torch.equal(images.detach(), torch.full((2, 1, 4, 4), 5.0))
            assert images.grad is not None


def test_blank_images_that_are_written_to_are_seen_to_be():
    """A first pass by zeros, as some are made, which doubling leaves as they are."""
    network = space_of(Doubling).build({"width": 2}, SHAPE).eval()
    network(torch.zeros(2, 1, 4, 4))
    images = torch.full((2, 1, 4, 4), 5.0, requires_grad=True)
    network(images).sum().backward()
    assert torch.equal(images.detach(), torch.full((2, 1, 4, 4), 5.0))


def test_what_build_takes_out_of_its_options_is_there_the_next_time():
    def build(architecture, shape):
        return Net(architecture.pop("width"), shape)

    space, architecture = Space("popping", Choice("width", (2, 4)), build), {"width": 2}
    for _ in range(2):
        assert isinstance(space.build(architecture, SHAPE), nn.Module)
    assert architecture == {"width": 2}


def test_a_network_that_leaves_its_input_alone_is_given_it_after_the_first_pass():
    seen = []
    network = space_of(Net).build({"width": 2}, SHAPE).eval()
    network.body.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    images = torch.zeros(2, 1, 4, 4)
    for _ in range(2):
        network(images)
    assert seen[0] is not images
    assert seen[1] is images


class Doubling(Net):
    def forward(self, x):
        return super().forward(x.mul_(2))


class Lazy(nn.Module):
    def __init__(self, width, shape):
        super().__init__()
        self.body = nn.Sequential(nn.LazyConv2d(width, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))

    def forward(self, x):
        return self.body(x)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_lazy_layers_have_their_size_when_a_network_is_built(device):
    with torch.device(device):
        network = space_of(Lazy).build({"width": 2}, SHAPE)
    assert sum(p.numel() for p in network.parameters()) == 2 * 9 + 2 + 4 + 8 * 3 + 3
    assert network.training
    assert measure(space_of(Lazy), {"width": 2}, SHAPE).params == 51


class Auxiliary(Net):
    def forward(self, x):
        return (super().forward(x), x) if self.training else super().forward(x)


class TrainingShape(Net):
    def forward(self, x):
        return super().forward(x)[:, : 2 if self.training else 3]


class FrozenWhole(Net):
    def __init__(self, width, shape):
        super().__init__(width, shape)
        self.requires_grad_(False)


REFUSED = {
    Auxiliary: r"an object of type tuple in training mode \(width=\d\); it must return the logits alone",
    TrainingShape: r"returned shape \(4, 2\) for 4 images of 1×4×4 in training mode",
    FrozenWhole: "yields no network .* raises RuntimeError: element 0 of tensors does not require grad",
}


@pytest.mark.parametrize(("kind", "message"), REFUSED.items())
def test_what_cannot_be_trained_is_told_before_any_work(kind, message):
    with pytest.raises(SpaceError, match=message):
        try_out(space_of(kind), SHAPE)


BACKBONE = nn.Sequential(nn.Flatten(), nn.Linear(16, 8))
TABLE = torch.ones(8)


class SharedBuffer(Net):
    def __init__(self, width, shape):
        super().__init__(width, shape)
        self.register_buffer("table", TABLE)


CACHE = {}


def cached(width, shape):
    return CACHE.setdefault(width, Net(width, shape))


SHARING = {
    "backbone": lambda width, shape: nn.Sequential(BACKBONE, nn.Linear(8, width), nn.Linear(width, 3)),
    "buffer": SharedBuffer,
    "the same network": cached,
    "some only": lambda width, shape: nn.Sequential(BACKBONE, nn.Linear(8, 3)) if width > 2 else Net(width, shape),
}


@pytest.mark.parametrize("kind", SHARING.values(), ids=SHARING)
def test_networks_that_share_what_is_trained_are_refused(kind):
    with pytest.raises(SpaceError, match=r"two networks of the space 'bent' share '.*', so that training one changes"):
        try_out(space_of(kind), SHAPE)


def test_a_layer_that_is_an_option_is_shared():
    def build(architecture, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 3), architecture["act"])

    space = Space("s", Choice("act", (nn.PReLU(), nn.PReLU(3))), build)
    with pytest.raises(SpaceError, match=r"share '2\.weight'"):
        try_out(space, SHAPE)


def test_weights_tied_within_one_network_are_its_own_affair():
    def tied(width, shape):
        network = Net(width, shape)
        network.again = network.head
        return network

    try_out(space_of(tied), SHAPE)


ENDS = {
    "exit": (lambda: os._exit(3), "ended its process with exit code 3"),
    "kill": (lambda: os.kill(os.getpid(), 9), "was killed by signal 9"),
    "interrupt": (lambda: exec("raise KeyboardInterrupt"), "raises KeyboardInterrupt"),
    "text": (lambda: exec("raise ValueError('bad \\ud800')"), "raises ValueError: bad"),
}


@pytest.mark.parametrize(("end", "message"), ENDS.values(), ids=ENDS)
@pytest.mark.skipif("sys.platform != 'linux'", reason="users' code is tried in this process there")
def test_code_that_ends_its_process_ends_no_more_than_that(end, message):
    def build(architecture, shape):
        end()

    with pytest.raises(SpaceError, match=f"yields no network .*{message}"):
        try_out(Space("s", WIDTHS, build), SHAPE)


def test_what_a_network_does_to_its_process_when_it_is_tried_is_undone():
    def build(architecture, shape):
        os.chdir("/")
        torch.set_grad_enabled(False)
        torch.set_default_dtype(torch.float64)
        raise ValueError

    before = Path.cwd()
    with pytest.raises(SpaceError):
        try_out(Space("s", WIDTHS, build), SHAPE)
    assert (Path.cwd(), torch.is_grad_enabled(), torch.get_default_dtype()) == (before, True, torch.float32)


def reads_values(trial, shape):
    depth = trial.suggest_categorical("depth", [1, 2])
    if depth == 2:
        [rate.item() for rate in torch.linspace(0, 0.1, depth)]
        assert torch.linspace(0, 1, 3).tolist()[1] == 0.5
    width = trial.suggest_categorical("width", [2, 3])
    return nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.Linear(width, 3))


def test_a_function_that_reads_values_of_tensors_loses_no_path():
    space = FunctionSpace("values", reads_values, SHAPE)
    try_out(space, SHAPE)
    assert sorted(map(space.key, space.sample(0))) == [f"depth={d},width={w}" for d in (1, 2) for w in (2, 3)]


def test_what_a_function_prunes_is_no_architecture():
    def pruning(trial):
        if trial.suggest_int("depth", 1, 4) > 2:
            raise optuna.TrialPruned
        return nn.Linear(16, 3)

    space = FunctionSpace("pruned", pruning, SHAPE)
    assert sorted(a["depth"] for a in space.sample(0)) == [1, 2]
    assert space.suggest(optuna.trial.FixedTrial({"depth": 3})) is None


def test_what_a_trial_raises_is_not_taken_for_the_functions():
    space = FunctionSpace("values", reads_values, SHAPE)
    with pytest.raises(ValueError, match="'width' is not found"):
        space.suggest(optuna.trial.FixedTrial({"depth": 1}))


def test_logarithmic_and_stepped_ranges_are_drawn_as_optuna_draws_them():
    def ranges(trial):
        trial.suggest_float("rate", 1e-4, 1.0, log=True)
        trial.suggest_int("width", 1, 1000, log=True)
        trial.suggest_float("drop", 0.1, 1.0, step=0.1)
        trial.suggest_int("even", 2, 20, step=6)
        return nn.Linear(16, 3)

    space = FunctionSpace("ranges", ranges, SHAPE)
    stream = space.sample(0)
    ours = [next(stream) for _ in range(400)]
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    theirs = [space.suggest(study.ask()) for _ in range(400)]
    for name, middle in (("rate", 1e-2), ("width", math.sqrt(1000)), ("drop", 0.55)):
        shares = [sum(a[name] < middle for a in drawn) / 400 for drawn in (ours, theirs)]
        assert abs(shares[0] - shares[1]) < 0.1
        assert 0.4 < shares[0] < 0.6
    assert {a["even"] for a in ours} == {2, 8, 14, 20}
    assert max(a["drop"] for a in ours) == 1.0


@pytest.mark.parametrize("second", ["hidden=16", "*", "*shapes", "shape=None", "size"])
def test_a_second_argument_is_the_shape_where_it_must_be_given_or_is_called_so(second):
    named = second + (", hidden=16" if second == "*" else "")
    scope = {"nn": nn}
    exec(f"def space(trial, {named}):\n    space.seen = locals()\n    return nn.Flatten()", scope)
    FunctionSpace("own", scope["space"], SHAPE).build({}, SHAPE)
    seen = scope["space"].seen
    assert (SHAPE in seen.values()) == (second in {"shape=None", "size"})


def test_all_three_generators_follow_from_the_seed_and_are_as_before_afterwards():
    def draws():
        return random.random(), float(np.random.rand()), float(torch.rand(1))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    before = draws()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    found = []
    for _ in range(2):
        with seeded(5):
            found.append(draws())
    assert found[0] == found[1]
    torch.manual_seed(5)
    assert found[0][2] == float(torch.rand(1))
    torch.manual_seed(1)
    assert draws() == before


def test_a_network_built_after_the_same_seed_is_the_same_whatever_it_draws_from():
    def build(architecture, shape):
        network = Net(architecture["width"], shape)
        network.drawn = (random.random(), float(np.random.rand()))
        return network

    space = Space("drawn", WIDTHS, build)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append([space.build({"width": 2}, SHAPE).drawn for _ in range(2)])
        random.random(), np.random.rand()
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]
    with drawn_alike():
        state = torch.get_rng_state()
    assert torch.equal(state, torch.get_rng_state())
