"""The table as text: the object of `ranking.json` of a comparison in; tables for the terminal, Markdown and CSV out.

On the terminal it takes four tables, none wider than 100 columns; as Markdown it is one.
"""

import csv
import io
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from nas_proxy.report.verdict import (
    answer,
    count,
    decimal,
    duration,
    interval,
    part,
    points,
    size,
    truth_source,
)

REPEATABILITY = "repeatability"
# What table.csv has: intervals, other figures of a row, and those of its cost.
INTERVALS = (
    *("spearman", "spearman_top_half", "spearman_top_20", "kendall", "partial_spearman"),
    *("minus_random", "minus_random_total"),
)
SINGLE = (
    *("precision_at_5", "precision_at_10", "regret", "pick", "control", "beats_random", "more_architectures"),
    *("beats_random_total", "total_more_architectures", "pays_from"),
)
COST = (
    *("seconds", "training_seconds", "making_seconds", "passes", "training_passes", "making_passes"),
    *("stored_images", "stored_bytes"),
)


def named(row: str) -> str:
    """Return a row's name as a reader sees it."""
    return {REPEATABILITY: "full training", "combined": "mean rank"}.get(row, row)


def heading(ranking: Mapping[str, Any], measure: str, text: str) -> str:
    """Return a column's title with the number of architectures that it is of, where all rows have the same."""
    numbers = {part(values, measure).get("n") for values in part(ranking, "signals").values()}
    number = numbers.pop() if len(numbers) == 1 else None
    return text if number is None else f"{text} ({number})"


def columns(ranking: Mapping[str, Any], *, brief: bool = False) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Return the columns of the whole table: a title, and what a row shows there; brief: in few words."""

    def of(measure: str, *, sign: bool = False) -> Callable[[Mapping[str, Any]], str]:
        return lambda values: interval(values.get(measure), sign=sign)

    return {
        heading(ranking, "spearman", "Spearman"): of("spearman"),
        heading(ranking, "spearman_top_half", "Top half"): of("spearman_top_half"),
        heading(ranking, "spearman_top_20", "Top 20 %"): of("spearman_top_20"),
        "Kendall": of("kendall"),
        "Given FLOPs": of("partial_spearman"),
        "Precision at 10": lambda values: decimal(values.get("precision_at_10")),
        "Regret": lambda values: points(values.get("regret")),
        "Minus random": of("minus_random", sign=True),
        "Beats random?": lambda values: answer(values, brief=brief),
        "Minus random_total": of("minus_random_total", sign=True),
        "Beats random_total?": lambda values: answer(values, total=True, brief=brief),
        "Time": lambda values: duration(part(values, "cost").get("seconds")),
        "Image passes": lambda values: count(part(values, "cost").get("passes")),
        "Stored images": lambda values: count(part(values, "cost").get("stored_images")),
        "Stored": lambda values: size(part(values, "cost").get("stored_bytes")),
        "Pays from": lambda values: count(values.get("pays_from")),
    }


# Which columns stand together, by the beginning of their titles: on the page, and on the terminal.
GROUPS = {
    "ranks": ("Spearman", "Top half", "Top 20 %", "Kendall", "Given FLOPs", "Precision at 10", "Regret"),
    "random": ("Minus random", "Beats random?", "Minus random_total", "Beats random_total?"),
    "cost": ("Time", "Image passes", "Stored images", "Stored", "Pays from"),
}
TOGETHER = (
    ("Spearman", "Top half", "Top 20 %"),
    ("Given FLOPs", "Minus random", "Minus random_total"),
    ("Beats random?", "Beats random_total?"),
    ("Precision at 10", "Regret", "Time", "Image passes", "Stored images", "Stored", "Pays from"),
)
SHORT = {
    "Precision at 10": "P@10",
    "Image passes": "Passes",
    "Stored images": "Images",
    "Minus random_total": "Minus total",
}


def comparison_tables(ranking: Mapping[str, Any]) -> Group:
    """Return the tables and the remarks, for rich to print."""
    lines: list[RenderableType] = []
    for titles in TOGETHER:
        lines += [_terminal_table(ranking, titles), Text("")]
    lines += [Text(line, style="dim") for line in remarks(ranking)]
    return Group(*lines)


def remarks(ranking: Mapping[str, Any]) -> list[str]:
    """Return what the figures are of and rest on."""
    told = [f"n = {ranking.get('n', '?')}: {ranking.get('subset', '')}"]
    told += [f"Truth: {truth_source(ranking)}"] if truth_source(ranking) else []
    told += [f"Note: {text}" for text in ranking.get("remarks") or []]
    told += [f"{name}: {part(ranking, 'equal_cost', name).get('what')}" for name in part(ranking, "equal_cost")]
    for name, values in part(ranking, "signals").items():
        if values.get("spearman_note"):
            told.append(f"{named(name)}: {values['spearman_note']}")
        if "pays_from" in values and not name.endswith(":loss_sum"):
            note = values.get("pays_from_reason") or values.get("pays_from_note")
            several = "" if values["pays_from"] == 1 else "s"
            from_on = f"making it pays from {count(values['pays_from'])} candidate{several} on, against full training"
            head = from_on if values["pays_from"] is not None else "making it does not pay against full training"
            told.append(f"{named(name)}: {head}" + (f" ({note})" if note else ""))
    failed = {name: number for name, number in part(ranking, "failures").items() if number}
    told += ["Failed: " + ", ".join(f"{name} {number}" for name, number in failed.items())] if failed else []
    settings = part(ranking, "settings")
    told.append(
        f"{count(settings.get('passes'))} image passes a training; {settings.get('draws')} draws of each set; "
        f"{settings.get('candidates')} candidates share the making of a set. Time: seconds of one core, or of the GPU."
    )
    told.append(
        "In brackets: 95 % intervals. Beats random? Yes or no where the interval of the difference leaves out zero; "
        "else about how many more architectures would tell, an estimate."
    )
    return told


def markdown(ranking: Mapping[str, Any]) -> str:
    """Return the whole table and its remarks as Markdown."""
    shown = columns(ranking)
    lines = ["| Signal | " + " | ".join(shown) + " |", "| --- |" + " --- |" * len(shown)]
    for name, values in part(ranking, "signals").items():
        cells = [named(name), *(cell(values) for cell in shown.values())]
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join([*lines, "", *(f"- {line}" for line in remarks(ranking))]) + "\n"


def table_csv(ranking: Mapping[str, Any]) -> str:
    """Return a row a signal with every figure in a column of its own; what is undefined is empty."""
    text = io.StringIO()
    bounds = [(measure, end) for measure in INTERVALS for end in ("value", "low", "high", "n")]
    writer = csv.writer(text, lineterminator="\n")
    headings = [measure if end == "value" else f"{measure}_{end}" for measure, end in bounds]
    writer.writerow(["signal", *headings, *SINGLE, *COST])
    for name, values in part(ranking, "signals").items():
        row = [part(values, measure).get(end) for measure, end in bounds]
        row += [values.get(single) for single in SINGLE] + [part(values, "cost").get(cost) for cost in COST]
        writer.writerow([name, *row])
    return text.getvalue()


def chosen_columns(shown: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Return the titles that begin with the wanted ones; a title may tell its number of architectures, too."""
    known = list(shown)
    return [title for name in wanted for title in known if title == name or title.startswith(f"{name} (")]


def _terminal_table(ranking: Mapping[str, Any], titles: tuple[str, ...]) -> Table:
    signals = {name: part(ranking, "signals", name) for name in part(ranking, "signals")}
    shown = columns(ranking, brief=True)
    chosen = chosen_columns(shown, titles)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("Signal", no_wrap=True)
    words = ("Beats random?", "Beats random_total?")
    numbers = {
        title: title not in words and all("[" not in shown[title](values) for values in signals.values())
        for title in chosen
    }
    for title in chosen:
        table.add_column(SHORT.get(title, title), justify="right" if numbers[title] else "left", no_wrap=True)
    cells = {title: _aligned([shown[title](values) for values in signals.values()]) for title in chosen}
    for place, name in enumerate(signals):
        style = "dim" if name == REPEATABILITY else None
        table.add_row(Text(named(name)), *(Text(cells[title][place]) for title in chosen), style=style)
    return table


def _aligned(intervals: list[str]) -> list[str]:
    if all("[" not in text for text in intervals):
        return intervals
    width = max(len(text.partition(" ")[0]) for text in intervals)
    return [f"{value:>{width}}{space}{rest}" for value, space, rest in (text.partition(" ") for text in intervals)]
