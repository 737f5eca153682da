"""A run from Python: settings in, a finished run out."""

from pathlib import Path
from typing import Any

from nas_proxy.pipeline.stages import run_all
from nas_proxy.progress import SILENT, Progress
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.runs.folder import RunFolder
from nas_proxy.runs.settings import resolve
from nas_proxy.spaces.loading import Given, spec_of


class FinishedRun:
    """A run that has been reported: its folder, settings and ranking."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder.path
        self.config = folder.config
        self.ranking = Ranking.read(folder / "ranking.json")
        self.report = folder / "report.html"

    def __repr__(self) -> str:
        return f"FinishedRun({str(self.folder)!r}, pick={self.pick.get('key')!r})"

    @property
    def pick(self) -> dict[str, Any]:
        """The architecture with the highest proxy score, its score and its truth."""
        picked: dict[str, Any] = self.ranking["pick"]
        return picked


def run(
    dataset: str = "digits",
    space: Given = "convnet",
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
    **settings: Any,
) -> FinishedRun:
    """Condense, search, train the ground truth, rank and report.

    dataset: as on the command line. space: as there, or a `Space`, or a function `space(trial)`, itself: from a
        notebook too, see `nas_proxy.spaces.by_value`. config: a run.toml to repeat; then leave out `dataset`, and
        `space` unless it was given itself.
    settings: fields of `nas_proxy.RunConfig`, for example trials=100 or condense={"steps": 500}.
    Raises a subclass of nas_proxy.UserError for a mistake, and RunFailedError when all candidates fail.
    """
    spec = spec_of(space)
    itself = None if isinstance(spec, str) else spec
    named = {"space": spec if isinstance(spec, str) else spec.name}
    if config is None:
        given = {"dataset": dataset, **named, **settings}
    else:
        given = settings if itself is None else {**named, **settings}
    resolved = resolve(given, None if config is None else Path(config))
    out = None if out is None else Path(out)
    return FinishedRun(run_all(resolved, out, overwrite=overwrite, progress=progress, space=itself))
