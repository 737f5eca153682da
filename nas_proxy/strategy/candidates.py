"""What a search is to do, and which architectures are its uniform sample.

In: the stream of a space, what a training is, how proposals are made. `nas_proxy.strategy.search` does it.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from nas_proxy.spaces.objectives import ACCURACY
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.storage.records import Record
from nas_proxy.strategy.trainer import Images
from nas_proxy.training.train import Recipe

# What was trained before a round, its number and its size in; at most so many architectures, and why each, out. A pure
# function: a round that was cut off half-way is proposed again as it was.
Propose = Callable[[Sequence[Record], int, int], Sequence[tuple[Architecture, str]]]


@dataclass(frozen=True)
class Stream:
    """The architectures of the uniform sample in their order: those of `space`, but for the keys in `left_out`.

    What served as an embedding network of a condensation is left out: the set was made with it.
    """

    space: SearchSpace
    seed: int
    left_out: frozenset[str] = frozenset()

    def __iter__(self) -> Iterator[Architecture]:
        return (a for a in self.space.sample(self.seed) if self.space.key(a) not in self.left_out)


@dataclass(frozen=True)
class Search:
    """What a search does.

    signal: the study of its trainings. sample: how many architectures of the stream. proposals: how many more.
    images, recipe, seeds: of a training. score: what ranks candidates. sampler, pruner, enqueued, objectives: how
    proposals are made. propose: makes them in place of `sampler`; its round 0 has `opening` of them, if not 0.
    round: how many are under way at a time, none knowing of the others. patience, hours, until (says why, or None):
    when they end. minutes, megabytes: what ends a training.
    """

    signal: str
    stream: Stream
    sample: int
    images: Images
    recipe: Recipe
    proposals: int = 0
    seeds: int = 1
    score: str = "accuracy"
    sampler: str = "tpe"
    pruner: str = "none"
    enqueued: Sequence[Architecture] = ()
    objectives: tuple[str, ...] = (ACCURACY,)
    patience: int | None = None
    hours: float | None = None
    minutes: float | None = None
    megabytes: float | None = None
    propose: Propose | None = None
    until: Callable[[], str | None] = lambda: None
    opening: int = 0
    round: int = 4


def sampled(stream: Stream, records: Sequence[Record], count: int) -> list[Record]:
    """Return the records of the uniform sample: the first `count` of the stream whose training did not fail.

    Ends early where the stream comes to an architecture that is not trained yet.
    """
    known = unpruned(records)
    found: list[Record] = []
    for architecture in stream:
        record = known.get(stream.space.key(architecture))
        if record is None or len(found) == count:
            break
        if record.complete:
            found.append(record)
    return found


def unpruned(records: Iterable[Record]) -> dict[str, Record]:
    """Return records of the first draw by key; what was pruned is trained whole when the sample comes to it."""
    return {r.key: r for r in records if r.pruned_at is None and r.draw == 0}
