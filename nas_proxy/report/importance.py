"""Where the choices of a space matter: the trials of a run in, the share of the scores' variance of each choice out.

Functional ANOVA over a random forest (Hutter, Hoos and Leyton-Brown, ICML 2014), by Optuna: what each choice explains
by itself, averaged over all others, scaled so that the shares add up to 1. Seeded, so the same trials give the same.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from nas_proxy.names import MEASURED, choice_of
from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.report.run_contents import usable

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

LEAST, MOST = 8, 1000
"""Scored trials below which nothing is said, and the number of them, the sample first, that are looked at."""
MOST_VALUES = 32
TREES = 32


def importances(trials: pd.DataFrame) -> dict[str, float]:
    """Return the share of each choice by its name, the largest first; {} for too few scored trials or equal scores.

    trials: the rows of trials.csv, choices as text; a choice that was not open to an architecture is empty. Choices
    with one value only, and those that are no numbers and have more than 32, are left out.
    """
    rows = trials[usable(trials)].drop_duplicates("key").head(MOST)
    if len(rows) < LEAST or rows["score"].nunique() < 2:
        return {}
    columns = {choice_of(str(name)): rows[name] for name in rows if name not in MEASURED}
    choices = {name: found for name, column in columns.items() if (found := _choice(column)) is not None}
    if not choices:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, seed=0)
    with without_announcements():
        study = optuna.create_study(direction="maximize")
        study.add_trials(_trials(choices, rows["score"].tolist()))
        shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in sorted(shares.items(), key=lambda item: (-item[1], item[0]))}


def _choice(column: "pd.Series[str]") -> tuple[BaseDistribution, Sequence[str | float]] | None:
    values = column.astype(str).tolist()
    distinct = sorted(set(values))
    if len(distinct) < 2:
        return None
    if len(distinct) <= MOST_VALUES:
        return CategoricalDistribution(distinct), values
    numbers = pd.to_numeric(column, errors="coerce")
    if numbers.isna().any() or numbers.abs().max() == float("inf"):
        return None
    return FloatDistribution(float(numbers.min()), float(numbers.max())), numbers.astype(float).tolist()


def _trials(
    choices: Mapping[str, tuple[BaseDistribution, Sequence[str | float]]], scores: Sequence[float]
) -> list["FrozenTrial"]:
    distributions = {name: distribution for name, (distribution, _) in choices.items()}
    return [
        optuna.trial.create_trial(
            params={name: values[row] for name, (_, values) in choices.items()},
            distributions=distributions,
            value=score,
        )
        for row, score in enumerate(scores)
    ]
