"""The stages of a run, one by one and in a row; each does only what the run folder does not hold yet."""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nas_proxy._version import __version__
from nas_proxy.condensation import condense
from nas_proxy.config import RunConfig, resolve
from nas_proxy.environment import environment
from nas_proxy.errors import ConfigError
from nas_proxy.images import ImageSet
from nas_proxy.picture import write_grid
from nas_proxy.progress import SILENT, Progress
from nas_proxy.report import write_report
from nas_proxy.run_folder import RunFolder, prepare_run
from nas_proxy.search import search
from nas_proxy.session import Session, open_session
from nas_proxy.summary import write_ranking, write_tables
from nas_proxy.trust import the_sample, train_controls, train_truth


def condense_stage(session: Session) -> None:
    """Make `proxy.safetensors` and `proxy.png`."""
    path = session.run / "proxy.safetensors"
    recipe = session.config.condense
    smallest = min(len(members) for members in session.data.train.of_class())
    if recipe.images_per_class > smallest:
        raise ConfigError(
            [
                f"{recipe.images_per_class} images a class were asked for, but the smallest class has {smallest} "
                f"training images; give --ipc {smallest} or less"
            ]
        )
    session.space  # noqa: B018 (a broken space is reported before the long work, not after it)
    if path.exists():
        session.proxy_path  # noqa: B018 (checks that it belongs to this data)
    else:
        with session.progress.stage("Condense", recipe.steps) as bar:
            result = condense(
                session.data.train,
                recipe,
                session.config.seed,
                device=session.device,
                checkpoint=session.run.work / "condense.safetensors",
                progress=lambda step, loss: bar.to(step, f"loss {loss:.3g}"),
            )
        metadata = {
            "method": "distribution matching",
            "data": session.config.dataset,
            "data_fingerprint": session.data.fingerprint,
            "recipe": asdict(recipe),
            "seed": session.config.seed,
            "seconds": round(result.seconds, 3),
            "losses": [round(loss, 6) for loss in result.losses],
            "versions": {"nas_proxy": __version__, "python": platform.python_version(), **_torch_version()},
        }
        result.images.save(path, metadata)
    write_grid(ImageSet.load(path), session.data.train, session.run / "proxy.png")


def search_stage(session: Session) -> None:
    """Train the sample and the proposals on the condensed set."""
    session.proxy_path  # noqa: B018 (says "condense first" where it is missing)
    try:
        search(session)
    finally:
        write_tables(session)


def truth_stage(session: Session) -> None:
    """Train the ground truth."""
    the_sample(session)
    try:
        train_truth(session)
    finally:
        write_tables(session)


def rank_stage(session: Session) -> None:
    """Train the controls and write `ranking.json`."""
    train_controls(session)
    write_tables(session)
    write_ranking(session, environment(session.device, session.pool.count))


def report_stage(session: Session) -> None:
    """Write `report.html`."""
    write_report(session.run.path)


STAGES: dict[str, Callable[[Session], None]] = {
    "condense": condense_stage,
    "search": search_stage,
    "truth": truth_stage,
    "rank": rank_stage,
    "report": report_stage,
}


def run_stages(run: RunFolder, names: tuple[str, ...] = tuple(STAGES), progress: Progress = SILENT) -> None:
    """Do the stages in their order, holding the run folder."""
    with open_session(run, progress) as session:
        for name in names:
            STAGES[name](session)


class FinishedRun:
    """A run that has been reported: its folder, settings and ranking."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder.path
        self.config = folder.config
        self.ranking: dict[str, Any] = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
        self.report = folder / "report.html"

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
    folder = prepare_run(Path(out) if out is not None else default_folder(resolved), resolved, overwrite=overwrite)
    run_stages(folder, progress=progress)
    return FinishedRun(folder)


def default_folder(config: RunConfig) -> Path:
    """Return runs/<dataset>-<space>."""
    names = (Path(name.split(":", 1)[-1]).stem or "data" for name in (config.dataset, config.space))
    return Path("runs") / "-".join(names)


def _torch_version() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__}
