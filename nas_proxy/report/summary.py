"""What a run comes to, for a first look: its ranking and its final network in; which network, how good, what it saved.

The same four answers stand on the first screen of the page and in the last lines on the terminal; the fourth, whether
it can be trusted, is `nas_proxy.report.verdict`'s. What a folder of an earlier version does not tell is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from statistics import NormalDist
from typing import Any

from nas_proxy.ranking.decision import candidates, seconds_of
from nas_proxy.ranking.intervals import LEVEL, Interval
from nas_proxy.ranking.ranking import Block, Pick, Ranking
from nas_proxy.report.formats import UNDEFINED, count, decimal, duration, faster, finite, percent
from nas_proxy.report.run_contents import FinalNetwork, Run
from nas_proxy.report.verdict import truth_source

HOUR = 3600
SPENT = {"scores": "untrained scores", "proxy": "proxy trainings", "full": "full training", "judging": "judging"}


@dataclass(frozen=True)
class Accuracy:
    """The accuracy of the network, with its interval over test images; `words`: what it is of."""

    estimate: Interval
    words: str

    @property
    def text(self) -> str:
        """The accuracy and its interval as percent."""
        found = self.estimate
        if found.value is None:
            return UNDEFINED
        return percent(found.value) + (f" {self.bounds}" if found.bounded else "")

    @property
    def bounds(self) -> str:
        """The interval alone; "" where there is none."""
        low, high = self.estimate.low, self.estimate.high
        return "" if low is None or high is None else f"[{decimal(100 * low, 1)}, {decimal(100 * high, 1)}]"


@dataclass(frozen=True)
class Drawn:
    """A block as it is drawn: how often it is repeated, its layers, the shape of what comes out, parameters."""

    layers: tuple[str, ...]
    shape: str
    params: int | None
    times: int
    wide: float
    high: float
    skipped: int


def accuracy_of(ranking: Ranking, final: FinalNetwork | None = None) -> Accuracy | None:
    """Return how good the network is: the pick's final one, or the pick after full training; None without a pick.

    The interval is Wilson's over the test images (Wilson 1927); how far another training differs is not in it.
    """
    if final is not None and (ranking.pick is None or final.key == ranking.pick.key):
        told = "final network, trained on all train and validation images"
        return Accuracy(over_images(final.final_accuracy, final.test_images), f"test accuracy, {told}")
    pick = ranking.pick
    if pick is None:
        return None
    if pick.truth_mean is None:
        return Accuracy(Interval(), pick.truth_reason or "not trained in full yet")
    published = "published accuracy" if truth_source(ranking) else "test accuracy"
    return Accuracy(over_images(pick.truth_mean, pick.test_images), published + _of_trainings(pick))


def _of_trainings(pick: Pick) -> str:
    """Return of which full trainings the accuracy is: one by which a network was chosen has its luck in it."""
    read, chosen_by = len(pick.truth) - pick.truth_chosen_by, pick.truth_chosen_by
    if chosen_by and read <= 0:
        return " of the full training that it was chosen by"
    if chosen_by:
        return f" of {'a full training' if read == 1 else f'{read} full trainings (mean)'} that it was not chosen by"
    return f", mean of {read} full trainings" if read > 1 else ""


def over_images(accuracy: float, images: int | None) -> Interval:
    """Return an accuracy with its 95 % interval over so many test images; without one where they are not known."""
    if not images or not 0 <= accuracy <= 1:
        return Interval(accuracy)
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, whole = accuracy + z * z / (2 * images), 1 + z * z / images
    arm = z * (accuracy * (1 - accuracy) / images + (z / (2 * images)) ** 2) ** 0.5
    return Interval(
        accuracy, max(0.0, (middle - arm) / whole), min(1.0, (middle + arm) / whole), "Wilson", None, images
    )


def size_of(pick: Pick, known: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Return parameters, FLOPs and latency of the pick in words, what is known of them.

    known: its row of trials.csv, which tells what a ranking of an earlier version does not.
    """
    told: dict[str, float | None] = {}
    for name in ("params", "flops", "latency_ms"):
        value = getattr(pick, name)
        told[name] = finite((known or {}).get(name)) if value is None else value
    found = [("parameters", count(told["params"])), ("FLOPs", count(told["flops"]))]
    latency = told["latency_ms"]
    if latency is not None:
        batch = pick.latency_batch or 1
        images = "an image" if batch == 1 else f"{batch} images"
        found.append(
            (f"ms for {images}" + (f" on {pick.latency_device}" if pick.latency_device else ""), f"{latency:.2g}")
        )
    return [(name, text) for name, text in found if text != UNDEFINED]


def drawn(pick: Pick) -> list[Drawn]:
    """Return the image and the blocks of the pick's network as they are drawn, repeated ones once; [] without any.

    A block is as high as the side, and as wide as the channels, of what comes out of it, both as shares of the largest.
    """
    if not pick.blocks:
        return []
    every = (Block((), pick.input), *pick.blocks)
    most_side = max([block.shape[1] for block in every if len(block.shape) == 3], default=1) or 1
    most_wide = max((block.shape[0] for block in every if block.shape), default=1) or 1
    found = []
    for block, same in groupby(every):
        side = block.shape[1] if len(block.shape) == 3 else 0
        found.append(
            Drawn(
                block.layers,
                shape_text(block),
                block.params,
                len(list(same)),
                # By the root, so that a block of a sixteenth is still seen.
                wide=0.2 + 0.8 * (block.shape[0] / most_wide) ** 0.5 if block.shape else 0.25,
                high=0.16 + 0.84 * (side / most_side) ** 0.5,
                skipped=block.skipped,
            )
        )
    return found


def shape_text(block: Block) -> str:
    """Return "32×4×4"."""
    return "×".join(map(str, block.shape))


@dataclass(frozen=True)
class Saved:
    """What the run saved: in a word or two, why, and where its time went: parts and their seconds."""

    head: str
    words: str
    parts: tuple[tuple[str, float], ...] = ()


def saved(ranking: Ranking, parts: tuple[tuple[str, float], ...] = ()) -> Saved | None:
    """Return what the run saved against full training; None where nothing tells.

    parts: where its time went, where the ranking does not say.
    """
    told = ranking.saving
    if told is not None and told.ratio is not None and told.random_hours is not None and told.spent_hours is not None:
        hours = told.random_hours - told.spent_hours
        spent = tuple((SPENT.get(name, name), HOUR * value) for name, value in told.spent.items() if value > 0)
        # The head says already whether it saved anything.
        words = told.sentence.removeprefix("Saved nothing: ").removeprefix("Saved: ").rstrip(".")
        words = words or f"{faster(told.ratio)} than random search with full training"
        return Saved(_gain(HOUR * hours), words, spent)
    if told is not None and told.reason:
        return Saved("Not known", told.reason, parts)
    lead = ranking.decision.lead
    spent_, full = (None if lead is None else seconds_of(ranking, lead)), seconds_of(ranking, "repeatability")
    if not spent_ or not full:
        return Saved("Not known", "how long full training takes was not measured here", parts) if parts else None
    words = f"{count(candidates(ranking))} candidates take {duration(spent_)}, their full training {duration(full)}"
    return Saved(_gain(full - spent_), words, parts)


def _gain(seconds: float) -> str:
    return f"{duration(seconds)} saved" if seconds > 0 else f"Nothing ({duration(-seconds)} lost)"


def parts_of(run: Run) -> tuple[tuple[str, float], ...]:
    """Return where the time of a run went, by its tables: seconds of all workers together."""
    ranking = Ranking({}) if run.ranking is None else run.ranking
    draws = 1 if run.scores.empty else max(1, sum(name.startswith("random_") for name in map(str, run.scores)))
    controls = [(ranking.row(name).cost.seconds or 0.0) for name in ("early_stop",)]
    controls.append(draws * (ranking.row("random").cost.seconds or 0.0))
    found = {
        "condensing": ranking.cost.condense_seconds or 0.0,
        "search": _sum(run.trials, "seconds"),
        "full training": _sum(run.truth, "seconds"),
        "random images and other controls": sum(controls),
    }
    return tuple((name, seconds) for name, seconds in found.items() if seconds > 0)


def _sum(frame: Any, name: str) -> float:
    import pandas as pd

    return float(pd.to_numeric(frame[name], errors="coerce").sum()) if name in frame else 0.0
