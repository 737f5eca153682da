"""How a run or a comparison stands, in words: lines for a terminal, at most 100 columns wide but for keys."""

from collections.abc import Iterator

from nas_proxy.dashboard.status import Stage, Status
from nas_proxy.names import label
from nas_proxy.report.formats import decimal, duration, one_line, percent
from nas_proxy.untrusted import safe

BAR = 20
MOST_NODES = 8
MOST_REASONS, REASON_LENGTH = 5, 80


def status_text(status: Status) -> str:
    """Return the lines that `nas-proxy status` prints."""
    return safe("\n".join(_lines(status)))


def _lines(status: Status) -> Iterator[str]:
    yield f"{status.folder}: {_state(status)}"
    yield from _stages(status)
    if (command := status.command) is not None:
        yield f"Command: process {command.pid} on {command.host}"
        yield f"Nodes at work: {len(command.nodes)}"
        for node in command.nodes[:MOST_NODES]:
            yield f"  {node.host}, {node.workers}: {node.done} job{'' if node.done == 1 else 's'} done"
        if len(command.nodes) > MOST_NODES:
            yield f"  and {len(command.nodes) - MOST_NODES} others"
    if status.best is not None:
        full = status.best["test_accuracy"]
        trained = "" if full is None else f", {percent(full)} test accuracy after full training"
        losses = f" (sum of losses {decimal(status.best['loss_sum'])})" if "loss_sum" in status.best else ""
        score = status.best["score"]
        proxy = "" if score is None else f", proxy score {percent(score)}{losses}"
        head = "Pick" if "validation" in status.best else "Best so far"
        yield f"{head}: {status.best['key']}{proxy}{trained}"
    if status.pruned:
        yield f"Pruned: {status.pruned}; saved about {duration(status.seconds_saved)}"
    for name, counted in status.failures.items():
        yield f"Failed, {label(name).lower()}: {sum(counted.values())}"
        for reason, times in list(counted.items())[:MOST_REASONS]:
            yield f"  {times} × {one_line(reason)[:REASON_LENGTH]}"
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


def _stages(status: Status) -> Iterator[str]:
    compared = any(stage.sets is not None for stage in status.stages)
    names = [label(stage.name) if compared else stage.name for stage in status.stages]
    width = max([8, *map(len, names)])
    if compared:
        yield f"  {'':<{width}}  sets"
    for name, stage in zip(names, status.stages, strict=True):
        sets = "" if stage.sets is None else f"{stage.sets}/{stage.sets_total}"
        column = f"{sets:<6}" if compared else ""
        yield f"  {name:<{width}}  {column}{_stage(stage)}".rstrip()


def _stage(stage: Stage) -> str:
    filled = int(BAR * (1 if stage.complete else min(stage.done / max(stage.total, 1), 1)))
    told = f"{stage.done}/{stage.total}"
    left = "" if stage.complete or not stage.seconds_left else f"{duration(stage.seconds_left)} left"
    return f"{'█' * filled}{'·' * (BAR - filled)} {told:>11}  {left or 'done' * stage.complete}"
