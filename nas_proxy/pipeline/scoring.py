"""Scores of the sample by every signal: sets made, networks trained, zero-cost scores computed, each once.

Trainings are Optuna studies in the run's trial store, one a signal, a trial an architecture and a draw; computed scores
are kept by `nas_proxy.pipeline.untrained`. Whatever is there already is not done again, so a command that was killed
goes on.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from nas_proxy.condensation.proxy_set import ProxySet
from nas_proxy.errors import RunFolderError
from nas_proxy.names import PROXY, RANDOM
from nas_proxy.pipeline import untrained
from nas_proxy.pipeline.work import Work
from nas_proxy.runs.settings import RunConfig
from nas_proxy.signals.computed import Column
from nas_proxy.signals.equal_cost import EqualCostPlan, plan_total
from nas_proxy.signals.signal import AllImages, EqualCost, Signal, SmallSet
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.strategy.candidates import Propose, Search, sampled
from nas_proxy.strategy.trainer import Images
from nas_proxy.training.train import Recipe


@dataclass(frozen=True)
class Scores:
    """What the signals of a run have given.

    sample: the architectures that are ranked. sets: of each signal that has some, a draw each. studies: the name of
    each trained signal's study. equal_cost: what signals at the whole cost of another one train on. columns: of the
    signals that are computed.
    """

    sample: tuple[Record | Candidate, ...]
    sets: Mapping[str, tuple[ProxySet, ...]]
    studies: Mapping[str, str]
    equal_cost: Mapping[str, EqualCostPlan]
    columns: Mapping[str, Column]

    @property
    def keys(self) -> list[str]:
        """The keys of the sample, in the order in which it was drawn."""
        return [one.key for one in self.sample]


def base_images(config: RunConfig, classes: int) -> int:
    """Return how many images networks train on, on the set that the settings describe."""
    return config.condense.images_per_class * config.condense.formation**2 * classes


def passes_of(work: Work) -> int:
    """Return the image passes of a training on a set."""
    if work.plan.passes is not None:
        return work.plan.passes
    return work.config.proxy_training.image_passes(base_images(work.config, work.problem.shape.classes))


def recipe_on(work: Work, images: int, passes: int | None = None) -> Recipe:
    """Return the recipe on so many images, with the batch of the common set: all trainings take equally many steps."""
    recipe, base = work.config.proxy_training, base_images(work.config, work.problem.shape.classes)
    if work.config.compare is None and images == base and passes is None:
        return recipe
    return replace(recipe, batch_size=min(recipe.batch(base), images), epochs=(passes or passes_of(work)) / images)


def to_be_ranked(work: Work) -> frozenset[str]:
    """Return the keys of the uniform sample, before anything is trained; several processes agree about them."""
    keys, space = None, work.trainer.space
    if work.sets.group.rank == 0:  # latencies, which may limit the sample, are measured by one process
        keys = frozenset(space.key(a) for a in itertools.islice(work.stream(), work.config.sample))
    found: frozenset[str] = work.sets.group.gathered(keys)[0]
    return found


def sets_of(work: Work, signal: Signal) -> tuple[ProxySet, ...]:
    """Return the sets of a signal, one a draw, made where they are not there."""
    if not isinstance(signal.source, SmallSet):
        return ()
    return tuple(work.sets.of(signal, draw, lambda: to_be_ranked(work)) for draw in range(signal.draws))


def make_sets(work: Work) -> dict[str, tuple[ProxySet, ...]]:
    """Make the sets of all signals that have some of their own."""
    return {s.name: sets_of(work, s) for s in work.plan.signals if isinstance(s.source, SmallSet)}


def bind(work: Work, signal: Signal, study: str, sets: Sequence[ProxySet]) -> None:
    """Tie a study to what its scores depend on. Raises RunFolderError when it was begun with something else."""
    store = work.store
    store.bind(study, "space", work.problem.digest)
    store.bind(study, "data", work.problem.data.fingerprint)
    for draw, made in enumerate(sets):
        store.bind(study, "condensed set" if signal.name == PROXY else f"set {draw}", made.fingerprint)
    if work.problem.table is not None and signal.name == work.plan.lead:
        store.bind(study, "truth table", work.problem.table.fingerprint)


def images_of(work: Work, signal: Signal, sets: Sequence[ProxySet]) -> Images:
    """Return what a signal's networks train on and are scored on."""
    if isinstance(signal.source, AllImages):
        return Images(lambda _: work.files.train(), work.files.validation)
    return Images(lambda draw: sets[draw].path, work.files.validation)


def lead_search(work: Work, propose: Propose | None = None, opening: int = 0) -> Search | None:
    """Return the search by the lead signal: the sample and, in a run, proposals; None where nothing is trained.

    propose, opening: as `Search` has them.
    """
    config, plan = work.config, work.plan
    if plan.lead is None:
        return None
    signal = plan[plan.lead]
    sets = sets_of(work, signal)
    bind(work, signal, signal.name, sets)
    images = sets[0].images if sets else len(work.problem.data.train)
    return Search(
        signal.name,
        work.stream(),
        config.sample,
        images_of(work, signal, sets),
        recipe_on(work, images),
        proposals=max(0, config.trials - config.sample),
        seeds=signal.seeds,
        score=plan.primary,
        sampler=config.sampler,
        pruner=config.pruner,
        enqueued=work.problem.enqueued,
        objectives=config.objective,
        patience=config.patience,
        hours=config.hours,
        minutes=config.candidate_minutes,
        megabytes=config.candidate_memory,
        propose=propose,
        opening=opening,
        round=config.round_size,
    )


def sample_of(work: Work) -> tuple[Record | Candidate, ...]:
    """Return the uniform sample: the lead signal's records, or candidates where nothing is trained.

    Raises RunFolderError before the lead signal has scored it.
    """
    config, plan, stream = work.config, work.plan, work.stream()
    if plan.lead is None:
        drawn = itertools.islice(stream, config.sample)
        return tuple(work.trainer.candidate(a, "sample", index) for index, a in enumerate(drawn))
    records = work.store.records(plan.lead)
    found = sampled(stream, records, config.sample)
    exhausted = work.trainer.space.size is not None and len(found) >= work.trainer.space.size
    tried = {r.key for r in records}
    if not found or (
        len(found) < config.sample and not exhausted and not all(stream.space.key(a) in tried for a in stream)
    ):
        raise RunFolderError(
            f"only {len(found)} of the {config.sample} sampled architectures are trained on the proxy; "
            f"first run: nas-proxy search {work.run.path}"
        )
    return tuple(found)


def score_sample(work: Work) -> Scores:
    """Train and compute what is missing of the sample, cheap signals first, and return all of it."""
    sample, plan = sample_of(work), work.plan
    columns = untrained.columns_of(work, plan.computed, {one.key: one.architecture for one in sample})
    sets = {s.name: sets_of(work, s) for s in plan.signals if isinstance(s.source, SmallSet)}
    studies: dict[str, str] = {}
    for signal in sorted((s for s in plan.trained if not isinstance(s.source, EqualCost)), key=lambda s: s.made):
        studies[signal.name] = signal.name
        _train(work, signal, signal.name, sets.get(signal.name, ()), sample)
    matched: dict[str, EqualCostPlan] = {}
    for signal in plan.trained:
        if isinstance(signal.source, EqualCost):
            matched[signal.name] = one = _equal_cost(work, signal.source.target, sets)
            studies[signal.name] = one.study
            sets[signal.name] = tuple(work.sets.random(draw, one.per_class) for draw in range(signal.draws))
            _train(work, signal, one.study, sets[signal.name], sample, one.passes)
    return Scores(sample, sets, studies, matched, columns)


def _train(
    work: Work,
    signal: Signal,
    study: str,
    sets: Sequence[ProxySet],
    sample: Sequence[Record | Candidate],
    passes: int | None = None,
) -> None:
    bind(work, signal, study, sets)
    images = sets[0].images if sets else len(work.problem.data.train)
    titles = {RANDOM: "Baseline: random images", "early_stop": "Baseline: early stopping"}
    work.trainer.train_draws(
        titles.get(signal.name, f"Train: {signal.name}"),
        study,
        sample,
        range(signal.draws),
        images_of(work, signal, sets),
        recipe_on(work, images, passes),
        signal.seeds,
    )


def _equal_cost(work: Work, target: str, sets: Mapping[str, Sequence[ProxySet]]) -> EqualCostPlan:
    """Return the plan of random images at the whole cost of `target`, the one that its study was begun with."""
    plan = plan_total(
        target,
        work.store.records(target),
        sets[target],
        work.store.records(RANDOM),
        candidates=work.plan.sharing,
        per_class=work.config.condense.images_per_class,
        passes=passes_of(work),
        most=min(len(members) for members in work.problem.data.train.of_class()),
    )
    study = work.store.study(plan.study)
    before = study.user_attrs.get("plan")
    if before is not None:
        return EqualCostPlan(**before)
    study.set_user_attr("plan", asdict(plan))
    return plan
