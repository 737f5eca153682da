"""Ground truth: full training of architectures, scored on test, or the accuracies of a table.

What judges is trained with two seeds, what a search chooses with the first of them. A training is scored on the
validation images as well, which are all that a search sees of it. With a table nothing is trained, its cost is not
known, and its accuracies are both what a search sees and what judges.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from nas_proxy.names import TRUTH
from nas_proxy.pipeline.image_files import ImageFiles
from nas_proxy.ranking.scores import column
from nas_proxy.ranking.truth_table import TruthTable
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.storage.trial_store import TrialStore
from nas_proxy.strategy.trainer import Images, Trainer
from nas_proxy.training.train import Recipe


@dataclass(frozen=True)
class Truth:
    """Accuracies of full training, however they came about.

    scores: fractions; index: the architecture's key; a column a seed; NaN where a training failed.
    records: of the trainings where it was trained here, with their cost; else what is known of the architectures from
    their trainings on other images. trained: whether it was trained here.
    """

    scores: pd.DataFrame
    records: Sequence[Record]
    trained: bool

    @property
    def seeds(self) -> int:
        """The number of full trainings of an architecture."""
        return self.scores.shape[1]


def by_draw(records: Iterable[Record], draws: int, by: str = "accuracy") -> pd.DataFrame:
    """Return the scores `by` with a row a key and a column a draw; NaN where a training failed or is missing."""
    known = list(records)
    rows = [(r.key, r.draw, value) for r, value in zip(known, column(known, by), strict=True)]
    frame = pd.DataFrame(rows, columns=["key", "draw", "score"])
    table = frame.pivot_table(index="key", columns="draw", values="score", dropna=False, aggfunc="first")
    return table.reindex(columns=range(draws)).astype(float)


def truth_of(
    store: TrialStore, table: TruthTable | None, scored: Sequence[Record | Candidate], seeds: int
) -> Truth | None:
    """Return the ground truth; with a table, of the architectures in `scored`. None before there is any.

    seeds: of full training, where no table holds them.
    """
    if table is None:
        records = store.records(TRUTH)
        return Truth(by_draw(records, seeds), records, trained=True) if records else None
    known = [one for one in scored if one.key in table.scores.index]
    keys = [one.key for one in known]
    return Truth(table.scores.loc[keys], [r for r in known if isinstance(r, Record)], trained=False) if keys else None


def images_of_truth(files: ImageFiles) -> Images:
    """Return what full trainings train on, what judges them, and what a search sees of them."""
    return Images(lambda _: files.train(), files.test, files.validation)


def train_fully(
    trainer: Trainer,
    files: ImageFiles,
    recipe: Recipe,
    chosen: Sequence[Record | Candidate],
    seeds: int,
    title: str = "Ground truth",
) -> None:
    """Train architectures on all training images, with so many seeds, and score them on test and validation."""
    trainer.train_draws(title, TRUTH, chosen, range(seeds), images_of_truth(files), recipe)
