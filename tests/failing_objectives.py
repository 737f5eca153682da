"""Run folders for several objectives that nobody plans for: what turns an ordinary folder into one, by name."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

Change = Callable[[Path, pd.DataFrame], None]
THREE = ("accuracy", "params", "latency")


def timed(trials: pd.DataFrame) -> pd.DataFrame:
    draw = np.random.default_rng(11)
    latency = 0.1 + trials["params"] / 50_000 + draw.normal(0, 0.01, len(trials)).round(4)
    return trials.assign(latency_ms=latency, latency_low_ms=latency * 0.97, latency_high_ms=latency * 1.04)


def write(folder: Path, trials: pd.DataFrame, objective: object = THREE) -> None:
    """Put trials.csv, and an objective on top of run.toml."""
    trials.to_csv(folder / "trials.csv", index=False)
    path = folder / "run.toml"
    written = json.dumps(objective, ensure_ascii=False)
    path.write_text(f"objective = {written}\n{path.read_text(encoding='utf-8')}", encoding="utf-8")


def several(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, timed(trials))
    pixels = np.random.default_rng(12).integers(0, 256, (28 * 2, 28 * 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "real.png")


def two(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, trials, ("accuracy", "flops"))


def not_finite(folder: Path, trials: pd.DataFrame) -> None:
    odd = ["nan", "inf", "-inf", "", "1e400", "text", "-3", "0"]
    rows = timed(trials).astype(object)
    rows["latency_ms"] = [*odd, *rows["latency_ms"].tolist()[8:]]
    rows["params"] = [*rows["params"].tolist()[:8], *odd, *rows["params"].tolist()[16:]]
    write(folder, rows)


def none_known(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, trials.assign(latency_ms=""))


def never_timed(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, trials, ("accuracy", "latency"))


def all_failed(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, timed(trials).assign(state="failed", score="", reason="RuntimeError: no"))


def all_equal(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, timed(trials).assign(score=0.5, params=10, latency_ms=0.0))


def one(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, timed(trials).head(1))


def all_on_the_front(folder: Path, trials: pd.DataFrame) -> None:
    rising = np.arange(1, len(trials) + 1)
    write(folder, timed(trials).assign(score=rising / len(trials), params=rising, latency_ms=rising / 100))


def unknown_objectives(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, trials, ["accuracy", "</script><script>alert(3)</script>", "flops", "flops", "params"])


def a_word(folder: Path, trials: pd.DataFrame) -> None:
    write(folder, trials, "params")


# By name: the number of trials, and the change.
CHANGES: dict[str, tuple[int, Change]] = {
    "several_objectives": (40, several),
    "two_objectives": (40, two),
    "thousands_for_several": (5000, several),
    "thousands_on_the_front": (5000, all_on_the_front),
    "objectives_not_finite": (40, not_finite),
    "objectives_not_known": (40, none_known),
    "latency_never_measured": (40, never_timed),
    "several_all_failed": (40, all_failed),
    "objectives_all_equal": (40, all_equal),
    "one_trial_for_several": (40, one),
    "unknown_objectives": (40, unknown_objectives),
    "objective_is_a_word": (40, a_word),
}
