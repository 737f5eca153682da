"""What Optuna's samplers look at: studies in memory, of no more results than a sampler needs.

In: results in their order. Out: a study of them, and drafts, which a sampler fills in and the study never sees.
Guarantees: a study depends on the results and their order alone, so one that has been added to is as one made anew; but
for `Results`, neither memory nor time grow with the number of results.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import optuna
from optuna.distributions import BaseDistribution, _get_single_value, check_distribution_compatibility
from optuna.samplers import BaseSampler, NSGAIISampler
from optuna.storages import InMemoryStorage
from optuna.trial import FixedTrial, FrozenTrial, TrialState, create_trial

from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.ranking.scores import score_of
from nas_proxy.spaces.objectives import directions
from nas_proxy.spaces.space import SearchSpace
from nas_proxy.storage.records import Record

_GENERATION = NSGAIISampler._get_generation_key()


class Results:
    """All completed and pruned trainings; failed ones tell samplers nothing.

    score: which one counts. objectives: the values of a trial, the accuracy first.
    """

    # A sampler's own notes on each trial of the study.
    noted: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, space: SearchSpace, score: str, objectives: Sequence[str]) -> None:
        self._space = space
        self._score = score
        self._objectives = tuple(objectives)
        self._lowest = 0.0
        self._storage = InMemoryStorage()
        self._study: optuna.Study | None = None
        self.held: list[Record] = []

    @property
    def notes(self) -> Mapping[str, Any]:
        """A sampler's own notes on a draft."""
        return {}

    def learn(self, record: Record) -> None:
        """Add a result."""
        value = score_of(record, self._score)
        if math.isfinite(value) and value < self._lowest:
            self._lowest = value
            if any(score_of(r, self._score) == -math.inf for r in self.held):  # which are to stay below all others
                self._study = None
        if record.complete or record.pruned_at is not None:
            self._hold(record)

    def _hold(self, record: Record) -> None:
        self.held.append(record)
        if self._study is not None:
            self._study.add_trial(self._trial(record))

    def study(self, sampler: BaseSampler) -> optuna.Study:
        """Return the study as a sampler sees it."""
        if self._study is None:
            self._storage = InMemoryStorage()
            with without_announcements():
                self._study = optuna.create_study(
                    study_name="results", storage=self._storage, directions=directions(self._objectives)
                )
            for record in self.held:
                self._study.add_trial(self._trial(record))
        return optuna.load_study(study_name="results", storage=self._storage, sampler=sampler)

    def _trial(self, record: Record) -> FrozenTrial:
        fixed = FixedTrial(dict(record.architecture))
        self._space.suggest(fixed)
        if record.pruned_at is not None:
            return create_trial(
                state=TrialState.PRUNED,
                params=dict(record.architecture),
                distributions=fixed.distributions,
                intermediate_values=dict(record.curve),
            )
        value = score_of(record, self._score)
        if value == -math.inf:
            value = math.nextafter(self._lowest, -math.inf)
        return create_trial(
            params=dict(record.architecture),
            distributions=fixed.distributions,
            values=[value, *record.costs.known(self._objectives)],
            system_attrs=dict(self.noted),
        )


class Youngest(Results):
    """The youngest completed trainings: the population of regularised evolution."""

    def __init__(self, space: SearchSpace, score: str, objectives: Sequence[str], population: int) -> None:
        super().__init__(space, score, objectives)
        self._population = population

    def _hold(self, record: Record) -> None:
        if not record.complete:
            return
        super()._hold(record)
        if len(self.held) >= 2 * self._population:
            self.held = self.held[-self._population :]
            self._study = None


class Elite(Results):
    """What NSGA-II selects parents from: a generation of completed trainings and the parents of that generation.

    Generations are dealt by the order of the results, as they are not the sampler's own alone.
    """

    # In Optuna's notes all of them are one generation, whose children are the next one.
    noted: ClassVar[Mapping[str, Any]] = {_GENERATION: 0}

    def __init__(self, space: SearchSpace, score: str, objectives: Sequence[str], generation: int) -> None:
        super().__init__(space, score, objectives)
        self._size = generation
        self._young: list[Record] = []

    @property
    def notes(self) -> Mapping[str, Any]:
        """What makes a draft a child, once there are parents."""
        return {_GENERATION: 1 if self.held else 0}

    def study(self, sampler: BaseSampler) -> optuna.Study:
        """Return the study as the sampler sees it."""
        new = self._study is None
        found = super().study(sampler)
        if new and self.held and isinstance(sampler, NSGAIISampler):
            # Optuna has the parents in another order when it selects them than whenever it finds them noted.
            sampler.get_parent_population(found, 1)
        return found

    def _hold(self, record: Record) -> None:
        if not record.complete:
            return
        self._young.append(record)
        if len(self._young) == self._size:
            self.held, self._young = [*self._young, *self._parents()], []
            self._study = None

    def _parents(self) -> list[Record]:
        """Return the best of `held`, as NSGA-II selects them."""
        if len(self.held) <= self._size:
            return self.held
        sampler = NSGAIISampler(population_size=self._size)
        return [self.held[trial.number] for trial in sampler.select_parent(self.study(sampler), 1)]


class Draft(FixedTrial):
    """A trial that the sampler of a study fills in, of which the study keeps nothing.

    number: of the attempt, for samplers that draw by the number of the trial.
    """

    def __init__(self, study: optuna.Study, number: int, notes: Mapping[str, Any]) -> None:
        super().__init__({}, number)
        self._study = study
        self._frozen = FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=datetime.now(),
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs=dict(notes),
            intermediate_values={},
            trial_id=-1,
        )
        self._space = study.sampler.infer_relative_search_space(study, self._frozen)
        self._relative = study.sampler.sample_relative(study, self._frozen, self._space)

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if name in self._frozen.distributions:
            check_distribution_compatibility(self._frozen.distributions[name], distribution)
        else:
            self._params[name] = self._frozen.params[name] = self._drawn(name, distribution)
            self._frozen.distributions[name] = distribution
        return super()._suggest(name, distribution)

    def _drawn(self, name: str, distribution: BaseDistribution) -> Any:
        if distribution.single():
            return _get_single_value(distribution)
        if name in self._relative:
            check_distribution_compatibility(self._space[name], distribution)
            value = self._relative[name]
            if distribution._contains(distribution.to_internal_repr(value)):
                return value
        return self._study.sampler.sample_independent(self._study, self._frozen, name, distribution)
