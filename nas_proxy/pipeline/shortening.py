"""How a long run becomes shorter: settings and what they would take in, the settings that are changed out."""

from collections.abc import Callable, Container
from dataclasses import asdict, replace
from typing import Any

from nas_proxy.data.splits import Counts
from nas_proxy.pipeline.forecast import Estimate
from nas_proxy.pipeline.forecast_text import OPTIONS
from nas_proxy.runs.settings import RunConfig, default_judge

# Seconds from which on a run is told how to shorten it.
LONG = 1800.0
# The least that a setting is shortened to.
LEAST = {
    "condense.steps": 50,
    "condense.teacher_epochs": 1.0,
    "full_training.epochs": 5.0,
    "proxy_training.epochs": 20.0,
    "truth": 8,
    "trials": 12,
    "pool": 50,
}
LEAST_LIMIT = 100
# What a stage takes grows with these settings, of which the first are the least missed.
SHORTENS = {
    "read": ("limit",),
    "search": ("pool", "proxy_training.epochs", "trials"),
    "truth": ("full_training.epochs", "limit", "truth"),
    "rank": ("proxy_training.epochs", "truth"),
}


def shortened(
    config: RunConfig,
    counts: Counts,
    estimate_of: Callable[[RunConfig, Counts], Estimate],
    seconds: float = LONG,
    allowed: Container[str] = tuple(OPTIONS),
) -> tuple[dict[str, float], Estimate]:
    """Halve what the longest stage depends on, over and over, until all takes `seconds`; return what was changed.

    allowed: what may be halved. Ends earlier where nothing more can sensibly be.
    """
    changed: dict[str, float] = {}
    found = estimate_of(config, counts)
    classes = max(1, counts.train // max(1, counts.smallest))
    limit = (counts.train + counts.validation) // classes
    while found.seconds.value > seconds:
        stages = sorted(found.by_stage, key=lambda stage: -found.by_stage[stage].value)
        names = (name for stage in stages for name in _shortens(config, stage) if name in allowed)
        halved = ((name, value) for name in names if (value := _halved(config, name, limit)) is not None)
        name, value = next(halved, ("", 0.0))
        if not name:
            break
        changed[name] = value
        if name == "limit":
            share, limit = value / limit, int(value)
            counts = Counts(**{part: int(share * number) for part, number in asdict(counts).items()})
        else:
            config = _with(config, name, value)
        found = estimate_of(config, counts)
    return changed, found


def _shortens(config: RunConfig, stage: str) -> tuple[str, ...]:
    if stage == "condense":
        recipe = config.condense
        return ("condense.teacher_epochs",) if recipe.patched else ("condense.steps",) if recipe.learnt else ()
    return SHORTENS[stage]


def _halved(config: RunConfig, name: str, limit: int) -> float | None:
    """Return half of a setting, None where that would be too little."""
    if name == "limit":
        half = round(limit / 2, 2 - len(str(limit // 2)))  # two digits
        return half if half >= LEAST_LIMIT else None
    table, _, field = name.rpartition(".")
    value = config.pool_size if name == "pool" else getattr(getattr(config, table) if table else config, field)
    half = value // 2 if value >= 8 else value / 2
    return half if half >= LEAST[name] and (name != "trials" or half >= config.sample) else None


def _with(config: RunConfig, name: str, value: float) -> RunConfig:
    """Return the settings with another value, of the type that the setting has."""
    table, _, field = name.rpartition(".")
    of = getattr(config, table) if table else config
    kind = int if name == "pool" else type(getattr(of, field))  # None by default
    changed: Any = replace(of, **{field: kind(value)})
    whole: dict[str, Any] = {table: changed}
    if name == "truth" and config.judge == default_judge(config.truth):  # not given, or as if it was not
        changed = replace(changed, judge=default_judge(changed.truth))
    return replace(config, **whole) if table else changed
