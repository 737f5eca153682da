"""A GPU that is none: tensors that say they are on `cuda:0`, computed on the CPU, with the rules of a GPU.

    with EmulatedCuda() as gpu:
        ...
    assert gpu.syncs == [] and gpu.blocking == []

Tensors stay ordinary ones, so autograd, optimisers and modules work; which device a tensor belongs to is noted beside
its storage. What a GPU refuses is refused: operations across devices, NumPy, and whatever waits for the device while a
graph is recorded. What is counted: `syncs`, where the host waits for the device (PyTorch's `memcpy_and_sync` and
`stream_synchronize`, which `torch.cuda.set_sync_debug_mode` knows too), and `blocking`, copies to the device that the
host waits for: from memory that is not pinned, unless it asks for no waiting and copies 64 KiB or less (CUDA Driver
API, "API synchronization behavior"). A recorded graph has the operations on the device of its capture stream, as
PyTorch's has, and replays them in place. Kernels, their speed and their rounding are the CPU's.
"""

import contextlib
from types import SimpleNamespace
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

STAGED = 64 << 10
# Operations whose result has a size, or a value on the host, that the device must tell first.
WAITING = {
    "_local_scalar_dense", "nonzero", "masked_select", "equal", "bincount", "_unique2", "unique_dim",
    "unique_consecutive", "_linalg_eigh", "linalg_eig", "_linalg_svd", "is_nonzero",
}  # fmt: skip
CPU = torch.device("cpu")
CAPTURING = "operation not permitted when stream is capturing"


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


class Stream:
    def __init__(self, device=None, **_):
        self.device = as_device(device) or torch.device("cuda", EmulatedCuda.current.index)

    def wait_stream(self, stream):
        assert isinstance(stream, Stream)

    def synchronize(self):
        EmulatedCuda.current.wait("stream.synchronize")


class Graph:
    """Records operations and does them again, into the same tensors."""

    def __init__(self, **_):
        self.calls, self.before, self.broken = [], {}, False

    def note(self, func, args, kwargs, result):
        self.calls.append((func, args, kwargs, result))

    def replay(self):
        with EmulatedCuda.current.paused(), torch.no_grad():
            for func, args, kwargs, result in self.calls:
                again = func(*args, **kwargs)
                for old, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.detach().copy_(new)


class Capture:
    """`torch.cuda.graph`: what runs meanwhile on the device of the stream is recorded and not done."""

    default_capture_stream = None

    def __init__(self, graph, stream=None, **_):
        gpu = EmulatedCuda.current
        if stream is None and gpu.capture_stream is None:
            gpu.capture_stream = Stream()
        self.graph, self.stream = graph, stream or gpu.capture_stream

    def __enter__(self):
        gpu = EmulatedCuda.current
        gpu.wait("graph", count=False)
        gpu.capturing = self

    def __exit__(self, kind, error, trace):
        gpu = EmulatedCuda.current
        gpu.capturing = None
        with gpu.paused(), torch.no_grad():
            for storage, values in self.graph.before.values():
                storage.copy_(values)
        if self.graph.broken:
            gpu.dirty = True
            raise torch.AcceleratorError("operation failed due to a previous error during capture")


class EmulatedCuda:
    """The context; see the module. devices: how many there are. syncs, blocking, copies: what was counted."""

    current = None
    # Of all contexts, since the code under test keeps tensors from one to the next.
    _tags, _pinned = {}, {}

    def __init__(self, devices=1):
        self.devices, self.index = devices, 0
        self.syncs, self.blocking, self.copies = [], [], []
        self.capturing = self.capture_stream = self.ambient = None
        self.sync_mode, self.dirty = 0, False
        self._off = 0

    def __enter__(self):
        EmulatedCuda.current = self
        self._stack = contextlib.ExitStack()
        for target, name, value in self._patches():
            self._stack.enter_context(mock.patch.object(target, name, value))
        self._stack.enter_context(_Dispatch(self))
        self._stack.enter_context(_Function(self))
        return self

    def __exit__(self, *what):
        self._stack.close()
        EmulatedCuda.current = None

    def reset(self):
        """Count from here on."""
        for counted in (self.syncs, self.blocking, self.copies):
            counted.clear()

    @contextlib.contextmanager
    def paused(self):
        """Work on the CPU meanwhile, unseen."""
        self._off += 1
        try:
            yield
        finally:
            self._off -= 1

    @property
    def off(self):
        return self._off > 0

    def device(self, tensor):
        """Return the device that a tensor says it is on."""
        entry = self._tags.get(_key(tensor))
        return CPU if entry is None else entry[1]

    def tag(self, tensor, device):
        if device.type == "cuda":
            if device.index >= self.devices:
                raise torch.AcceleratorError("CUDA error: invalid device ordinal")
            self._tags.setdefault(_key(tensor), (StorageWeakRef(tensor.untyped_storage()), device))

    def wait(self, why, *, count=True, debugged=True):
        """The host waits for the device here. debugged: whether `set_sync_debug_mode` sees it."""
        if self.capturing is not None:
            self.capturing.graph.broken = True
            raise torch.AcceleratorError(f"CUDA error: {CAPTURING}\nCUDA kernel errors might be reported later")
        if count:
            if self.sync_mode == 2 and debugged:
                raise RuntimeError("called a synchronizing CUDA operation")
            self.syncs.append(why)

    def moved(self, source, target, non_blocking, size, pinned, why):
        """Note a copy between devices; of `size` bytes."""
        if source == target:
            return
        if source.type == "cuda":
            self.wait(f"{why}: device to {target}")
            return
        self.copies.append((why, size))
        if not non_blocking:
            self.wait(f"{why}: {size} bytes from the host", count=self.sync_mode == 2)
        if (not pinned and not (non_blocking and size <= STAGED)) or not non_blocking:
            self.blocking.append((why, size))

    def pin(self, tensor):
        self._pinned[_key(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def is_pinned(self, tensor):
        return _key(tensor) in self._pinned

    def _patches(self):
        cuda, real = torch.cuda, torch.autocast
        state = torch.zeros(16, dtype=torch.uint8)
        stream = lambda device=None: Stream(device)  # noqa: E731

        @contextlib.contextmanager
        def on_device(device):
            before, self.index = self.index, as_device(device).index if not isinstance(device, int) else device
            yield
            self.index = before

        def autocast(device_type, *args, **kwargs):
            return real("cpu" if device_type == "cuda" else device_type, *args, **kwargs)

        values = {
            "is_available": lambda: True,
            "device_count": lambda: self.devices,
            "current_device": lambda: self.index,
            "set_device": lambda device: setattr(self, "index", as_device(device).index),
            "device": on_device,
            "synchronize": lambda device=None: self.wait("synchronize", debugged=False),
            "Stream": Stream,
            "stream": lambda stream: contextlib.nullcontext(),
            "current_stream": stream,
            "default_stream": stream,
            "graph": Capture,
            "CUDAGraph": Graph,
            "is_current_stream_capturing": lambda: self.capturing is not None,
            "empty_cache": lambda: None,
            "mem_get_info": lambda device=None: (8 << 30, 16 << 30),
            "memory_reserved": lambda device=None: 0,
            "memory_allocated": lambda device=None: 0,
            "max_memory_allocated": lambda device=None: 0,
            "reset_peak_memory_stats": lambda device=None: None,
            "set_per_process_memory_fraction": lambda share, device=None: None,
            "get_device_properties": lambda device=None: SimpleNamespace(total_memory=16 << 30, name="emulated"),
            "get_rng_state": lambda device="cuda": state.clone(),
            "set_rng_state": lambda new, device="cuda": None,
            "manual_seed_all": lambda seed: None,
            "is_bf16_supported": lambda including_emulation=True: True,
            "set_sync_debug_mode": lambda mode: setattr(self, "sync_mode", {"default": 0, "error": 2}.get(mode, mode)),
            "get_sync_debug_mode": lambda: self.sync_mode,
        }
        others = [(torch, "autocast", autocast), (torch.backends.cudnn, "is_acceptable", lambda tensor: False)]
        return [*((cuda, name, value) for name, value in values.items()), *others]


def _key(tensor):
    return tensor.untyped_storage()._cdata


class _Function(TorchFunctionMode):
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


class _Dispatch(TorchDispatchMode):
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
                        graph.before.setdefault(_key(tensor), (storage, storage.clone()))
