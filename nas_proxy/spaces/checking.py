"""A search space tried out before any work: its names, keys and storage, and a network in the modes of its use.

In: a space and the shape of the images. Out: nothing, or SpaceError with one sentence. A few hundred architectures
are drawn, suggested, named and stored as a study would store them, for `SECONDS` at most; then networks are built and
run, in a process of their own, until one holds. A single architecture that fails is a failed candidate.
"""

import functools
import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import FixedTrial
from torch import Tensor, nn

from nas_proxy import time_limit
from nas_proxy.data.shape import DataShape
from nas_proxy.errors import RAISED, SpaceError
from nas_proxy.seeds import seeded
from nas_proxy.spaces.apart import Complaint, apart, reason_of
from nas_proxy.spaces.function_space import FunctionSpace
from nas_proxy.spaces.space import Architecture, SearchSpace, default_key

# A space is refused when this many of its architectures in a row cannot be built; a single bad one is a failed trial.
TRIED = 8
# Architectures that are drawn, named and stored, and how long that may take.
DRAWN, SECONDS = 300, 0.5
# Images in the pass in training mode; batch norm needs two.
BATCH = 4
# Architectures whose networks must share nothing.
COMPARED = 4


def try_out(space: SearchSpace, shape: DataShape) -> None:
    """Draw and store architectures, and build them until one can be used. Raises SpaceError where that fails."""
    reason, wrong = "it has no architectures", None
    drawn = apart(functools.partial(check_draws, space), time_limit.SECONDS)
    if isinstance(drawn, Complaint):
        raise SpaceError(drawn.text if drawn.own else f"the space {space.name!r} cannot be drawn from: it {drawn.text}")
    try:
        for architecture in _drawn(space, TRIED):
            found = tried(space, architecture, shape)
            if found is None:
                _check_shared(space, architecture, shape)
                return
            if found.own:
                wrong = SpaceError(found.text)
            else:
                reason = f"{space.key(architecture) or 'it'} {found.text}"
    except SpaceError:
        raise
    except RAISED as error:
        reason = f"it raises {reason_of(error)}"
    raise wrong or SpaceError(f"the space {space.name!r} yields no network for images of {_size(shape)}: {reason}")


def check_draws(space: SearchSpace) -> None:
    """Draw architectures and see that each comes back from suggestion, key and storage as what it was.

    Raises SpaceError, and what the space's own functions raise.
    """
    keys: dict[str, Architecture] = {}
    known: dict[str, BaseDistribution] = {}
    until = time.monotonic() + SECONDS
    for architecture in _drawn(space, DRAWN):
        key = space.key(architecture)
        if not isinstance(key, str):
            raise SpaceError(f"the space {space.name!r} names an architecture {key!r}; a name must be text")
        if odd := [text for text in (key, *architecture) if not text.isprintable()]:
            raise SpaceError(
                f"the space {space.name!r} has the name {odd[0][:80]!r}; names must be printable, since they stand in "
                "files and on terminals"
            )
        if default_key(architecture) == key and keys.setdefault(key, architecture) != architecture:
            raise SpaceError(
                f"the space {space.name!r} has two architectures with the key {key!r}; give its choices other names"
            )
        _check_stored(space, architecture, known)
        if time.monotonic() > until:
            return


def _drawn(space: SearchSpace, most: int) -> Iterator[Architecture]:
    # That a small function suggests nothing new is known after a thousand draws only.
    return space.few(most) if isinstance(space, FunctionSpace) else itertools.islice(space.sample(0), most)


def _check_stored(space: SearchSpace, architecture: Architecture, known: dict[str, BaseDistribution]) -> None:
    trial = FixedTrial(dict(architecture))
    again = space.suggest(trial)
    if again is None or dict(again) != dict(architecture):
        raise SpaceError(
            f"the space {space.name!r} suggests {default_key(again or {}) or 'nothing'!r} when it is given the choices "
            f"of {default_key(architecture)!r}; what it suggests may depend on the trial and on nothing else"
        )
    for name, distribution in trial.distributions.items():
        try:
            check_distribution_compatibility(known.setdefault(name, distribution), distribution)
        except ValueError:
            raise SpaceError(
                f"the space {space.name!r} has two different choices that are called {name!r}; give each its own name"
            ) from None
        _check_value(space, name, distribution, architecture)


def _check_value(
    space: SearchSpace, name: str, distribution: BaseDistribution, architecture: Mapping[str, Any]
) -> None:
    value = architecture[name]
    try:
        kept = json_to_distribution(distribution_to_json(distribution))
        found = kept.to_external_repr(kept.to_internal_repr(value))
    except (TypeError, ValueError):
        found = None if value is not None else "nothing"
    if found != value:
        raise SpaceError(
            f"the space {space.name!r} has {name} = {value!r}, which a database does not give back; "
            "use text, numbers, true or false"
        )


def tried(space: SearchSpace, architecture: Architecture, shape: DataShape) -> Complaint | None:
    """Use one network in a process of its own as it will be used; return what goes wrong, None for nothing."""
    found = apart(functools.partial(_try, space, architecture, shape), time_limit.SECONDS)
    return found if isinstance(found, Complaint) else None


def _try(space: SearchSpace, architecture: Architecture, shape: DataShape) -> None:
    """Use one network as it will be used. Raises SpaceError, and what the user's code raises."""
    with time_limit.deadline(time_limit.SECONDS), seeded(0):
        network = space.build(architecture, shape)
        if not isinstance(network, nn.Module):
            raise SpaceError(
                f"the space {space.name!r} returned an object of type {type(network).__name__}"
                f"{_for(space, architecture)}; it must return a torch.nn.Module"
            )
        network.eval()
        with torch.no_grad():
            _check_logits(space, architecture, network(torch.zeros(2, *shape[:3])), 2, shape)
        network.train()
        logits = network(torch.rand(BATCH, *shape[:3]))
        _check_logits(space, architecture, logits, BATCH, shape, " in training mode")
        labels = torch.arange(BATCH) % shape.classes
        nn.functional.cross_entropy(logits, labels).backward()  # type: ignore[no-untyped-call]
        network.eval()
        with torch.inference_mode():
            network(torch.rand(1, *shape[:3]))


def _check_logits(
    space: SearchSpace, architecture: Architecture, logits: object, batch: int, shape: DataShape, mode: str = ""
) -> None:
    if not isinstance(logits, Tensor):
        raise SpaceError(
            f"a network of the space {space.name!r} returned an object of type {type(logits).__name__}{mode}"
            f"{_for(space, architecture)}; it must return the logits alone, without auxiliary outputs"
        )
    if tuple(logits.shape) != (batch, shape.classes):
        raise SpaceError(
            f"a network of the space {space.name!r} returned shape {tuple(logits.shape)} for {batch} images of "
            f"{_size(shape)}{mode}{_for(space, architecture)}; expected ({batch}, {shape.classes})"
        )


def _check_shared(space: SearchSpace, architecture: Architecture, shape: DataShape) -> None:
    """Raise SpaceError where two networks have a parameter or a buffer in common, or two of one architecture differ.

    What else goes wrong is passed over.

    An architecture that ends its process ends the comparison of that order, so two orders are compared.
    """
    others = list(_drawn(space, COMPARED))
    for order in (others, others[::-1]):
        with_own = functools.partial(_compare, space, [architecture, *order], shape)
        found = apart(with_own, time_limit.SECONDS)
        if isinstance(found, Complaint) and found.own:
            raise SpaceError(found.text)
        if not isinstance(found, Complaint):
            return


def _compare(space: SearchSpace, architectures: Sequence[Architecture], shape: DataShape) -> None:
    """Raise where two networks have a parameter or a buffer in common, or two of one architecture and seed differ.

    Each architecture is built twice: what its own branch does, no other one shows.
    """
    until = time.monotonic() + SECONDS
    networks: list[nn.Module] = []
    twin: nn.Module | None = None  # the network before, where it is of the same architecture
    for number, other in enumerate(itertools.chain.from_iterable((one, one) for one in architectures)):
        if number > 1 and time.monotonic() > until:
            return
        twin = twin if number % 2 else None
        try:
            with seeded(0):
                built = space.build(other, shape)
        except RAISED:
            continue
        if not isinstance(built, nn.Module):
            continue
        held = {place for before in networks for _, place in _places(before)}
        name = next((name for name, place in _places(built) if place in held), None)
        if name is not None:
            raise SpaceError(
                f"two networks of the space {space.name!r} share {name!r}, so that training one changes the other; "
                "make every layer and tensor anew each time a network is built"
            )
        if twin is not None and (odd := _different(twin, built)) is not None:
            raise SpaceError(
                f"two networks of the space {space.name!r} that are built from the same seed differ in {odd!r}, so "
                "that no score would repeat; draw by torch, random or numpy.random themselves, whose generators are "
                "seeded, and leave no tensor empty"
            )
        networks.append(built)
        twin = built


def _different(one: nn.Module, other: nn.Module) -> str | None:
    """Return the first parameter or buffer in which two networks differ, None where they are alike."""
    ours, theirs = (dict(itertools.chain(n.named_parameters(), n.named_buffers())) for n in (one, other))
    if odd := set(ours) ^ set(theirs):
        return min(odd)
    for name, tensor in ours.items():
        if nn.parameter.is_lazy(tensor) or tensor.is_meta:
            continue
        if tensor.shape != theirs[name].shape or not torch.equal(_bytes(tensor), _bytes(theirs[name])):
            return name
    return None


def _bytes(tensor: Tensor) -> Tensor:
    """Return what a tensor holds so that what is not a number equals itself."""
    return tensor.detach().reshape(-1).contiguous().view(torch.uint8)


def _places(network: nn.Module) -> list[tuple[str, int]]:
    """Return the parameters and buffers, and where in memory each is."""
    found = []
    for name, tensor in itertools.chain(network.named_parameters(), network.named_buffers()):
        if tensor.numel():
            found.append((name, 0 if tensor.is_meta else tensor.untyped_storage().data_ptr()))
    return [(name, place) for name, place in found if place]


def _for(space: SearchSpace, architecture: Architecture) -> str:
    key = space.key(architecture)
    return f" ({key})" if key else ""


def _size(shape: DataShape) -> str:
    return f"{shape.channels}×{shape.height}×{shape.width}"
