"""Embedding networks drawn from the search space: the very kind of networks whose ranking the set is made for.

A network's features are the last maps before its classifier, or with `every_block` the last maps of each resolution,
whatever computes them (`nas_proxy.condensation.feature_extraction`). Batch norm takes the statistics of the images at
hand, of all classes together. What a forward pass draws, it draws from the seed. Architectures whose ranking is
measured later are never drawn.

A network is built and run in a process apart before it is in this one: on a few images, since a step's time is its
forward passes. The first one is run there on as many as go through it together, too; where it fails on so many alone,
all are. What raises later ends the command with a sentence.
"""

import contextlib
import functools
import itertools
import random
import signal
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from nas_proxy import time_limit
from nas_proxy.condensation.distributed import ALONE, JointBatchNorm, ProcessGroup
from nas_proxy.condensation.feature_extraction import MORE, FeatureExtractor
from nas_proxy.condensation.matching import Network
from nas_proxy.data.images import DataShape
from nas_proxy.errors import RAISED, SpaceError
from nas_proxy.hardware import has_bfloat16
from nas_proxy.process_state import restored
from nas_proxy.seeds import derive, seeded
from nas_proxy.spaces.apart import Complaint, apart
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.training.channels_last import ChannelsLast
from nas_proxy.transfer import network_to
from nas_proxy.untrusted import in_a_line, said

# Images that go through a network together: enough for the statistics of batch norm, few enough for the memory.
ROWS = 256
# Architectures that raise are passed over; so many in a row mean that none works.
PATIENCE = 20


@dataclass
class Trust:
    """Whether networks that run on a few images are taken to run on many: once the first does; lost: it did not."""

    given: bool = False
    lost: bool = False


@dataclass(frozen=True)
class SpaceEmbedding:
    """Networks of `architectures`, one a step, taken in turn.

    precision: "bfloat16" computes convolutions and products in it where that is faster.
    joint: images of a class in a part, on average, where a network has batch norm. trust: whether to run on a few
        images is enough.
    """

    space: SearchSpace
    shape: DataShape
    architectures: tuple[Architecture, ...]
    precision: str
    every_block: bool
    device: torch.device
    ranks: ProcessGroup
    joint: int
    trust: Trust = field(default_factory=Trust, repr=False, compare=False)

    def at(self, step: int) -> Architecture:
        """Return the architecture of a step."""
        return self.architectures[step % len(self.architectures)]

    def network(self, step: int, seed: int) -> Network:
        """Return the network of a step with weights drawn from `seed`; one that raises is passed over for the next."""
        reason = ""
        for attempt in range(PATIENCE):
            architecture = self.at(step + attempt)
            complaint = self._complaint(architecture, seed)
            if complaint is not None:
                reason = complaint
                continue
            try:
                with restored():
                    return self._network(architecture, seed)
            except RAISED as error:  # on this device alone
                reason = f"raises {in_a_line(error)}"
        raise SpaceError(
            f"{PATIENCE} architectures of the space {self.space.name!r} in a row cannot embed; the last {reason}"
        )

    def _complaint(self, architecture: Architecture, seed: int) -> str | None:
        """Return what goes wrong with a network where it is built and run first, in a process apart; None for nothing.

        Processes that condense together pass over what goes wrong in any of them: clocks differ.
        """
        began = time.monotonic()
        complaint = self._tried(architecture, seed, MORE, time_limit.SECONDS)
        if complaint is None and not self.trust.given:
            taken = max(self.ranks.gathered(time.monotonic() - began))  # of some ten images and more
            complaint = self._tried(architecture, seed, ROWS, time_limit.SECONDS + ROWS * taken)
            self.trust.lost |= complaint is not None
            self.trust.given = not self.trust.lost
        return complaint

    def _tried(self, architecture: Architecture, seed: int, images: int, seconds: float) -> str | None:
        cpu = replace(self, device=torch.device("cpu"), ranks=ALONE)

        def try_it() -> None:
            cpu._network(architecture, seed).embed(torch.zeros(images, *self.shape[:3], dtype=cpu._dtype()))

        found = apart(try_it, seconds)
        reasons = self.ranks.gathered(found.text if isinstance(found, Complaint) else None)
        return next((reason for reason in reasons if reason is not None), None)

    def _dtype(self) -> torch.dtype:
        return torch.float64 if self.precision == "float64" else torch.float32

    def _network(self, architecture: Architecture, seed: int) -> Network:
        dtype = self._dtype()
        few = torch.zeros(MORE, *self.shape[:3])
        with seeded(derive(seed, "network"), self.device):
            module = self.space.build(architecture, self.shape)
            if any(nn.parameter.is_lazy(p) for p in itertools.chain(module.parameters(), module.buffers())):
                with torch.no_grad():  # layers that take their size from what they see first
                    module.eval()(few)
        joint = with_batch_statistics(module, self.ranks)
        module = network_to(module.to(dtype), self.device)
        module = module.to(memory_format=torch.channels_last).eval().requires_grad_(False)
        autocast = functools.partial(
            torch.autocast,
            self.device.type,
            torch.bfloat16,
            enabled=self.precision == "bfloat16" and has_bfloat16(self.device),
        )
        draws = derive(seed, "forward")
        # As in training: what views its maps as rows is right in the usual memory format, and must be in this one.
        with seeded(draws, self.device), autocast(), ChannelsLast(self.device.type):
            before = random_state(self.device)
            extractor = FeatureExtractor(
                module, torch.zeros_like(few, device=self.device, dtype=dtype), every_block=self.every_block
            )
            is_random = not torch.equal(before, random_state(self.device))

        def embed(images: Tensor) -> Tensor:
            drawn = seeded(draws, self.device) if is_random else contextlib.nullcontext()
            with self._told(architecture, len(images)), restored(), drawn, autocast(), ChannelsLast(self.device.type):
                found = extractor.features(images)
            return found.to(dtype)

        return Network(
            embed,
            ROWS,
            joint=self.joint if joint else None,
            normalised=True,
            total=self.ranks.total,
            # Threads share the generator that a random network draws from.
            parallel=self.ranks.size == 1 and not is_random,
        )

    @contextlib.contextmanager
    def _told(self, architecture: Architecture, images: int) -> Iterator[None]:
        """Tell as a SpaceError what a network raises that has run on fewer images; a lack of memory is none of its."""
        try:
            yield
        except (SpaceError, MemoryError, torch.OutOfMemoryError):
            raise
        except BaseException as error:
            # Of processes that condense together, one may raise because another has ended.
            if self.ranks.size > 1 or "can't allocate memory" in said(error) or is_interrupt(error):
                raise
            raise SpaceError(
                f"the network {self.space.key(architecture)!r} of the space {self.space.name!r} raises "
                f"{in_a_line(error)} on {images} images at once, though not on {MORE}; mend that, or use "
                "--embed convnet"
            ) from error


def is_interrupt(error: BaseException) -> bool:
    """Whether an exception is the user's interruption of the command, rather than a network's own."""
    handler, last = signal.getsignal(signal.SIGINT), error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if not isinstance(error, KeyboardInterrupt) or handler is signal.SIG_IGN:
        return False
    code = getattr(handler, "__code__", None)  # of a handler in Python, which has raised it
    return code is None or (last is not None and last.tb_frame.f_code is code)


def open_space_embedding(
    space: SearchSpace,
    shape: DataShape,
    *,
    steps: int,
    exclude: Collection[str],
    seed: int,
    precision: str = "float32",
    every_block: bool = False,
    device: torch.device,
    ranks: ProcessGroup = ALONE,
) -> SpaceEmbedding:
    """Draw the architectures of `steps` steps uniformly, none with a key in `exclude`.

    Raises SpaceError when nothing is left.
    """
    stream = (a for a in space.sample(derive(seed, "condense", "embed")) if space.key(a) not in exclude)
    chosen = tuple(itertools.islice(stream, steps))
    if not chosen:
        raise SpaceError(
            f"all architectures of the space {space.name!r} are in the sample that is ranked, so none is left to "
            "embed; lower --truth, or use --embed convnet"
        )
    joint = max(1, ROWS // shape.classes)
    return SpaceEmbedding(space, shape, chosen, precision, every_block, device, ranks, joint)


def random_state(device: torch.device) -> Tensor:
    """Return the state of all generators, which changes when they are drawn from."""
    numpy = np.random.get_state(legacy=False)["state"]
    others = torch.tensor([hash(random.getstate()), hash((numpy["key"].tobytes(), numpy["pos"]))])
    states = [torch.get_rng_state(), others.view(torch.uint8)]
    return torch.cat([*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states)


def with_batch_statistics(module: nn.Module, ranks: ProcessGroup) -> bool:
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
