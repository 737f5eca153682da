"""Embedding networks drawn from the search space: the very kind of networks whose ranking the set is made for.

A network's features are the last maps before its classifier, or with `every_block` the last maps of each resolution,
found while it runs, so any module serves. Batch norm takes the statistics of the images at hand, of all classes
together. Architectures whose ranking is measured later are never drawn.
"""

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_proxy.condensation.embedding import alike, has_bfloat16
from nas_proxy.condensation.matching import Network
from nas_proxy.condensation.ranks import ALONE, JointBatchNorm, Ranks
from nas_proxy.data.images import DataShape
from nas_proxy.deadline import deadline
from nas_proxy.errors import RAISED, SpaceError
from nas_proxy.seeds import derive
from nas_proxy.spaces.space import Architecture, SearchSpace

# Images that go through a network together: enough for the statistics of batch norm, few enough for the memory.
ROWS = 256
# Architectures that raise are passed over; so many in a row mean that none works.
PATIENCE = 20


@dataclass(frozen=True)
class SpaceEmbedding:
    """Networks of `architectures`, one a step, taken in turn.

    precision: "bfloat16" computes convolutions and products in it where the device has units for it.
    joint: parts of the real and the synthetic images where a network has batch norm.
    """

    space: SearchSpace
    shape: DataShape
    architectures: tuple[Architecture, ...]
    precision: str
    every_block: bool
    device: torch.device
    ranks: Ranks
    joint: tuple[int, int]

    def at(self, step: int) -> Architecture:
        """Return the architecture of a step."""
        return self.architectures[step % len(self.architectures)]

    def network(self, step: int, seed: int) -> Network:
        """Return the network of a step with weights drawn from `seed`; one that raises is passed over for the next."""
        reason = ""
        for attempt in range(PATIENCE):
            try:
                # Ranks take the same networks; the clock of one must not decide alone.
                with deadline() if self.ranks.size == 1 else contextlib.nullcontext():
                    return self._network(self.at(step + attempt), seed)
            except RAISED as error:
                reason = f"{type(error).__name__}: {error}"
        raise SpaceError(f"{PATIENCE} architectures of the space {self.space.name!r} in a row cannot embed: {reason}")

    def _network(self, architecture: Architecture, seed: int) -> Network:
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(derive(seed, "network"))
            module = self.space.build(architecture, self.shape)
        joint = with_batch_statistics(module, self.ranks)
        dtype = torch.float64 if self.precision == "float64" else torch.float32
        module = module.to(self.device, dtype).to(memory_format=torch.channels_last).eval().requires_grad_(False)
        low = self.precision == "bfloat16" and has_bfloat16(self.device)
        taps = Taps(module, every_block=self.every_block)

        def embed(images: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                found = taps.features(images)
            return found.to(dtype)

        with torch.no_grad():
            embed(torch.zeros(2, *self.shape[:3], device=self.device, dtype=dtype))
        return Network(
            embed,
            ROWS,
            joint=self.joint if joint else None,
            normalised=True,
            total=self.ranks.total,
            parallel=self.ranks.size == 1,
        )


def open_space_embedding(
    space: SearchSpace,
    shape: DataShape,
    *,
    steps: int,
    per_class: tuple[int, int],
    exclude: Collection[str],
    seed: int,
    precision: str = "float32",
    every_block: bool = False,
    device: torch.device,
    ranks: Ranks = ALONE,
) -> SpaceEmbedding:
    """Draw the architectures of `steps` steps uniformly, none with a key in `exclude`.

    per_class: the most real and synthetic images of a class in a step.
    Raises SpaceError when nothing is left.
    """
    stream = (a for a in space.sample(derive(seed, "condense", "embed")) if space.key(a) not in exclude)
    chosen = tuple(itertools.islice(stream, steps))
    if not chosen:
        raise SpaceError(
            f"all architectures of the space {space.name!r} are in the sample that is ranked, so none is left to "
            "embed; lower --truth, or use --embed convnet"
        )
    each = max(1, ROWS // shape.classes)
    joint = (-(-per_class[0] // each), -(-per_class[1] // each))
    return SpaceEmbedding(space, shape, chosen, precision, every_block, device, ranks, joint)


def with_batch_statistics(module: nn.Module, ranks: Ranks) -> bool:
    """Let each batch norm in `module` use the statistics of its batch, in place; return whether there is any."""
    found = [(name, part) for name, part in module.named_modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    for name, norm in found:
        # Without running statistics PyTorch takes the batch's, in evaluation too, where dropout is off.
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        norm.track_running_stats = False
        if ranks.size > 1:
            parent = module.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], JointBatchNorm(norm, ranks))
    return bool(found)


class Taps:
    """Reads the features of a network while it computes; several threads may use it at a time."""

    def __init__(self, module: nn.Module, *, every_block: bool) -> None:
        self._module = module
        self._every_block = every_block
        self._seen = threading.local()
        for part in module.modules():
            if isinstance(part, nn.Linear):
                part.register_forward_pre_hook(self._before_linear)
            if not any(True for _ in part.children()):
                part.register_forward_hook(self._after_leaf)

    def features(self, images: Tensor) -> Tensor:
        """Return the features (n, d) of images (n, c, h, w)."""
        maps: OrderedDict[tuple[int, ...], Tensor] = OrderedDict()
        self._seen.maps, self._seen.vector, self._seen.images = maps, None, images
        try:
            logits: Tensor = self._module(images)
            vector: Tensor | None = self._seen.vector
        finally:
            self._seen.maps = self._seen.vector = self._seen.images = None
        blocks = [found.flatten(1) for found in maps.values()]
        if not blocks:
            # A network without maps: what its last linear layer sees.
            blocks = [(logits if vector is None else vector).flatten(1)]
        return alike(blocks) if self._every_block else blocks[-1]

    def _before_linear(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        del module
        images = getattr(self._seen, "images", None)
        if images is not None and inputs[0].dim() == 2 and len(inputs[0]) == len(images):
            self._seen.vector = inputs[0]

    def _after_leaf(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        del module, inputs
        images = getattr(self._seen, "images", None)
        if images is None or not isinstance(output, Tensor) or output.dim() != 4 or len(output) != len(images):
            return
        size = tuple(output.shape[2:])
        # Globally pooled maps say less than those before them.
        if size != (1, 1):
            self._seen.maps[size] = output
            self._seen.maps.move_to_end(size)
