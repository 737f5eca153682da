"""What a run's studies say of themselves in Optuna's dashboard: names, notes, figures, the condensed images.

In: the run folder as `report.read_run` sees it, and the ledger, whose folder is held. Out: Markdown notes, metric
names and Plotly figures in the storage, and `proxy.png` as an artifact of the proxy's study.
Guarantees: what is up to date is not written again, so that a second call writes nothing; text of the user's is
shown as it is and never as markup; no trial is touched.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.artifacts.exceptions import ArtifactNotFound
from optuna.trial import Trial, TrialState

from nas_proxy.dashboard.notes import attributes, failed_with, markdown, titled
from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.ranking.scores import best_first
from nas_proxy.report import pareto, signal_figures
from nas_proxy.report.rank_figure import ranks_against_truth
from nas_proxy.report.run_contents import Run, read_run
from nas_proxy.report.verdict import decimal, finite, part, percent, verdict
from nas_proxy.spaces.objectives import ACCURACY, METRICS
from nas_proxy.storage.artifacts import artifact_store
from nas_proxy.storage.location import FILE, existing, study_name
from nas_proxy.storage.records import LATENCY, TRAINED, Record
from nas_proxy.storage.trial_store import TrialStore

if TYPE_CHECKING:
    from optuna.artifacts._protocol import ArtifactStore
    from plotly.graph_objects import Figure

NAMES = {"proxy": "Proxy", "random": "Random images", "early_stop": "Early stop", "truth": "Full training"}
NAMES |= {LATENCY: "Latency"}
WHAT = {
    "proxy": "Every candidate of the search, trained on the condensed images and scored on the validation images.",
    "random": "The sampled architectures on as many random real images as the condensed set has, in several draws.",
    "early_stop": "The sampled architectures on all images, for as many image passes as on the condensed set.",
    "truth": "The sampled architectures and the search's best on all images, in two seeds, scored on the test images.",
    LATENCY: "How long each architecture takes to answer, untrained: the median of many passes, measured once.",
}
METRIC = {"truth": "test accuracy"}
DRAW = {"random": "which random images", "truth": "which seed of full training"}
PAGES = {"pareto": ("proxy",), "rank": ("proxy", "truth"), "signals": ("proxy",)}
IMAGE = "proxy.png"
ARTIFACT = "artifacts:"  # what Optuna puts before an artifact's id in the attributes of a study
MOST_NOTES = 50


def annotate(run: Path, ledger: TrialStore) -> None:
    """Bring everything that the dashboard shows of a run up to date. Raises RunFolderError without a `run.toml`."""
    found = read_run(run)
    studies = {signal: ledger.study(signal) for signal in (*TRAINED, *([LATENCY] if ledger.has(LATENCY) else []))}
    for signal, study in studies.items():
        _name_metrics(study, _metrics(signal, found))
        _save_note(study, note(signal, found, studies, [] if signal == LATENCY else ledger.records(signal)))
        _note_failures(study)
    for name, figure in _figures(found).items():
        for signal in PAGES[name]:
            _save_figure(studies[signal], name, figure)
    if found.image is not None:
        _save_image(studies["proxy"], artifact_store(run, ledger.place), run / IMAGE)


def shown_names(run: Path) -> dict[str, str]:
    """Return the names of a run's studies as a reader sees them, by the names in the storage."""
    place = existing(run) or run / FILE
    return {study_name(place, signal): f"{name} · {run.resolve().name}" for signal, name in NAMES.items()}


def note(signal: str, run: Run, studies: Mapping[str, optuna.Study], records: Sequence[Record]) -> str:
    """Return the note of one study, as Markdown."""
    if signal == LATENCY:
        return _latency_note(run, studies)
    lines = [
        WHAT[signal],
        "",
        f"**{markdown(verdict(run.ranking))}**",
        "",
        *(f"- **{name}**: {value}" for name, value in _settings(signal, run, records)),
        "",
        *failed_with(records),
        f"Other studies of this run: {_links(signal, studies)}. In the run folder: report.html.",
        "",
        "What the attributes of a trial mean:",
        "",
        *(f"- **{name}**: {meaning}" for name, meaning in attributes(DRAW.get(signal))),
    ]
    return "\n".join(lines) + "\n"


def _latency_note(run: Run, studies: Mapping[str, optuna.Study]) -> str:
    limit = finite(run.config.get("max_latency_ms"))
    allowed = "" if limit is None else f" Those above {limit:g} ms are infeasible here, and were not trained."
    lines = [
        f"{WHAT[LATENCY]} It is noisy, and holds for the `device` that a trial names.{allowed}",
        "",
        f"Other studies of this run: {_links(LATENCY, studies)}. In the run folder: report.html.",
    ]
    return "\n".join(lines) + "\n"


def _settings(signal: str, run: Run, records: Sequence[Record]) -> list[tuple[str, str]]:
    config, condense = run.config, part(run.config, "condense")
    recipe = part(config, "full_training" if signal == "truth" else "proxy_training")
    complete = [record for record in records if record.complete]
    objectives = pareto.objectives_of(config)
    rows: list[tuple[str, object]] = [("folder", run.name)]
    rows += [(name, config[name]) for name in ("dataset", "space", "seed") if name in config]
    if condense:
        method = condense.get("source") or condense.get("method", "?")
        method = "distribution matching" if method == "dm" else method
        rows.append(("condensed set", f"{condense.get('images_per_class', '?')} images a class, by {method}"))
    if signal == "proxy" and len(objectives) > 1:
        rows.append(("objectives", ", ".join(METRICS[name] for name in objectives)))
    limits = {name: finite(config.get(name)) for name in ("max_params", "max_flops", "max_latency_ms")}
    given = ", ".join(f"{name} {limit:,g}" for name, limit in limits.items() if limit is not None)
    if given:
        rows.append(("constraints", f"{given}; a trial's constraints are its distances above them"))
    if "epochs" in recipe and signal != "early_stop":
        rows.append(("epochs of a training", recipe["epochs"]))
    failed = sum(record.failed for record in records)
    pruned = len(records) - len(complete) - failed
    told = f", {pruned} pruned" if pruned else ""
    rows.append(("trainings", f"{len(complete)} complete, {failed} failed{told}"))
    by = run.by if signal != "truth" else "accuracy"
    for best in best_first(records, by)[:1]:
        by_losses = "" if by == "accuracy" else f" and a sum of losses of {decimal(best.loss_sum)}, by which it is best"
        rows.append(("best", f"{percent(best.score)}{by_losses}: {best.key}"))
    spearman = part(run.ranking, "signals", "repeatability" if signal == "truth" else signal, "spearman")
    if finite(spearman.get("value")) is not None:
        against = "with itself" if signal == "truth" else "with full training"
        low, high = decimal(spearman.get("low")), decimal(spearman.get("high"))
        rows.append((f"Spearman {against}", f"{decimal(spearman['value'])}, 95 % interval {low} to {high}"))
    return [(name, markdown(value)) for name, value in rows]


def _links(signal: str, studies: Mapping[str, optuna.Study]) -> str:
    return ", ".join(
        f"[{NAMES[other]}](/dashboard/studies/{study._study_id})" for other, study in studies.items() if other != signal
    )


def _metrics(signal: str, run: Run) -> list[str]:
    if signal == "proxy":
        return [METRICS[name] for name in pareto.objectives_of(run.config)]
    return [METRICS[LATENCY] if signal == LATENCY else METRIC.get(signal, METRICS[ACCURACY])]


def _name_metrics(study: optuna.Study, names: list[str]) -> None:
    if study.metric_names != names and len(names) == len(study.directions):
        with without_announcements():
            study.set_metric_names(names)


def _save_note(study: optuna.Study, body: str) -> None:
    from optuna_dashboard import get_note, save_note

    if get_note(study) != body:
        save_note(study, body)


def _note_failures(study: optuna.Study) -> None:
    """Put the reason on top of the page of a failed trial, where attributes stand last and behind a scroll bar."""
    from optuna_dashboard import save_note
    from optuna_dashboard._note import note_ver_key

    there = _system_attrs(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))[:MOST_NOTES]:
        if note_ver_key(trial._trial_id) not in there:  # a reason never changes
            reason = markdown(trial.user_attrs.get("reason", "no score"))
            save_note(Trial(study, trial._trial_id), f"Failed: {reason}\n")


def _figures(run: Run) -> "dict[str, Figure]":
    """Return the figures of the study's page, by the id of their place; on white, since the page's theme is unknown."""
    found: dict[str, tuple[str, Figure]] = {}
    if len(run.truth) and len(run.trials):
        found["rank"] = ("Where proxy and full training agree", ranks_against_truth(run.trials, run.truth, run.by))
    objectives = pareto.objectives_of(run.config)
    if len(objectives) > 1 and len(rows := pareto.comparable(run.trials, objectives)):
        found["pareto"] = ("Pareto front", pareto.pareto_figure(rows, objectives, across=True))
    if part(run.ranking, "signals"):
        found["signals"] = ("How well each signal ranks, 95 % intervals", signal_figures.spearman_bars(run.ranking))
    return {name: titled(figure, title) for name, (title, figure) in found.items()}


def _save_figure(study: optuna.Study, name: str, figure: "Figure") -> None:
    from optuna_dashboard import save_plotly_graph_object
    from optuna_dashboard._custom_plot_data import get_plotly_graph_objects

    if get_plotly_graph_objects(_system_attrs(study)).get(name) != figure.to_json():
        save_plotly_graph_object(study, figure, graph_object_id=name)


def _save_image(study: optuna.Study, store: "ArtifactStore", path: Path) -> None:
    """Upload the picture unless the study has the very same; those that it had before go, as the dashboard does it."""
    from optuna.artifacts import upload_artifact

    content, same = path.read_bytes(), False
    for attribute, told in _system_attrs(study).items():
        meta = json.loads(told) if attribute.startswith(ARTIFACT) else None
        if meta is None or meta["filename"] != path.name:
            continue
        if not same and _stored(store, meta["artifact_id"]) == content:
            same = True
            continue
        study._storage.set_study_system_attr(study._study_id, attribute, json.dumps(None))
        with contextlib.suppress(ArtifactNotFound):
            store.remove(meta["artifact_id"])
    if not same:
        upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)


def _stored(store: "ArtifactStore", artifact: str) -> bytes | None:
    with contextlib.suppress(ArtifactNotFound), store.open_reader(artifact) as file:
        return file.read()
    return None


def _system_attrs(study: optuna.Study) -> dict[str, Any]:
    return study._storage.get_study_system_attrs(study._study_id)
