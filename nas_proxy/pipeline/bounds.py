"""What each setting may be, and the sentence for what it may not."""

import math
import types
import typing
from typing import Any

from nas_proxy.condensation.embedding import PRECISIONS
from nas_proxy.condensation.selection import METHODS
from nas_proxy.data import augment
from nas_proxy.errors import nearest
from nas_proxy.ranking.scores import SCORES
from nas_proxy.search.samplers import SAMPLERS
from nas_proxy.signals import computed
from nas_proxy.spaces.objectives import ACCURACY, OBJECTIVES
from nas_proxy.storage.location import url_mistake
from nas_proxy.training import execution
from nas_proxy.training.pruning import PRUNERS
from nas_proxy.training.train import SCHEDULES

DEVICES = ("auto", "cpu", "cuda")
# (lowest, highest) of every number; a bound of None is open.
BOUNDS: dict[str, tuple[float, float | None]] = {
    "seed": (0, 2**62),
    "trials": (1, None),
    "truth": (1, None),
    "seeds": (1, 100),
    "patience": (1, None),
    "max_params": (1, None),
    "max_flops": (1, None),
    "latency_batch": (1, 65536),
    "limit": (3, None),
    "image_size": (4, 1024),
    "workers": (0, 1024),
    "preview_every": (0, None),
    "classes_per_step": (1, None),
    "condense.images_per_class": (1, None),
    "condense.steps": (1, None),
    "condense.real_batch": (1, None),
    "condense.width": (1, 4096),
    "condense.depth": (1, 8),
    "condense.formation": (1, 4),
    "condense.momentum": (0, 0.999),
    **{
        f"{recipe}.{name}": bounds
        for recipe in ("proxy_training", "full_training")
        for name, bounds in {
            "batch_size": (1, None),
            "momentum": (0, 0.999),
            "weight_decay": (0, None),
            "warm_up": (0, 1),
        }.items()
    },
}
# The values of settings that name one of a few things.
CHOICES: dict[str, tuple[str, ...]] = {
    "sampler": SAMPLERS,
    "score": SCORES,
    "pruner": PRUNERS,
    "condense.method": ("dm", *METHODS),
    "condense.precision": PRECISIONS,
    "condense.match": ("last", "all"),
    "condense.embed": ("convnet", "space", "resnet18"),
    "proxy_training.schedule": SCHEDULES,
    "full_training.schedule": SCHEDULES,
    "proxy_training.precision": execution.PRECISIONS,
    "full_training.precision": execution.PRECISIONS,
}
# The values of settings that list signals.
SIGNAL_NAMES = {"signals": computed.NAMES, "combine": computed.MEMBERS}
MOST_EPOCHS = 1_000_000
# Numbers that must be above zero but may be fractions.
POSITIVE = frozenset(
    {"hours", "condense.learning_rate", "candidate_minutes", "candidate_memory", "max_latency_ms"}
    | {f"{recipe}.{name}" for recipe in ("proxy_training", "full_training") for name in ("epochs", "learning_rate")}
)


def mistake(path: str, value: Any, hint: Any) -> str | None:
    """Return what is wrong with the value of the setting `path`, a field of type `hint`; None if nothing is."""
    kind = kind_of(hint)
    if kind is tuple:
        lists = {"enqueue": _entries_mistake, "objective": _objective_mistake, "devices": _devices_mistake}
        lists |= dict.fromkeys(SIGNAL_NAMES, _signals_mistake)
        return lists.get(path, _augmentation_mistake)(path, value)
    if not is_a(value, kind):
        return f"{path} is {value!r}; it must be {_NAMES[kind]}"
    if kind is bool:
        return None
    return _text_mistake(path, value) if kind is str else _number_mistake(path, value)


def _text_mistake(path: str, value: str) -> str | None:
    if path == "device" and not _is_device(value):
        return f"device is {value!r}; it must be auto, cpu, cuda or cuda:N"
    if path == "storage" and (wrong := url_mistake(value)) is not None:
        return f"storage is {value!r}; {wrong}"
    if path in CHOICES and value not in CHOICES[path]:
        return f"{path} is {value!r}{nearest(value, CHOICES[path])}"
    if not value:
        return f"{path} is empty; give a name"
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
        return f"{path} is {value!r}, which is not UTF-8 and cannot be written down; give a name that is"
    return None


def _is_device(name: object) -> bool:
    return isinstance(name, str) and (name in DEVICES or (name.startswith("cuda:") and name[5:].isdigit()))


def _devices_mistake(path: str, value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return f"{path} is {value!r}; it must be a list of devices, such as cuda:0, cuda:1"
    unknown = [name for name in value if not _is_device(name)]
    return f"{path} holds {unknown[0]!r}; each must be auto, cpu, cuda or cuda:N" if unknown else None


def _number_mistake(path: str, value: float) -> str | None:
    if not math.isfinite(value):
        return f"{path} is {value}; it must be finite"
    if path in POSITIVE:
        if path.endswith(".epochs") and value > MOST_EPOCHS:  # a slip of the finger, which would fill the memory
            return f"{path} is {value}; it must be at most {MOST_EPOCHS:,}"
        return None if value > 0 else f"{path} is {value}; it must be above 0"
    low, high = BOUNDS[path]
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"between {low} and {high}"
        return f"{path} is {value}; it must be {allowed}"
    return None


_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


def kind_of(hint: Any) -> Any:
    """Return the one type of a field that is not None."""
    if isinstance(hint, types.UnionType):
        return next(arm for arm in typing.get_args(hint) if arm is not type(None))
    return typing.get_origin(hint) or hint


def is_a(value: Any, kind: Any) -> bool:
    """Return whether a value is of a type; a whole number is a number, and true is none."""
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, kind) and not (kind is int and isinstance(value, bool))


def _entries_mistake(path: str, value: Any) -> str | None:
    if not isinstance(value, list | tuple) or not all(isinstance(entry, str) for entry in value):
        return f"{path} is {value!r}; it must be a list of keys, or of architectures as JSON"
    return None


def _signals_mistake(path: str, value: Any) -> str | None:
    known = SIGNAL_NAMES[path]
    if not isinstance(value, list | tuple):
        return f"{path} is {value!r}; it must be a list of names: {', '.join(known)}"
    unknown = [name for name in value if name not in known]
    if path == "combine" and "random" in unknown:
        return f"{path} holds 'random', which has several draws; known: {', '.join(sorted(known))}"
    if unknown:
        return f"{path} holds {unknown[0]!r}{nearest(str(unknown[0]), known)}"
    twice = [name for name in known if list(value).count(name) > 1]
    if twice:
        return f"{path} holds {twice[0]!r} more than once; leave one"
    alone = path == "combine" and len(value) == 1
    return f"{path} holds {value[0]!r} alone; give at least two" if alone else None


def _objective_mistake(path: str, value: Any) -> str | None:
    known = ", ".join(OBJECTIVES)
    if not isinstance(value, list | tuple):
        return f"{path} is {value!r}; it must be a list of names: {known}"
    unknown = [name for name in value if name not in OBJECTIVES]
    if unknown:
        return f"{path} holds {unknown[0]!r}{nearest(str(unknown[0]), OBJECTIVES)}"
    twice = [name for name in OBJECTIVES if list(value).count(name) > 1]
    if twice:
        return f"{path} holds {twice[0]!r} more than once; leave one"
    if not value or value[0] != ACCURACY:
        first = f"begins with {value[0]!r}" if value else "is empty"
        return f"{path} {first}; it must begin with {ACCURACY!r}, which others may follow: {known}"
    return None


def _augmentation_mistake(path: str, value: Any) -> str | None:
    if not isinstance(value, list | tuple):
        return f"{path} is {value!r}; it must be a list of operations: {', '.join(augment.FULL)}"
    unknown = [operation for operation in value if operation not in augment.FULL]
    if unknown:
        return f"{path} holds {unknown[0]!r}{nearest(str(unknown[0]), augment.FULL)}"
    return None
