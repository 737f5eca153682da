"""Several processes that share the classes of a condensation, one for each device, as `torchrun` starts them.

Classes are independent of each other given the embedding network, so a rank has some of the classes and talks to
the others only to agree on where to begin, for the statistics of batch norm, and at the end.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as differentiable
from torch import Tensor, nn

from nas_proxy.errors import DeviceError


@dataclass(frozen=True)
class ProcessGroup:
    """This process among `size` that work together; alone, nothing is sent anywhere."""

    rank: int = 0
    size: int = 1

    def own(self, count: int) -> range:
        """Return which of `count` classes are this process's own; all ranks' in a row are all classes."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return range(start, start + each + (self.rank < more))

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over all ranks, differentiable."""
        return value if self.size == 1 else differentiable.all_reduce(value)  # type: ignore[no-untyped-call]

    def gathered(self, value: Any) -> list[Any]:
        """Return every rank's value, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def latest_common(self, steps: Iterable[int]) -> int:
        """Return the largest step that every rank has."""
        return max(set.intersection(*map(set, self.gathered(list(steps)))), default=0)

    def agree(self, value: Any = None) -> Any:
        """Return the value of rank 0."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0)
        return values[0]


ALONE = ProcessGroup()


def launched() -> bool:
    """Return whether `torchrun` started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def together(device: str) -> Iterator[tuple[ProcessGroup, str]]:
    """Meet the other processes that `torchrun` started; yield this one's place and device; part at the end.

    On GPUs each process takes the one of its local rank. Raises DeviceError when there are fewer GPUs than processes.
    """
    if not launched():
        yield ALONE, device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    chosen = "cpu" if device == "cpu" or (device == "auto" and there == 0) else f"cuda:{local}"
    if chosen != "cpu" and local >= there:
        raise DeviceError(f"process {local} of this machine has no GPU of its own: there are {there}; start {there}")
    if chosen != "cpu":
        torch.cuda.set_device(local)
    # NCCL alone cannot send Python objects between processors.
    dist.init_process_group("gloo" if chosen == "cpu" else "cpu:gloo,cuda:nccl")
    yield ProcessGroup(dist.get_rank(), dist.get_world_size()), chosen
    # After a mistake nobody waits: torchrun ends the others.
    dist.barrier()
    dist.destroy_process_group()


class JointBatchNorm(nn.Module):
    """Batch norm with the statistics of this batch, summed over all ranks: (n, c, …) to the same.

    PyTorch's own synchronised batch norm needs GPUs.
    """

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, ranks: ProcessGroup) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.ranks = ranks

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise each channel."""
        axes = [0, *range(2, maps.dim())]
        shape = [1, -1, *[1] * (maps.dim() - 2)]
        wide = maps.to(torch.promote_types(maps.dtype, torch.float32))
        count = wide.new_full((1,), wide.numel() / wide.shape[1])
        sums = self.ranks.total(torch.cat([wide.sum(axes), count]))
        mean = sums[:-1] / sums[-1]
        centred = wide - mean.view(shape)
        variance = self.ranks.total(centred.square().sum(axes)) / sums[-1]
        found = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            found = found * self.weight.view(shape) + self.bias.view(shape)
        return found.to(maps.dtype)
