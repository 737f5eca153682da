"""The steps of a run from Python, each a call that returns an object which shows itself in a notebook.

    data = load_data("digits")
    proxy = condense(data, steps=200, out="runs/mine")
    found = search(data, proxy, space, trials=24)
    ranking = rank(found)
    network = final(found)

They are the stages of `nas-proxy run` in one run folder: what is there is not done again, so a cell or a script that is
executed again, or was cut off, goes on. `run` does all but the last in one call, and `open` reads any folder. Settings
have the names of `RunConfig`'s fields. `progress` is True or False for bars or none; None shows them in a terminal and
in a notebook. A mistake raises a subclass of UserError before the long work.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import Development
from nas_proxy.errors import ConfigError
from nas_proxy.names import PROXY
from nas_proxy.pipeline.final import Final, train_final
from nas_proxy.pipeline.opened import FolderRanking, Proxy, Run
from nas_proxy.pipeline.problem import read_data
from nas_proxy.pipeline.stages import run_all
from nas_proxy.progress import Progress, shown
from nas_proxy.runs.folder import RunFolder, check_same, open_run, with_changes
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import RUN_FILE, RunConfig
from nas_proxy.signals.stored_names import set_path
from nas_proxy.spaces.by_value import GIVEN, SpaceByValue
from nas_proxy.spaces.loading import Given, spec_of
from nas_proxy.training.recipe import Recipe

# Settings that a condensed set has been made by, so that a search on it has no say in them.
OF_THE_SET = ("dataset", "seed", "limit", "image_size", "condense")


def load_data(
    dataset: str,
    *,
    seed: int = 0,
    limit: int | None = None,
    image_size: int | None = None,
    progress: Progress | bool | None = None,
) -> Development:
    """Return the train and validation images of a data set as a run with that seed sees them; never the test images.

    dataset: as on the command line, for example "digits", "cifar10" or "folder:DIR". limit: at most so many images a
    class. image_size: resize to a square of so many pixels. Raises DataError for data that cannot be used.
    """
    config = resolve({"dataset": dataset, "seed": seed, "limit": limit, "image_size": image_size})
    bars = shown(progress)
    return read_data(open_source(config.dataset, image_size=config.image_size, say=bars.say), config, bars)


def condense(
    data: Development,
    *,
    out: str | Path | None = None,
    space: Given = "convnet",
    device: str = "auto",
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **recipe: Any,
) -> Proxy:
    """Make the small set that networks are trained on in place of all images, in the run folder `out`.

    data: of `load_data`. out: runs/<data set> if not given. space: for embed="space" alone. device: "auto", "cpu",
        "cuda" or "cuda:N".
    recipe: fields of `nas_proxy.Condensation`, for example images_per_class=10, steps=200 or method="herding".
    Raises ConfigError for a recipe that cannot be, RunFolderError where the folder holds another set or run, and
    RunFailedError when the loss is no longer finite.
    """
    spec = spec_of(space)
    config = resolve({**_asked(data), "space": _named(spec), "condense": recipe, "device": device})
    folder = Path("runs", Path(config.dataset.split(":", 1)[-1]).stem or "data") if out is None else Path(out)
    if not overwrite and (there := _made_before(folder, config)) is not None:
        _check_same_data(data, there)
        return there
    names, bars = ("condense",), shown(progress)
    return Proxy(run_all(config, folder, overwrite=overwrite, progress=bars, names=names, space=_itself(spec)))


def search(
    data: Development,
    proxy: Proxy,
    space: Given = "convnet",
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Run:
    """Train architectures of a space on the condensed set: a uniform sample of `truth`, and proposals up to `trials`.

    space: the name of a built-in space, the path of a Python file, or a `Space` or a function `space(trial)` itself.
    out: the proxy's folder if not given; another one for another search on the same set, which is copied there.
    settings: fields of `nas_proxy.RunConfig`, for example trials=48, truth=24 or proxy_training={"epochs": 60}.
    The Optuna study is `.study` of what is returned, a row a candidate `.trials`.
    Raises SpaceError for a space that yields no network, ConfigError for other mistakes, RunFolderError where the
    folder holds another search, and RunFailedError when all candidates fail.
    """
    _refuse_budget(settings)
    _check_same_data(data, proxy)
    if fixed := [name for name in OF_THE_SET if name in settings]:
        raise ConfigError([f"{fixed[0]} belongs to the condensed set, which is made already; give it to condense()"])
    own = out is None or Path(out).resolve() == proxy.folder.resolve()
    if own and overwrite:
        raise ConfigError(
            [f"overwrite=True would remove the condensed set in {proxy.folder} as well; give another folder as out="]
        )
    spec, recipe = spec_of(space), asdict(proxy.run.config.condense)
    if not own:
        recipe["source"] = str(proxy.path)
    given = {"device": proxy.run.config.device, **settings, "space": _named(spec), "condense": recipe}
    config = resolve({**_asked(data), **given})
    folder = proxy.folder if out is None else Path(out)
    names, bars = ("condense", "search"), shown(progress)
    made = run_all(config, folder, overwrite=overwrite, progress=bars, names=names, space=_itself(spec))
    return Run(made, _itself(spec))


def _refuse_budget(settings: Mapping[str, Any]) -> None:
    """Raise ConfigError for a budget, which plans all stages of a run together."""
    if settings.get("budget") is not None:
        raise ConfigError(["a budget plans a whole run, and this is a part of one; give it to nas_proxy.run()"])


def rank(
    run: Run | str | Path,
    *,
    space: Given | None = None,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> FolderRanking:
    """Train the sample fully as well, and judge by it how far the proxy and other signals can be trusted.

    run: of `search`, or its folder. space: where it was given to the search itself and `run` is a folder.
    settings: what may still be chosen, for example signals=("params", "flops", "synflow").
    Returns the ranking: `.verdict`, `.to_frame()` and `.plot()`. Raises RunFolderError before the search.
    """
    _refuse_budget(settings)
    opened = _opened(run, space)
    config = with_changes(opened.folder, settings)
    names, bars = ("truth", "rank", "report"), shown(progress)
    made = run_all(config, opened.folder, progress=bars, names=names, space=_given(opened))
    return Run(made, opened.space).ranking


def final(
    run: Run | str | Path,
    *,
    rank: int | None = None,
    key: str | None = None,
    front: int | None = None,
    recipe: Recipe | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    space: Given | None = None,
    progress: Progress | bool | None = None,
) -> Final:
    """Train one architecture of a search on all train and validation images, score it once on test, and export it.

    run: of `search` or `run`, or a folder. rank: place in the search, 1 is the pick and the default. key: of any
        architecture that the search trained. front: place on the Pareto front, 1 is the cheapest.
    recipe: the run's full training if not given. out: RUN/final if not given. space: as for `rank`.
    Raises a UserError for a mistake, and RunFailedError when the training raises or diverges.
    """
    opened = _opened(run, space)
    return train_final(
        opened.place,
        rank=rank,
        key=key,
        front=front,
        recipe=recipe,
        out=None if out is None else Path(out),
        overwrite=overwrite,
        progress=shown(progress),
        space=_given(opened),
    )


def run(
    dataset: str | None = None,
    space: Given | None = None,
    *,
    out: str | Path | None = None,
    config: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | bool | None = None,
    **settings: Any,
) -> Run:
    """Condense, search, train the ground truth, rank and report.

    dataset: as on the command line; "digits" if not given. space: as there, "convnet" if not given, or a `Space`, or a
        function `space(trial)`, itself: from a notebook too, see `nas_proxy.spaces.by_value`. config: a run.toml to
        repeat, of which whatever else is given here takes the place.
    out: runs/<data set>-<space> if not given.
    settings: fields of `nas_proxy.RunConfig`, for example trials=100 or condense={"steps": 500}.
    Raises a subclass of nas_proxy.UserError for a mistake, and RunFailedError when all candidates fail.
    """
    if config is None:
        dataset, space = dataset or "digits", "convnet" if space is None else space
    spec = None if space is None else spec_of(space)
    itself = None if spec is None else _itself(spec)
    named = {} if spec is None else {"space": _named(spec)}
    given = {**({} if dataset is None else {"dataset": dataset}), **named, **settings}
    resolved = resolve(given, None if config is None else Path(config))
    out = None if out is None else Path(out)
    return Run(run_all(resolved, out, overwrite=overwrite, progress=shown(progress), space=itself), itself)


def open(folder: str | Path, *, space: Given | None = None) -> Run:  # noqa: A001 (read as nas_proxy.open)
    """Return the run or the comparison in a folder, as far as it has come: `.study`, `.trials`, `.ranking`.

    space: where it was given itself, to go on with `rank` or `final`. Raises RunFolderError where there is none.
    """
    return Run(open_run(Path(folder)), space)


def _asked(data: Development) -> Mapping[str, Any]:
    """Return the settings that data were read by. Raises ConfigError for images of no data set."""
    if not data.dataset:
        raise ConfigError(["the data are of no data set; give what nas_proxy.load_data returns"])
    return {name: getattr(data, name) for name in ("dataset", "seed", "limit", "image_size")}


def _made_before(folder: Path, config: RunConfig) -> Proxy | None:
    """Return the set that the run in a folder has; a search on it has settings of its own, which stay.

    Raises RunFolderError where the set is another one than `config` asks for.
    """
    if not (folder / RUN_FILE).is_file() or not set_path(folder, PROXY, 0).is_file():
        return None
    found = open_run(folder)
    named = [*OF_THE_SET, *["space"] * (config.condense.embed == "space")]
    asked: dict[str, Any] = {name: getattr(config, name) for name in named}
    check_same(RunFolder(folder, replace(found.config, **asked)))
    return Proxy(found)


def _check_same_data(data: Development, proxy: Proxy) -> None:
    if data.fingerprint != proxy.made.data_fingerprint:
        raise ConfigError(
            [f"the proxy in {proxy.folder} was made of other data than {data!r}; condense these, or load the others"]
        )


def _named(spec: str | SpaceByValue) -> str:
    return spec if isinstance(spec, str) else spec.name


def _itself(spec: str | SpaceByValue) -> SpaceByValue | None:
    return None if isinstance(spec, str) else spec


def _opened(run: Run | str | Path, space: Given | None) -> Run:
    found = run if isinstance(run, Run) else open(run)
    place: RunFolder = open_run(found.folder, comparisons=False)
    return Run(place, found.space if space is None else space)


def _given(opened: Run) -> Given | None:
    """Return the space itself, which a run needs whose settings name none. Raises ConfigError where it is missing."""
    named = opened.config.space
    if opened.space is None and named.startswith(GIVEN):
        called = named.removeprefix(GIVEN)
        raise ConfigError([f"the space {called!r} was given to this run itself; give it again as space="])
    return opened.space
