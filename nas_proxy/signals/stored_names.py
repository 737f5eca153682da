"""What signals leave behind is called: the names of studies and scores, the paths of sets.

No module of PyTorch's is needed.
"""

from pathlib import Path

from nas_proxy.names import PROXY, TOTAL
from nas_proxy.signals import own
from nas_proxy.signals.signal import EqualCost, OwnScore, Plan, Signal


def set_path(folder: Path, name: str, draw: int) -> Path:
    """Return where a set is."""
    return folder / "proxy.safetensors" if name == PROXY else folder / "sets" / f"{name}-{draw}.safetensors"


def checkpoint_path(folder: Path, name: str, draw: int) -> Path:
    """Return where the state of a set that is being learnt is."""
    return folder / ".work" / ("condense.safetensors" if name == PROXY else f"{name}-{draw}.safetensors")


def equal_cost_name(per_class: int) -> str:
    """Return what sets of so many random images a class are called."""
    return f"{TOTAL}~{per_class}"


def total_study(target: str, candidates: int) -> str:
    """Return the name of the study of random images at the whole cost of `target`, shared by so many candidates."""
    return f"random_total: {target}, {candidates} candidates"


def study_of(plan: Plan, signal: Signal) -> str:
    """Return the name of a trained signal's study."""
    if isinstance(signal.source, EqualCost):
        return total_study(signal.source.target, plan.sharing)
    return signal.name


def is_looked_up(signal: Signal) -> bool:
    """Return whether the scores are in a table of the user's, so that none are computed or kept."""
    return isinstance(signal.source, OwnScore) and not own.is_function(signal.source.named)


def score_name(signal: Signal) -> str:
    """Return what a computed signal's scores are kept under: those of an own function change with its file.

    Raises OSError where there is no such file.
    """
    if isinstance(signal.source, OwnScore) and own.is_function(signal.source.named):
        return f"{signal.name}#{own.fingerprint(signal.source.named)}"
    return signal.name
