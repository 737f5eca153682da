"""What signals are called in studies, files and on the command line, and what a reader sees instead."""

from collections.abc import Mapping
from typing import TypeVar

PROXY, RANDOM, EARLY_STOP, TOTAL, TRUTH = "proxy", "random", "early_stop", "random_total", "truth"
SIZES = ("params", "flops")
ZERO_COST = (*SIZES, "synflow", "jacob_cov", "naswot", "az_nas")
CALIBRATED, COMBINED, REPEATABILITY = "calibrated", "combined", "repeatability"
LOSS_SUM = ":loss_sum"

LABELS = {
    PROXY: "Proxy",
    "dm": "Condensed",
    RANDOM: "Random images",
    "herding": "Herding",
    "kcenter": "K-centre",
    "patches": "Patches",
    EARLY_STOP: "Early stop",
    TOTAL: "Random, equal cost",
    "params": "Parameters",
    "flops": "FLOPs",
    "synflow": "SynFlow",
    "jacob_cov": "Jacob_cov",
    "naswot": "NASWOT",
    "az_nas": "AZ-NAS",
    CALIBRATED: "Calibrated",
    COMBINED: "Mean rank",
    REPEATABILITY: "Full training",
    TRUTH: "Full training",
    "latency": "Latency",
}
# By what a row ranks, where it is not what its table ranks by.
BY = {"accuracy": "by accuracy", "loss_sum": "by loss sum"}

# The columns of trials.csv, and of `Run.trials`, that are no choices.
MEASURED = frozenset(
    {"signal", "draw", "key", "index", "phase", "state", "reason", "diverged", "pruned_at"}
    | {"score", "proxy_accuracy", "loss_sum", "score_std", "loss_sum_std", "seconds", "image_passes", "params", "flops"}
    | {"latency_ms", "latency_low_ms", "latency_high_ms"}
)
CHOICE = "choice."
_Value = TypeVar("_Value")


def columns_of(architecture: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the columns of trials.csv of an architecture: a choice that is called like another one is "choice.NAME".

    So is a choice whose name is such a column: no two choices have one column.
    """
    return {CHOICE + name if _taken(name) else name: option for name, option in architecture.items()}


def choice_of(column: str) -> str:
    """Return the name of the choice in a column, the other way round."""
    name = column.removeprefix(CHOICE)
    return name if _taken(name) else column


def _taken(name: str) -> bool:
    while name.startswith(CHOICE):
        name = name.removeprefix(CHOICE)
    return name in MEASURED


def label(row: str) -> str:
    """Return the name of a signal, or of its row by another score, as a reader sees it.

    "proxy:loss_sum" is "Proxy, by loss sum", "dm+space" "Condensed, dm+space". A name of nobody's stays as it is.
    """
    name, _, score = row.partition(":")
    base = name.partition("@")[0].partition("+")[0]
    if base not in LABELS:
        return row
    shown = LABELS[base] if name == base else f"{LABELS[base]}, {name}"
    return f"{shown}, {BY[score]}" if score in BY else row if score else shown
