"""The work of a comparison: every set is made, every network trained and every score computed once.

Trainings are Optuna studies in `study.db`, one a signal, a trial an architecture and a draw; computed scores are kept
in `computed.json`. Whatever is there already is not done again, so a comparison that was killed goes on.
"""

import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from nas_proxy.compare.asked import Comparison
from nas_proxy.compare.contenders import RANDOM, draws_of, is_made, is_set, is_total, is_trained, target_of
from nas_proxy.compare.sets import Made, embedded, made_set, more_random
from nas_proxy.errors import ConfigError
from nas_proxy.files import write_json
from nas_proxy.pipeline.ground_truth import SEEDS, Truth, by_draw, train_draws, train_fully
from nas_proxy.pipeline.session import Session
from nas_proxy.signals.computed import Column, computed
from nas_proxy.signals.equal_cost import Plan, plan_total
from nas_proxy.signals.zero_cost import Score
from nas_proxy.spaces.loading import space_digest
from nas_proxy.storage.records import Candidate, Record
from nas_proxy.training.train import Recipe


@dataclass(frozen=True)
class Work:
    """What a comparison has found.

    sample: the architectures that are ranked. sets: of each signal that has some, a draw each. studies: the name of
    each trained signal's study. plans: of the random images at the whole cost of another signal. columns: of the
    computed signals. truth: of full training.
    """

    sample: tuple[Candidate, ...]
    sets: dict[str, tuple[Made, ...]]
    studies: dict[str, str]
    plans: dict[str, Plan]
    columns: dict[str, Column]
    truth: Truth

    @property
    def keys(self) -> list[str]:
        """The keys of the sample, in the order in which it was drawn."""
        return [candidate.key for candidate in self.sample]


def check_sample(session: Session, comparison: Comparison) -> None:
    """Raise ConfigError where the sample is larger than what it is drawn from, or leaves nothing to embed with."""
    wanted = comparison.run.truth
    size = session.space.size
    if size is not None and wanted > size:
        held = "the truth table holds" if session.truth_table is not None else "the space has"
        raise ConfigError([f"--sample is {wanted}, but {held} {size} architectures; give --sample {size} or less"])
    whole = session.whole_space.size
    embeds = [name for name in comparison.signals if is_set(name) and "space" in name.split("+")]
    if embeds and whole is not None and wanted >= whole:
        raise ConfigError(
            [
                f"{embeds[0]} embeds with architectures outside the sample, but --sample {wanted} takes all of the "
                f"space; give --sample {whole - 1} or less, or leave {embeds[0]} out of --signals"
            ]
        )


def draw_sample(session: Session, wanted: int) -> tuple[Candidate, ...]:
    """Return the first `wanted` architectures of the uniform stream that no set was made with."""
    left_out = embedded(session)
    stream = (a for a in session.space.sample(session.config.seed) if session.space.key(a) not in left_out)
    sample = list(itertools.islice(stream, wanted))
    if len(sample) < wanted:
        raise ConfigError(
            [
                f"--sample is {wanted}, but only {len(sample)} architectures are left beside the {len(left_out)} that "
                f"served as embedding networks; give --sample {len(sample)} or less, or start again with --overwrite"
            ]
        )
    return tuple(session.candidate(architecture, "sample", index) for index, architecture in enumerate(sample))


def do_work(session: Session, comparison: Comparison) -> Work:
    """Make, train and compute what is not there yet, and return all of it."""
    check_sample(session, comparison)
    sample = draw_sample(session, comparison.run.truth)
    keys = frozenset(candidate.key for candidate in sample)
    names = comparison.signals
    sets = {
        name: tuple(made_set(session, name, draw, keys) for draw in range(comparison.draws))
        for name in names
        if is_set(name)
    }
    studies = {name: name for name in names if is_trained(name) and not is_total(name)}
    session.ledger.close_interrupted(session.ledger.names())
    columns = _compute(session, [name for name in names if not is_trained(name)], sample)
    truth = _truth(session, sample)
    # Cheap signals first: whoever looks early has the controls.
    for name in sorted(studies, key=is_made):
        _train(session, comparison, name, name, sets.get(name, ()), sample)
    plans: dict[str, Plan] = {}
    for name in filter(is_total, names):
        plans[name] = plan = _plan(session, comparison, name, sets)
        studies[name] = plan.study
        more = tuple(more_random(session, d, plan.per_class) for d in range(comparison.draws))
        sets[name] = more
        _train(session, comparison, name, plan.study, more, sample, plan.passes)
    return Work(sample, sets, studies, plans, columns, truth)


def passes_of(session: Session, comparison: Comparison) -> int:
    """Return the image passes of a training."""
    if comparison.passes is not None:
        return comparison.passes
    return session.config.proxy_training.image_passes(_base_images(session))


def _base_images(session: Session) -> int:
    return session.config.condense.images_per_class * session.shape.classes


def _recipe(session: Session, images: int, passes: int) -> Recipe:
    """Return the recipe on so many images, with the batch of the common set: all trainings take equally many steps."""
    recipe = session.config.proxy_training
    batch = min(recipe.batch(_base_images(session)), images)
    return replace(recipe, batch_size=batch, epochs=passes / images)


def _train(
    session: Session,
    comparison: Comparison,
    name: str,
    study: str,
    sets: Sequence[Made],
    sample: Sequence[Candidate],
    passes: int | None = None,
) -> None:
    ledger = session.ledger
    ledger.bind(study, "space", space_digest(session.config.space))
    ledger.bind(study, "data", session.data.fingerprint)
    for draw, made in enumerate(sets):
        ledger.bind(study, f"set {draw}", made.fingerprint)
    images = sets[0].images if sets else len(session.data.train)
    train_draws(
        session,
        f"Train: {name}",
        study,
        sample,
        range(draws_of(name, comparison.draws)),
        lambda draw: sets[draw].path if sets else session.train_path,
        lambda: session.validation_path,
        _recipe(session, images, passes or passes_of(session, comparison)),
    )


def _plan(session: Session, comparison: Comparison, name: str, sets: dict[str, tuple[Made, ...]]) -> Plan:
    """Return the plan of a control at the whole cost of another signal, the one that its study was begun with."""
    target, ledger = target_of(name, comparison.signals), session.ledger
    plan = plan_total(
        target,
        ledger.records(target),
        sets[target],
        ledger.records(RANDOM),
        candidates=comparison.sharing,
        per_class=session.config.condense.images_per_class,
        passes=passes_of(session, comparison),
        most=min(len(members) for members in session.data.train.of_class()),
    )
    study = ledger.study(plan.study)
    before = study.user_attrs.get("plan")
    if before is not None:
        return Plan(**before)
    study.set_user_attr("plan", asdict(plan))
    return plan


def _truth(session: Session, sample: Sequence[Candidate]) -> Truth:
    keys = [candidate.key for candidate in sample]
    if session.truth_table is not None:
        return Truth(session.truth_table.scores.loc[keys], (), trained=False)
    session.ledger.bind("truth", "space", space_digest(session.config.space))
    session.ledger.bind("truth", "data", session.data.fingerprint)
    train_fully(session, sample)
    records: list[Record] = [r for r in session.ledger.records("truth") if r.key in set(keys)]
    return Truth(by_draw(records, SEEDS), records, trained=True)


def _compute(session: Session, names: Sequence[str], sample: Sequence[Candidate]) -> dict[str, Column]:
    """Return the columns of the computed signals; scores of another command are read, the others computed and kept."""
    path = session.run / "computed.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if known.get("data") != session.data.fingerprint or known.get("space") != space_digest(session.config.space):
        known = {"data": session.data.fingerprint, "space": space_digest(session.config.space), "scores": {}}
    scores, columns = known["scores"], {}
    for name in names:
        found = scores.setdefault(name, {"images": 0, "of": {}})
        missing = [candidate for candidate in sample if candidate.key not in found["of"]]
        if missing:
            with session.progress.stage(f"Compute: {name}", len(missing)) as bar:
                column = computed(
                    [name],
                    session.space,
                    [candidate.architecture for candidate in missing],
                    session.data.train,
                    session.config.seed,
                    device=session.device,
                    progress=bar.to,
                )[name]
            found["images"] = column.images
            for candidate, score in zip(missing, column.scores, strict=True):
                value = None if score.reason is not None else score.value
                found["of"][candidate.key] = [value, score.seconds, score.reason]
            write_json(path, known)
        columns[name] = Column(tuple(_score(*found["of"][c.key]) for c in sample), found["images"])
    return columns


def _score(value: float | None, seconds: float, reason: str | None) -> Score:
    return Score(float("nan") if value is None else value, seconds, reason)
