"""The page of a run or a comparison: its folder in, one HTML file out that needs nothing else.

The file makes no request of any kind (its Content-Security-Policy forbids them), holds no date and no random
identifier, so that the same folder and the same versions give the same bytes. It has the sections for which the folder
holds something. A stage that has not run yet, or a file that cannot be read, leaves a note with the command that mends
it; only a folder without readable settings is refused.
"""

import json
import shlex
from collections.abc import Mapping
from importlib.resources import files as resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import pandas as pd
from markupsafe import Markup

from nas_proxy.files import write_text
from nas_proxy.names import CALIBRATED, PROXY, REPEATABILITY
from nas_proxy.ranking.baseline import ITSELF
from nas_proxy.ranking.ranking import Ranking, Row
from nas_proxy.report import best_figures, figure_style, formats, pareto, signal_figures, table, trial_figures
from nas_proxy.report.importance import importances
from nas_proxy.report.pictures import shown
from nas_proxy.report.rank_figure import ranks_against_truth
from nas_proxy.report.run_contents import FinalNetwork, Run, read_run, seed_columns, usable
from nas_proxy.report.signal_table import breakable, signal_table
from nas_proxy.report.summary import accuracy_of, drawn, parts_of, saved, size_of
from nas_proxy.report.verdict import remarks, truth_source, verdict_of

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_ROWS = 300
"""Rows of the table of architectures, and reasons of failure, that a page shows."""
FORMATS = ("percent", "score", "points", "count", "size", "duration", "decimal", "architectures", "number")


def write_report(folder: Path) -> Path:
    """Write the page of a folder, at once or not at all, and return its path.

    It is `report.html` for a run. For a comparison it is `compare.html`, with `table.csv` and `table.md` beside it.
    """
    run = read_run(folder)
    path = folder / ("compare.html" if run.comparison else "report.html")
    if run.comparison and run.ranking is not None:
        write_text(folder / "table.csv", table.table_csv(run.ranking))
        write_text(folder / "table.md", table.markdown(run.ranking))
    write_text(path, report_html(run))
    return path


def report_html(run: Run) -> str:
    """Return the page as one HTML document."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {name: getattr(formats, name) for name in FORMATS}
    template = environment.from_string(
        resources("nas_proxy.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    ranking = Ranking({}) if run.ranking is None else run.ranking
    return template.render(
        run=run,
        folder=shlex.quote(run.name),
        **_first_screen(run, ranking),
        verdict=verdict_of(run.ranking),
        settings=[(name, _entries(value)) for name, value in _tables(run.config).items()],
        figures={name: json.loads(figure.to_json()) for name, figure in _figures(run).items()},
        figure_config=figure_style.CONFIG,
        # The one text that is not escaped: the library's own script.
        plotly=Markup(figure_style.plotly_script()),
        final=_final(run.final),
        **_of_ranking(ranking),
        **({} if run.comparison else _of_trials(run)),
    )


def _first_screen(run: Run, ranking: Ranking) -> dict[str, Any]:
    """Return which network, how good it is, and what it saved."""
    pick, final = ranking.pick, run.final
    known: dict[str, Any] = {}
    if pick is not None:
        rows = run.trials[run.trials["key"] == pick.key].to_dict("records")
        known = {str(name): value for name, value in rows[0].items()} if rows else {}
    blocks = [] if pick is None else drawn(pick)
    gain = saved(ranking, () if run.comparison else parts_of(run))
    total = sum(seconds for _, seconds in gain.parts) if gain is not None else 0.0
    return {
        "pick": None if pick is None else {"told": pick, "choices": _entries(pick.architecture)},
        "size": [] if pick is None else size_of(pick, known),
        "image": next(iter(blocks), None),
        "blocks": blocks[1:],
        "accuracy_of": accuracy_of(ranking, final),
        "gain": gain,
        "parts": [] if gain is None else [(name, seconds, seconds / total) for name, seconds in gain.parts],
    }


def _of_ranking(ranking: Ranking) -> dict[str, Any]:
    """Return what the page shows of the ranking."""
    proxy, repeated = ranking.row(PROXY), ranking.row(REPEATABILITY).spearman.value
    of_pick = _row_of_pick(ranking)
    notes = table.notes(ranking)
    return {
        "ranking": ranking,
        "proxy": proxy,
        "of_pick": of_pick,
        "regret_words": _regret_words(ranking, of_pick),
        "accuracy": "Published accuracy" if ranking.truth.published else "Test accuracy",
        "truth_source": truth_source(ranking),
        "signal_table": signal_table(ranking) if ranking.signals else None,
        "tables": {group: _table(ranking, group, list(notes)) for group in ("ranks", "random", "cost")},
        "notes": notes,
        "remarks": remarks(ranking),
        "meaning": table.MEANING,
        "chance": _chance(ranking),
        "methods": _methods(ranking),
        "repeated": repeated,
        "half": proxy.spearman_top_half.n or None,
        "environment": _entries(ranking.environment),
    }


def _of_trials(run: Run) -> dict[str, Any]:
    """Return what the page of a run shows of its trials and full trainings."""
    best = _best(run)
    return {
        "seeds": seed_columns(run.truth),
        "pictures": shown(run.image, run.real),
        "best": best.ten.to_dict("records"),
        "timed": bool(best.ten["latency"].notna().any()),
        "architectures": _architectures(run),
        "trained": run.truth["key"].nunique(),
        "importances": importances(run.trials),
        "pareto": pareto.section(run, MOST_ROWS),
        "failures": _failures(run),
        "spread": _spread(run.trials),
        "diverged": int((run.trials["diverged"] & usable(run.trials)).sum()),
    }


def _spread(trials: pd.DataFrame) -> float | None:
    """Return the mean standard deviation of the accuracy over the seeds of a candidate; None for one seed."""
    if "score_std" not in trials:
        return None
    mean = float(pd.to_numeric(trials["score_std"], errors="coerce").mean())
    return mean if formats.known(mean) else None


def _figures(run: Run) -> dict[str, "Figure"]:
    """Return the figures that the folder has data for, by the id of their place in the page."""
    found: dict[str, Figure] = {}
    ranking = run.ranking
    if len(run.truth) and len(run.trials):
        found["figure-ranks"] = ranks_against_truth(run.trials, run.truth, run.by)
        published = ranking is not None and ranking.truth.published
        found["figure-score-against-truth"] = trial_figures.score_against_truth(
            run.trials,
            run.truth,
            None if ranking is None or ranking.pick is None else ranking.pick.key,
            "published accuracy" if published else "test accuracy",
            run.by,
        )
    if ranking is not None and ranking.signals:
        found["figure-spearman-all"] = signal_figures.spearman_dots(ranking, "spearman")
        if any(row.spearman_top_half.value is not None for row in ranking.signals.values()):
            found["figure-spearman-top-half"] = signal_figures.spearman_dots(ranking, "spearman_top_half")
        found["figure-cost-seconds"] = signal_figures.correlation_by_cost(ranking, "seconds")
        found["figure-cost-passes"] = signal_figures.correlation_by_cost(ranking, "passes")
    if len(rows := pareto.of_run(run)):
        found["figure-pareto"] = pareto.pareto_figure(
            rows, pareto.objectives_of(run.config), pareto.accuracy_in_words(run)
        )
    pick = None if ranking is None or ranking.pick is None else ranking.pick.key
    best = _best(run)
    if not run.comparison and best.ten["params"].notna().any():
        words = "published accuracy" if ranking is not None and ranking.truth.published else "test accuracy"
        found["figure-best"] = best_figures.accuracy_by_size(best, words, run.by)
    for of in ("proxy", "truth"):
        if ranking is not None and any(getattr(one, of) for one in ranking.curves):
            found[f"figure-curves-{of}"] = best_figures.learning_curves(ranking.curves, of, pick)
    if len(run.trials):
        found["figure-history"] = trial_figures.history(run.trials, run.by)
    return found


def _table(ranking: Ranking, group: str, notes: list[str]) -> dict[str, Any]:
    """Return the columns of a group, and the rows in which any of them has a value."""
    columns = table.columns(ranking, group)
    rows = [
        {
            "name": name,
            "label": _breakable(shown),
            "cells": [_cell(column, ranking.row(name), notes) for column in columns],
        }
        for name, shown in table.names(ranking)
    ]
    titles = [(table.heading(column, ranking), column.words) for column in columns]
    known = [row for row in rows if any(value != formats.UNDEFINED for value, *_ in row["cells"])]
    return {"titles": titles, "rows": known}


def _cell(column: table.Column, row: Row, notes: list[str]) -> tuple[str, str, list[int], bool]:
    """Return a value, what stands smaller under it, the numbers of its notes, and whether it holds words."""
    numbers = [notes.index(note) + 1 for note in table.notes_on(row, column) if note in notes]
    text, small = column.text(row), ""
    if column.measure == "minus_random" and row.minus_random.reason == ITSELF:
        small = "the baseline"
    for start in (" [", " ("):
        value, there, rest = text.partition(start)
        if there:
            return value, start.strip() + rest, numbers, column.words
    return text, small, numbers, column.words


def _breakable(name: str) -> Markup:
    """Return a name that may be broken where it has a mark; what stands under another name is small."""
    text = breakable(name.strip())
    return Markup(f"<small>{text}</small>" if name.startswith(" ") else text)


def _chance(ranking: Ranking) -> str:
    """Return the precision at 5 of chance, which is the same for all signals; "" where it is not known."""
    found = {row.precision_at_5_chance for row in ranking.signals.values()} - {None}
    return formats.decimal(found.pop()) if len(found) == 1 else ""


def _methods(ranking: Ranking) -> list[str]:
    """Return the methods of the intervals, each once."""
    estimates = [column.estimate(row) for row in ranking.signals.values() for column in table.COLUMNS]
    return list(dict.fromkeys(one.method for one in estimates if one is not None and one.method))


def _final(told: FinalNetwork | None) -> dict[str, Any] | None:
    """Return what the section on the final network shows, None where there is none."""
    if told is None:
        return None
    return {"told": told, "choices": _entries(told.architecture), "recipe": _entries(told.recipe)}


def _row_of_pick(ranking: Ranking) -> Row | None:
    """Return the row that has the network of the first screen for its pick: earlier versions picked by the proxy."""
    if ranking.pick is None:
        return None
    rows = [ranking.row(name) for name in (CALIBRATED, PROXY) if name in ranking.signals]
    return next((row for row in rows if row.pick in (None, ranking.pick.key)), None)


def _regret_words(ranking: Ranking, row: Row | None) -> str:
    regret = None if row is None else row.regret
    if regret is None:
        return ""
    if regret > 0:
        known = "of this run with a published accuracy" if ranking.truth.published else "trained in full"
        return f"below the best of all architectures {known}"
    return "no loss against the architecture that the other seed calls best"


def _architectures(run: Run) -> list[dict[str, Any]]:
    """Return a row for each architecture trained in full, the best first, with every score it has."""
    rows = run.truth.drop_duplicates("key").sort_values("accuracy", ascending=False, kind="stable").head(MOST_ROWS)
    scored = run.trials[usable(run.trials)].drop_duplicates("key")[["key", "score"]]
    others = run.scores.drop_duplicates("key")[["key", "random", "early_stop"]]
    joined = rows.merge(scored, on="key", how="left").merge(others, on="key", how="left")
    return [{str(name): value for name, value in row.items()} for row in joined.to_dict("records")]


def _best(run: Run) -> best_figures.Best:
    """Return the ten best architectures, as the run ranks them."""
    ranking = Ranking({}) if run.ranking is None else run.ranking
    order = [one.key for one in ranking.curves]
    return best_figures.best_of(run.trials, run.truth, order, None if ranking.pick is None else ranking.pick.key)


def _failures(run: Run) -> list[tuple[str, int, str]]:
    """Return (reason, how many trials, one of the keys), the most frequent first."""
    failed = run.trials[~usable(run.trials) & (run.trials["state"] != "pruned")]
    if failed.empty:
        return []
    groups = failed.assign(reason=failed["reason"].replace("", "no score")).groupby("reason", sort=True)["key"]
    counted = [(str(reason), len(keys), str(keys.iloc[0])) for reason, keys in groups]
    return sorted(counted, key=lambda group: -group[1])


def _tables(config: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the tables of the configuration; entries outside any table come first, under no name."""
    loose = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    tables = {name: value for name, value in config.items() if isinstance(value, Mapping)}
    return ({"": loose} if loose else {}) | tables


def _entries(table: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _plain(value)) for name, value in table.items()]


def _plain(value: object) -> str:
    """Return a value as a configuration file writes it, text without quotation marks."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
