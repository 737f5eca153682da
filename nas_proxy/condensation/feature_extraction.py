"""The features of a network: its last feature maps before global pooling and classifier, whatever computes them.

In: a network, images. Out: what its embedding is compared by, (n, d). Maps are results (n, c, h, w) or tokens (n, t, d)
of modules and functions alike, so an addition, a functional activation or attention counts. Two runs on a few images
find them once; later runs take the last result of the same function with the same shape. Nothing is kept between
runs, and several threads may run one network at a time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nas_proxy.condensation.embedding import alike
from nas_proxy.errors import SpaceError

# What takes one number from many is no longer a map, even where some of its sides are left.
POOLINGS = frozenset({"mean", "sum", "amax", "amin", "max", "min", "logsumexp", "std", "var"})
# Whose input is what a classifier sees.
PRODUCTS = frozenset({"linear", "matmul", "__matmul__", "mm", "addmm"})
# Images of the two runs that find the maps: what has both as its first side has the images there.
FEW, MORE = 2, 3


@dataclass(frozen=True)
class Sign:
    """What maps are recognised by: the result of a `function`, or its input; and their sides but for the images'."""

    function: str
    result: bool
    sides: tuple[int, ...]

    @property
    def is_map(self) -> bool:
        """Globally pooled maps say less than those before them."""
        spread = sum(side != 1 for side in self.sides)
        pooled = self.result and self.function in POOLINGS
        return len(self.sides) in {2, 3} and spread > 1 and self.sides[1:] != (1, 1) and not pooled

    @property
    def resolution(self) -> tuple[int, ...]:
        """The sides of maps, or the number of tokens."""
        return self.sides[1:] if len(self.sides) == 3 else self.sides[:1]


class FeatureExtractor:
    """Reads the features of a network while it computes. Its parameters are taken to need no gradient.

    images: the kind of images that it sees, at least 3. every_block: the last maps of each resolution, each
    weighted as the last ones are. Raises what the network raises, and ValueError when no gradient leads to the images.
    """

    def __init__(self, module: nn.Module, images: Tensor, *, every_block: bool) -> None:
        self._module = module
        self._every_block = every_block
        with torch.enable_grad():
            learnt = _learnt(module, images[:MORE].detach())
            few = images[:FEW].detach().clone().requires_grad_()
            seen, logits = _run(module, few)
            self._wanted = _found(seen, few, learnt, every_block)
            self._functions = frozenset(sign.function for sign in self._wanted)
            features = self._joined(dict(seen), logits)
            if not features.requires_grad:
                raise ValueError("no gradient leads from its features to the images")
            torch.autograd.grad(features.sum(), few)

    def features(self, images: Tensor) -> Tensor:
        """Return the features (n, d) of images (n, c, h, w)."""
        seen: dict[Sign, Tensor] = {}

        def note(sign: Sign, tensor: Tensor) -> None:
            if sign in self._wanted and len(tensor) == len(images):
                seen[sign] = tensor

        with _Watch(note, self._functions):
            logits: Tensor = self._module(images)
        if len(seen) < len(self._wanted):
            raise SpaceError("a network computes other maps for some images than for others, so it cannot embed")
        return self._joined(seen, logits)

    def _joined(self, seen: Mapping[Sign, Tensor], logits: Tensor) -> Tensor:
        blocks = [seen[sign].flatten(1) for sign in self._wanted] or [logits.flatten(1)]
        return alike(blocks) if self._every_block else blocks[-1]


class _Watch(TorchFunctionMode):
    """Tells `note` of every tensor that goes into a function or comes out of it; of some `functions`, or of all."""

    def __init__(self, note: Callable[[Sign, Tensor], None], functions: frozenset[str] | None = None) -> None:
        super().__init__()
        self._note = note
        self._functions = functions

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        found = func(*args, **kwargs) if kwargs else func(*args)
        name = getattr(func, "__name__", "")
        if self._functions is None or name in self._functions:
            for sign, tensor in _tensors(name, args, found):
                self._note(sign, tensor)
        return found


def _tensors(function: str, args: tuple[Any, ...], found: Any) -> Iterator[tuple[Sign, Tensor]]:
    # Of several results, as of a recurrent layer, the first.
    result = found[0] if isinstance(found, tuple) and found else found
    if not isinstance(result, Tensor):  # a question after a shape, a type
        return
    for given in args:
        if isinstance(given, Tensor) and given.dim() > 1:
            yield Sign(function, False, tuple(given.shape[1:])), given
    if result.dim() > 1:
        yield Sign(function, True, tuple(result.shape[1:])), result


def _run(module: nn.Module, images: Tensor) -> tuple[list[tuple[Sign, Tensor]], Tensor]:
    """Return what a run sees that needs a gradient and has the images as its first side, and the logits."""
    seen: list[tuple[Sign, Tensor]] = []

    def note(sign: Sign, tensor: Tensor) -> None:
        if tensor.requires_grad and len(tensor) == len(images):
            seen.append((sign, tensor))

    with _Watch(note):
        logits: Tensor = module(images)
    return seen, logits


def _learnt(module: nn.Module, images: Tensor) -> set[Sign]:
    """Return the signs of what depends on parameters: images that are merely scaled or moved do not."""
    parameters = [p for p in module.parameters() if p.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        return {sign for sign, _ in _run(module, images)[0]}
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)


def _found(
    seen: Sequence[tuple[Sign, Tensor]], images: Tensor, learnt: set[Sign], every_block: bool
) -> tuple[Sign, ...]:
    """Return the signs of the maps that are the features, the last ones last; none for the logits.

    seen: what depends on the images. learnt: signs of what depends on parameters.
    """
    maps: list[Sign] = []
    vector: tuple[Sign, ...] = ()
    known = {id(images)}
    for sign, tensor in seen:
        if not sign.result and len(sign.sides) == 1 and sign.function in PRODUCTS:
            vector = (sign,)
        # An input is news where it comes out of what is no function of PyTorch, such as a compiled module.
        if id(tensor) not in known or sign.result:
            known.add(id(tensor))
            if sign.is_map and sign in learnt:
                maps.append(sign)
    if not maps:
        # A network without maps: what its last linear layer sees.
        return vector
    last: OrderedDict[tuple[int, ...], Sign] = OrderedDict()
    for sign in maps:
        if len(sign.sides) == len(maps[-1].sides):
            last[sign.resolution] = sign
            last.move_to_end(sign.resolution)
    return tuple(last.values()) if every_block else (maps[-1],)
