"""One proposal, and one count of fruitless ones, from a whole history at once."""

from collections.abc import Iterable, Sequence

from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.storage.records import Record
from nas_proxy.strategy.proposing import Fruitless
from nas_proxy.strategy.samplers import Proposer


def propose(
    space: SearchSpace,
    history: Iterable[Record],
    seen: Iterable[str],
    number: int,
    sampler: str = "tpe",
    first: Sequence[Architecture] = (),
    score: str = "accuracy",
    objectives: Sequence[str] = ("accuracy",),
) -> Architecture | None:
    """Return the architecture of proposal `number`, made by a proposer that has made no other."""
    proposer = Proposer(space, 0, sampler, first, score, objectives)
    for record in history:
        proposer.learn(record)
    proposer.seen.update(seen)
    found = proposer.propose(number)
    return None if found is None else found.architecture


def fruitless(history: Iterable[Record], objectives: Sequence[str] = ("accuracy",)) -> int:
    """Return how many proposals in a row did not raise the best score."""
    count = Fruitless(objectives=objectives)
    for record in history:
        count.learn(record)
    return count.since
