"""A run from Python: settings in, a finished run out."""

from pathlib import Path
from typing import Any

from nas_proxy.pipeline.run_folder import RunFolder
from nas_proxy.pipeline.settings import resolve
from nas_proxy.pipeline.stages import run_all
from nas_proxy.progress import SILENT, Progress
from nas_proxy.ranking.ranking import Ranking


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
    space: str = "convnet",
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
    **settings: Any,
) -> FinishedRun:
    """Condense, search, train the ground truth, rank and report.

    dataset, space: as on the command line. config: a run.toml to repeat; then leave out `dataset` and `space`.
    settings: fields of `nas_proxy.RunConfig`, for example trials=100 or condense={"steps": 500}.
    Raises a subclass of nas_proxy.UserError for a mistake, and RunFailedError when all candidates fail.
    """
    given = settings if config is not None else {"dataset": dataset, "space": space, **settings}
    resolved = resolve(given, None if config is None else Path(config))
    out = None if out is None else Path(out)
    return FinishedRun(run_all(resolved, out, overwrite=overwrite, progress=progress))
