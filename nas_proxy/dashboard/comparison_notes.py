"""What a comparison's studies say of themselves in Optuna's dashboard: names, notes, metric names, the table's figure.

In: the comparison's folder. Out: what the dashboard shows of each study, made anew from the folder while it is looked
at: nothing is written, so that an unfinished comparison, and one of an earlier version, has its notes too.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna

from nas_proxy.compare.asked import Comparison
from nas_proxy.compare.contenders import LOSS_SUM, draws_of, is_made, is_set, is_total, is_trained, recipe_of, target_of
from nas_proxy.compare.figure import correlation_by_cost
from nas_proxy.compare.text import named
from nas_proxy.dashboard.comparison_status import TABLE, TRUTH, ComparisonWatcher, Look, study_of
from nas_proxy.dashboard.notes import attributes, failed_with, markdown, titled
from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.ranking.scores import best_first
from nas_proxy.report.verdict import answer, duration, finite, interval, part, percent
from nas_proxy.spaces.objectives import ACCURACY, METRICS
from nas_proxy.storage.records import Record

# Seconds after which notes are made anew; the dashboard asks every ten.
FRESH = 3.0
MOST_FAILED = 50
WHAT = {
    "dm": "networks trained on condensed images (distribution matching)",
    "random": "networks trained on random real images, as many as the condensed sets have",
    "herding": "networks trained on real images chosen by herding",
    "kcenter": "networks trained on real images chosen by k-centre",
    "early_stop": "networks trained on all images, for as many image passes as on a condensed set",
    "random_total": "networks trained on more random images, for as long as a condensed set takes with its making",
    TRUTH: "networks trained fully, in two seeds, and scored on the test images: the truth of this comparison",
}
SHOWN = {
    "dm": "Condensed",
    "random": "Random images",
    "herding": "Herding",
    "kcenter": "K-centre",
    "early_stop": "Early stop",
    "random_total": "Random images at equal cost",
    TRUTH: "Full training",
}
VARIANTS = {
    "space": "embedded by networks of the search space",
    "formation": "four images stored as one",
    "all": "matched at every block",
}


def shown_names(folder: Path, comparison: Comparison) -> dict[str, str]:
    """Return the names of a comparison's studies as a reader sees them, by the names in the storage."""
    names = [*filter(is_trained, comparison.signals), TRUTH]
    return {study_of(name, comparison): f"{_shown(name)} · {folder.resolve().name}" for name in names}


class Notes:
    """What the studies of one comparison say, by their names in the storage; made anew when it has grown old."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._watcher, self._lock = folder, ComparisonWatcher(folder), threading.Lock()
        self._made, self._found = -FRESH, dict[str, dict[str, Any]]()

    def __call__(self) -> Mapping[str, Mapping[str, Any]]:
        """Return the attributes of each study in which the dashboard finds its note, its metric and its figures."""
        with self._lock:
            if time.monotonic() - self._made >= FRESH:
                self._found = notes_of(self._folder, self._watcher.see())
                self._made = time.monotonic()
            return self._found


def notes_of(folder: Path, seen: Look) -> dict[str, dict[str, Any]]:
    """Return what each study says, as Optuna's dashboard keeps it."""
    ranking = _ranking(folder)
    names = [
        name for name in (*filter(is_trained, seen.comparison.signals), TRUTH) if _study(name, seen) in seen.studies
    ]
    told = {}
    for name in names:
        body = note(name, names, folder, seen, ranking)
        metric = "test accuracy" if name == TRUTH else METRICS[ACCURACY]
        told[_study(name, seen)] = _attributes(body, metric, ranking, seen.failed[_study(name, seen)])
    return told


def note(name: str, names: Sequence[str], folder: Path, seen: Look, ranking: Mapping[str, Any]) -> str:
    """Return the note of one study, as Markdown; `names` are the signals that have one."""
    records = seen.records[_study(name, seen)]
    draw = "which seed of full training" if name == TRUTH else "which set"
    others = ", ".join(
        f"[{markdown(_shown(other))}](/dashboard/studies/{seen.studies[_study(other, seen)]})"
        for other in names
        if other != name
    )
    lines = [
        f"One row of a comparison of proxies: {_what(name, seen.comparison)}. A trial is an architecture and a draw.",
        "",
        *(f"**{markdown(text)}**\n" for text in _verdicts(name, ranking)),
        *(f"- **{key}**: {markdown(value)}" for key, value in _settings(name, folder, seen, records, ranking)),
        "",
        *failed_with(records),
        f"Other studies of this comparison: {others or 'none yet'}.",
        "",
        _page(folder),
        "",
        "What the attributes of a trial mean:",
        "",
        *(f"- **{key}**: {meaning}" for key, meaning in attributes(draw)),
    ]
    return "\n".join(lines) + "\n"


def _study(name: str, seen: Look) -> str:
    return study_of(name, seen.comparison)


def _base(name: str) -> str:
    return "random_total" if is_total(name) else name.split("+", maxsplit=1)[0]


def _shown(name: str) -> str:
    base = SHOWN[_base(name)]
    return base if name in {TRUTH, "random", "early_stop", "herding", "kcenter"} else f"{base}, {name}"


def _what(name: str, comparison: Comparison) -> str:
    told = [WHAT[_base(name)]]
    if is_total(name):
        told.append(f"namely that of {target_of(name, comparison.signals)}")
    else:
        told += [VARIANTS[variant] for variant in name.split("+")[1:]]
    return ", ".join(told)


def _verdicts(name: str, ranking: Mapping[str, Any]) -> list[str]:
    """Return how well a signal ranks, by each of its scores, and whether it beats random images."""
    rows = ["repeatability"] if name == TRUTH else [name, name + LOSS_SUM]
    told = []
    for row in rows:
        values = part(ranking, "signals", row)
        if finite(part(values, "spearman").get("value")) is None:
            continue
        against = "with itself" if name == TRUTH else "with the truth"
        text = f"{named(row)}: Spearman {interval(values['spearman'])} {against}"
        if name != TRUTH and values.get("beats_random") is not None:
            text += f"; beats {values.get('control', 'random')}? {answer(values)}"
        told.append(text + ".")
    return told or (["The table is not written yet."] if not ranking else [])


def _settings(
    name: str, folder: Path, seen: Look, records: Sequence[Record], ranking: Mapping[str, Any]
) -> list[tuple[str, str]]:
    comparison, run = seen.comparison, seen.comparison.run
    rows: list[tuple[str, object]] = [("folder", folder.resolve().name), ("data", run.dataset), ("space", run.space)]
    rows.append(("truth", run.truth_table or "full training, see its study"))
    rows.append(("compared", ", ".join(comparison.signals)))
    rows.append(("sample", f"{run.truth} architectures drawn uniformly, seed {run.seed}"))
    if name != TRUTH:
        draws = draws_of(name, comparison.draws)
        rows.append(("draws", f"{draws} set{'' if draws == 1 else 's'}" if is_set(name) or is_total(name) else draws))
    if is_set(name):
        recipe = recipe_of(name, run.condense)
        steps = f", {recipe.steps} steps" if recipe.method == "dm" else ""
        rows.append(("set", f"{recipe.images_per_class} images a class{steps}"))
    if name != TRUTH and comparison.passes is not None and not is_total(name):
        rows.append(("image passes of a training", f"{comparison.passes:,}"))
    plan = part(ranking, "equal_cost", name)
    if plan.get("what"):
        rows.append(("equal cost", plan["what"]))
    complete = [record for record in records if record.complete]
    rows.append(("trainings", f"{len(complete)} complete, {sum(record.failed for record in records)} failed"))
    rows += [("best", f"{percent(best.score)}: {best.key}") for best in best_first(records, "accuracy")[:1]]
    cost = part(ranking, "signals", name, "cost") or part(ranking, "signals", name + LOSS_SUM, "cost")
    if cost:
        rows.append(
            (
                "time of a draw, with the making of its set" if is_made(name) else "time of a draw",
                duration(cost.get("seconds")),
            )
        )
    return [(key, str(value)) for key, value in rows]


def _page(folder: Path) -> str:
    page = folder.resolve() / TABLE[1]
    if page.is_file():
        return f"The table and its figures: {markdown(page)}, beside it table.md and scores.csv."
    return f"The table will be in {markdown(page)} when every signal is done."


def _ranking(folder: Path) -> dict[str, Any]:
    try:
        return part(json.loads((folder / TABLE[0]).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _attributes(
    body: str, metric: str, ranking: Mapping[str, Any], failed: Sequence[tuple[int, str]]
) -> dict[str, Any]:
    """Return the attributes of a study in memory that says all this."""
    from optuna_dashboard import save_plotly_graph_object
    from optuna_dashboard._note import save_note_with_version

    with without_announcements():
        study = optuna.create_study(direction="maximize")
        study.set_metric_names([metric])
    # Version 0: what somebody writes with --writable is the first of its own.
    save_note_with_version(study._storage, study._study_id, None, 0, body)
    for trial, reason in failed[:MOST_FAILED]:
        save_note_with_version(study._storage, study._study_id, trial, 0, f"Failed: {markdown(reason)}\n")
    if part(ranking, "signals"):
        figure = titled(correlation_by_cost(ranking), "How well each signal ranks, and what it costs")
        save_plotly_graph_object(study, figure, graph_object_id="cost")
    return dict(study._storage.get_study_system_attrs(study._study_id))
