"""Run folders that nobody plans for: one list, used wherever a run folder is read.

Each builder writes a folder that a real run could leave behind. `ordinary` is the one that holds everything;
the others spoil it.
"""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from failing_objectives import CHANGES, Change

Builder = Callable[[Path], object]

CHOICES: dict[str, tuple[Any, ...]] = {
    "depth": (1, 2, 3, 4),
    "width": (32, 64, 128),
    "norm": ("none", "batch"),
}
HOSTILE = """</script><script>alert(1)</script><img src=x onerror=alert(2)> "double" 'single' [bold]&amp; """
HOSTILE += "%{x} $\\a$ [/] é,\n€"
CONFIG = """
seed = 0
dataset = "mnist"
space = "cnn.py"

[condense]
images_per_class = 10
augmentation = ["crop", "colour"]
"""


def interval(value: float | None, width: float = 0.06, **more: object) -> dict[str, Any]:
    if value is None:
        return {"value": None, "low": None, "high": None, "reason": "all scores are equal", **more}
    return {
        "value": value,
        "low": max(-1.0, value - width),
        "high": min(1.0, value + width / 2),
        "method": "BCa",
        **more,
    }


def signal(spearman: float | None, *, seconds: float, image_passes: int, gain: float | None = None) -> dict[str, Any]:
    half = None if spearman is None else spearman - 0.2
    found = {
        "spearman": interval(spearman),
        "kendall": interval(None if spearman is None else spearman - 0.1),
        "spearman_top_half": interval(half, 0.3, n=12),
        "precision_at_5": 0.6,
        "precision_at_5_chance": 0.2083,
        "regret": 0.004,
        "pick": "depth=3",
        "seconds": seconds,
        "image_passes": image_passes,
        "stored_bytes": 6400,
        "minus_random": interval(gain, 0.08),
    }
    if gain is None:
        found["minus_random"]["reason"] = "compared with itself"
    return found


def ranking_of(rows: pd.DataFrame, **proxy: Any) -> dict[str, Any]:
    best = rows.iloc[0]
    return {
        "n": 24,
        "subset": "uniform sample of the space (24 of 540 architectures)",
        "signals": {
            "proxy": signal(**({"spearman": 0.91, "seconds": 12.3, "image_passes": 240_000, "gain": 0.06} | proxy))
            | {"pick": str(best["key"])},
            "random": signal(0.85, seconds=11.9, image_passes=240_000),
            "early_stop": signal(0.78, seconds=41.0, image_passes=1_200_000, gain=-0.07),
            "params": signal(0.41, seconds=0, image_passes=0, gain=-0.44),
            "flops": signal(0.52, seconds=0.004, image_passes=0, gain=-0.33),
            "repeatability": signal(0.97, seconds=1930.0, image_passes=31_000_000, gain=0.12),
        },
        "pick": {
            "key": str(best["key"]),
            "architecture": {name: str(best[name]) for name in rows if name in CHOICES},
            "phase": str(best["phase"]),
            "proxy_score": 0.93,
            "truth": [0.981, 0.977],
            "truth_mean": 0.979,
        },
        "cost": {
            "condense_seconds": 95.0,
            "proxy_seconds": 61.5,
            "truth_seconds": 1930.0,
            "speedup": 12.4,
            "speedup_note": "full training of every trial, against the proxy",
        },
        "failures": {"proxy": 1, "random": 0, "early_stop": 0, "truth": 0},
        "environment": {
            "nas_proxy": "0.1.0",
            "python": "3.11.9",
            "torch": "2.11.0",
            "device": "cpu",
            "cores": 2,
        },
    }


def trials_of(n: int = 40, sampled: int = 24) -> pd.DataFrame:
    draw = np.random.default_rng(7)
    rows = []
    for index in range(n):
        arch = {name: options[int(draw.integers(len(options)))] for name, options in CHOICES.items()}
        ability = 0.7 + 0.05 * arch["depth"] + 0.0004 * arch["width"] + 0.02 * (arch["norm"] == "batch")
        rows.append(
            {
                "key": ",".join(f"{name}={value}" for name, value in arch.items()) + f",draw={index}",
                "index": index,
                "phase": "sample" if index < sampled else "search",
                "state": "complete",
                "score": round(ability + draw.normal(0, 0.01), 4),
                "loss_sum": round(40 / ability, 3),
                "diverged": index == 5,
                "seconds": 1.5,
                "image_passes": 10_000,
                "params": 1000 * arch["depth"] * arch["width"],
                "flops": 90_000 * arch["depth"] * arch["width"],
                "reason": "",
                **arch,
            }
        )
    frame = pd.DataFrame(rows)
    frame["score"] = frame["score"].astype(object)
    frame.loc[[3], ["state", "score", "reason"]] = [
        "failed",
        "",
        "RuntimeError: the image is smaller than the kernel",
    ]
    return frame


def truth_of(trials: pd.DataFrame) -> pd.DataFrame:
    draw = np.random.default_rng(8)
    known = trials[trials["score"] != ""]
    mean = known["score"].astype(float) * 0.5 + 0.5 + draw.normal(0, 0.004, len(known))
    seeds = draw.normal(0, 0.003, (2, len(known)))
    both = {
        "accuracy": mean + seeds.mean(axis=0),
        "accuracy_0": mean + seeds[0],
        "accuracy_1": mean + seeds[1],
    }
    frame = known[["key", "phase"]].assign(**both, seconds=40.2, params=known["params"], flops=known["flops"])
    return frame.head(28)


def ordinary(folder: Path, n: int = 40, **proxy: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.toml").write_text(CONFIG, encoding="utf-8")
    trials = trials_of(n)
    truth = truth_of(trials)
    trials.to_csv(folder / "trials.csv", index=False)
    truth.to_csv(folder / "truth.csv", index=False)
    sample = truth[truth["phase"] == "sample"]
    noise = dict.fromkeys(("proxy", "random", "random_0", "random_1", "random_2", "early_stop"), 0.8)
    sample[["key"]].assign(**noise, params=1000, flops=90_000).to_csv(folder / "scores.csv", index=False)
    put_ranking(folder, ranking_of(trials, **proxy))
    pixels = np.random.default_rng(9).integers(0, 256, (28 * 2, 28 * 10), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "proxy.png")
    return trials, truth


def put_ranking(folder: Path, ranking: object) -> None:
    (folder / "ranking.json").write_text(json.dumps(ranking, ensure_ascii=False), encoding="utf-8")


def get_ranking(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
    return found


def without(*names: str) -> Builder:
    def build(folder: Path) -> None:
        ordinary(folder)
        for name in names:
            (folder / name).unlink()

    return build


def holding(name: str, content: bytes) -> Builder:
    def build(folder: Path) -> None:
        ordinary(folder)
        (folder / name).write_bytes(content)

    return build


def spoilt_trials(**columns: Any) -> Builder:
    def build(folder: Path) -> None:
        trials, _ = ordinary(folder)
        trials.assign(**columns).to_csv(folder / "trials.csv", index=False)

    return build


def one_trial(folder: Path) -> None:
    trials, truth = ordinary(folder)
    trials.head(1).to_csv(folder / "trials.csv", index=False)
    truth.head(1).to_csv(folder / "truth.csv", index=False)
    ranking = ranking_of(trials, spearman=None) | {"n": 1}
    ranking["signals"] = {
        name: {
            m: {"value": None, "low": None, "high": None, "reason": "one architecture has no rank"}
            for m in ("spearman", "kendall", "spearman_top_half")
        }
        | {"precision_at_5": None, "precision_at_5_reason": "fewer than 5 architectures", "regret": None}
        for name in ranking["signals"]
    }
    put_ranking(folder, ranking)


def all_failed(folder: Path) -> None:
    trials, _ = ordinary(folder)
    reasons = [f"RuntimeError: number {index % 30}" for index in range(len(trials))]
    trials.assign(state="failed", score="", reason=reasons).to_csv(folder / "trials.csv", index=False)
    for name in ("truth.csv", "scores.csv", "ranking.json"):
        (folder / name).unlink()


def constant_scores(folder: Path) -> None:
    trials, truth = ordinary(folder, spearman=None)
    trials.assign(score=0.1).to_csv(folder / "trials.csv", index=False)
    truth.assign(accuracy=0.5, accuracy_0=0.5, accuracy_1=0.5).to_csv(folder / "truth.csv", index=False)


def hostile_names(folder: Path) -> None:
    trials, truth = ordinary(folder)
    rename = {key: f"{HOSTILE} {number}" for number, key in enumerate(trials["key"])}
    trials["key"], truth["key"] = trials["key"].map(rename), truth["key"].map(rename)
    trials.loc[[3], "reason"] = HOSTILE
    trials = trials.rename(columns={"norm": HOSTILE})
    trials.to_csv(folder / "trials.csv", index=False)
    truth.to_csv(folder / "truth.csv", index=False)
    objective = 'objective = ["accuracy", "flops"]\n'
    (folder / "run.toml").write_text(f"{objective}[space]\nname = {json.dumps(HOSTILE)}\n", encoding="utf-8")
    ranking = ranking_of(trials)
    ranking["pick"]["architecture"] = {HOSTILE: HOSTILE}
    ranking["subset"] = ranking["cost"]["speedup_note"] = ranking["environment"]["cpu"] = HOSTILE
    ranking["signals"]["proxy"]["kendall"] = {"value": None, "low": None, "high": None, "reason": HOSTILE}
    put_ranking(folder, ranking)


def thousands(folder: Path) -> None:
    ordinary(folder, n=5000)


def no_intervals(folder: Path) -> None:
    ordinary(folder)
    ranking = get_ranking(folder)
    for values in ranking["signals"].values():
        for measure in ("spearman", "kendall", "spearman_top_half", "minus_random"):
            values[measure] |= {"low": None, "high": None, "reason": "fewer than 4 architectures"}
    put_ranking(folder, ranking | {"n": 3})


def not_finite(folder: Path) -> None:
    trials, truth = ordinary(folder)
    odd: Iterable[Any] = ["nan", "inf", "-inf", "", "1e400", "text", 0.5, "0.6"]
    trials["score"] = [*odd, *[0.7] * (len(trials) - 8)]
    trials.assign(params="inf", index="").to_csv(folder / "trials.csv", index=False)
    truth["accuracy_1"] = ""
    truth.loc[truth.index[:3], "accuracy"] = float("nan")
    truth.to_csv(folder / "truth.csv", index=False)
    ranking = get_ranking(folder)
    ranking["signals"]["proxy"] |= {"regret": float("inf"), "seconds": float("nan"), "spearman": None}
    ranking["signals"]["random"] = None
    ranking["cost"] = {"speedup": float("inf")}
    ranking["pick"] |= {"truth": None, "truth_mean": None, "architecture": None}
    put_ranking(folder, ranking)


def single_choice(folder: Path) -> None:
    trials, truth = ordinary(folder)
    keep = trials.head(3).drop(columns=list(CHOICES))
    keep.assign(key="only", only=1).to_csv(folder / "trials.csv", index=False)
    truth.head(1).assign(key="only").to_csv(folder / "truth.csv", index=False)


def worse_than_random(folder: Path) -> None:
    ordinary(folder, spearman=0.35, gain=-0.5)
    ranking = get_ranking(folder)
    ranking["cost"]["speedup"] = 0.62
    put_ranking(folder, ranking)


def changed(change: Change, n: int) -> Builder:
    def build(folder: Path) -> None:
        trials, _ = ordinary(folder, n)
        change(folder, trials)

    return build


# Of which one, `thousands`, is enough for every day.
LARGE = {"thousands_on_the_front", "thousands_for_several"}
ODD_RUNS = [
    pytest.param(build, id=name, marks=pytest.mark.slow if name in LARGE else ())
    for name, build in {
        "ordinary": ordinary,
        "one_trial": one_trial,
        "all_failed": all_failed,
        "constant_scores": constant_scores,
        "hostile_names": hostile_names,
        "thousands": thousands,
        "no_intervals": no_intervals,
        "not_finite": not_finite,
        "single_choice": single_choice,
        "worse_than_random": worse_than_random,
        "only_config": without("trials.csv", "truth.csv", "scores.csv", "ranking.json", "proxy.png"),
        "no_truth_yet": without("truth.csv", "scores.csv", "ranking.json"),
        "no_trials": without("trials.csv"),
        "no_ranking": without("ranking.json"),
        "no_images": without("proxy.png"),
        "empty_trials": holding("trials.csv", b""),
        "header_only": holding("trials.csv", b"key,index,phase,state,score\n"),
        "few_columns": holding("truth.csv", b"key,accuracy\nNA,0.9\n"),
        "cut_csv": holding("truth.csv", b'key,phase\n"depth=1,sam'),
        "long_row": holding("trials.csv", b"key,index\na,0,sample,complete\n"),
        "not_utf8": holding("trials.csv", b"key,index\n\xff\xfe\xfa,0\n"),
        "cut_ranking": holding("ranking.json", b'{"n": 24, "signals": {'),
        "ranking_is_a_list": holding("ranking.json", b"[1, 2]"),
        "ranking_of_wrong_types": holding("ranking.json", b'{"n": "5", "signals": {"proxy": {"kendall": 3}}}'),
        "ranking_without_signals": holding("ranking.json", b'{"n": 24}'),
        "signals_are_null": holding(
            "ranking.json", b'{"n": null, "signals": {"proxy": null}, "pick": null, "cost": null}'
        ),
        "cut_image": holding("proxy.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
        "not_an_image": holding("proxy.png", b"<svg onload=alert(1)>"),
        "all_diverged": spoilt_trials(diverged=True),
        "odd_words": spoilt_trials(phase="?", state="?", diverged="?"),
        "same_key": spoilt_trials(key="twice", index=0),
        "cut_real_image": holding("real.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"),
        **{name: changed(change, n) for name, (n, change) in CHANGES.items()},
    }.items()
]
