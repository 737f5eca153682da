"""Proposals: which architecture to train next, from the scores so far.

In: a space, results in their order, the number of a proposal, and how (one of `SAMPLERS`). Out: an architecture that is
not known yet, and by what it is proposed. Guarantees: it depends on the results, on what is known and on the seed
alone, so neither workers nor a kill change what is proposed. Beyond `LONG` architectures neither memory nor time of a
proposal grow with their number.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.trial import FixedTrial

from nas_proxy.errors import ConfigError
from nas_proxy.seeds import derive
from nas_proxy.spaces.objectives import ACCURACY
from nas_proxy.spaces.space import Architecture, SearchSpace, Space, whole_of
from nas_proxy.storage.records import Record
from nas_proxy.strategy.evolution import RegularisedEvolutionSampler
from nas_proxy.strategy.studies import Draft, Elite, Results, Youngest

SAMPLERS = ("tpe", "random", "grid", "nsga2", "evolution")
# A sampler may propose what is known already; after so many tries the next unseen random architecture is taken.
TRIES = 20
# Architectures, trained or under way, from which on TPE, whose proposals take longer with every result, makes room for
# a sampler whose do not (benchmarks/README.md, Scale).
LONG = 500
# Of regularised evolution: how many of the youngest may be parents, and how many of them a tournament has. Its paper's
# are for searches as long as those in which it takes the place of TPE.
POPULATION, TOURNAMENT = 20, 5
LONG_POPULATION, LONG_TOURNAMENT = 100, 25
# Architectures a generation of NSGA-II: its usual 50 would leave most searches here in the first, random one.
GENERATION, LONG_GENERATION = 12, 50
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Proposal:
    """An architecture, and by what it is proposed: "enqueued", or one of `SAMPLERS`."""

    architecture: Architecture
    why: str


class Proposer:
    """Proposes architectures of `space` by `sampler`, those in `first` before any other.

    tpe: tree-structured Parzen estimator, and from `LONG` architectures on `successor`. random: uniform over the space.
    grid: the space at even distances, see `grid`. nsga2: NSGA-II, with one objective a genetic algorithm. evolution:
    regularised evolution.
    seed: of all proposals. score: which one counts. objectives: what the architectures are to be good at, the accuracy
    first; evolution looks at the accuracy alone.
    seen: keys of what is not proposed any more: results, and what has been proposed; more may be added.
    Raises ConfigError for a grid of a space whose size is not known.
    """

    def __init__(
        self,
        space: SearchSpace,
        seed: int,
        sampler: str = "tpe",
        first: Sequence[Architecture] = (),
        score: str = "accuracy",
        objectives: Sequence[str] = (ACCURACY,),
    ) -> None:
        self.seen: set[str] = set()
        self.sampler = sampler
        self._space = space
        self._seed = seed
        self._score = score
        self._objectives = tuple(objectives)
        self._first = iter(first)
        self._rest = grid(space) if sampler == "grid" else space.sample(derive(seed, sampler))
        self._results = self._looked_at()

    @property
    def successor(self) -> str:
        """What proposes in place of TPE after many results."""
        return "evolution" if len(self._objectives) == 1 else "nsga2"

    def learn(self, record: Record) -> None:
        """Take a training that has ended into account, after all that were learned before."""
        self.seen.add(record.key)
        if self._results is not None:
            self._results.learn(record)

    def propose(self, number: int) -> Proposal | None:
        """Return proposal `number`, which counts as seen from now on; None when there is no architecture left."""
        if (known := self._unseen(self._first)) is not None:
            return Proposal(known, "enqueued")
        if self.sampler == "tpe" and len(self.seen) >= LONG:
            self._succeed()
        found = self._drafted(derive(self._seed, self.sampler, number)) or self._unseen(self._rest)
        return None if found is None else Proposal(found, self.sampler)

    def _succeed(self) -> None:
        """Hand the results of TPE on to the sampler that proposes in its place from now on."""
        known, self.sampler = self._results, self.successor
        self._results = self._looked_at(long=True)
        if known is not None and self._results is not None:
            for record in known.held:
                self._results.learn(record)

    def _unseen(self, stream: Iterator[Architecture]) -> Architecture | None:
        """Return the next of a stream that was not seen; what was passed over stays seen."""
        return next((a for a in stream if self._is_new(a)), None)

    def _is_new(self, architecture: Architecture) -> bool:
        key = self._space.key(architecture)
        new = key not in self.seen
        self.seen.add(key)
        return new

    def _drafted(self, seed: int) -> Architecture | None:
        if self._results is None:
            return None
        for sampler in self._samplers(seed):
            study = self._results.study(sampler)
            for attempt in range(TRIES):
                architecture = self._space.suggest(Draft(study, attempt, self._results.notes))
                if architecture is not None and self._is_new(architecture):
                    return architecture
        return None

    def _looked_at(self, *, long: bool = False) -> Results | None:
        """Return what holds the results for the sampler; None for one that looks at none."""
        of = self._space, self._score, self._objectives
        self._long = long
        if self.sampler == "evolution":
            return Youngest(*of, LONG_POPULATION if long else POPULATION)
        if self.sampler == "nsga2":
            return Elite(*of, LONG_GENERATION if long else GENERATION)
        return Results(*of) if self.sampler == "tpe" else None

    def _samplers(self, seed: int) -> list[BaseSampler]:
        """Return what proposes: further samplers where the first may insist on what is known already."""
        if self.sampler == "evolution":
            sizes = (LONG_POPULATION, LONG_TOURNAMENT) if self._long else (POPULATION, TOURNAMENT)
            return [RegularisedEvolutionSampler(*sizes, seed=seed)]
        if self.sampler == "nsga2":
            return [NSGAIISampler(seed=seed % 2**32, population_size=LONG_GENERATION if self._long else GENERATION)]
        # TPE takes the best of 24 draws from the density of good architectures: where few options are good, the same
        # one again and again. The best of fewer draws varies more, and is still better than a random architecture.
        # No trial of the study is running, so there is nothing to lie about.
        return [
            TPESampler(seed=seed % 2**32, n_startup_trials=0, n_ei_candidates=n, constant_liar=False)
            for n in (24, 8, 4, 2)
        ]


def grid(space: SearchSpace) -> Iterator[Architecture]:
    """Yield every architecture, in an order in which any beginning is spread evenly over the space.

    Outcome numbers advance by a step near the golden section of their count (an additive recurrence), coprime to it.
    """
    whole = whole_of(space)
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
