"""What settings may be beyond their type and bounds, where it takes more than a list of names to say.

Validators for the fields of `nas_proxy.runs.settings`: a value in; the value out, or a ValueError with what follows
the setting's name in a sentence; pydantic takes no other error for a mistake.
"""

from typing import Any

from nas_proxy.names import ZERO_COST
from nas_proxy.spaces.objectives import ACCURACY, OBJECTIVES

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


def one_draw(value: Any) -> Any:
    """Refuse to combine what has several draws."""
    if isinstance(value, list | tuple) and "random" in value:
        known = ", ".join(sorted(("proxy", "early_stop", *ZERO_COST)))
        raise ValueError(f"holds 'random', which has several draws; known: {known}")
    return value


def several(value: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse to combine one signal with nothing."""
    if len(value) == 1:
        raise ValueError(f"holds {value[0]!r} alone; give at least two")
    return value
