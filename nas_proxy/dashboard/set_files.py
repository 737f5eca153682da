"""What the files of image sets tell of how they were made, or are being made; it only reads."""

from collections.abc import Sequence
from pathlib import Path


def making_seconds(sets: Sequence[Path]) -> float | None:
    """Return the mean seconds that making a set took, of those that are there; None where none is."""
    known = [float(_metadata(path).get("seconds", 0.0)) for path in sets if path.exists()]
    return sum(known) / len(known) if known else None


def condensing(checkpoint: Path, steps: int) -> tuple[int, float | None]:
    """Return the steps that a condensation has done, and about how many seconds the rest of `steps` takes.

    Of several processes that share one, the first tells; see `nas_proxy.condensation.checkpoint`.
    """
    shared = sorted(checkpoint.parent.glob(f"{checkpoint.stem}-0-of-*[0-9]{checkpoint.suffix}"))
    told = _metadata(shared[0] if shared and not checkpoint.exists() else checkpoint)
    try:
        done, seconds = int(told["step"]), float(told["seconds"])
    except (KeyError, ValueError):
        return 0, None
    return done, (steps - done) * seconds / done if done else None


def _metadata(path: Path) -> dict[str, str]:
    """Return what a file of image sets says of itself; {} where it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}
