"""How long work shows itself: stages with a bar and the remaining time, or nothing at all."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING, Protocol

from nas_proxy.notebook import in_notebook, mimes
from nas_proxy.untrusted import safe

if TYPE_CHECKING:
    from IPython.display import DisplayHandle
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

# Without a terminal a stage tells where it stands this often, in seconds.
EVERY = 60.0
# A notebook draws a bar anew this often, in seconds: each drawing is a message to the browser.
DRAWN = 0.5
# A stage that is done sooner, in seconds, leaves no line in a notebook: nobody has waited for it.
BRIEF = 1.0
DRAWING, LINE = "nas-proxy-progress", "display:flex;align-items:center;gap:0.6em"


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


def shown(progress: Progress | bool | None) -> Progress:
    """Return where work shows itself: as given, True to show it, False for nothing.

    None is a terminal or a notebook where there is one; elsewhere, in a script whose output goes to a file, nothing.
    """
    if progress is False or (progress is None and not in_notebook() and not sys.stderr.isatty()):
        return SILENT
    if progress is None or progress is True:
        return Notebook() if in_notebook() else Terminal()
    return progress


class Terminal:
    """Bars on stderr, by rich; without a terminal, a line a minute and one at the end of each stage.

    check: called whenever work has got on; it may raise to end the work.
    """

    def __init__(self, check: Callable[[], None] = lambda: None) -> None:
        from rich.console import Console

        self.check = check
        self._console = Console(stderr=True)

    def say(self, text: str) -> None:
        """Print a line, without interpreting markup; only a terminal has a width to wrap it at."""
        self._console.print(safe(text), markup=False, highlight=False, soft_wrap=not self._console.is_terminal)

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Bar]:
        """Show a bar with the time used and the time that is left."""
        if not self._console.is_terminal or self._console.is_dumb_terminal:
            lines = _Lines(self, title, total)
            yield lines
            lines.end()
            return
        with _bars(self._console) as bars:
            yield _RichBar(self, bars, bars.add_task(title, total=total, note=""))


class Notebook:
    """Bars in the output of a cell, drawn in one place: a line a stage, none for those that were done at once."""

    def __init__(self) -> None:
        self._bars: list[_NotebookBar] = []
        self._cell: DisplayHandle | None = None

    def say(self, text: str) -> None:
        """Print a line."""
        print(safe(text))

    @contextlib.contextmanager
    def stage(self, title: str, total: int) -> Iterator[Bar]:
        """Show a bar with the time used and the time that is left; a tick once it is done."""
        bar = _NotebookBar(self, title, total)
        self._bars.append(bar)
        self.draw()
        try:
            yield bar
        finally:
            if bar.end() < BRIEF and bar.done:
                self._bars.remove(bar)
            self.draw()

    def draw(self) -> None:
        """Draw all bars anew."""
        from IPython.display import display

        html = "".join(f"<div style='{LINE}'>{bar.html()}</div>" for bar in self._bars)
        shown = mimes(f"<div class='{DRAWING}'>{html}</div>", "\n".join(bar.text() for bar in self._bars))
        if self._cell is None:
            self._cell = display(shown, raw=True, display_id=True)
        else:
            self._cell.update(shown, raw=True)


class _NotebookBar:
    def __init__(self, notebook: Notebook, title: str, total: int) -> None:
        self._notebook, self._title, self._total = notebook, title, total
        self._done, self._note = 0, ""
        self._start = self._drawn = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._end: float | None = None

    @property
    def done(self) -> bool:
        return self._end is not None and self._done >= self._total

    def to(self, done: int, note: str = "") -> None:
        self._done, self._note, now = done, note, time.monotonic()
        self._first = self._first or (done, now)  # what an earlier command did took no time of this one
        if now - self._drawn >= DRAWN:
            self._drawn = now
            self._notebook.draw()

    def end(self) -> float:
        """Stop the clock and return the seconds that it went."""
        self._end = time.monotonic()
        return self._end - self._start

    def text(self) -> str:
        now = time.monotonic() if self._end is None else self._end
        begun, at = self._first or (0, now)
        rate = (self._done - begun) / (now - at) if now > at else 0.0
        going = rate > 0 and self._end is None and self._done < self._total
        left = f" ({_clock((self._total - self._done) / rate)} left)" if going else ""
        told = f"{self._title}: {self._done}/{self._total}, {_clock(now - self._start)}{left} {self._note}"
        return safe(told.strip())

    def html(self) -> str:
        """Return a tick, or a bar that stands where it is or was left, and the text."""
        bar = f"<progress max='{self._total}' value='{self._done}'></progress>"
        return f"{'<span>✓</span>' if self.done else bar}<span>{escape(self.text())}</span>"


class _Lines:
    def __init__(self, terminal: Terminal, title: str, total: int) -> None:
        self._terminal, self._title, self._total = terminal, title, total
        self._done, self._note = 0, ""
        self._last: tuple[int, str] | None = None
        self._start = self._told = time.monotonic()

    def to(self, done: int, note: str = "") -> None:
        self._terminal.check()
        self._done, self._note = done, note
        if time.monotonic() - self._told >= EVERY:
            self.tell()

    def end(self) -> None:
        """Tell how it ended, where the last line did not."""
        if self._last != (self._done, self._note):
            self.tell()

    def tell(self) -> None:
        self._told = time.monotonic()
        self._last = self._done, self._note
        note = f"; {self._note}" if self._note else ""
        self._terminal.say(f"{self._title}: {self._done}/{self._total} in {_clock(self._told - self._start)}{note}")


class _RichBar:
    def __init__(self, terminal: Terminal, bars: "Bars", task: "TaskID") -> None:
        self._terminal, self._bars, self._task = terminal, bars, task

    def to(self, done: int, note: str = "") -> None:
        self._terminal.check()
        self._bars.update(self._task, completed=done, note=note)


def _bars(console: "Console") -> "Bars":
    """Return columns that fit 80 characters; on a narrower terminal the note gives way and the times stay."""
    from rich import progress
    from rich.table import Column
    from rich.text import Text

    whole = Column(no_wrap=True)

    class Times(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            left = task.time_remaining
            more = "" if task.finished or left is None else f" ({_clock(left)} left)"
            return Text(_clock(task.elapsed or 0) + more)

    class Note(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            # The text is cut, but its column may wrap: rich narrows such columns first.
            return Text(task.fields["note"], no_wrap=True, overflow="ellipsis")

    return progress.Progress(
        progress.TextColumn("{task.description:<23}", table_column=whole),
        progress.BarColumn(bar_width=10, table_column=whole),
        progress.MofNCompleteColumn(table_column=whole),
        Times(table_column=whole),
        Note(),
        console=console,
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
