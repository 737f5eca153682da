"""Proposals: which architecture to train next, from the scores so far.

In: a space, the history, the number's seed, and how (one of `SAMPLERS`). Out: an architecture that is not known yet.
Guarantee: a pure function of its arguments. The study in which Optuna's samplers work lives in memory and holds the
history only, so neither workers nor a kill nor earlier proposals change what is proposed.
"""

import math
from collections.abc import Iterator, Sequence

import optuna
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FixedTrial, TrialState, create_trial

from nas_proxy.errors import ConfigError
from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.ranking.scores import column
from nas_proxy.seeds import derive
from nas_proxy.spaces.objectives import ACCURACY, directions
from nas_proxy.spaces.space import Architecture, SearchSpace, Space
from nas_proxy.storage.records import Record
from nas_proxy.strategy.evolution import RegularisedEvolutionSampler

SAMPLERS = ("tpe", "random", "grid", "nsga2", "evolution")
# A sampler may propose what is known already; after so many tries the next unseen random architecture is taken.
TRIES = 20
# Architectures a generation of NSGA-II; its usual 50 would leave most searches here in the first, random one.
GENERATION = 12
_GOLDEN = (math.sqrt(5) - 1) / 2


def propose(
    space: SearchSpace,
    history: Sequence[Record],
    seen: set[str],
    seed: int,
    sampler: str = "tpe",
    first: Sequence[Architecture] = (),
    score: str = "accuracy",
    objectives: Sequence[str] = (ACCURACY,),
) -> Architecture | None:
    """Return an architecture whose key is not in `seen`; None when there is none.

    first: architectures that are proposed before any other. Then, by `sampler`:
    tpe: tree-structured Parzen estimator. random: uniform over the space. grid: the space at even distances, see
    `grid`. nsga2: NSGA-II, with one objective a genetic algorithm. evolution: regularised evolution.
    history: completed and failed trainings, in their order. seed: of this proposal alone. score: which one counts.
    objectives: what the architectures are to be good at, the accuracy first; evolution looks at the accuracy alone.
    Raises ConfigError for a grid of a space whose size is not known.
    """
    known = next((a for a in first if space.key(a) not in seen), None)
    if known is not None:
        return known
    if sampler == "grid":
        return next((a for a in grid(space) if space.key(a) not in seen), None)
    for optuna_sampler in _samplers(sampler, seed):
        study = _study_of(space, history, optuna_sampler, score, objectives)
        for _ in range(TRIES):
            trial = study.ask()
            architecture = space.suggest(trial)
            if architecture is not None and space.key(architecture) not in seen:
                return architecture
            study.tell(trial, state=TrialState.FAIL)
    return next((a for a in space.sample(derive(seed, "fallback")) if space.key(a) not in seen), None)


def grid(space: SearchSpace) -> Iterator[Architecture]:
    """Yield every architecture, in an order in which any beginning is spread evenly over the space.

    Outcome numbers advance by a step near the golden section of their count (an additive recurrence), coprime to it.
    """
    whole: object = space
    while hasattr(whole, "whole"):  # a part of a space, as a truth table leaves it
        whole = whole.whole
    if not isinstance(whole, Space):
        raise ConfigError(
            [
                f"--sampler grid needs a space made of choices, but {space.name!r} is a function of a trial, whose "
                "architectures cannot be counted; take --sampler random"
            ]
        )
    size = whole.choices.size
    step = next(s for s in range(max(1, round(size * _GOLDEN)), size + 2) if math.gcd(s, size) == 1)
    outcomes = (whole.choices.at(number * step % size) for number in range(size))
    return (architecture for architecture in outcomes if space.suggest(FixedTrial(dict(architecture))) is not None)


def _samplers(name: str, seed: int) -> list[BaseSampler]:
    """Return what proposes: further samplers where the first may insist on what is known already."""
    if name == "random":
        return []
    if name == "evolution":
        return [RegularisedEvolutionSampler(seed=seed)]
    if name == "nsga2":
        return [NSGAIISampler(seed=seed % 2**32, population_size=GENERATION)]
    # TPE takes the best of 24 draws from the density of good architectures: where few options are good, the same one
    # again and again. The best of fewer draws varies more, and is still better than a random architecture.
    return [TPESampler(seed=seed % 2**32, n_startup_trials=0, n_ei_candidates=n) for n in (24, 8, 4, 2)]


def _study_of(
    space: SearchSpace, history: Sequence[Record], sampler: BaseSampler, score: str, objectives: Sequence[str]
) -> optuna.Study:
    with without_announcements():
        study = optuna.create_study(sampler=sampler, directions=directions(objectives))
    for record in history:
        if record.pruned_at is not None:  # which TPE takes into account
            fixed = FixedTrial(dict(record.architecture))
            space.suggest(fixed)
            study.add_trial(
                create_trial(
                    state=TrialState.PRUNED,
                    params=dict(record.architecture),
                    distributions=fixed.distributions,
                    intermediate_values=dict(record.curve),
                )
            )
    complete = [record for record in history if record.complete]
    for number, (record, value) in enumerate(zip(complete, column(complete, score), strict=True)):
        fixed = FixedTrial(dict(record.architecture))
        space.suggest(fixed)
        # By what NSGA-II knows a trial's generation: here their order, as it is not the one that proposed them all.
        generation = {NSGAIISampler._get_generation_key(): number // GENERATION}
        study.add_trial(
            create_trial(
                params=dict(record.architecture),
                distributions=fixed.distributions,
                values=[value, *record.costs.known(objectives)],
                system_attrs=generation if isinstance(sampler, NSGAIISampler) else None,
            )
        )
    return study
