"""What is found wrong with a run before the long work: data, space and settings that do not go together.

In: a prospect: none of it needs all images. Out: nothing, or a UserError that says what would work. What a single
setting may be is told in `settings.py`.
"""

import functools
import math
from collections.abc import Collection
from itertools import islice

from nas_proxy.condensation.memory import check_divisible
from nas_proxy.condensation.patches import across
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.errors import ConfigError, DataError, SpaceError
from nas_proxy.pipeline.problem import Prospect
from nas_proxy.pipeline.tracking import check_installed
from nas_proxy.ranking.intervals import LEAST
from nas_proxy.runs.settings import RunConfig
from nas_proxy.signals import own
from nas_proxy.signals.signal import OwnScore, SmallSet, plan_of
from nas_proxy.spaces.apart import Complaint, apart
from nas_proxy.spaces.limits import limits_text
from nas_proxy.spaces.objectives import ACCURACY
from nas_proxy.strategy.samplers import grid
from nas_proxy.training.pruning import WILCOXON_LEAST

# Seconds that a file with a score may take to be imported; architectures that are looked for in a table of scores.
IMPORT, TRIED = 60.0, 200


def check(problem: Prospect, stages: Collection[str] = ()) -> None:
    """Find the user's mistakes in data, space and recipe before the long work, not after it.

    stages: that are to be done.
    """
    if "rank" in stages:
        check_enough(problem)
    check_own_scores(problem)
    for signal in plan_of(problem.config).signals:
        if isinstance(signal.source, SmallSet):
            check_recipe(problem, signal.source.recipe)
    check_installed(problem.config.log)
    if problem.config.compare is not None:
        check_comparison_sample(problem)
    check_proposals(problem)


def check_own_scores(prospect: Prospect) -> None:
    """Find the mistakes in scores of the user's own. Raises DataError or SpaceError, and ConfigError for no file."""
    for signal in plan_of(prospect.config).signals:
        if not isinstance(signal.source, OwnScore):
            continue
        named = signal.source.named
        path, inner = own.place_of(named)
        if not path.is_file():
            raise ConfigError([f"--signals names {named!r}, but the file {path} does not exist"])
        if own.is_function(named):
            found = apart(functools.partial(_import, named), IMPORT)
            if isinstance(found, Complaint):
                raise SpaceError(found.text if found.own else f"{path}, of --signals, cannot be imported: {found.text}")
            continue
        known, seed = own.looked_up(named), prospect.config.seed
        if not known:
            raise DataError(f"the column {inner!r} of {path} has no number; name a column of scores, higher for better")
        drawn = list[str]()
        for architecture in islice(prospect.space.sample(seed), TRIED):  # each may have to be measured, for limits
            drawn.append(prospect.space.key(architecture))
            if drawn[-1] in known:
                break
        else:
            raise DataError(
                f"the column {inner!r} of {path} has a number for none of {len(drawn)} architectures of the space; its "
                f"keys look like {next(iter(known))!r}, those of the space like {drawn[0]!r}"
            )


def _import(named: str) -> None:
    own.function(named)


def check_sample(config: RunConfig) -> None:
    """Raise ConfigError for a sample too small to be ranked."""
    if config.sample < LEAST:
        raise ConfigError(
            [
                f"the sample is of {config.sample} architectures, but a ranking needs at least {LEAST}; "
                f"give {'--truth' if config.truth < LEAST else '--judge'} {LEAST} or more"
            ]
        )


def check_enough(problem: Prospect) -> None:
    """Raise ConfigError for too few architectures to be ranked."""
    config, space = problem.config, problem.space
    there = sum(1 for _ in islice(space.sample(config.seed), LEAST))
    if there < LEAST:
        within = limits_text(config.max_params, config.max_flops)
        of = "in the truth table" if problem.table is not None else f"in the space {space.name!r}"
        more = "raise it" if within else "give a larger table" if problem.table is not None else "give it more choices"
        raise ConfigError(
            [
                f"a ranking needs at least {LEAST} architectures, but there are {there} {of}"
                f"{within and ' '}{within}; {more}"
            ]
        )


def check_comparison_sample(problem: Prospect) -> None:
    """Raise ConfigError where the sample is larger than what it is drawn from, or leaves nothing to embed with."""
    wanted, size = problem.config.sample, problem.space.size
    if size is not None and wanted > size:
        held = "the truth table holds" if problem.table is not None else "the space has"
        raise ConfigError([f"--sample is {wanted}, but {held} {size} architectures; give --sample {size} or less"])
    whole = problem.whole_space.size
    signals = plan_of(problem.config).signals
    embeds = [s.name for s in signals if isinstance(s.source, SmallSet) and s.source.recipe.embed == "space"]
    if embeds and whole is not None and wanted >= whole:
        raise ConfigError(
            [
                f"{embeds[0]} embeds with architectures outside the sample, but --sample {wanted} takes all of the "
                f"space; give --sample {whole - 1} or less, or leave {embeds[0]} out of --signals"
            ]
        )


def check_recipe(problem: Prospect, recipe: Condensation) -> None:
    """Find the mistakes in how images are condensed or chosen."""
    shape = problem.shape
    side = recipe.formation * (across(recipe, shape.height, shape.width) if recipe.patched else 1)
    wanted = recipe.images_per_class * side**2
    smallest = problem.counts.smallest
    if wanted > smallest:
        packed = f" ({side**2} in each stored one)" if side > 1 else ""
        raise ConfigError(
            [
                f"{wanted} images a class were asked for{packed}, but the smallest class has {smallest} training "
                f"images; give {_fewer(problem, recipe, smallest, side)}"
            ]
        )
    if shape.height % recipe.formation or shape.width % recipe.formation:
        raise ConfigError(
            [
                f"--formation {recipe.formation} divides images evenly, but these have {shape.height}×{shape.width} "
                "pixels; leave it out, or resize them with --image-size"
            ]
        )
    check_divisible(recipe, shape.classes, problem.config.classes_per_step)


def check_proposals(problem: Prospect) -> None:
    """Find the mistakes in how architectures are proposed."""
    config = problem.config
    if config.pruner == "wilcoxon" and config.seeds < 2:
        raise ConfigError(
            [
                f"--pruner wilcoxon compares candidates across seeds, but --seeds is {config.seeds}; give --seeds "
                f"{WILCOXON_LEAST} or more, or --pruner median"
            ]
        )
    check_objectives(config)
    if config.sampler == "grid":
        grid(problem.space)
    if config.budget is None:  # whose plan makes room
        check_room(problem)


def check_room(problem: Prospect) -> None:
    """Raise ConfigError for more architectures to be proposed first than there are to be proposals."""
    config, enqueued = problem.config, problem.enqueued
    room = max(0, config.trials - config.sample)
    if len(enqueued) > room:
        of = f"--trials {config.trials}" if config.budget is None else f"the plan of --budget {config.budget}"
        more = f"--trials {config.sample + len(enqueued)} or more" if config.budget is None else "a larger --budget"
        raise ConfigError(
            [
                f"--enqueue names {len(enqueued)} architectures, but {of} leaves room for {room} beside the sample of "
                f"{config.sample} (--judge); give {more}"
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


def _fewer(problem: Prospect, recipe: Condensation, smallest: int, side: int) -> str:
    """Return what asks for no more than `smallest` images a class, of which a stored one holds side²."""
    most = smallest // side**2
    if most > 0 and recipe.source is not None:
        return f"as --ipc the images a class that the file has, {most} at most"
    if most > 0:
        return f"--ipc {most} or less"
    if side > recipe.formation:
        return f"--patches-across 1 with --ipc {max(1, smallest // recipe.formation**2)} or less"
    sizes = (problem.shape.height, problem.shape.width)
    formation = next(f for f in range(math.isqrt(smallest), 0, -1) if not any(size % f for size in sizes))
    most = smallest // formation**2
    return f"--formation {formation} with --ipc {most}{' or less' * (most > 1)}, or data with more images"
