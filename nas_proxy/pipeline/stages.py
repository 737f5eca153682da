"""The stages of a run, one by one and in a row; each does only what the run folder does not hold yet."""

import itertools
import json
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas_proxy._version import __version__
from nas_proxy.condensation.checkpoint import remove
from nas_proxy.condensation.distributed import ALONE, ProcessGroup
from nas_proxy.condensation.evaluation import NETWORKS, Evaluation, evaluate, paper_recipe
from nas_proxy.condensation.proxy_set import make_proxy
from nas_proxy.condensation.published_sets import read_set, write_folder
from nas_proxy.condensation.recipe import Condensation, Condensed
from nas_proxy.condensation.selection import select
from nas_proxy.data.images import ImageSet
from nas_proxy.data.picture import write_grid, write_real
from nas_proxy.environment import environment
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.checks import check, check_sample
from nas_proxy.pipeline.ground_truth import the_sample, train_controls, train_truth, truth_of
from nas_proxy.pipeline.run_folder import RunFolder, check_same, claim
from nas_proxy.pipeline.session import Session, open_session
from nas_proxy.pipeline.settings import RunConfig, resolve
from nas_proxy.progress import SILENT, Bar, Progress
from nas_proxy.ranking.summary import compute_signals, write_ranking, write_tables
from nas_proxy.report.page import write_report
from nas_proxy.search.candidates import search
from nas_proxy.spaces.loading import split_spec
from nas_proxy.storage.location import existing
from nas_proxy.training.pruning import WILCOXON_LEAST


def to_be_ranked(session: Session) -> frozenset[str]:
    """Return the keys of the uniform sample, before anything is trained."""
    keys = None
    if session.ranks.rank == 0:  # latencies, which may limit the sample, are measured by one process
        keys = frozenset(session.space.key(a) for a in itertools.islice(session.stream(), session.config.truth))
    found: frozenset[str] = session.ranks.gathered(keys)[0]
    return found


def condense_stage(session: Session) -> None:
    """Make `proxy.safetensors`, and `proxy.png` and `real.png` to look at."""
    path = session.run / "proxy.safetensors"
    recipe = session.config.condense
    check(session)
    session.ranks.agree(not path.exists() and _learns(recipe))
    if path.exists():
        session.proxy_path  # noqa: B018 (checks that it belongs to this data)
    else:
        result = _made(session)
        metadata = {
            "method": "file" if recipe.source is not None else recipe.method,
            "data": session.config.dataset,
            "data_fingerprint": session.data.fingerprint,
            "recipe": asdict(recipe),
            "seed": session.config.seed,
            "seconds": round(result.seconds, 3),
            "losses": [round(loss, 6) for loss in result.losses],
            "embedded": list(result.embedded),
            "versions": {"nas_proxy": __version__, "python": platform.python_version(), **_torch_version()},
        }
        result.images.save(path, metadata)
        if _learns(recipe):
            session.ranks.agree()  # every process keeps its checkpoint until the images are stored
            remove(session.run.checkpoint, session.ranks)
    condensed, train = ImageSet.load(path), session.data.train
    write_grid(condensed, train, session.run / "proxy.png")
    write_real(condensed, train, session.run / "real.png")


def _made(session: Session) -> Condensed:
    """Learn, choose or read the images."""
    recipe, train, seed = session.config.condense, session.data.train, session.config.seed
    if _learns(recipe):
        with session.progress.stage("Condense", recipe.steps) as bar:
            return make_proxy(
                train,
                recipe,
                seed,
                device=session.device,
                space=session.whole_space,
                exclude=to_be_ranked(session) if recipe.embed == "space" else (),
                group=session.ranks,
                checkpoint=session.run.checkpoint,
                progress=_shown(bar),
                preview=lambda step, images: write_grid(images, train, session.run.previews / f"step-{step:06d}.png"),
                preview_every=session.config.preview_every,
                classes_per_step=session.config.classes_per_step,
                say=session.progress.say,
            )
    start = time.perf_counter()
    with session.progress.stage("Condense", 1) as bar:
        if recipe.source is not None:
            images = replace(read_set(Path(recipe.source), train, recipe.images_per_class), formation=recipe.formation)
        else:
            images = select(
                train,
                recipe.images_per_class * recipe.formation**2,
                recipe.method,
                seed,
                width=recipe.width,
                depth=recipe.depth,
                augmentation=recipe.augmentation,
                device=session.device,
            ).packed(recipe.formation)
        bar.to(1)
    return Condensed(images, time.perf_counter() - start, ())


def _shown(bar: Bar) -> Callable[[int, float], None]:
    """Return what shows the steps of a condensation: their number, loss and speed."""
    first: list[tuple[int, float]] = []

    def show(step: int, loss: float) -> None:
        first.append((step, time.perf_counter()))
        del first[1:]
        begun, at = first[0]
        speed = f", {(step - begun) / (time.perf_counter() - at):.3g} steps/s" if step > begun else ""
        bar.to(step, f"loss {loss:.3g}{speed}")

    return show


def _learns(recipe: Condensation) -> bool:
    return recipe.source is None and recipe.method == "dm"


def assist(config: RunConfig, out: Path, ranks: ProcessGroup) -> None:
    """Take part in the condensation of a process that holds the run folder, as one of several."""
    session = Session(RunFolder(out, config), SILENT, ranks)
    check(session)
    if ranks.agree():
        _made(session)
        ranks.agree()
        remove(session.run.checkpoint, ranks)


def evaluate_run(run: RunFolder, epochs: float, progress: Progress = SILENT, *, network: str = "convnet") -> Evaluation:
    """Train networks of one kind on the condensed set of a run, and on random images, by the paper's recipe."""
    with open_session(run, progress) as session, progress.stage("Evaluate", 2 * NETWORKS) as bar:
        recipe = session.config.condense
        return evaluate(
            ImageSet.load(session.proxy_path),
            session.data.train,
            session.data.validation,
            paper_recipe(epochs, recipe.augmentation),
            session.config.seed,
            width=recipe.width,
            depth=recipe.depth,
            network=network,
            device=session.device,
            progress=bar.to,
        )


def export_images(run: RunFolder, folder: Path, progress: Progress = SILENT) -> None:
    """Write the condensed images of a run as PNG files, a folder a class."""
    with open_session(run, progress) as session:
        write_folder(ImageSet.load(session.proxy_path), session.data.train, folder)


def search_stage(session: Session) -> None:
    """Train the sample and the proposals on the condensed set."""
    session.proxy_path  # noqa: B018 (says "condense first" where it is missing)
    annotated(session)
    trials, truth = session.config.trials, session.config.truth
    if session.config.pruner == "wilcoxon" and session.config.seeds < WILCOXON_LEAST:
        session.progress.say(
            f"--pruner wilcoxon cannot be sure of anything from {session.config.seeds} seeds, so it prunes nothing; "
            f"give --seeds {WILCOXON_LEAST} or more."
        )
    if trials < truth:
        session.progress.say(
            f"--truth {truth} is more than --trials {trials}: all {truth} sampled architectures are trained, "
            "and the search proposes none."
        )
    try:
        search(session)
    finally:
        write_tables(session)


def truth_stage(session: Session) -> None:
    """Train the ground truth; there is nothing to train where a table holds it."""
    the_sample(session)
    try:
        if session.truth_table is None:
            train_truth(session)
    finally:
        write_tables(session)


def rank_stage(session: Session) -> None:
    """Train the controls, compute the signals that need no training, and write `ranking.json`."""
    the_sample(session)
    if truth_of(session) is None:
        raise RunFolderError(f"nothing is fully trained yet; first run: nas-proxy truth {session.run.path}")
    train_controls(session)
    columns = compute_signals(session)
    write_tables(session, columns)
    write_ranking(session, environment(session.device, session.pool.count), columns)
    if session.team is not None:
        session.team.done(True)


def report_stage(session: Session) -> None:
    """Write `report.html`."""
    write_report(session.run.path)


def annotated(session: Session) -> None:
    """Bring what the dashboard shows up to date; that this fails is told, and never costs a run."""
    if existing(session.run.path) is None:
        return
    from nas_proxy.dashboard.annotations import annotate

    try:
        annotate(session.run.path, session.ledger)
    except Exception as error:  # noqa: BLE001 (notes and figures are a comfort; the results are in the folder)
        reason = str(error).split("\n", 1)[0]
        session.progress.say(f"The dashboard's notes and figures could not be written ({reason}).")


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
            if name != "report":  # which adds nothing to the studies
                annotated(session)


def run_all(
    config: RunConfig,
    out: Path | None,
    *,
    overwrite: bool = False,
    progress: Progress = SILENT,
    names: Sequence[str] = tuple(STAGES),
    ranks: ProcessGroup = ALONE,
) -> RunFolder:
    """Do the stages `names` of the run `config` in the folder `out`, or in `default_folder`, and return the folder.

    Nothing in the folder is touched, or replaced, before the user's data and space have been found in order.
    """
    run = RunFolder(out or default_folder(config), config)
    if "rank" in names:
        check_sample(config)
    with open_session(run, progress, ranks) as session:
        if not overwrite:
            check_same(run)
        check(session)
        claim(run, overwrite=overwrite)
        for name in names:
            STAGES[name](session)
            if name != "report":  # which adds nothing to the studies
                annotated(session)
    return run


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
    out = None if out is None else Path(out)
    return FinishedRun(run_all(resolved, out, overwrite=overwrite, progress=progress))


def default_folder(config: RunConfig) -> Path:
    """Return runs/<dataset>-<space>, with the space's parameters where it has some."""
    space, parameters = split_spec(config.space)
    names = [Path(name).stem or "data" for name in (config.dataset.split(":", 1)[-1], space)]
    return Path("runs") / "-".join([*names, *filter(None, [re.sub(r"[^\w.,=]", "_", parameters)])])


def _torch_version() -> dict[str, str]:
    import torch

    return {"torch": torch.__version__}
