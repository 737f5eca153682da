"""Where a result was computed: versions and hardware, for every number that is printed."""

import platform
from importlib.metadata import version
from pathlib import Path

import torch

from nas_proxy._version import __version__
from nas_proxy.hardware import cores


def environment(device: str, workers: int) -> dict[str, object]:
    """Return versions and hardware as JSON values."""
    packages = ("torch", "optuna", "scipy", "numpy", "pandas")
    return {
        "nas_proxy": __version__,
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu(),
        "cores": cores(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "workers": workers,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
