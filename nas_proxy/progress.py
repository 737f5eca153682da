"""How long work shows itself: stages with a bar and the remaining time, or nothing at all."""

import contextlib
from collections.abc import Iterator
from typing import Protocol


class Bar(Protocol):
    """One stage's bar."""

    def to(self, done: int, note: str = "") -> None:
        """Move to `done`, with a few words on how it goes."""


class Progress(Protocol):
    """Where stages show themselves."""

    def stage(self, title: str, total: int) -> contextlib.AbstractContextManager[Bar]:
        """Open the bar of a stage with `total` things to do."""

    def say(self, text: str) -> None:
        """Tell something once."""


class _Silent:
    def to(self, done: int, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Bar]:
        del title, total
        yield self


SILENT: Progress = _Silent()


class Terminal:
    """Bars on stderr, by rich; without a terminal, a line at the end of each stage."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(stderr=True)

    def say(self, text: str) -> None:
        """Print a line, without interpreting markup."""
        self._console.print(text, markup=False, highlight=False)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Bar]:
        """Show a bar with the time used and the time that is left."""
        from rich import progress

        columns = (
            progress.TextColumn("{task.description:<24}"),
            progress.BarColumn(bar_width=30),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TextColumn("left"),
            progress.TimeRemainingColumn(),
            progress.TextColumn("{task.fields[note]}", markup=False),
        )
        with progress.Progress(*columns, console=self._console) as bars:
            task = bars.add_task(title, total=total, note="")
            yield _RichBar(bars, task)


class _RichBar:
    def __init__(self, bars: "object", task: "object") -> None:
        self._bars, self._task = bars, task

    def to(self, done: int, note: str = "") -> None:
        self._bars.update(self._task, completed=done, note=note)  # type: ignore[attr-defined]
