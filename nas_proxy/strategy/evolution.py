"""Regularised evolution as an Optuna sampler: Real, Aggarwal, Huang & Le, AAAI 2019 ("ageing evolution").

The population is the youngest completed trials of the study, so an architecture dies of age and not of a low score.
A tournament among a few of them, drawn with replacement, is won by the best; its child differs in one parameter. Until
the population is full, trials are drawn at random. What a mutation newly opens, in a space with conditional
parameters, is drawn at random as well. (The paper's rare identity mutations are left out: a score repeats here.)

A proposal depends on the trials, the seed and the trial's number alone, in whatever process it is made.
"""

import random
from collections.abc import Mapping
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_proxy.errors import ConfigError
from nas_proxy.seeds import derive

# A mutation draws until the value differs; in vain where a continuous range holds one float only.
DRAWS = 100


class RegularisedEvolutionSampler(BaseSampler):
    """Sampler for single-objective studies.

    population: how many of the youngest completed trials may be parents. tournament: how many of them are drawn for
    each child. The paper has 100 and 25 in searches of 20,000 trials; the defaults are for some dozens to hundreds.
    seed: None for another one each time.
    Raises ConfigError for a size below 1.
    """

    def __init__(self, population: int = 20, tournament: int = 5, *, seed: int | None = None) -> None:
        for name, size in (("population", population), ("tournament", tournament)):
            if size < 1:
                raise ConfigError([f"{name} is {size}; it must be at least 1"])
        self.population = population
        self.tournament = tournament
        self.seed = random.SystemRandom().getrandbits(62) if seed is None else seed

    def reseed_rng(self) -> None:
        """Do nothing: trials of one study have different numbers, and so different draws, in all processes."""

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return the parameters of the trial's parent; {} where it has none, and is drawn at random."""
        parent = self._parent(study, trial)
        return {} if parent is None else dict(parent.distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parent's values, one of them mutated; values that it lacks are drawn at random."""
        parent = self._parent(study, trial)
        inherited = {} if parent is None else _still_valid(parent, search_space)
        child = {
            name: inherited[name] if name in inherited else self.sample_independent(study, trial, name, distribution)
            for name, distribution in search_space.items()
        }
        changeable = [name for name in inherited if not search_space[name].single()]
        if changeable:
            name = self._draw(trial, "gene").choice(changeable)
            child[name] = self._other(study, trial, name, search_space[name], child[name])
        return child

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Draw a value at random."""
        return self._random(study, trial, param_name, param_distribution)

    def _random(
        self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution, again: int = 0
    ) -> Any:
        _check_single(study)
        seed = derive(self.seed, "evolution", trial.number, name, again) % 2**32
        return RandomSampler(seed=seed).sample_independent(study, trial, name, distribution)

    def _other(self, study: Study, trial: FrozenTrial, name: str, distribution: BaseDistribution, value: Any) -> Any:
        """Draw a value that differs from `value`."""
        draws = (self._random(study, trial, name, distribution, again) for again in range(1, DRAWS + 1))
        return next((drawn for drawn in draws if drawn != value), value)

    def _parent(self, study: Study, trial: FrozenTrial) -> FrozenTrial | None:
        """Return the winner of the trial's tournament, None until the population is full."""
        _check_single(study)
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) < self.population:
            return None
        youngest = sorted(complete, key=lambda t: t.number)[-self.population :]
        entrants = self._draw(trial, "tournament").choices(range(len(youngest)), k=self.tournament)
        sign = 1.0 if study.direction == StudyDirection.MAXIMIZE else -1.0
        # Of equal ones the youngest wins.
        return youngest[max(entrants, key=lambda index: (sign * _value(youngest[index]), index))]

    def _draw(self, trial: FrozenTrial, purpose: str) -> random.Random:
        return random.Random(derive(self.seed, "evolution", purpose, trial.number))


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def _still_valid(parent: FrozenTrial, search_space: Mapping[str, BaseDistribution]) -> dict[str, Any]:
    """Return the parent's values that the distributions of today still allow."""
    return {
        name: parent.params[name]
        for name, distribution in search_space.items()
        if name in parent.params and _allows(distribution, parent.params[name])
    }


def _allows(distribution: BaseDistribution, value: Any) -> bool:
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except ValueError:
        return False


def _check_single(study: Study) -> None:
    if len(study.directions) > 1:
        raise ValueError("regularised evolution has one objective; use the sampler nsga2 for several")
