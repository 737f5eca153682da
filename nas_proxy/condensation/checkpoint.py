"""The state of an unfinished condensation, as a file.

Written at once or not at all. Each of several processes has a file of its own, and the one before, so that all can go
on from the latest step that every one of them has.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nas_proxy.condensation.distributed import ProcessGroup
from nas_proxy.files import atomic_path


@dataclass
class State:
    """Float images and momentum (classes·ipc, c, h, w), steps done, seconds, and the loss of each tenth step.

    together: classes that were in memory at a time, 0 for all; sums in another order would round otherwise.
    """

    images: Tensor
    velocity: Tensor
    step: int = 0
    seconds: float = 0.0
    losses: Tensor = field(default_factory=lambda: torch.zeros(0))
    together: int = 0


def save(path: Path, identity: str, state: State, ranks: ProcessGroup) -> None:
    """Write the state; with several processes, keep the one before."""
    newest, *before = _files(path, ranks)
    if before and newest.exists():
        newest.replace(before[0])
    tensors = {
        "images": state.images.detach().cpu().contiguous(),
        "velocity": state.velocity.cpu().contiguous(),
        "losses": state.losses,
    }
    numbers = {"step": state.step, "seconds": state.seconds, "together": state.together}
    metadata = {"identity": identity, **{name: str(number) for name, number in numbers.items()}}
    with atomic_path(newest) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def restored(path: Path | None, identity: str, ranks: ProcessGroup, device: torch.device) -> State | None:
    """Return the latest state that all processes have, or None; one with another `identity` does not count."""
    read = [_read(file, identity) for file in _files(path, ranks)] if path is not None else []
    states = {state.step: state for state in read if state is not None}
    common = ranks.latest_common(states)
    if common not in states:
        return None
    state = states[common]
    return replace(state, images=state.images.to(device), velocity=state.velocity.to(device))


def remove(path: Path, ranks: ProcessGroup) -> None:
    """Remove the files of this process; the first one's are also what another number of processes left behind."""
    files = [path, *path.parent.glob(f"{path.stem}-*-of-*{path.suffix}")]
    of_others = () if ranks.size == 1 else {*path.parent.glob(f"{path.stem}-*-of-{ranks.size}*{path.suffix}")}
    left = [file for file in files if file not in of_others] if ranks.rank == 0 else []
    for file in (*_files(path, ranks), *left):
        file.unlink(missing_ok=True)


def _files(path: Path, ranks: ProcessGroup) -> list[Path]:
    """Return the newest file of this process and, with several processes, the one before."""
    if ranks.size == 1:
        return [path]
    names = (f"{path.stem}-{ranks.rank}-of-{ranks.size}{age}{path.suffix}" for age in ("", "-before"))
    return [path.with_name(name) for name in names]


def _read(path: Path, identity: str) -> State | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in ("images", "velocity", "losses")}
    except (SafetensorError, OSError):
        return None
    if metadata.get("identity") != identity:
        return None
    step, together = int(metadata["step"]), int(metadata.get("together", "0"))
    return State(**tensors, step=step, seconds=float(metadata["seconds"]), together=together)
