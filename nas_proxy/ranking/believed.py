"""What a search believes of each architecture of its pool, and `search.json`, which holds it, the pick first."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nas_proxy.files import write_json
from nas_proxy.untrusted import checked, read_json

NAME = "search.json"


@dataclass(frozen=True)
class Believed:
    """What is believed of the validation accuracy that an architecture is worth: median and 95 % interval.

    It is that of many seeds and images: how far a single training differs is not in it. validation: what was seen; None
    where it was not fully trained.
    """

    key: str
    mean: float
    low: float
    high: float
    validation: float | None = None


@dataclass(frozen=True)
class _File:
    order: tuple[Believed, ...]
    # What earlier versions do not say.
    finished: bool = True
    reach: Mapping[str, int | str] | None = None


def means(order: Iterable[Believed]) -> dict[str, float] | None:
    """Return the posterior mean of each architecture by key; None before a full training was seen."""
    known = [*order]
    return {one.key: one.mean for one in known} if any(one.validation is not None for one in known) else None


def write_order(folder: Path, order: Sequence[Believed], *, reach: Mapping[str, int | str] | None) -> None:
    """Write `search.json` of a run's folder; the pick is the first, where that was fully trained.

    reach: how far the settings go by which no full training is left to be done; None where some are.
    """
    pick = order[0].key if order and order[0].validation is not None else None
    told = {"pick": pick, "finished": reach is not None, "reach": None if reach is None else dict(reach)}
    write_json(folder / NAME, {**told, "order": [asdict(one) for one in order]})


def is_finished(folder: Path, reach: Mapping[str, int | str], settings: Path) -> bool:
    """Return whether `search.json` of a run's folder says that no full training is left by settings that go so far.

    settings: their file, which is older where an earlier version wrote `search.json` by them.
    """
    path = folder / NAME
    try:
        told = checked(_File, read_json(path))
        newer = path.stat().st_mtime >= settings.stat().st_mtime
    except (OSError, ValueError):
        return False
    return told.finished and (newer if told.reach is None else told.reach == reach)


def read_order(folder: Path) -> tuple[Believed, ...]:
    """Return what `search.json` of a run's folder holds; () where there is none, or none that can be read."""
    try:
        return order_of(read_json(folder / NAME))
    except (FileNotFoundError, ValueError):
        return ()


def order_of(told: object) -> tuple[Believed, ...]:
    """Return the order that the object of `search.json` holds. Raises ValueError for what is not such an object."""
    return checked(_File, told).order
