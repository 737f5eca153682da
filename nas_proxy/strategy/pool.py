"""How a pool of architectures grows beyond its uniform sample: by mutations of what is promising.

In: architectures and how promising each is. Out: others, each once. A uniform pool of a thousand holds one of the best
thousandth of a space on average; mutation is what reaches beyond it (Real et al., AAAI 2019).
"""

from collections.abc import Iterable, Sequence

import optuna
from optuna.trial import FixedTrial, TrialState, create_trial

from nas_proxy.optuna_quiet import without_announcements
from nas_proxy.seeds import derive
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.strategy.evolution import RegularisedEvolutionSampler

# A mutation may be known already; after so many tries in a row for each that is wanted there are no more.
TRIES = 8
# Parents among which a tournament is held.
ENTRANTS = 4


def grown(
    space: SearchSpace, parents: Sequence[tuple[Architecture, float]], known: Iterable[str], wanted: int, seed: int
) -> list[Architecture]:
    """Return up to `wanted` mutations of the parents that are not `known`; each differs from its parent in one choice.

    parents: with how promising each is. Parents win tournaments of `ENTRANTS`. What a space refuses is left out.
    """
    if not parents or wanted < 1:
        return []
    sampler = RegularisedEvolutionSampler(len(parents), ENTRANTS, seed=derive(seed, "pool"))
    with without_announcements():
        study = optuna.create_study(sampler=sampler, direction="maximize")
    for architecture, value in parents:
        fixed = FixedTrial(dict(architecture))
        space.suggest(fixed)
        study.add_trial(create_trial(params=fixed.params, distributions=fixed.distributions, value=value))
    seen, found = set(known), list[Architecture]()
    for _ in range(TRIES * wanted):
        trial = study.ask()
        child = space.suggest(trial)
        study.tell(trial, state=TrialState.FAIL)  # no parent of others
        if child is not None and space.key(child) not in seen:
            seen.add(space.key(child))
            found.append(child)
            if len(found) == wanted:
                break
    return found
