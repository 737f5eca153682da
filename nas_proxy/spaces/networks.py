"""A network of a user's code, made ready for what all parts of nas_proxy do with networks.

In: what a space's `build` returned. Out: the same network, of which hold: `train()` and `eval()` return it, layers
that take their size from their first input have one, and what it does to its input in place happens to a copy.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn

    from nas_proxy.data.shape import DataShape


def ready(network: Any, shape: DataShape) -> Any:
    """Return `network` for images of `shape`; what is no network is returned as it is. Raises what it raises."""
    from torch import nn

    if not isinstance(network, nn.Module) or getattr(network, "_nas_proxy_ready", False):
        return network
    kind = type(network)
    if kind.train is not nn.Module.train or kind.eval is not nn.Module.eval:
        # A class of its own rather than methods of the object: copies of the network keep them.
        network.__class__ = _returning(kind)
    _sized(network, shape)
    guard = _InputGuard()
    network.register_forward_pre_hook(guard.before, prepend=True)
    network.register_forward_hook(guard.after)
    object.__setattr__(network, "_nas_proxy_ready", True)
    return network


def _returning(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of `kind` whose `train` and `eval` return the network, as PyTorch's do."""

    def train(self: Any, mode: bool = True) -> Any:
        kind.train(self, mode)
        return self

    def evaluate(self: Any) -> Any:
        kind.eval(self)
        return self

    return type(kind.__name__, (kind,), {"train": train, "eval": evaluate, "__module__": kind.__module__})


def _sized(network: nn.Module, shape: DataShape) -> None:
    """Give lazy layers their size, by two blank images."""
    import torch

    tensors = itertools.chain(network.parameters(), network.buffers())
    if not any(torch.nn.parameter.is_lazy(tensor) for tensor in tensors):
        return
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    with torch.no_grad():
        network(torch.zeros(2, *shape[:3]))
    for module, training in modes:
        module.training = training


def _version(tensor: Any) -> int | None:
    """Return how often a tensor was written to; None of those of inference mode, which do not count."""
    return None if tensor.is_inference() else int(tensor._version)


class _InputGuard:
    """Gives a network a copy of its first input, and stops where the first pass left that as it was."""

    def __init__(self) -> None:
        self.images: Any = None
        self.copy: Any = None
        self.version: int | None = None
        self.needed: bool | None = None  # None: not known yet

    def before(self, module: nn.Module, inputs: tuple[Any, ...]) -> Any:
        import torch

        if self.needed is False or not inputs or not isinstance(inputs[0], torch.Tensor):
            return None
        copy = inputs[0].clone()
        if self.needed is None and not torch.compiler.is_compiling() and not copy.is_meta:  # values can be compared
            self.images, self.copy, self.version = inputs[0], copy, _version(copy)
        return (copy, *inputs[1:])

    def after(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        import torch

        if self.needed is not None or self.images is None:
            return
        images, copy, self.images, self.copy = self.images, self.copy, None, None
        with torch.no_grad():  # a GPU would have to be waited for, and copies there faster than that
            # Blank images may be written to and stay as they are.
            self.needed = images.is_cuda or _version(copy) != self.version or not torch.equal(images, copy)
