"""What a user's code may change of the libraries that all candidates of a process share, and of PyTorch's and NumPy's
settings that `nas_proxy.process_state` cannot put back. A process of which something is changed is replaced.

In: the process when a space has just been imported; what its file changes then, it changes for all its candidates. Out:
what is different now: functions and classes of the libraries that are not what they were, such as `torch.relu` or
`nn.Linear.forward`, and settings. Functions are compared by identity, some thousands of them in 3 ms.
"""

import gc
import operator
import resource
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.modules import module as modules

# Modules, and packages with all that is in them.
MODULES = frozenset(
    [
        *("builtins", "copy", "functools", "itertools", "math", "operator", "os", "random", "sys", "time"),
        *("numpy", "numpy.random", "torch", "torch.autograd", "torch.functional", "torch.random"),
    ]
)
PACKAGES = ("nas_proxy", "torch.nn", "torch.optim")
LIMITS = sorted({value for name, value in vars(resource).items() if name.startswith("RLIMIT_")})
# What of `torch.backends` has a precision of its own for float32.
PRECISIONS = (
    *("", "cuda", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn"),
    *("mkldnn", "mkldnn.conv", "mkldnn.matmul", "mkldnn.rnn"),
)
SETTINGS: Mapping[str, Callable[[], Any]] = {
    "anomaly detection": torch.is_anomaly_enabled,
    "autocast": lambda: (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
    "cuDNN": lambda: [
        getattr(torch.backends.cudnn, name) for name in ("enabled", "benchmark", "deterministic", "allow_tf32")
    ],
    "garbage collection": gc.isenabled,
    "limits of the system": lambda: [resource.getrlimit(limit) for limit in LIMITS],
    "hooks of all modules": lambda: [len(found) for name, found in vars(modules).items() if name.endswith("_hooks")],
    "inference mode": torch.is_inference_mode_enabled,
    "NumPy's errors": np.geterr,
    "oneDNN": lambda: torch.backends.mkldnn.enabled,
    "precision of float32": lambda: [_precision(of) for of in PRECISIONS],
    "recursion limit": sys.getrecursionlimit,
    "trace function": sys.gettrace,
}


class Libraries:
    """What the libraries and settings of this process are at a moment."""

    def __init__(self) -> None:
        self._held = [
            (name, vars(holder), [(key, value) for key, value in vars(holder).items() if _is_function(value)])
            for name, holder in _holders().items()
        ]
        self._settings = _settings()

    def changed(self) -> list[str]:
        """Return the names of what is different now."""
        settings = _settings()
        found = [name for name, before in self._settings.items() if settings[name] != before]
        for name, held, functions in self._held:
            found += [f"{name}.{key}" for key, value in functions if not _is_same(held.get(key), value)]
        return found


def _precision(of: str) -> str | None:
    """Return the precision that a part of `torch.backends` computes float32 with; None where it has none."""
    try:
        found = operator.attrgetter(f"{of}.fp32_precision".lstrip("."))(torch.backends)
    except (AttributeError, RuntimeError):
        return None
    return str(found)


def _settings() -> dict[str, Any]:
    return {name: get() for name, get in SETTINGS.items()}


def _is_same(now: object, before: object) -> bool:
    # PyTorch itself wraps an optimiser's step when the first one is made, and marks that.
    return now is before or (getattr(now, "hooked", False) is True and getattr(now, "__wrapped__", None) is before)


def _is_function(value: object) -> bool:
    return callable(value) or isinstance(value, property | classmethod)


def _holders() -> dict[str, Any]:
    """Return modules, and the classes that are theirs, by name."""
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        package = any(name == top or name.startswith(f"{top}.") for top in PACKAGES)
        if module is None or not (package or name in MODULES):
            continue
        found[name] = module
        for value in list(vars(module).values()):
            if isinstance(value, type) and value.__module__.partition(".")[0] in {"torch", "nas_proxy", "numpy"}:
                found[f"{value.__module__}.{value.__qualname__}"] = value
    return found


class _Watch:
    """The state of a worker process after the latest space was imported; None in other processes."""

    noted: Libraries | None = None


def watch() -> None:
    """Begin to watch this process, a worker."""
    # What PyTorch changes of itself for its first optimiser, `torch.manual_seed`, is no candidate's doing.
    torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    _Watch.noted = Libraries()


def note() -> None:
    """Take what is now for what is to be, in a process that is watched: a space has been imported."""
    if _Watch.noted is not None:
        _Watch.noted = Libraries()


def changed() -> list[str]:
    """Return the names of what has changed since in a process that is watched."""
    return [] if _Watch.noted is None else _Watch.noted.changed()
