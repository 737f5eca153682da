"""How a run or a comparison stands, in words: lines for a terminal, at most 100 columns wide but for keys."""

from collections.abc import Iterator, Mapping

from nas_proxy.dashboard.comparison_status import TABLE, TRUTH, ComparisonStatus, SignalStatus
from nas_proxy.dashboard.status import Stage, Status
from nas_proxy.report.verdict import decimal, duration, label, percent

BAR = 20
MOST_WORKERS = 8
MOST_REASONS, REASON_LENGTH = 5, 80


def status_text(status: Status | ComparisonStatus) -> str:
    """Return the lines that `nas-proxy status` prints."""
    lines = _lines(status) if isinstance(status, Status) else _comparison_lines(status)
    return "\n".join(lines)


def _comparison_lines(status: ComparisonStatus) -> Iterator[str]:
    yield f"{status.comparison}: {_state(status)}"
    names = {signal.name: "full training" if signal.name == TRUTH else signal.name for signal in status.signals}
    width = max(map(len, (*names.values(), "table")))
    with_sets = any(signal.sets is not None for signal in status.signals)
    if with_sets:
        yield f"  {'':<{width}}  sets"
    for signal in status.signals:
        yield _signal(signal, names[signal.name], width, with_sets=with_sets)
    yield f"  {'table':<{width}}  {TABLE[-1] if status.table else 'not written yet'}"
    yield from _failures({names.get(name, name): counted for name, counted in status.failures.items()})


def _signal(signal: SignalStatus, name: str, width: int, *, with_sets: bool) -> str:
    sets = "" if signal.sets is None else f"{signal.sets}/{signal.sets_total}"
    told = f"{signal.done}/{signal.total} {'trained' if signal.trained else 'computed'}"
    left = "" if signal.complete or not signal.seconds_left else f"{duration(signal.seconds_left)} left"
    column = f"{sets:<6}" if with_sets else ""
    end = left or "done" * signal.complete
    return f"  {name:<{width}}  {column}{_bar(signal.done, signal.total)} {told:>18}  {end}".rstrip()


def _bar(done: int, total: int) -> str:
    filled = int(BAR * min(done / max(total, 1), 1))
    return "█" * filled + "·" * (BAR - filled)


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
    names = {signal: "full training" if signal == "truth" else label(signal).lower() for signal in status.failures}
    yield from _failures({names[signal]: counted for signal, counted in status.failures.items()})


def _failures(failures: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    for name, counted in failures.items():
        yield f"Failed, {name}: {sum(counted.values())}"
        for reason, times in list(counted.items())[:MOST_REASONS]:
            yield f"  {times} × {' '.join(reason.split())[:REASON_LENGTH]}"
        if len(counted) > MOST_REASONS:
            yield f"  and {len(counted) - MOST_REASONS} other reasons"


def _state(status: Status | ComparisonStatus) -> str:
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
    bar = _bar(1, 1) if stage.complete else _bar(stage.done, stage.total)
    told = f"{stage.done}/{stage.total}"
    left = "" if stage.complete or not stage.seconds_left else f"{duration(stage.seconds_left)} left"
    return f"  {stage.name:<9} {bar} {told:>11}  {left or 'done' * stage.complete}".rstrip()
