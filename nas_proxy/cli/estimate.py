"""What `--dry-run` prints: an estimate of a run in, lines out."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas_proxy.pipeline.dry_run import Estimate, Span


def estimate_text(found: "Estimate") -> str:
    """Return the lines that `--dry-run` prints."""
    return "\n".join(_lines(found))


def _lines(found: "Estimate") -> Iterator[str]:
    from nas_proxy.names import label
    from nas_proxy.report.formats import count, duration

    def span(seconds: "Span") -> str:
        return f"about {duration(seconds.value)} [{duration(seconds.low)}, {duration(seconds.high)}]"

    yield "Nothing is trained but for measuring. It would be:"
    if found.condense is not None:
        told = f"{found.condense['steps']:,} steps"
        yield f"  {'Condensation':<16} {told:>15}  {'':>17}  about {duration(found.condense['seconds'])}"
    for signal, part in found.parts.items():
        told = f"{part.trainings:,} trainings"
        name = "Full training" if signal == "truth" else label(signal)
        yield f"  {name:<16} {told:>15}  {count(part.image_passes):>4} image passes  {span(part.seconds)}"
    if not found.parts and found.condense is None:
        yield "  nothing: all is done"
        return
    yield f"In all {span(found.seconds)}, with {found.workers} worker{'s' if found.workers > 1 else ''}."
    if found.memory_mb is None:
        return
    least, most = found.memory_mb.low, found.memory_mb.high
    yield f"A training needs about {found.memory_mb.value:.0f} MB [{least:.0f}, {most:.0f}] beyond what a worker needs."
    failed = f"; {len(found.failed)} more failed, one with: {found.failed[-1]}" if found.failed else ""
    yield f"Measured on {found.measured} architectures of the sample, a few steps each{failed}."
