"""The table of a ranking: a `Ranking` in; its columns, the notes on them, and the table as Markdown and CSV out."""

import csv
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from nas_proxy.names import BY, label
from nas_proxy.ranking.baseline import ITSELF
from nas_proxy.ranking.intervals import Interval
from nas_proxy.ranking.ranking import Ranking, Row
from nas_proxy.report.formats import UNDEFINED, count, decimal, duration, interval, one_line, points, size
from nas_proxy.report.verdict import answer, remarks

MEANING = (
    "In brackets: 95 % intervals. Beats random? Yes or no where the interval of the difference leaves out zero; else "
    "about how many more architectures would tell, an estimate."
)


@dataclass(frozen=True)
class Column:
    """A column of the table.

    group: what it tells: how a signal "ranks", how it compares with "random" images, or what it "cost". measure: the
    figure whose reasons and notes belong to it. main: whether it stands on the terminal for a run, too. page_only:
    whether it stands on no terminal.
    """

    title: str
    group: str
    measure: str
    text: Callable[[Row], str]
    main: bool = False
    page_only: bool = False

    @property
    def words(self) -> bool:
        """Whether it holds words, which may take several lines."""
        return self.title.endswith("?")

    def values(self, ranking: Ranking) -> list[str]:
        """Return what each row shows."""
        return [self.text(row) for _, row in ranking.rows()]

    def estimate(self, row: Row) -> Interval | None:
        """Return the interval that it shows; None for a column of something else."""
        found = getattr(row, self.measure, None)
        return found if isinstance(found, Interval) else None


def _interval(title: str, group: str, measure: str, **where: bool) -> Column:
    sign = measure.startswith("minus")
    return Column(title, group, measure, lambda row: interval(getattr(row, measure), sign=sign), **where)


COLUMNS = (
    _interval("Spearman", "ranks", "spearman", main=True),
    _interval("Better half", "ranks", "spearman_top_half", main=True),
    _interval("Minus random", "random", "minus_random", main=True),
    _interval("Top 20 %", "ranks", "spearman_top_20"),
    _interval("Kendall", "ranks", "kendall", page_only=True),
    _interval("Given FLOPs", "ranks", "partial_spearman"),
    _interval("Minus equal cost", "random", "minus_random_total"),
    Column("Beats random?", "random", "beats_random", lambda row: answer(row, brief=True)),
    Column("Beats equal cost?", "random", "beats_random_total", lambda row: answer(row, total=True, brief=True)),
    Column("P@5", "ranks", "precision_at_5", lambda row: decimal(row.precision_at_5), page_only=True),
    Column("P@10", "ranks", "precision_at_10", lambda row: decimal(row.precision_at_10)),
    Column("Regret", "ranks", "regret", lambda row: points(row.regret), main=True),
    Column("Time", "cost", "seconds", lambda row: duration(row.cost.seconds), main=True),
    Column("Passes", "cost", "image_passes", lambda row: count(row.cost.passes), main=True),
    Column("Images", "cost", "stored_images", lambda row: count(row.cost.stored_images)),
    Column("Stored", "cost", "stored_bytes", lambda row: size(row.cost.stored_bytes)),
    Column("Pays from", "cost", "pays_from", lambda row: count(row.pays_from), page_only=True),
)


def columns(ranking: Ranking, group: str | None = None) -> list[Column]:
    """Return the columns, of one group or of all, in which any row has a value."""
    found = [column for column in COLUMNS if group in (None, column.group)]
    return [column for column in found if any(text != UNDEFINED for text in column.values(ranking))]


def heading(column: Column, ranking: Ranking) -> str:
    """Return a column's title, with the number of architectures that it is of where that is not the table's n."""
    estimates = [column.estimate(row) for row in ranking.signals.values()]
    numbers = {estimate.n for estimate in estimates if estimate is not None} - {0}
    number = numbers.pop() if len(numbers) == 1 else ranking.n
    return column.title if number == ranking.n else f"{column.title} ({number})"


def names(ranking: Ranking) -> list[tuple[str, str]]:
    """Return each row's name and what it is called under the row that it shares its trainings with."""
    found = []
    for name, _ in ranking.rows():
        first, _, score = name.partition(":")
        under = first in ranking.signals and score in BY
        found.append((name, f"  {BY[score]}" if under else label(name)))
    return found


def notes_on(row: Row, column: Column) -> list[str]:
    """Return why a figure of a row, or its interval, is undefined, and what else is noted of it."""
    estimate = column.estimate(row)
    told = (
        estimate.reason if estimate is not None else None,
        row.reasons.get(column.measure),
        row.notes.get(column.measure),
    )
    return [one_line(note) for note in told if note]


def notes(ranking: Ranking, *, undefined_only: bool = False) -> dict[str, list[str]]:
    """Return every note on the table and where it applies, for example {"equal scores": ["Kendall, Regret of Proxy"]}.

    That the baseline has no difference to itself, and FLOPs no order of their own, needs no note; from when on a set
    pays is among the remarks.
    """
    found: dict[str, list[str]] = {}
    for name, row in ranking.signals.items():
        of_note: dict[str, list[str]] = {}
        for column in COLUMNS:
            if column.measure == "pays_from" or (name, column.measure) == ("flops", "partial_spearman"):
                continue
            estimate = column.estimate(row)
            defined = estimate.bounded if estimate is not None else column.text(row) != UNDEFINED
            for note in notes_on(row, column) if not (undefined_only and defined) else ():
                of_note.setdefault(note, []).append(column.title)
        for note, where in of_note.items():
            if note != ITSELF:
                found.setdefault(note, []).append(f"{', '.join(where)} of {label(name)}")
    return found


def markdown(ranking: Ranking) -> str:
    """Return the whole table and its remarks as Markdown."""
    shown = columns(ranking)
    lines = [_line(["Signal", *(heading(column, ranking) for column in shown)]), _line(["---"] * (len(shown) + 1))]
    lines += [_line([label(name), *(column.text(row) for column in shown)]) for name, row in ranking.signals.items()]
    return "\n".join([*lines, "", *(f"- {line}" for line in [*remarks(ranking), MEANING])]) + "\n"


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(one_line(text).replace("|", "\\|") for text in cells) + " |"


def table_csv(ranking: Ranking) -> str:
    """Return a row a signal with every figure in a column of its own; what is undefined is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, ["signal", *Row().flat()], lineterminator="\n")
    writer.writeheader()
    writer.writerows({"signal": name, **row.flat()} for name, row in ranking.signals.items())
    return text.getvalue()
