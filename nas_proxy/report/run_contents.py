"""What a run folder holds, for the report and the dashboard: the folder in, its files as frames and objects out.

A stage that has not run yet, or a file that cannot be read, is told of and never raised; only a folder without a
readable `run.toml` is refused.
"""

import json
import re
import tomllib
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nas_proxy.errors import RunFolderError
from nas_proxy.report.pictures import Picture, read_picture
from nas_proxy.report.verdict import part

TRIALS = ("key", "index", "phase", "state", "score", "loss_sum", "diverged", "params", "reason")
TRUTH = ("key", "phase", "accuracy", "params", "flops")
SCORES = ("key", "random", "early_stop")
# The columns of `truth.csv` that hold a seed each.
SEED = re.compile(r"accuracy_\d+")
TEXT = ("key", "phase", "state", "reason", "diverged")


@dataclass(frozen=True)
class Run:
    """What a run folder holds so far.

    name: the folder's name. config: `run.toml`. ranking: `ranking.json`, or {}.
    by: the score that ranks and picks; that of `trials`, `scores` and their figures.
    trials, truth, scores: the CSV files with all their columns, numbers finite or NaN; no rows when absent.
    image, real: `proxy.png` and `real.png`, or None.
    final: `final/architecture.json`, or {} where no final network was trained.
    missing: pairs of what is not there yet and the stage (the command) that makes it.
    damaged: pairs of a sentence about a file that cannot be read and the stage that makes it.
    """

    name: str
    config: Mapping[str, Any]
    ranking: Mapping[str, Any]
    trials: pd.DataFrame
    truth: pd.DataFrame
    scores: pd.DataFrame
    image: Picture | None
    real: Picture | None
    final: Mapping[str, Any]
    missing: tuple[tuple[str, str], ...]
    damaged: tuple[tuple[str, str], ...]
    by: str = "accuracy"


def read_run(run: Path) -> Run:
    """Read what a run folder holds. Raises RunFolderError where `run.toml` is absent or not TOML."""
    config = _read_config(run / "run.toml")
    damaged: list[tuple[str, str]] = []
    image, real = (read_picture(run / name, damaged) for name in ("proxy.png", "real.png"))
    by = "loss_sum" if config.get("score") == "loss_sum" else "accuracy"
    trials = _scored(_read_table(run / "trials.csv", TRIALS, "search", damaged), by)
    truth = _read_table(run / "truth.csv", TRUTH, "truth", damaged)
    scores = _read_table(run / "scores.csv", SCORES, "rank", damaged)
    ranking = _read_ranking(run / "ranking.json", damaged)
    final = _read_final(run / "final" / "architecture.json", damaged)
    stages = {
        "synthetic images": ("condense", image is not None),
        "proxy trials": ("search", len(trials) > 0),
        "full training": ("truth", len(truth) > 0),
        "ranking": ("rank", bool(ranking)),
    }
    broken = {stage for _, stage in damaged}
    missing = tuple((what, stage) for what, (stage, there) in stages.items() if not there and stage not in broken)
    name = run.resolve().name
    return Run(name, config, ranking, trials, truth, scores, image, real, final, missing, tuple(damaged), by)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunFolderError(
            f"{path.parent} holds no run (it has no run.toml); make one with: nas-proxy run --out {path.parent}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RunFolderError(f"{path} is not readable TOML ({error}); restore it or start a new run") from None


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
    """Return the trials with the score `by`, higher for better; a diverged one has the lowest sum of losses."""
    if by == "accuracy":
        return trials
    scores = -trials["loss_sum"]
    lowest = scores.min() if scores.notna().any() else 0.0
    return trials.assign(score=scores.mask(trials["diverged"] & trials["score"].notna(), lowest))


def _read_ranking(path: Path, damaged: list[tuple[str, str]]) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        damaged.append((f"{path.name} cannot be read ({error})", "rank"))
        return {}
    if not part(found):
        damaged.append((f"{path.name} holds no ranking", "rank"))
    return part(found)


def _read_final(path: Path, damaged: list[tuple[str, str]]) -> dict[str, Any]:
    try:
        return part(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        damaged.append((f"final/{path.name} cannot be read ({error})", "final"))
        return {}


def seed_columns(truth: pd.DataFrame) -> list[str]:
    """Return the columns of `truth.csv` that hold a seed each, in their order."""
    return [str(name) for name in truth.columns if SEED.fullmatch(str(name))]


def usable(trials: pd.DataFrame) -> "pd.Series[bool]":
    """Return which trials have a score that counts."""
    return ~trials["state"].isin(("failed", "pruned")) & trials["score"].notna()
