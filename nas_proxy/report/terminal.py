"""A ranking for the terminal: a `Ranking` in, something that rich prints out, of a run and of a comparison alike.

Every text is passed to rich as `Text`, so that a key such as `[bold]` is printed and not obeyed. The table is broken
into as many as the width of the terminal asks for. For a run it has the main columns; its page has them all.
"""

from collections.abc import Iterator

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from nas_proxy.ranking.ranking import Ranking
from nas_proxy.report.formats import architectures, duration
from nas_proxy.report.summary import Accuracy, accuracy_of, saved, size_of
from nas_proxy.report.table import MEANING, Column, columns, heading, names, notes
from nas_proxy.report.verdict import remarks, verdict_of

# Characters of the column of signals, and between columns.
WIDEST, GAP = 26, 1
MOST_REASONS = 2
"""Reasons why something is undefined that are told; the page has them all."""


def ranking_table(ranking: Ranking) -> Group:
    """Return the table of signals, what it rests on, what is undefined; last the answers of the page's first screen."""
    lines: list[RenderableType] = [_Tables(ranking)] if ranking.signals else []
    dim = [*remarks(ranking), *_undefined(ranking), *([] if ranking.searched else [MEANING])]
    lines += [Text(line, style="dim") for line in dim]
    lines += [Text(line) for line in (_front(ranking), _pruned(ranking)) if line]
    return Group(*lines, Text(""), _answers(ranking))


def _answers(ranking: Ranking) -> Table:
    """Return which network, how good it is, what was saved, and whether all that can be trusted: the decision."""
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True, style="dim")
    table.add_column()
    pick, accuracy, gain = ranking.pick, accuracy_of(ranking), saved(ranking)
    if pick is not None:
        size = ", ".join(f"{text} {name}" for name, text in size_of(pick))
        table.add_row("Network", Text(pick.key + (f"; {size}" if size else "")))
    if accuracy is not None:
        table.add_row("Accuracy", Text(f"{accuracy.text}, {accuracy.words}" if known(accuracy) else accuracy.words))
    if gain is not None:
        table.add_row("Saved", Text(f"{gain.head}: {gain.words}"))
    told = verdict_of(ranking)
    table.add_row("Decision", Text.assemble((f"{told.head}:", "bold"), f" {told.because}"))
    shown = [text for name, text in told.evidence if name != "Saving" or gain is None]
    if shown:
        table.add_row("", Text("; ".join(shown), style="dim"))
    return table


def known(accuracy: Accuracy) -> bool:
    """Return whether there is an accuracy."""
    return accuracy.estimate.value is not None


def _undefined(ranking: Ranking) -> list[str]:
    """Return in one line what is undefined, and why."""
    told = [f"{_several(where)} ({note})" for note, where in notes(ranking, undefined_only=True).items()]
    others = len(told) - MOST_REASONS
    more = [f"and for {others} other reason{'' if others == 1 else 's'}"] if others > 0 else []
    return [f"Undefined: {'; '.join([*told[:MOST_REASONS], *more])}"] if told else []


class _Tables:
    """The table, broken where it is wider than what it is printed on."""

    def __init__(self, ranking: Ranking) -> None:
        self._ranking = ranking
        self._names = names(ranking)
        wanted = [column for column in columns(ranking) if not column.page_only]
        self._columns = [column for column in wanted if column.main or not ranking.searched]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for number, part in enumerate(self._broken(options.max_width)):
            if number:
                yield Text("")
            yield self._table(part)

    def _broken(self, width: int) -> Iterator[list[Column]]:
        left = width - min(WIDEST, max(len(shown) for _, shown in self._names))
        part: list[Column] = []
        taken = 0
        for column in self._columns:
            cells = [heading(column, self._ranking), *_aligned(column.values(self._ranking))]
            wide = max(map(len, cells)) + GAP
            if part and taken + wide > left:
                yield part
                part, taken = [], 0
            part, taken = [*part, column], taken + wide
        yield part

    def _table(self, part: list[Column]) -> Table:
        table = Table(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
        table.add_column("Signal", max_width=WIDEST, overflow="fold")
        cells = [_aligned(column.values(self._ranking)) for column in part]
        for column, values in zip(part, cells, strict=True):
            numbers = not column.words and not any("[" in text for text in values)
            table.add_column(heading(column, self._ranking), justify="right" if numbers else "left", no_wrap=True)
        for (name, shown), *row in zip(self._names, *cells, strict=True):
            # The line that every signal is measured against is set apart from the signals.
            style = {"proxy": "bold", "repeatability": "dim"}.get(name)
            table.add_row(Text(shown), *map(Text, row), style=style)
        return table


def _several(places: list[str]) -> str:
    """Return the first of several places, and how many others there are."""
    others = len(places) - 1
    return places[0] + (f" and {others} other{'' if others == 1 else 's'}" if others > 0 else "")


def _aligned(intervals: list[str]) -> list[str]:
    """Pad the values before the brackets to one width, so that the points stand under each other."""
    if not any("[" in text for text in intervals):
        return intervals
    width = max(len(text.partition(" ")[0]) for text in intervals)
    return [f"{value:>{width}}{space}{rest}" for value, space, rest in (text.partition(" ") for text in intervals)]


def _pruned(ranking: Ranking) -> str:
    pruned = ranking.pruning
    return "" if pruned is None else f"Pruned: {pruned.pruned}; saved about {duration(pruned.seconds_saved)}"


def _front(ranking: Ranking) -> str:
    if not ranking.pareto:
        return ""
    objectives = [name for name in ranking.pareto[0] if name not in ("key", "truth_mean")]
    counted = f"Pareto front ({', '.join(objectives)}): {architectures(len(ranking.pareto))}"
    return f"{counted}; nas-proxy final RUN --front N trains the N-th"
