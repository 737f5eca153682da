"""An estimate in lines of at most 80 columns, the most important first."""

from collections.abc import Iterator, Mapping

from nas_proxy.names import PROXY, TRUTH, label
from nas_proxy.pipeline.forecast import NOTHING, Estimate, Part, Span
from nas_proxy.report.formats import count, duration

# What a setting that shortens a run is called on the command line.
OPTIONS = {
    "condense.steps": "--steps",
    "condense.teacher_epochs": "--teacher-epochs",
    "full_training.epochs": "--truth-epochs",
    "proxy_training.epochs": "--epochs",
    "truth": "--truth",
    "trials": "--trials",
    "pool": "--pool",
    "limit": "--limit",
}


def flags_of(changed: Mapping[str, float]) -> str:
    """Return settings as they are given on the command line."""
    return " ".join(f"{OPTIONS[name]} {value:g}" for name, value in changed.items())


def first_sight(found: Estimate) -> str:
    """Return the line that comes at once."""
    return f"By FLOPs alone: {_between(found.seconds)}. Measuring a few steps for a better estimate …"


def told(found: Estimate, shorter: Mapping[str, float], then: Estimate | None) -> str:
    """Return what is to be done and how long it takes; where that is long, what makes it shorter."""
    return "\n".join(_lines(found, shorter, then))


def _lines(found: Estimate, shorter: Mapping[str, float], then: Estimate | None) -> Iterator[str]:
    if not found.parts and found.condense is None:
        yield f"Nothing is left to be trained; the rest takes {_about(found.seconds)}."
        return
    speeds = found.speeds
    workers = f"{speeds.workers} worker{'s' if speeds.workers > 1 else ''}"
    yield f"It takes {_about(found.seconds)}, with {workers}:"
    if found.condense is not None:
        yield _row("Condensation", f"{found.condense.trainings:,} steps", "", found.condense.seconds)
    if found.latencies is not None:
        yield _row("Latencies", f"{found.latencies.trainings:,} networks", "", found.latencies.seconds)
    if found.scores.value:
        yield _row("Untrained scores", "", "", found.scores)
    for name, part in found.parts.items():
        yield _row("Full training" if name == TRUTH else label(name), *_amounts(part), part.seconds)
    choosing = sum((part.seconds for part in found.choices.values()), NOTHING)
    if choosing.high >= 1:
        yield _row("Choosing", f"{sum(part.trainings for part in found.choices.values()):,} rounds", "", choosing)
    yield _row("Reading, judging", "", "", found.other)
    if shorter and then is not None:
        yield "More than half an hour. Shorter, and coarser, with:"
        yield f"  {flags_of(shorter)}"
        yield f"  takes {_about(then.seconds)}"
    if not found.pays:
        yield from _does_not_pay(found)
    needs = []
    if speeds.memory_mb is not None:
        needs.append(f"a training about {speeds.memory_mb.value:.0f} MB beside its worker")
    if found.condense is not None and speeds.condense_mb is not None:
        needs.append(f"condensing about {speeds.condense_mb:.0f} MB")
    if needs:
        yield f"Memory: {', '.join(needs)}."
    failed = f"; {len(speeds.failed)} more failed: {speeds.failed[-1]}" if speeds.failed else ""
    steps = "a few steps" + (f" of {speeds.measured} networks" if speeds.measured else "")
    yield f"Estimated from {steps if speeds.measured or needs else 'FLOPs alone'}{failed}."


def _does_not_pay(found: Estimate) -> Iterator[str]:
    if found.saves <= 0:
        yield "Full training takes no longer than training on the condensed set;"
    else:
        saved = f" ({duration(found.saves)} of {found.parts[PROXY].trainings} networks)" if PROXY in found.parts else ""
        yield f"Condensing takes longer than the full training it saves{saved};"
    yield "  --method random takes random images in its place."


def _amounts(part: Part) -> tuple[str, str]:
    return f"{part.trainings:,} trainings", f"{count(part.image_passes)} images"


def _row(name: str, number: str, passes: str, seconds: Span) -> str:
    return f"  {name:<18}{number:>15}{passes:>13}  {_about(seconds)}"


def _about(seconds: Span) -> str:
    return f"about {duration(seconds.value)} [{duration(seconds.low)}, {duration(seconds.high)}]"


def _between(seconds: Span) -> str:
    return f"between {duration(seconds.low)} and {duration(seconds.high)}"
