"""Layers on the CPU in channels-last memory: the same functions as PyTorch's, computed without its slow paths.

`ChannelsLast` is a context in which some calls of PyTorch's functional layers are answered by cheaper equivalents,
whatever module makes them: networks are neither rewritten nor traced, and calls with other arguments go to PyTorch
as they are. Results equal PyTorch's to rounding. Where PyTorch answers with a view, which shares its memory with the
maps, and this with a copy, writing to that would be lost: then `WrittenError` is raised, and the network trains in the
usual format.

What is slow, seen on one core for 50 maps in bfloat16, forward and backward: group norm of 128×32×32 with a group a
channel (174 ms, here 11) and of 32×16×16 with four groups (3.2 ms, here 0.8), layer norm over 128×32×32 (22 ms, here
10), and any layer whose gradient comes in another memory format than its input has, as it does after flattening.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Elements of one image's maps from which normalising image by image is worth its calls; below, copies are cheaper.
LARGE_MAP = 1 << 15
# Channels a group from which PyTorch's kernel is vectorised.
WIDE_GROUP = 16
_WRITING = frozenset(
    ["__setitem__"]
    + [f"__i{name}__" for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor")]
    + ["__ilshift__", "__irshift__"]
)
# The attribute of a tensor that is a copy where PyTorch would have given a view.
_COPY = "_nas_proxy_copy"


class WrittenError(RuntimeError):
    """A network writes in place through a view of its maps, which is a copy in this memory format."""


def is_channels_last(maps: object) -> bool:
    """Return whether `maps` is (n, c, h, w) in channels-last memory and not contiguous as well."""
    return (
        isinstance(maps, Tensor)
        and maps.ndim == 4
        and not maps.is_contiguous()
        and maps.is_contiguous(memory_format=torch.channels_last)
    )


class ChannelsLast(TorchFunctionMode):
    """The context; see the module.

    kind: of the device. On a GPU PyTorch's layers are fast in this format, and views alone are mended.
    """

    def __init__(self, kind: str = "cpu") -> None:
        super().__init__()
        self._replaced = _REPLACED if kind == "cpu" else _VIEWS

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Answer one call of PyTorch."""
        replacement = self._replaced.get(func)
        if _writes(func) and args and _is_copy(args[0]):
            raise WrittenError("it writes in place to a view of its maps, which channels-last memory has no view of")
        if replacement is not None and args and is_channels_last(args[0]):
            return replacement(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _group_norm(
    maps: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    channels = maps.shape[1]
    if channels >= WIDE_GROUP * num_groups:
        return F.group_norm(maps, num_groups, weight, bias, eps)
    if num_groups == channels and weight is not None and bias is not None and maps[:1].numel() >= LARGE_MAP:
        normalised: Tensor = _InstanceNorm.apply(maps, weight, bias, eps)
        return normalised
    return _again(F.group_norm(_with_gradient_again(maps).contiguous(), num_groups, weight, bias, eps))


class _InstanceNorm(torch.autograd.Function):
    """Instance norm as batch norm of one image after another, whose kernels are fast and stay in the cache."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
        out = torch.empty_like(maps)
        mean, inverse = (weight.new_empty(maps.shape[:2]) for _ in range(2))
        for one, *into in zip(torch.split(maps, 1), torch.split(out, 1), mean, inverse, strict=True):
            torch.native_batch_norm(one, weight, bias, None, None, True, 0.0, eps, out=tuple(into))
        ctx.save_for_backward(maps, weight, mean, inverse)
        ctx.eps = eps
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        maps, weight, mean, inverse = ctx.saved_tensors
        to_maps = torch.empty_like(maps)
        parts = []
        each = zip(*(torch.split(t, 1) for t in (_again(slope), maps, to_maps)), mean, inverse, strict=True)
        for one, of, into, *found in each:
            gradients = torch.ops.aten.native_batch_norm_backward(
                one, of, weight, None, None, *found, True, ctx.eps, [True, True, True]
            )
            # Copied while it is in the cache.
            into.copy_(gradients[0])
            parts.append(gradients[1:])
        to_weight, to_bias = (torch.stack(part).sum(0) for part in zip(*parts, strict=True))
        return to_maps, to_weight, to_bias, None


def _layer_norm(
    maps: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    if len(normalized_shape) != 3:
        return F.layer_norm(maps, list(normalized_shape), weight, bias, eps)
    channels, height, width = normalized_shape
    weight, bias = (p if p is None else p.permute(1, 2, 0) for p in (weight, bias))
    rows = F.layer_norm(maps.permute(0, 2, 3, 1), [height, width, channels], weight, bias, eps)
    return rows.permute(0, 3, 1, 2)


def _writes(func: Any) -> bool:
    """Whether a function of PyTorch's writes to its first argument, as `Tensor.add_` and `x[0] = 1` do."""
    name = getattr(func, "__name__", "")
    return name in _WRITING or (name.endswith("_") and not name.startswith("_") and name != "requires_grad_")


def _is_copy(written: object) -> bool:
    if not isinstance(written, Tensor):
        return False
    whole = written if written._base is None else written._base
    return getattr(whole, _COPY, False) is True


def _rows(maps: Tensor) -> Tensor:
    """Return the maps in the usual memory format, a copy that is marked as one."""
    copy = _with_gradient_again(maps).contiguous()
    setattr(copy, _COPY, True)
    return copy


def _flatten(maps: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    return _rows(maps).flatten(start_dim, end_dim)


def _view(maps: Tensor, *shape: Any, **named: Any) -> Tensor:
    if named or any(isinstance(part, torch.dtype) for part in shape):
        return maps.view(*shape, **named)
    # A network that views its maps as rows is right in the usual memory format, so it must not fail in this one.
    return _rows(maps).view(*shape)


def _reshape(maps: Tensor, *shape: Any, **named: Any) -> Tensor:
    return _rows(maps).reshape(*shape, **named)


def _with_gradient_again(maps: Tensor) -> Tensor:
    if maps.requires_grad and maps.grad_fn is not None:
        maps.register_hook(_again)  # type: ignore[no-untyped-call]
    return maps


def _again(maps: Tensor) -> Tensor:
    return maps.contiguous(memory_format=torch.channels_last)


_VIEWS: dict[Any, Callable[..., Tensor]] = {Tensor.view: _view}
_REPLACED: dict[Any, Callable[..., Tensor]] = {
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    torch.flatten: _flatten,
    Tensor.flatten: _flatten,
    Tensor.view: _view,
    Tensor.reshape: _reshape,
    torch.reshape: _reshape,
}
