"""One of the architectures of a searched run: by its rank, its key, or its place on the Pareto front."""

from collections.abc import Sequence
from dataclasses import replace

from nas_proxy.errors import ConfigError, RunFolderError
from nas_proxy.names import PROXY
from nas_proxy.pipeline.full_trainings import looked_up
from nas_proxy.pipeline.problem import Problem
from nas_proxy.ranking.believed import Believed, means, read_order
from nas_proxy.ranking.scores import best_first, pareto_front
from nas_proxy.ranking.truth_table import TruthTable, known_part
from nas_proxy.runs.folder import RunFolder
from nas_proxy.spaces.measured import UNMEASURED
from nas_proxy.storage.records import LATENCY, Candidate, Record, latency_of
from nas_proxy.storage.trial_store import TrialStore


def selected(
    run: RunFolder,
    on_proxy: Sequence[Record],
    fully: Sequence[Record],
    rank: int | None = None,
    key: str | None = None,
    front: int | None = None,
) -> tuple[Record, int]:
    """Return the search's record of the wanted architecture, and its rank in the search; the pick if none is named.

    on_proxy, fully: what was trained on the proxy, and fully in the first draw. rank: 1 is the pick. front: place on
    the Pareto front, 1 is the cheapest. Raises ConfigError for what is not there, RunFolderError where nothing is.
    """
    given = [name for name, value in (("--rank", rank), ("--key", key), ("--front", front)) if value is not None]
    if len(given) > 1:
        raise ConfigError([f"{given[0]} and {given[1]} both name an architecture; give one of them"])
    if not (found := _in_order(run, on_proxy, fully)):
        raise RunFolderError(f"nothing is searched yet; first run: nas-proxy search {run.path}")
    if front is not None:
        key = _on_front(run, on_proxy, fully, front).key
    if key is not None:
        place = next((place for place, r in enumerate(found, 1) if r.key == key), None)
        if place is None:
            raise ConfigError(
                [
                    f"the search trained no architecture with the key {key!r}; trials.csv lists its "
                    f"{len(found)} keys, such as {found[0].key}"
                ]
            )
        return found[place - 1], place
    rank = 1 if rank is None else rank
    if not 1 <= rank <= len(found):
        raise ConfigError([f"--rank is {rank}; it must be between 1 and {len(found)}, the architectures of the search"])
    return found[rank - 1], rank


def _in_order(run: RunFolder, on_proxy: Sequence[Record], fully: Sequence[Record]) -> list[Record]:
    """Return the architectures of the search, the pick first: by posterior mean, what is fully trained before the rest.

    Those of the pool that were never trained are left out. Before there are full trainings to be seen, and in folders
    of earlier versions, the order is by the score on the proxy.
    """
    best = best_first(on_proxy, run.config.score)
    order = [one.key for one in read_order(run.path)]
    if not order:
        return best
    known = {r.key: r for r in best}
    # Its score is that of the test images, which is no score of the search.
    known |= {r.key: replace(r, score=r.validation) for r in fully if r.key not in known and r.complete}
    ordered = [known[key] for key in order if key in known]
    return ordered + [r for r in best if r.key not in set(order)]


def _on_front(run: RunFolder, on_proxy: Sequence[Record], fully: Sequence[Record], place: int) -> Record:
    """Return what is at a place of the front, which is that of `ranking.json`."""
    objectives = run.config.objective
    if len(objectives) == 1:
        raise ConfigError(
            [f"--front is {place}, but the run has one objective, {objectives[0]}; choose with --rank or --key"]
        )
    front = pareto_front(on_proxy, objectives, fully, means(read_order(run.path)))
    if not 1 <= place <= len(front):
        raise ConfigError(
            [f"--front is {place}; it must be between 1 and {len(front)}, the architectures on the Pareto front"]
        )
    return front[place - 1]


def chosen_of_table(problem: Problem, table: TruthTable, store: TrialStore, order: Sequence[Believed]) -> list[Record]:
    """Return what a search chose of published accuracies alone, which no study holds, as records of no training."""
    known = {r.key for r in store.records(PROXY)}
    seen = {b.key: b.validation for b in order if b.validation is not None and b.key not in known}
    trials = store.study(LATENCY).get_trials(deepcopy=False) if store.has(LATENCY) else []
    latencies = {key: latency for key, latency, _ in map(latency_of, trials)}
    found: list[Record] = []
    for number, architecture in enumerate(known_part(problem.whole_space, table).sample(0)):
        if len(found) == len(seen):
            break
        key = problem.whole_space.key(architecture)
        if key in seen:
            size = problem.sizes.of(architecture) or UNMEASURED
            candidate = Candidate(key, architecture, "search", number, size, {}, latencies.get(key))
            found.append(looked_up(candidate, seen[key]))
    return found
