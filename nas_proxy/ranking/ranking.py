"""A ranking: the object of `ranking.json` in, of a run or a comparison of any version; typed values out.

It is checked once, when it is read: afterwards a number is finite or None, an interval has its parts, and text is text.
Ground truth, cost and rows of earlier versions become those of this one. No module of PyTorch's is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy.errors import RunFolderError
from nas_proxy.names import PROXY
from nas_proxy.ranking.decision import Decision, decide
from nas_proxy.ranking.intervals import Interval
from nas_proxy.untrusted import checked, cleaned, read_json

if TYPE_CHECKING:
    import pandas as pd

INTERVALS = (
    *("spearman", "spearman_top_half", "spearman_top_20", "kendall", "partial_spearman"),
    *("minus_random", "minus_random_total"),
)
SINGLE = (
    *("precision_at_5", "precision_at_10", "regret", "pick", "control", "beats_random", "more_architectures"),
    *("beats_random_total", "total_more_architectures", "pays_from"),
)
NOTHING = Interval()


@dataclass(frozen=True)
class Cost:
    """What one draw of a signal cost for all architectures together; None where it was not measured.

    seconds and passes (of images through a network) are the sums of training and of making the set.
    """

    seconds: float | None = None
    training_seconds: float | None = None
    making_seconds: float | None = None
    passes: int | None = None
    training_passes: int | None = None
    making_passes: int | None = None
    stored_images: int | None = None
    stored_bytes: int | None = None


@dataclass(frozen=True)
class Row:
    """How one signal ranks. Intervals that are not known have no value; other figures are None.

    minus_random, minus_random_total: Spearman less that of `control`, random images, and of `total_control`, more of
        them at the whole cost. beats_random, beats_random_total: "yes", "no" or "cannot tell", and about how many more
        architectures would tell.
    regret: accuracy that its pick loses. pays_from: candidates from which on making its set pays.
    reasons: why a figure is None, by its name; notes: what else is to be known of it.
    """

    spearman: Interval = NOTHING
    spearman_top_half: Interval = NOTHING
    spearman_top_20: Interval = NOTHING
    kendall: Interval = NOTHING
    partial_spearman: Interval = NOTHING
    minus_random: Interval = NOTHING
    minus_random_total: Interval = NOTHING
    precision_at_5: float | None = None
    precision_at_5_chance: float | None = None
    precision_at_10: float | None = None
    regret: float | None = None
    pick: str | None = None
    control: str | None = None
    total_control: str | None = None
    beats_random: str | None = None
    more_architectures: int | None = None
    beats_random_total: str | None = None
    total_more_architectures: int | None = None
    pays_from: int | None = None
    cost: Cost = Cost()
    reasons: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)

    def flat(self) -> dict[str, Any]:
        """Return every figure under a name of its own; `spearman` is the value, `spearman_low` a bound of it."""
        flat: dict[str, Any] = {}
        for name in INTERVALS:
            interval: Interval = getattr(self, name)
            flat |= {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}
            flat[f"{name}_n"] = interval.n
        flat |= {name: getattr(self, name) for name in SINGLE}
        return flat | {part.name: getattr(self.cost, part.name) for part in fields(Cost)}


@dataclass(frozen=True)
class Truth:
    """Where the ground truth comes from: training with so many seeds, or the columns of a file."""

    source: str = "training"
    seeds: int | None = None
    file: str | None = None
    columns: tuple[str, ...] = ()
    architectures: int | None = None
    fingerprint: str | None = None

    @property
    def published(self) -> bool:
        """Whether a table holds it, and nothing was fully trained here."""
        return self.source == "table"


@dataclass(frozen=True)
class Block:
    """A part of a network: its layers in words, the shape of what comes out for one image, trainable parameters.

    skipped: how many blocks before it are not told of.
    """

    layers: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    params: int | None = None
    skipped: int = 0


@dataclass(frozen=True)
class Pick:
    """The architecture that a run hands out, by posterior mean; in older folders the one that its proxy ranked first.

    truth: its accuracy on the test images after full training, by seed. truth_chosen_by: of how many of these, the
    first, the search saw validation images. truth_mean: of the others, where there are any. validation: on the
    validation images, by which the search saw it; None with published accuracies. posterior_mean, posterior_low,
    posterior_high: what the search believes that it is worth, the median with a 95 % interval.
    """

    key: str
    architecture: Mapping[str, Any] = field(default_factory=dict)
    phase: str | None = None
    validation: float | None = None
    posterior_mean: float | None = None
    posterior_low: float | None = None
    posterior_high: float | None = None
    proxy_score: float | None = None
    proxy_loss_sum: float | None = None
    truth: tuple[float, ...] = ()
    truth_chosen_by: int = 0
    truth_mean: float | None = None
    truth_reason: str | None = None
    # How many images each accuracy is of. Of the network, untrained: its size, the time of `latency_batch` images on a
    # `latency_device`, the shape (channels, height, width) of an image, and its blocks.
    test_images: int | None = None
    params: int | None = None
    flops: int | None = None
    latency_ms: float | None = None
    latency_device: str | None = None
    latency_batch: int | None = None
    input: tuple[int, ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True)
class RunCost:
    """What a run took, and how much faster that is than training its sample fully with one seed."""

    condense_seconds: float | None = None
    proxy_seconds: float | None = None
    truth_seconds: float | None = None
    speedup: float | None = None
    speedup_note: str | None = None
    speedup_reason: str | None = None


@dataclass(frozen=True)
class Saving:
    """What a run saved against random search: by how many times random search takes longer to find as good a pick.

    ratio: random_hours / spent_hours, with a 95 % interval; below 1 the run saved nothing.
    random_trainings: full trainings, one seed each, that random search would have needed on average, with the interval
        of what the run believes of the pool. random_hours: what they take, with as many workers.
    spent_hours: what the run took, but for starting, reading, ranking and reporting; spent: the same by what it was
        for: "condensing", "scores" (of untrained networks), "latencies", "choosing" (what to train next), "proxy",
        "full" and "judging" (the baselines and repeated trainings of the sample).
    pool: architectures that the search chose among. estimated: whether full trainings were not timed here, as with
        published accuracies. sentence: all that, for a reader. reason: why nothing can be told; then there is no ratio.
    """

    ratio: float | None = None
    interval: tuple[float, ...] = ()
    random_trainings: float | None = None
    random_trainings_interval: tuple[float, ...] = ()
    random_hours: float | None = None
    random_hours_interval: tuple[float, ...] = ()
    spent_hours: float | None = None
    spent: Mapping[str, float] = field(default_factory=dict)
    pool: int | None = None
    estimated: bool = False
    sentence: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class EqualCost:
    """What random images at the whole cost of `target` train on, in words."""

    target: str = ""
    what: str = ""


@dataclass(frozen=True)
class Curves:
    """Mean training losses of an architecture, epoch by epoch: on the proxy, and in full training."""

    key: str = ""
    proxy: tuple[float, ...] = ()
    truth: tuple[float, ...] = ()


@dataclass(frozen=True)
class Pruning:
    """How many proposals a pruner ended, and about how long the rest of their trainings would have taken."""

    pruned: int = 0
    seconds_saved: float | None = None


@dataclass(frozen=True, repr=False)
class Ranking:
    """How far signals rank architectures as full training does.

    n: architectures ranked, of the `sample`. subset: what they are a sample of. score: what rows without a suffix rank
    by. signals: by row; the last is full training against itself. pick, saving, cost, pareto, pruning: of a run.
    equal_cost: of random images at equal cost, by signal. failures: trainings that failed, by signal.
    """

    signals: Mapping[str, Row]
    n: int | None = None
    sample: int | None = None
    subset: str = ""
    truth: Truth = Truth()
    score: str = "accuracy"
    remarks: tuple[str, ...] = ()
    pick: Pick | None = None
    saving: Saving | None = None
    pareto: tuple[Mapping[str, Any], ...] = ()
    cost: RunCost = RunCost()
    equal_cost: Mapping[str, EqualCost] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    pruning: Pruning | None = None
    curves: tuple[Curves, ...] = ()  # of the best of a run
    environment: Mapping[str, Any] = field(default_factory=dict)
    json: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @staticmethod
    def read(path: Path) -> Ranking:
        """Return the ranking in a file. Raises RunFolderError where there is none, or it cannot be read."""
        again = f"nas-proxy rank {path.parent}"
        try:
            return Ranking.of(read_json(path))
        except FileNotFoundError:
            raise RunFolderError(f"{path} does not exist; make it with: {again}") from None
        except ValueError as error:
            raise RunFolderError(f"{path} cannot be read ({error}); delete it, then: {again}") from None

    @staticmethod
    def of(value: object) -> Ranking:
        """Return the ranking in the object of a `ranking.json`. Raises ValueError where it is none."""
        if not isinstance(value, Mapping) or not isinstance(value.get("signals"), Mapping):
            raise ValueError("it holds no ranking")  # noqa: TRY004 (of the file's content, not of this call)
        try:
            current = _current(cleaned(value))
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        told = {name: _told(row) for name, row in current["signals"].items()}
        return replace(checked(Ranking, {**current, "signals": told}), json=current)

    @property
    def searched(self) -> bool:
        """Whether it is a run's, whose proxy searched, and not a comparison's."""
        return PROXY in self.signals

    def row(self, name: str) -> Row:
        """Return a row; one in which nothing is known where there is none."""
        return self.signals.get(name, Row())

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Return the rows, those by another score under those that they share their trainings with."""
        for name, row in self.signals.items():
            if name.partition(":")[0] in self.signals and ":" in name:
                continue
            yield name, row
            yield from ((other, of) for other, of in self.signals.items() if other.startswith(f"{name}:"))

    @cached_property
    def decision(self) -> Decision:
        """What to rank by here. It follows from the numbers, so no file holds it."""
        return decide(self)

    def as_json(self) -> dict[str, Any]:
        """Return the object of `ranking.json`, as this version writes it, and the decision."""
        return {**self.json, "decision": self.decision.as_json()}

    def __getitem__(self, name: str) -> Any:
        return self.json[name]

    def to_frame(self) -> pd.DataFrame:
        """Return a row a signal, with the columns of `table.csv`."""
        import pandas as pd

        frame = pd.DataFrame([row.flat() for row in self.signals.values()], index=pd.Index(self.signals, name="signal"))
        return frame.convert_dtypes()

    def __repr__(self) -> str:
        values = {name: row.spearman.value for name, row in self.signals.items()}
        told = ", ".join(f"{name} {'–' if value is None else f'{value:.2f}'}" for name, value in values.items())
        return f"Ranking(n={self.n}, Spearman: {told})"


def _current(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object with what earlier versions left out."""
    score = "accuracy" if PROXY in value["signals"] else "both"
    rows = {name: _with_cost(row) for name, row in value["signals"].items()}
    return {"sample": value.get("n"), "score": score, "remarks": [], **value, "signals": rows}


def _with_cost(row: Any) -> Any:
    """Return a row with its cost in an object of its own, as only comparisons had it."""
    if not isinstance(row, dict) or row.get("cost") is not None:
        return row
    names = {"seconds": "seconds", "passes": "image_passes", "stored_bytes": "stored_bytes"}
    return {**row, "cost": {name: row.get(old) for name, old in names.items()}}


def _told(row: Any) -> Any:
    """Return a row whose reasons and notes stand together."""
    if not isinstance(row, dict):
        return row
    told = {
        kind: {name.removesuffix(ending): text for name, text in row.items() if name.endswith(ending)}
        for kind, ending in (("reasons", "_reason"), ("notes", "_note"))
    }
    return {**row, **told}
