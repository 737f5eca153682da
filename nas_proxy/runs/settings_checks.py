"""What settings may be beyond their type and bounds, where it takes more than a list of names to say.

Validators for the fields of `nas_proxy.runs.settings`: a value in; the value out, or a ValueError with what follows
the setting's name in a sentence; pydantic takes no other error for a mistake.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas_proxy.names import ZERO_COST
from nas_proxy.signals.own import is_own, mistake, row_of
from nas_proxy.spaces.objectives import ACCURACY, OBJECTIVES
from nas_proxy.validation import ListOf

DEVICES = ("auto", "cpu", "cuda")


def device(value: str) -> str:
    """Check the name of a device."""
    if not _is_device(value):
        raise ValueError(f"is {value!r}; it must be auto, cpu, cuda or cuda:N")
    return value


def devices(value: Any) -> Any:
    """Check a list of names of devices."""
    if not isinstance(value, list | tuple):
        raise ValueError(f"is {value!r}; it must be a list of devices, such as cuda:0, cuda:1")  # noqa: TRY004
    if unknown := [name for name in value if not _is_device(name)]:
        raise ValueError(f"holds {unknown[0]!r}; each must be auto, cpu, cuda or cuda:N")
    return tuple(value)


def _is_device(name: object) -> bool:
    return isinstance(name, str) and (name in DEVICES or (name.startswith("cuda:") and name[5:].isdigit()))


def storage(value: str) -> str:
    """Check the URL of a database."""
    from nas_proxy.storage.location import url_mistake

    if (wrong := url_mistake(value)) is not None:
        raise ValueError(f"is {value!r}; {wrong}")
    return value


def ray(value: str) -> str:
    """Check the address of a Ray cluster."""
    if value.startswith("ray://"):
        raise ValueError(
            f"is {value!r}, which is Ray Client's; start the command on the cluster, as by `ray job submit`, with auto"
        )
    host, _, port = value.rpartition(":")
    if value not in {"none", "auto"} and not (host and port.isdigit()):
        raise ValueError(f"is {value!r}; it must be none, auto, or an address such as 10.0.0.1:6379")
    return value


def of_cluster(ray: str, devices: tuple[str, ...], gpus: float | None) -> tuple[str, str] | None:
    """Return the setting that does not go with `ray`, and the sentence."""
    if ray == "none" and gpus is not None:
        return "gpus_per_candidate", f"gpus_per_candidate is {gpus:g}, which is for a Ray cluster; give ray as well"
    if ray != "none" and devices:
        named = ", ".join(devices)
        return "devices", f"devices is {named}, of this machine; on a Ray cluster gpus_per_candidate chooses"
    if gpus is not None and gpus > 1 and not gpus.is_integer():
        return "gpus_per_candidate", f"gpus_per_candidate is {gpus:g}; it must be below 1 or a whole number"
    return None


def accuracy_first(value: tuple[str, ...]) -> tuple[str, ...]:
    """Check the first of the objectives."""
    if not value or value[0] != ACCURACY:
        first = f"begins with {value[0]!r}" if value else "is empty"
        raise ValueError(f"{first}; it must begin with {ACCURACY!r}, which others may follow: {', '.join(OBJECTIVES)}")
    return value


@dataclass(frozen=True)
class NamesAndOwn(ListOf):
    """A validator of a list of names of the product's, and of scores of the user's own."""

    def __call__(self, value: Any) -> tuple[str, ...]:
        """Return the names. Raises ValueError for what is no such list, and for two rows of one name."""
        if not isinstance(value, list | tuple):
            return super().__call__(value)
        own = [name for name in value if isinstance(name, str) and is_own(name)]
        if wrong := next(filter(None, map(mistake, own)), None):
            raise ValueError(f"holds {wrong}")
        super().__call__([name for name in value if name not in own])
        _distinct([row_of(name) for name in value])
        return tuple(value)


def _distinct(rows: Sequence[str]) -> None:
    twice = sorted({row for row in rows if rows.count(row) > 1})
    if twice:
        raise ValueError(f"holds {twice[0]!r} more than once; leave one, or call one of them otherwise")


def one_draw(value: Any) -> Any:
    """Refuse to combine what has several draws."""
    if isinstance(value, list | tuple) and "random" in value:
        known = ", ".join(sorted(("proxy", "early_stop", *ZERO_COST)))
        raise ValueError(f"holds 'random', which has several draws; known: {known}")
    return value


def budget(value: str) -> str:
    """Check a time such as 1h30m."""
    if not seconds_of(value):
        raise ValueError(f"is {value!r}; give a time such as 30m, 2h or 1h30m")
    return value


def seconds_of(text: str) -> float:
    """Return the seconds of a time such as 90s, 30m, 2h, 1h30m or 1.5h; 0 for what is none."""
    parts = re.fullmatch(r"(?:([\d.]+)d)?(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    try:
        given = [float(part or 0) for part in parts.groups()] if parts else []
    except ValueError:  # 1.2.3h
        return 0.0
    return sum(number * unit for number, unit in zip(given, (86_400, 3600, 60, 1), strict=False))


def several(value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse to combine one signal with nothing."""
    if len(value) == 1:
        raise ValueError(f"holds {value[0]!r} alone; give at least two")
    return value
