"""The emulated GPU itself, and copies to it."""

import pytest
import torch
from torch import nn

from conftest import blobs
from cuda_emulation import STAGED, EmulatedCuda
from nas_proxy.transfer import network_to, to_device


def problem():
    return blobs(classes=3, channels=3, size=16), blobs(per_class=60, channels=3, size=16, seed=1)


def test_tensors_say_where_they_are_and_devices_do_not_mix():
    with EmulatedCuda(2) as gpu:
        here, there, other = torch.ones(2), torch.ones(2, device="cuda"), torch.ones(2, device="cuda:1")
        assert (str(there.device), there.is_cuda, str((there + 1)[:1].device)) == ("cuda:0", True, "cuda:0")
        for wrong in (here, other):
            with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
                there + wrong
        with pytest.raises(RuntimeError, match="Expected all"):
            here[torch.zeros(1, dtype=torch.long, device="cuda")]
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert there.to(here).device == here.device
        assert gpu.syncs == ["to: device to cpu"]
    assert str(there.device) == "cpu"


WAITS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool(x.sum() > 0),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "equal": lambda x: torch.equal(x, x),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_waits_for_the_device_is_counted(name):
    with EmulatedCuda() as gpu:
        x = torch.ones(3, device="cuda")
        y = x * 2 + x.mean()
        y[y < 0] = 0  # one number from the host is filled in
        assert gpu.syncs == []
        WAITS[name](y)
        assert len(gpu.syncs) == 1


def test_copies_block_unless_they_are_pinned_or_small():
    small, large = torch.zeros(4), torch.zeros(STAGED)
    with EmulatedCuda() as gpu:
        small.to("cuda", non_blocking=True)
        large.pin_memory().to("cuda", non_blocking=True)
        assert gpu.blocking == []
        for awkward in (
            lambda: small.to("cuda"),
            lambda: large.to("cuda", non_blocking=True),
            lambda: torch.tensor([1.0], device="cuda"),
            lambda: torch.ones(3, device="cuda")[torch.tensor([0])],
            lambda: torch.ones(4, device="cuda").copy_(small),
        ):
            gpu.reset()
            awkward()
            assert len(gpu.blocking) == 1


def test_a_graph_does_again_what_was_recorded_and_nothing_meanwhile():
    with EmulatedCuda() as gpu:
        x, total = torch.ones(3, device="cuda"), torch.zeros((), device="cuda")
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            total += (2 * x).sum()
        assert float(total) == 0
        graph.replay()
        x.fill_(2)
        graph.replay()
        assert float(total) == 6 + 12
        with pytest.raises(torch.AcceleratorError), torch.cuda.graph(torch.cuda.CUDAGraph()):
            float(total)
        assert gpu.dirty


def test_many_tensors_go_in_one_copy():
    tensors = [torch.randn(3, 4), torch.tensor(7), torch.zeros(0), torch.tensor([True, False]), torch.arange(3)[::2]]
    with EmulatedCuda() as gpu:
        moved = to_device(tensors, "cuda")
        assert (len(gpu.copies), gpu.blocking) == (1, [])
        assert all(tensor.is_cuda for tensor in moved)
        for before, after in zip(tensors, moved, strict=True):
            assert (before.dtype, before.tolist()) == (after.dtype, after.tolist())


def test_a_network_goes_in_one_copy_and_stays_the_network():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 4))
    network[2].bias = network[0].bias
    values = {name: value.clone() for name, value in network.state_dict().items()}
    with EmulatedCuda() as gpu:
        assert network_to(network, "cuda") is network
        assert (len(gpu.copies), gpu.blocking) == (1, [])
        assert network[2].bias is network[0].bias
        assert all(value.is_cuda for value in network.state_dict().values())
        assert all(torch.equal(value.cpu(), values[name]) for name, value in network.state_dict().items())
        recurrent = network_to(nn.LSTM(2, 3), "cuda")
        assert all(parameter.is_cuda for parameter in recurrent.parameters())
