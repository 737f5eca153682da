"""What the studies of a run or a comparison say of themselves in Optuna's dashboard: names, notes, figures, images.

In: the folder. Out: the attributes of each study in which the dashboard finds all that, made anew from the folder while
it is looked at. Guarantees: nothing is written, so that unfinished folders, and those of earlier versions, have their
notes too; text of the user's is shown as it is and never as markup.
"""

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import optuna
from optuna.artifacts import FileSystemArtifactStore
from optuna.trial import TrialState

from nas_proxy.dashboard import note_text
from nas_proxy.dashboard.folder import Look, study_names
from nas_proxy.dashboard.note_text import markdown
from nas_proxy.dashboard.status import Watcher
from nas_proxy.errors import UserError
from nas_proxy.names import PROXY, TRUTH, label
from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.report import pareto, signal_figures
from nas_proxy.report.rank_figure import ranks_against_truth
from nas_proxy.report.run_contents import Run, read_run
from nas_proxy.runs.folder import RunFolder
from nas_proxy.spaces.objectives import ACCURACY
from nas_proxy.storage.location import FILE, existing
from nas_proxy.storage.records import LATENCY, metric_names

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Seconds after which the folder is looked at anew; the dashboard asks every ten.
FRESH = 3.0
MOST_FAILED = 50
FILES = ("ranking.json", "trials.csv", "truth.csv", "proxy.png", "report.html", "compare.html")
IMAGE = "proxy.png"
Attributes = Mapping[str, Mapping[str, Any]]


def shown_names(run: RunFolder) -> dict[str, str]:
    """Return the names of the studies as a reader sees them, by the names in the storage."""
    names = study_names(run, existing(run.path) or run / FILE)
    return {name: f"{label(signal)} · {run.path.resolve().name}" for signal, name in names.items()}


class Notes:
    """What the studies of one folder say, by their names in the storage; made anew when the folder has changed."""

    def __init__(self, folder: Path) -> None:
        self._watcher, self._lock = Watcher(folder), threading.Lock()
        self._looked, self._seen, self._found = -FRESH, None, dict[str, dict[str, Any]]()
        self._signals: dict[int, str] = {}

    def __call__(self) -> Attributes:
        """Return the attributes of each study; the last ones while the folder cannot be read."""
        with self._lock:
            if time.monotonic() - self._looked >= FRESH:
                # What cannot be read is told by whoever reads trials, and by the report.
                with contextlib.suppress(UserError):
                    self._renew(self._watcher.see())
                self._looked = time.monotonic()
            return self._found

    def signals(self) -> dict[int, str]:
        """Return the signal of each study by the study's number, in the order of the table: the main study first."""
        self()
        return self._signals

    def _renew(self, look: Look) -> None:
        trials = {name: [trial.state for trial in found] for name, found in look.trials.items()}
        files = [path.stat().st_mtime_ns for name in FILES if (path := look.run / name).exists()]
        seen: Any = (look.run.config, trials, files)
        if seen != self._seen:
            self._found, self._seen = notes_of(look, read_run(look.run.path)), seen
            self._signals = {number: signal for signal, number in look.studies.items()}


def notes_of(look: Look, run: Run) -> dict[str, dict[str, Any]]:
    """Return what each study says, as Optuna's dashboard keeps it, by its name in the storage."""
    names = study_names(look.run, existing(look.run.path) or look.run / FILE)
    figures = _figures(run)
    told = {}
    for signal in look.studies:
        shown = {name: figure for name, figure in figures.items() if signal in PLACES.get(name, look.studies)}
        told[names[signal]] = _attributes(signal, look, note_text.note(signal, look, run), shown)
    image = look.run / IMAGE
    if PROXY in told and image.is_file():
        meta = {"artifact_id": _digest(image), "filename": IMAGE, "mimetype": "image/png", "encoding": None}
        told[names[PROXY]][f"artifacts:{meta['artifact_id']}"] = json.dumps(meta)
    return told


# The figures by the ids of their places, and the studies on whose pages one of trials stands; signals' stand on all.
FIGURES = ("rank", "pareto", "signals", "cost")
PLACES = {"pareto": (PROXY,), "rank": (PROXY, TRUTH)}


def _figures(run: Run) -> "dict[str, Figure]":
    """Return the figures of the studies' pages, by the id of their place."""
    found: dict[str, tuple[str, Figure]] = {}
    if len(run.truth) and len(run.trials):
        found["rank"] = ("Proxy against full training", ranks_against_truth(run.trials, run.truth, run.by))
    if len(rows := pareto.of_run(run)):
        told = pareto.objectives_of(run.config), pareto.accuracy_in_words(run)
        found["pareto"] = ("Pareto front", pareto.pareto_figure(rows, *told, across=True))
    if run.ranking is not None and run.ranking.signals:
        found["signals"] = ("Signals, 95 % intervals", signal_figures.spearman_dots(run.ranking))
        found["cost"] = (
            "Signals, and what they cost",
            signal_figures.correlation_by_cost(run.ranking),
        )
    return {name: _titled(figure, title) for name, (title, figure) in found.items()}


def _titled(figure: "Figure", title: str) -> "Figure":
    """Return a figure as it stands in a place of fixed height on a study's page."""
    heading = {"text": title, "font": {"size": 16}, "x": 0, "xref": "container", "xanchor": "left", "pad": {"l": 8}}
    if figure.layout.legend.orientation == "v":  # many signals; the figure beside it names their colours
        figure.update_layout(showlegend=False).update_xaxes(automargin=True)
    return figure.update_layout(title=heading, margin={"t": 72, "b": 56}, height=440)


def _attributes(signal: str, look: Look, body: str, figures: "Mapping[str, Figure]") -> dict[str, Any]:
    """Return the attributes of a study in memory that says all this."""
    from optuna_dashboard import save_plotly_graph_object
    from optuna_dashboard._note import save_note_with_version

    objectives = {PROXY: look.run.config.objective, LATENCY: (LATENCY,)}.get(signal, (ACCURACY,))
    metrics = metric_names(signal, objectives)
    with without_announcements():
        study = optuna.create_study(directions=["maximize"] * len(metrics))
        study.set_metric_names(metrics)
    # Version 0: what somebody writes with --writable is the first of its own.
    save_note_with_version(study._storage, study._study_id, None, 0, body)
    # On top of the page of a failed trial, where attributes stand last and behind a scroll bar.
    failed = [trial for trial in look.trials[signal] if trial.state == TrialState.FAIL]
    for trial in failed[:MOST_FAILED]:
        reason = markdown(trial.user_attrs.get("reason", "no score"))
        save_note_with_version(study._storage, study._study_id, trial._trial_id, 0, f"Failed: {reason}\n")
    for name, figure in figures.items():
        save_plotly_graph_object(study, figure, graph_object_id=name)
    return dict(study._storage.get_study_system_attrs(study._study_id))


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:32]


class Artifacts(FileSystemArtifactStore):
    """The artifacts of a run's studies, in a folder that is made with the first, and the condensed images' picture."""

    def __init__(self, run: Path) -> None:
        self._image, self._folder = run / IMAGE, run / "artifacts"
        super().__init__(self._folder)

    def open_reader(self, artifact_id: str) -> BinaryIO:
        """Return the bytes of an artifact. Raises Optuna's ArtifactNotFound."""
        if self._image.is_file() and artifact_id == _digest(self._image):
            return self._image.open("rb")
        return super().open_reader(artifact_id)

    def write(self, artifact_id: str, content_body: BinaryIO) -> None:
        """Keep the bytes of an artifact."""
        self._folder.mkdir(exist_ok=True)
        super().write(artifact_id, content_body)
