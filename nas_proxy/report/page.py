"""The report of a run: its folder in, one HTML file out that needs nothing else.

The file makes no request of any kind (its Content-Security-Policy forbids them), holds no date and no random
identifier, so that the same folder and the same versions give the same bytes. A stage that has not run yet,
or a file that cannot be read, leaves a note with the command that mends it; only a folder without a readable
`run.toml` is refused.
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
from nas_proxy.ranking.baseline import ITSELF
from nas_proxy.report import figure_style, pareto, signal_figures, trial_figures, verdict
from nas_proxy.report.importance import importances
from nas_proxy.report.pictures import shown
from nas_proxy.report.rank_figure import ranks_against_truth
from nas_proxy.report.run_contents import Run, read_run, seed_columns, usable
from nas_proxy.report.verdict import MEASURES, UNDEFINED, decimal, finite, interval, label, part

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

COSTS = ("seconds", "image_passes", "stored_bytes")
MOST_ROWS = 300
"""Rows of the table of architectures, and reasons of failure, that a page shows."""


def write_report(run: Path) -> Path:
    """Write `report.html` into the run folder, at once or not at all, and return its path."""
    path = run / "report.html"
    write_text(path, report_html(read_run(run)))
    return path


def report_html(run: Run) -> str:
    """Return the report as one HTML document."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {
        name: getattr(verdict, name)
        for name in ("percent", "score", "points", "count", "size", "duration", "decimal", "speedup", "architectures")
    }
    template = environment.from_string(
        resources("nas_proxy.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    )
    head, evidence = verdict.verdict_parts(run.ranking)
    return template.render(
        run=run,
        folder=shlex.quote(run.name),
        head=head,
        evidence=evidence,
        pick=_pick(run.ranking),
        final=_final(run.final),
        proxy=part(run.ranking, "signals", "proxy"),
        regret_words=_regret_words(run.ranking),
        accuracy=_accuracy(run.ranking),
        truth_source=verdict.truth_source(run.ranking),
        seeds=seed_columns(run.truth),
        cost=part(run.ranking, "cost"),
        signals=_signal_rows(run.ranking),
        notes=_notes(run.ranking),
        chance=_chance(run.ranking),
        methods=_methods(run.ranking),
        repeated=finite(part(run.ranking, "signals", "repeatability", "spearman").get("value")),
        half=finite(part(run.ranking, "signals", "proxy", "spearman_top_half").get("n")),
        pictures=shown(run.image, run.real),
        architectures=_architectures(run),
        trained=run.truth["key"].nunique(),
        importances=importances(run.trials),
        pareto=pareto.section(run.trials, run.truth, run.config, MOST_ROWS),
        failures=_failures(run),
        pruning=part(run.ranking, "pruning"),
        spread=_spread(run.trials),
        failures_by_signal=part(run.ranking, "failures"),
        diverged=int((run.trials["diverged"] & usable(run.trials)).sum()),
        environment=[(name, _plain(value)) for name, value in part(run.ranking, "environment").items()],
        config=[(name, _entries(value)) for name, value in _tables(run.config).items()],
        figures={name: json.loads(figure.to_json()) for name, figure in _figures(run).items()},
        figure_config=figure_style.CONFIG,
        # The one text that is not escaped: the library's own script.
        plotly=Markup(figure_style.plotly_script()),
    )


def _spread(trials: pd.DataFrame) -> float | None:
    """Return the mean standard deviation of the accuracy over the seeds of a candidate; None for one seed."""
    if "score_std" not in trials:
        return None
    return finite(pd.to_numeric(trials["score_std"], errors="coerce").mean())


def _figures(run: Run) -> dict[str, "Figure"]:
    """Return the figures that the folder has data for, by the id of their place in the page."""
    found: dict[str, Figure] = {}
    if len(run.truth) and len(run.trials):
        key = part(run.ranking, "pick").get("key")
        found["figure-ranks"] = ranks_against_truth(run.trials, run.truth, run.by)
        accuracy = _accuracy(run.ranking).lower()
        found["figure-score-against-truth"] = trial_figures.score_against_truth(
            run.trials, run.truth, key, accuracy, run.by
        )
    if part(run.ranking, "signals"):
        found["figure-spearman-all"] = signal_figures.spearman_bars(run.ranking, "spearman")
        found["figure-spearman-top-half"] = signal_figures.spearman_bars(run.ranking, "spearman_top_half")
        found["figure-cost-seconds"] = signal_figures.spearman_by_cost(run.ranking, "seconds")
        found["figure-cost-image-passes"] = signal_figures.spearman_by_cost(run.ranking, "image_passes")
    objectives = pareto.objectives_of(run.config)
    if len(objectives) > 1 and len(rows := pareto.comparable(run.trials, objectives)):
        found["figure-pareto"] = pareto.pareto_figure(rows, objectives)
    if len(run.trials):
        found["figure-history"] = trial_figures.history(run.trials, run.by)
    return found


def _signal_rows(ranking: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each signal: for each measure a value, a smaller line and the numbers of notes; its costs."""
    numbers = {note: number for number, note in enumerate(_notes(ranking), start=1)}
    rows = []
    for name in part(ranking, "signals"):
        values = part(ranking, "signals", name)
        cells = {
            measure: (
                *_cell(measure, values),
                [numbers[note] for note in verdict.notes_on(values, measure) if note in numbers],
            )
            for measure in MEASURES
        }
        beats, _, why = verdict.answer(values, brief=True).partition(" (")
        rows.append(
            {
                "name": name,
                "label": label(name),
                "cells": [cell for measure, cell in cells.items() if measure not in COSTS],
                "costs": [cells[measure] for measure in COSTS],
                "beats": (beats, f"({why}" if why else ""),
            }
        )
    return rows


def _notes(ranking: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the notes of the table; that the control has no difference to itself stands in its place."""
    return {note: where for note, where in verdict.notes(ranking).items() if note != ITSELF}


def _chance(ranking: Mapping[str, Any]) -> str:
    """Return the precision at 5 of chance, which is the same for all signals."""
    signals = part(ranking, "signals")
    found = {decimal(part(signals, name).get("precision_at_5_chance")) for name in signals} - {UNDEFINED}
    return found.pop() if len(found) == 1 else UNDEFINED


def _cell(measure: str, values: Mapping[str, Any]) -> tuple[str, str]:
    value = values.get(measure)
    formats = {"seconds": verdict.duration, "image_passes": verdict.count, "stored_bytes": verdict.size}
    formats |= {"regret": verdict.points}
    if measure in formats:
        return formats[measure](value), ""
    if measure == "precision_at_5":
        return decimal(value), ""
    if measure == "minus_random" and part(value).get("reason") == ITSELF:
        return UNDEFINED, "the control"
    estimate, _, bounds = interval(value, sign=measure == "minus_random").partition(" ")
    return estimate, bounds


def _methods(ranking: Mapping[str, Any]) -> list[str]:
    """Return the methods of the intervals, each once."""
    signals = [part(ranking, "signals", name) for name in part(ranking, "signals")]
    found = [str(part(values, measure).get("method") or "") for values in signals for measure in MEASURES]
    return [method for method in dict.fromkeys(found) if method]


def _pick(ranking: Mapping[str, Any]) -> dict[str, Any]:
    pick = part(ranking, "pick")
    if not pick:
        return {}
    truth = pick.get("truth")
    seeds = [value for value in truth if finite(value) is not None] if isinstance(truth, list) else []
    choices = [(name, _plain(value)) for name, value in part(pick, "architecture").items()]
    return {
        **{"key": "", "phase": "", "proxy_score": None, "truth_mean": None},
        **pick,
        "seeds": seeds,
        "choices": choices,
    }


def _accuracy(ranking: Mapping[str, Any]) -> str:
    """Return what the truth measures; a table may hold validation accuracy, which only its maker knows."""
    return "Published accuracy" if verdict.truth_source(ranking) else "Test accuracy"


def _final(told: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the section on the final network shows, {} where there is none."""
    if finite(told.get("final_accuracy")) is None:
        return {}
    names = ("key", "rank", "final_accuracy", "test_images", "search_score", "params", "seconds")
    images = [(str(name), number) for name, number in part(told, "trained_on").items()]
    return {
        **{name: told.get(name) for name in names},
        "images": images,
        "choices": [(name, _plain(value)) for name, value in part(told, "architecture").items()],
        "recipe": _entries(part(told, "recipe")),
    }


def _regret_words(ranking: Mapping[str, Any]) -> str:
    regret = finite(part(ranking, "signals", "proxy").get("regret"))
    if regret is None:
        return ""
    if regret > 0:
        known = "trained in full" if not verdict.truth_source(ranking) else "of this run with a published accuracy"
        return f"below the best of all architectures {known}"
    return "no loss against the architecture that the other seed calls best"


def _architectures(run: Run) -> list[dict[str, Any]]:
    """Return a row for each architecture trained in full, the best first, with every score it has."""
    rows = run.truth.drop_duplicates("key").sort_values("accuracy", ascending=False, kind="stable").head(MOST_ROWS)
    scored = run.trials[usable(run.trials)].drop_duplicates("key")[["key", "score"]]
    others = run.scores.drop_duplicates("key")[["key", "random", "early_stop"]]
    joined = rows.merge(scored, on="key", how="left").merge(others, on="key", how="left")
    return [{str(name): value for name, value in row.items()} for row in joined.to_dict("records")]


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
