"""A GPU that is none: tensors that say they are on `cuda:0`, computed on the CPU, with the rules of a GPU.

    with EmulatedCuda() as gpu:
        ...
    assert gpu.syncs == [] and gpu.blocking == []

Tensors stay ordinary ones, so autograd, optimisers and modules work; which device a tensor belongs to is noted beside
its storage. What a GPU refuses is refused: operations across devices, NumPy, and whatever waits for the device while a
graph is recorded. What is counted: `syncs`, where the host waits for the device (PyTorch's `memcpy_and_sync` and
`stream_synchronize`, which `torch.cuda.set_sync_debug_mode` knows too), and `blocking`, copies to the device that the
host waits for: from memory that is not pinned, unless it asks for no waiting and copies 64 KiB or less (CUDA Driver
API, "API synchronization behavior"); and `launches`, operations outside a recorded graph that compute something. A
recorded graph has the operations on the device of its capture stream, as PyTorch's has, and replays them in place.
Kernels, their speed and their rounding are the CPU's.
"""

import contextlib
from types import SimpleNamespace
from unittest import mock

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._pytree import tree_leaves

from emulated_modes import CPU, Functions, Operations, as_device, storage_key

STAGED = 64 << 10
CAPTURING = "operation not permitted when stream is capturing"


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
        self.syncs, self.blocking, self.copies, self.launches = [], [], [], []
        self.capturing = self.capture_stream = self.ambient = None
        self.sync_mode, self.dirty = 0, False
        self.card = {"total_memory": 16 << 30, "multi_processor_count": 40}
        self._off = 0

    def __enter__(self):
        EmulatedCuda.current = self
        self._stack = contextlib.ExitStack()
        for target, name, value in self._patches():
            self._stack.enter_context(mock.patch.object(target, name, value))
        self._stack.enter_context(Operations(self))
        self._stack.enter_context(Functions(self))
        return self

    def __exit__(self, *what):
        self._stack.close()
        EmulatedCuda.current = None

    def reset(self):
        """Count from here on."""
        for counted in (self.syncs, self.blocking, self.copies, self.launches):
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
        entry = self._tags.get(storage_key(tensor))
        return CPU if entry is None else entry[1]

    def tag(self, tensor, device):
        if device.type == "cuda":
            if device.index >= self.devices:
                raise torch.AcceleratorError("CUDA error: invalid device ordinal")
            self._tags.setdefault(storage_key(tensor), (StorageWeakRef(tensor.untyped_storage()), device))

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
        self._pinned[storage_key(tensor)] = StorageWeakRef(tensor.untyped_storage())

    def is_pinned(self, tensor):
        return storage_key(tensor) in self._pinned

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
            "get_device_properties": lambda device=None: SimpleNamespace(name="emulated", **self.card),
            "get_rng_state": lambda device="cuda": state.clone(),
            "set_rng_state": lambda new, device="cuda": None,
            "manual_seed_all": lambda seed: None,
            "is_bf16_supported": lambda including_emulation=True: True,
            "set_sync_debug_mode": lambda mode: setattr(self, "sync_mode", {"default": 0, "error": 2}.get(mode, mode)),
            "get_sync_debug_mode": lambda: self.sync_mode,
        }
        others = [(torch, "autocast", autocast), (torch.backends.cudnn, "is_acceptable", lambda tensor: False)]
        return [*((cuda, name, value) for name, value in values.items()), *others]
