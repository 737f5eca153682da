"""What the folder of a run or a comparison holds: the folder in, its files as frames and values out.

A stage that has not run yet, or a file that cannot be read, is told of and never raised; only a folder without
readable settings is refused.
"""

import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from nas_proxy.errors import RunFolderError
from nas_proxy.ranking.believed import NAME as SEARCH
from nas_proxy.ranking.believed import means, order_of
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.report.pictures import Picture, read_picture
from nas_proxy.untrusted import checked, read_json, read_toml

RUN, COMPARISON = "run.toml", "compare.toml"
TRIALS = ("key", "index", "phase", "state", "score", "loss_sum", "diverged", "params", "reason")
TRUTH = ("key", "phase", "accuracy", "params", "flops")
SCORES = ("key", "random", "early_stop")
# The columns of `truth.csv` that hold a seed each.
SEED = re.compile(r"accuracy_\d+")
TEXT = ("key", "phase", "state", "reason", "diverged")
_T = TypeVar("_T")


@dataclass(frozen=True)
class FinalNetwork:
    """What `final/architecture.json` tells of a final network; numbers that it lacks are None."""

    final_accuracy: float
    key: str = ""
    architecture: Mapping[str, Any] = field(default_factory=dict)
    rank: int | None = None
    test_images: int | None = None
    search_score: float | None = None
    params: int | None = None
    seconds: float | None = None
    trained_on: Mapping[str, int] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """What a folder holds so far.

    name: the folder's name. comparison: whether it is a comparison's, which searches nothing. config: its settings.
    ranking: `ranking.json`, or None. by: the score that ranks and picks; that of `trials`, `scores` and their figures.
    trials, truth, scores: the CSV files with all their columns, numbers finite or NaN; no rows when absent.
    image, real: `proxy.png` and `real.png`, or None. final: None where no final network was trained.
    believed: what the accuracy after full training is believed to be, by key; None before full trainings.
    missing: pairs of what is not there yet and the stage (the command) that makes it.
    damaged: pairs of a sentence about a file that cannot be read and the stage that makes it.
    """

    name: str
    comparison: bool
    config: Mapping[str, Any]
    ranking: Ranking | None
    trials: pd.DataFrame
    truth: pd.DataFrame
    scores: pd.DataFrame
    image: Picture | None
    real: Picture | None
    final: FinalNetwork | None
    missing: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, str], ...]
    by: str = "accuracy"
    believed: Mapping[str, float] | None = None


def is_comparison(folder: Path) -> bool:
    """Return whether a folder is a comparison's, as its settings tell, rather than a run's."""
    return (folder / COMPARISON).is_file() and not (folder / RUN).is_file()


def read_run(folder: Path) -> Run:
    """Read what a folder holds. Raises RunFolderError where its settings are absent or not TOML."""
    comparison = is_comparison(folder)
    config = _read_config(folder / (COMPARISON if comparison else RUN))
    damaged: list[tuple[str, str]] = []
    image, real = (read_picture(folder / name, damaged) for name in ("proxy.png", "real.png"))
    by = "loss_sum" if config.get("score") == "loss_sum" else "accuracy"
    trials = _scored(_read_table(folder / "trials.csv", TRIALS, "search", damaged), by)
    truth = _read_table(folder / "truth.csv", TRUTH, "truth", damaged)
    scores = _read_table(folder / "scores.csv", SCORES, "rank", damaged)
    ranking = _read(folder, "ranking.json", Ranking.of, "rank", damaged)
    final = _read(folder, "final/architecture.json", lambda told: checked(FinalNetwork, told), "final", damaged)
    stages = {
        "synthetic images": ("condense", image is not None),
        "proxy trials": ("search", len(trials) > 0),
        "full training": ("truth", len(truth) > 0),
        "ranking": ("rank", ranking is not None),
    }
    broken = {stage for _, stage in damaged}
    missing = tuple((what, stage) for what, (stage, there) in stages.items() if not there and stage not in broken)
    if comparison:
        missing = ()
    name = folder.resolve().name
    believed = _read(folder, SEARCH, lambda told: means(order_of(told)), "truth", damaged)
    told = (*missing,), (*damaged,)
    return Run(name, comparison, config, ranking, trials, truth, scores, image, real, final, *told, by, believed)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return read_toml(path)
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(
            f"{path.parent} holds no run (it has no run.toml); make one with: nas-proxy run --out {path.parent}"
        ) from None
    except ValueError as error:
        raise RunFolderError(f"{path} is not readable TOML ({error}); restore it or start a new run") from None


def _read(
    folder: Path, name: str, read: Callable[[object], _T], stage: str, damaged: list[tuple[str, str]]
) -> _T | None:
    """Return what a JSON file holds; None where there is none, or it cannot be read, which is told in `damaged`."""
    try:
        return read(read_json(folder / name))
    except FileNotFoundError:
        return None
    except ValueError as error:
        damaged.append((f"{name} cannot be read ({error})", stage))
        return None


def _read_table(path: Path, columns: tuple[str, ...], stage: str, damaged: list[tuple[str, str]]) -> pd.DataFrame:
    try:
        with warnings.catch_warnings():
            # A row that is too long is a damaged file, and pandas only warns of some of them.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # As text, since a key may be called "NA", and a number may be anything.
            frame = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False).fillna("")
    except (FileNotFoundError, pd.errors.EmptyDataError):
        frame = pd.DataFrame()
    except (ValueError, pd.errors.ParserWarning) as error:
        damaged.append((f"{path.name} cannot be read ({str(error).strip()})", stage))
        frame = pd.DataFrame()
    frame = frame.reindex(columns=[*columns, *(name for name in frame.columns if name not in columns)])
    for name in (*columns, *seed_columns(frame)):
        if name in TEXT:
            frame[name] = frame[name].astype(object).where(frame[name].notna(), "")
        else:
            numbers = pd.to_numeric(frame[name], errors="coerce").astype("float64")
            frame[name] = numbers.where(numbers.abs() < float("inf"))
    if "diverged" in columns:
        frame["diverged"] = frame["diverged"].str.lower() == "true" if len(frame) else False
    return frame


def _scored(trials: pd.DataFrame, by: str) -> pd.DataFrame:
    """Return the trials with the score `by`, higher for better; a diverged one has the lowest sum of losses.

    The accuracy stays beside it as `proxy_accuracy`.
    """
    trials = trials.assign(proxy_accuracy=trials["score"])
    if by == "accuracy":
        return trials
    scores = -trials["loss_sum"]
    lowest = scores.min() if scores.notna().any() else 0.0
    return trials.assign(score=scores.mask(trials["diverged"] & trials["score"].notna(), lowest))


def seed_columns(truth: pd.DataFrame) -> list[str]:
    """Return the columns of `truth.csv` that hold a seed each, in their order."""
    return [str(name) for name in truth.columns if SEED.fullmatch(str(name))]


def usable(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Return which trials have a score that counts."""
    return ~trials["state"].isin(("failed", "pruned")) & trials["score"].notna()
