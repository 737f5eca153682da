"""The two modes of the emulated GPU: what PyTorch's functions are told of devices, and what its operations may do."""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CPU = torch.device("cpu")
# Operations whose result has a size, or a value on the host, that the device must tell first.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2", "unique_dim",
    "unique_consecutive", "_linalg_eigh", "linalg_eig", "_linalg_svd", "is_nonzero",
}  # fmt: skip


def as_device(value):
    """Return a CUDA device as one with an index, another as it is, and None for what is none."""
    if isinstance(value, str):
        try:
            value = torch.device(value)
        except RuntimeError:
            return None
    if not isinstance(value, torch.device):
        return None
    return torch.device("cuda", value.index or 0) if value.type == "cuda" else value


def storage_key(tensor):
    return tensor.untyped_storage()._cdata


class Functions(TorchFunctionMode):
    """What PyTorch's functions are told about devices, and what they say about them."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        gpu, kwargs = self.gpu, dict(kwargs or {})
        if gpu.off:
            return func(*args, **kwargs)
        answer = _ANSWERS.get(func)
        if answer is not None:
            return answer(gpu, args[0])
        if func is torch.Tensor.to or func in {torch.Tensor.cuda, torch.Tensor.cpu}:
            return _to(gpu, func, args, kwargs)
        if func in {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.__array__} and gpu.device(args[0]) != CPU:
            if func is not torch.Tensor.tolist:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            gpu.wait("tolist")
        if func is torch.Tensor.pin_memory:
            with gpu.paused():
                result = args[0].clone()
            gpu.pin(result)
            return result
        pinned = kwargs.pop("pin_memory", False)
        wanted = as_device(kwargs.get("device"))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        if wanted is not None:
            kwargs["device"] = CPU
            if func in {torch.tensor, torch.as_tensor, torch.asarray} and wanted.type == "cuda":
                with gpu.paused():
                    size = torch.as_tensor(args[0]).nbytes
                gpu.moved(CPU, wanted, False, size, False, func.__name__)
        ambient = wanted or next((d for d in map(gpu.device, tensors) if d != CPU), None)
        before, gpu.ambient = gpu.ambient, ambient
        try:
            result = func(*args, **kwargs)
        finally:
            gpu.ambient = before
        if pinned:
            gpu.pin(result)
        if wanted is not None and isinstance(result, torch.Tensor):
            gpu.tag(result, wanted)
        return result


def _to(gpu, func, args, kwargs):
    tensor, *rest = args
    source, target = gpu.device(tensor), None
    if func is not torch.Tensor.to:
        target = CPU if func is torch.Tensor.cpu else torch.device("cuda", 0)
        rest = []
    else:
        other = next((item for item in rest if isinstance(item, torch.Tensor)), None)
        if other is not None:
            target, rest = gpu.device(other), [other.dtype, *rest[1:]]
        else:
            given = rest[0] if rest and not isinstance(rest[0], torch.dtype) else kwargs.pop("device", None)
            target = as_device(given)
            rest = rest[1:] if target is not None and rest and rest[0] is given else rest
    positional = [item for item in rest if isinstance(item, bool)]
    non_blocking = kwargs.pop("non_blocking", positional[0] if positional else False)
    rest = [item for item in rest if not isinstance(item, bool) and item is not None]
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    before, gpu.ambient = gpu.ambient, None
    try:
        if target is None or target == source:
            return torch.Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor
        gpu.moved(source, target, non_blocking, tensor.nbytes, gpu.is_pinned(tensor), "to")
        gpu.ambient = target
        result = _crossed(gpu, tensor, target)
        return torch.Tensor.to(result, *rest, **kwargs) if rest or kwargs else result
    finally:
        gpu.ambient = before


class _Moved(torch.autograd.Function):
    """A copy to another device, differentiable as PyTorch's is."""

    @staticmethod
    def forward(ctx, tensor, gpu, target):
        ctx.gpu, ctx.source = gpu, gpu.device(tensor)
        with gpu.paused():
            result = tensor.detach().clone(memory_format=torch.preserve_format)
        if target == CPU:
            return result
        gpu.tag(result, target)
        return result

    @staticmethod
    def backward(ctx, slope):
        return _Moved.apply(slope, ctx.gpu, ctx.source), None, None


def _crossed(gpu, tensor, target):
    return _Moved.apply(tensor, gpu, target)


_ANSWERS = {
    torch.Tensor.device.__get__: lambda gpu, tensor: gpu.device(tensor),
    torch.Tensor.is_cuda.__get__: lambda gpu, tensor: gpu.device(tensor) != CPU,
    torch.Tensor.is_cpu.__get__: lambda gpu, tensor: gpu.device(tensor) == CPU,
    torch.Tensor.get_device: lambda gpu, tensor: -1 if gpu.device(tensor) == CPU else gpu.device(tensor).index,
    torch.Tensor.is_pinned: lambda gpu, tensor: gpu.is_pinned(tensor),
}


class Operations(TorchDispatchMode):
    """The operations themselves: on which device each is, whether it waits, and into which graph it goes."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        gpu, kwargs = self.gpu, kwargs or {}
        if gpu.off:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        device = self._checked(name, args, tensors)
        if (device is None and not tensors) or (kwargs.get("device") is not None and name != "_to_copy"):
            device = gpu.ambient
        if name == "copy_" and gpu.device(args[0]) != gpu.device(args[1]) and args[1].dim() > 0:
            non_blocking = kwargs.get("non_blocking", args[2] if len(args) > 2 else False)
            pinned = gpu.is_pinned(args[1])
            gpu.moved(gpu.device(args[1]), gpu.device(args[0]), non_blocking, args[1].nbytes, pinned, name)
        if device is not None and device != CPU:
            self._waits(name, args, kwargs)
        capture = gpu.capturing if gpu.capturing is not None and device == gpu.capturing.stream.device else None
        if capture is not None:
            self._kept(capture.graph, func, args, kwargs)
        with torch._C._AutoDispatchBelowAutograd():
            result = func(*args, **kwargs)
        if capture is not None:
            capture.graph.note(func, args, kwargs, result)
        elif device is not None and device != CPU and not func.is_view and not name.startswith(("empty", "new_empty")):
            gpu.launches.append(name)
        if device is not None and device != CPU:
            tree_map(lambda leaf: gpu.tag(leaf, device) if isinstance(leaf, torch.Tensor) else None, result)
        return result

    def _checked(self, name, args, tensors):
        """Return the one device of an operation, or None without tensors. Raises for several."""
        gpu = self.gpu
        found = {gpu.device(tensor) for tensor in tensors}
        cuda = sorted((device for device in found if device != CPU), key=str)
        if not cuda:
            return CPU if tensors else None
        if name == "copy_":
            return gpu.device(args[0]) if gpu.device(args[0]) != CPU else cuda[0]
        if name in {"index", "index_put_", "_index_put_impl_", "index_put"} and gpu.device(args[0]) != CPU:
            for index in (i for i in args[1] if i is not None and gpu.device(i) == CPU):
                gpu.moved(CPU, cuda[0], False, index.nbytes, gpu.is_pinned(index), f"{name} by an index on the host")
            return cuda[0]
        beside = [tensor for tensor in tensors if gpu.device(tensor) == CPU and tensor.dim() > 0]
        if beside or len(cuda) > 1:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {cuda[0]} and "
                f"{'cpu' if beside else cuda[1]}! ({name})"
            )
        return cuda[0]

    def _waits(self, name, args, kwargs):
        gpu = self.gpu
        if name in WAITING or (name == "repeat_interleave" and kwargs.get("output_size") is None):
            gpu.wait(name)
        if name in {"index", "index_put_", "_index_put_impl_", "index_put"}:
            masks = [i for i in args[1] if i is not None and i.dtype in {torch.bool, torch.uint8}]
            # As in `canDispatchToMaskedFill`: one number from the host is filled in without looking for places.
            filled = name != "index" and args[2].numel() == 1 and args[2].dim() == 0 and len(masks) == 1
            if masks and not filled:
                gpu.wait(f"{name} by a mask")

    def _kept(self, graph, func, args, kwargs):
        """Keep what an operation is about to change in place, since while recording nothing is done."""
        with self.gpu.paused(), torch.no_grad():
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | dict(kwargs)
            for argument in func._schema.arguments:
                if argument.alias_info is None or not argument.alias_info.is_write:
                    continue
                for tensor in tree_leaves(given.get(argument.name)):
                    if isinstance(tensor, torch.Tensor):
                        storage = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                        graph.before.setdefault(storage_key(tensor), (storage, storage.clone()))
