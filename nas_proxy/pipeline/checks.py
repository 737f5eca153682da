"""What is found wrong with a run before the long work: data, space and settings that do not go together.

In: a session. Out: nothing, or a UserError that says what would work. What a setting may be is in `bounds.py`.
"""

import math

from nas_proxy.condensation.memory import check_divisible
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.errors import ConfigError
from nas_proxy.pipeline.session import Session
from nas_proxy.pipeline.settings import RunConfig
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.search.samplers import grid
from nas_proxy.spaces.loading import space_digest
from nas_proxy.spaces.objectives import ACCURACY
from nas_proxy.training.pruning import WILCOXON_LEAST


def check(session: Session) -> None:
    """Find the user's mistakes in data, space and recipe before the long work, not after it."""
    space_digest(session.config.space)  # finds and imports it, before the data, which may take a while
    check_recipe(session, session.config.condense)
    check_proposals(session)


def check_sample(config: RunConfig) -> None:
    """Raise ConfigError for a sample too small to be ranked."""
    if config.truth < LEAST:
        raise ConfigError(
            [
                f"the sample is of {config.truth} architectures, but a ranking needs at least {LEAST}; "
                f"give --truth {LEAST} or more"
            ]
        )


def check_recipe(session: Session, recipe: Condensation) -> None:
    """Find the mistakes in how images are condensed or chosen."""
    wanted = recipe.images_per_class * recipe.formation**2
    smallest = min(len(members) for members in session.data.train.of_class())
    if wanted > smallest:
        works = _fewer(session, recipe, smallest)
        raise ConfigError(
            [
                f"{wanted} images a class were asked for{_packed(recipe.formation)}, but the smallest class has "
                f"{smallest} training images; give {works}"
            ]
        )
    if session.shape.height % recipe.formation or session.shape.width % recipe.formation:
        raise ConfigError(
            [
                f"--formation {recipe.formation} divides images evenly, but these have {session.shape.height}×"
                f"{session.shape.width} pixels; leave it out, or resize them with --image-size"
            ]
        )
    check_divisible(recipe, session.shape.classes, session.config.classes_per_step)


def check_proposals(session: Session) -> None:
    """Find the mistakes in how architectures are proposed."""
    config = session.config
    if config.pruner == "wilcoxon" and config.seeds < 2:
        raise ConfigError(
            [
                f"--pruner wilcoxon compares candidates across seeds, but --seeds is {config.seeds}; give --seeds "
                f"{WILCOXON_LEAST} or more, or --pruner median"
            ]
        )
    check_objectives(config)
    if config.sampler == "grid":
        grid(session.space)
    room = max(0, config.trials - config.truth)
    if len(session.enqueued) > room:
        raise ConfigError(
            [
                f"--enqueue names {len(session.enqueued)} architectures, but --trials {config.trials} leaves room for "
                f"{room} beside the sample of --truth {config.truth}; give --trials "
                f"{config.truth + len(session.enqueued)} or more"
            ]
        )


def check_objectives(config: RunConfig) -> None:
    """Raise ConfigError for what cannot be had together with several objectives."""
    if len(config.objective) == 1:
        return
    named = f"--objective names {len(config.objective)} ({', '.join(config.objective)})"
    if config.sampler == "evolution":
        raise ConfigError([f"--sampler evolution has one objective, but {named}; take --sampler tpe or nsga2"])
    if config.pruner != "none":
        raise ConfigError([f"--pruner {config.pruner} looks at one objective, but {named}; leave one of them out"])
    if config.score != ACCURACY:
        raise ConfigError([f"--score {config.score} ranks by losses alone, but {named}; leave one of them out"])


def _packed(formation: int) -> str:
    return f" ({formation**2} in each stored one)" if formation > 1 else ""


def _fewer(session: Session, recipe: Condensation, smallest: int) -> str:
    """Return what asks for no more than `smallest` images a class."""
    most = smallest // recipe.formation**2
    if most > 0 and recipe.source is not None:
        return f"as --ipc the images a class that the file has, {most} at most"
    if most > 0:
        return f"--ipc {most} or less"
    sizes = (session.shape.height, session.shape.width)
    formation = next(f for f in range(math.isqrt(smallest), 0, -1) if not any(size % f for size in sizes))
    most = smallest // formation**2
    return f"--formation {formation} with --ipc {most}{' or less' * (most > 1)}, or data with more images"
