"""A run's status in words: a `Status` in, lines for a terminal out, at most 100 columns wide but for keys."""

from collections.abc import Iterator

from nas_proxy.dashboard.status import Stage, Status
from nas_proxy.report.verdict import decimal, duration, label, percent

BAR = 20
MOST_WORKERS = 8
MOST_REASONS, REASON_LENGTH = 5, 80


def status_text(status: Status) -> str:
    """Return the lines that `nas-proxy status` prints."""
    return "\n".join(_lines(status))


def _lines(status: Status) -> Iterator[str]:
    yield f"{status.run}: {_state(status)}"
    for stage in status.stages:
        yield _stage(stage)
    if status.workers:
        yield f"Workers alive: {len(status.workers)}"
        for worker in status.workers[:MOST_WORKERS]:
            role = ", coordinates" if worker.coordinates else ""
            yield f"  {worker.host}, process {worker.pid}, {worker.devices}: {_trainings(worker.jobs)}{role}"
        if len(status.workers) > MOST_WORKERS:
            yield f"  and {len(status.workers) - MOST_WORKERS} others"
    if status.best is not None:
        full = status.best["test_accuracy"]
        trained = "" if full is None else f", {percent(full)} test accuracy after full training"
        losses = f" (sum of losses {decimal(status.best['loss_sum'])})" if "loss_sum" in status.best else ""
        yield f"Best so far: {status.best['key']}, proxy score {percent(status.best['score'])}{losses}{trained}"
    if status.pruned:
        yield f"Pruned: {status.pruned}; saved about {duration(status.seconds_saved)}"
    for signal, counted in status.failures.items():
        name = "full training" if signal == "truth" else label(signal).lower()
        yield f"Failed, {name}: {sum(counted.values())}"
        for reason, times in list(counted.items())[:MOST_REASONS]:
            yield f"  {times} × {' '.join(reason.split())[:REASON_LENGTH]}"
        if len(counted) > MOST_REASONS:
            yield f"  and {len(counted) - MOST_REASONS} other reasons"


def _state(status: Status) -> str:
    if status.at_work:
        left = "" if status.seconds_left is None else f", about {duration(status.seconds_left)} left"
        return f"at work, {_trainings(status.open_trainings)} open{left}"
    if status.complete:
        return "done"
    cut = f"; {_trainings(status.open_trainings)} cut off" if status.open_trainings else ""
    return f"not done, and no command is at work{cut}"


def _trainings(number: int) -> str:
    return f"{number} training{'' if number == 1 else 's'}"


def _stage(stage: Stage) -> str:
    filled = BAR if stage.complete else int(BAR * min(stage.done / max(stage.total, 1), 1))
    told = f"{stage.done}/{stage.total}"
    left = "" if stage.complete or not stage.seconds_left else f"{duration(stage.seconds_left)} left"
    return (
        f"  {stage.name:<9} {'█' * filled}{'·' * (BAR - filled)} {told:>11}  {left or 'done' * stage.complete}".rstrip()
    )
