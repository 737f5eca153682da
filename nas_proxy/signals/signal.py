"""A signal is data: what scores architectures, and where the scores come from. Names in, signals out.

    proxy                             networks trained on the run's condensed set, as its recipe says
    dm, herding, kcenter, patches, random
                                      networks trained on a set of so many images a class
    dm+space, dm+all, dm+formation    variants of the condensation, in any combination; real images take +formation
    early_stop                        networks trained on all images, for as many image passes
    random_total                      more random images, for as long as the first condensed set takes with its making;
                                      random_total@dm+space for another one
    params, flops, synflow, …         zero-cost scores, computed without training
    table:FILE:COLUMN, FILE.py:NAME   scores of the user's own, see `nas_proxy.signals.own`

A trained signal has two scores: the validation accuracy and minus the sum of the training losses. The grammar of names
is here alone; whatever works on signals reads their fields. No module of PyTorch's is needed to parse names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from nas_proxy.errors import nearest
from nas_proxy.names import EARLY_STOP, LOSS_SUM, PROXY, RANDOM, TOTAL, ZERO_COST
from nas_proxy.signals import own

if TYPE_CHECKING:
    from nas_proxy.condensation.recipe import Condensation
    from nas_proxy.runs.settings import RunConfig

SETS = ("dm", RANDOM, "herding", "kcenter", "patches")
KNOWN = (*SETS, EARLY_STOP, TOTAL, *ZERO_COST)
SCORES = ("accuracy", "loss_sum")
# What a part of a name changes in the recipe of a condensed set, in the order in which names have them.
VARIANTS: dict[str, dict[str, object]] = {
    "space": {"embed": "space"},
    "formation": {"formation": 2},
    "all": {"match": "all"},
}
# Draws of random images that a run compares its proxy with.
RANDOM_DRAWS = 3


@dataclass(frozen=True)
class SmallSet:
    """Networks train on a set of so many images a class, made by `recipe`; `random` draws it anew for each draw."""

    recipe: Condensation


@dataclass(frozen=True)
class AllImages:
    """Networks train on all training images, for as many image passes as on a set."""


@dataclass(frozen=True)
class EqualCost:
    """Networks train on more random images, for as long as those of `target` with the making of its set shared."""

    target: str


@dataclass(frozen=True)
class ZeroCost:
    """Scores of untrained networks; `relative` where a score is a rank among the architectures scored together."""

    relative: bool


@dataclass(frozen=True)
class OwnScore:
    """Scores of the user's own, looked up or computed without training; `named` as on the command line."""

    named: str


@dataclass(frozen=True)
class Signal:
    """What scores architectures.

    name: unique in a run, also the name of its study. source: where scores come from. draws: sets of its kind, each
    with a training of every architecture. baseline: the signal that it should beat. seeds: trainings a score.
    """

    name: str
    source: SmallSet | AllImages | EqualCost | ZeroCost | OwnScore
    draws: int = 1
    baseline: str = RANDOM
    seeds: int = 1

    @property
    def trained(self) -> bool:
        """Whether scores come from trainings."""
        return not isinstance(self.source, ZeroCost | OwnScore)

    @property
    def made(self) -> bool:
        """Whether making the signal's set costs something: it is learnt, or chosen by a network."""
        return isinstance(self.source, SmallSet) and self.source.recipe.method != RANDOM

    @property
    def owns_sets(self) -> bool:
        """Whether there are sets of images that are this signal's alone."""
        return isinstance(self.source, SmallSet | EqualCost)


@dataclass(frozen=True)
class Plan:
    """What a command scores architectures by, and how the table shows it.

    signals: in the order of the table. lead: the signal on which the sample is trained first, so that an architecture
    that fails is replaced by the next of the stream; in a run it searches as well; None where nothing is trained.
    primary: the score that a row named as its signal shows. shown: the scores that have a row.
    combine: rows whose mean rank is one more. passes: image passes of a training on a set, None for its epochs.
    sharing: how many candidates share the cost of making a set.
    """

    signals: tuple[Signal, ...]
    lead: str | None
    primary: str = "accuracy"
    shown: tuple[str, ...] = SCORES
    combine: tuple[str, ...] = ()
    passes: int | None = None
    sharing: int = 1

    def __getitem__(self, name: str) -> Signal:
        return next(signal for signal in self.signals if signal.name == name)

    @property
    def trained(self) -> tuple[Signal, ...]:
        """The signals that train networks."""
        return tuple(signal for signal in self.signals if signal.trained)

    @property
    def computed(self) -> tuple[Signal, ...]:
        """The signals that need no training."""
        return tuple(signal for signal in self.signals if not signal.trained)

    def row(self, name: str, score: str) -> str:
        """Return the row of a trained signal by one of its scores."""
        return name if score == self.primary else f"{name}:{score}"

    def rows(self, signal: Signal) -> dict[str, str]:
        """Return the rows that a signal has in the table, each with its score."""
        if not signal.trained:
            return {signal.name: self.primary}
        return {self.row(signal.name, score): score for score in self.shown}


def plan_of(config: RunConfig) -> Plan:
    """Return what the settings of a run or of a comparison ask for."""
    return _run_plan(config) if config.compare is None else _comparison_plan(config)


def _run_plan(config: RunConfig) -> Plan:
    """The proxy, its baselines in every run, and what the settings name beside them."""
    condense = config.condense
    random = replace(condense, method=RANDOM, source=None, embed="convnet", match="last")
    named = dict.fromkeys([*config.signals, *(name for name in config.combine if is_computed(name))])
    signals = (
        Signal(PROXY, SmallSet(condense), seeds=config.seeds),
        Signal(RANDOM, SmallSet(random), RANDOM_DRAWS, seeds=config.seeds),
        Signal(EARLY_STOP, AllImages(), seeds=config.seeds),
        *(_computed(name) for name in named),
    )
    shown = (config.score, next(score for score in SCORES if score != config.score))
    combine = tuple(own.row_of(name) for name in config.combine)
    return Plan(signals, PROXY, config.score, shown, combine, sharing=max(config.trials, config.sample))


def _comparison_plan(config: RunConfig) -> Plan:
    asked = config.compare
    assert asked is not None
    names = completed(asked.signals, asked.combine)
    signals = tuple(_signal(name, names, config.condense, asked.draws) for name in names)
    # Cheap signals first: whoever looks early has the baselines.
    order = sorted((signal for signal in signals if signal.trained), key=lambda signal: signal.made)
    lead = next((signal.name for signal in order if not isinstance(signal.source, EqualCost)), None)
    shown = SCORES if asked.score == "both" else (asked.score,)
    sharing = asked.candidates or config.truth
    combine = tuple(own.row_of(name) for name in asked.combine)
    return Plan(signals, lead, "accuracy", shown, combine, asked.passes, sharing)


def _signal(name: str, names: Sequence[str], condense: Condensation, draws: int) -> Signal:
    """Return the signal of a canonical name in a comparison of `names`."""
    if is_computed(name):
        return _computed(name)
    if name == EARLY_STOP:
        return Signal(name, AllImages())
    if is_total(name):
        return Signal(name, EqualCost(target_of(name, names)), draws)
    method, *variants = name.split("+")
    recipe = replace(condense, method=method, source=None, formation=1, match="last", embed="convnet")
    for variant in variants:
        recipe = replace(recipe, **VARIANTS[variant])  # type: ignore[arg-type]
    # As many stored images, packed as those of the signal are.
    packed = method != RANDOM and recipe.formation > 1
    return Signal(name, SmallSet(recipe), draws, f"{RANDOM}+formation" if packed else RANDOM)


def _computed(name: str) -> Signal:
    if own.is_own(name):
        return Signal(own.row_of(name), OwnScore(name))
    return Signal(name, ZeroCost(relative=name == "az_nas"))


def is_computed(name: str) -> bool:
    """Return whether the scores of a canonical name need no training."""
    return name in ZERO_COST or own.is_own(name)


def canonical(name: str) -> tuple[str, str | None]:
    """Return the one spelling of a signal's name, and what is wrong with it; None when nothing is."""
    if own.is_own(name):
        return name, own.mistake(name)
    head, at, target = name.partition("@")
    if at:
        spelt, wrong = canonical(target)
        if head != TOTAL or wrong is not None or not is_made(spelt):
            return name, f"{name!r}, but only {TOTAL} is matched with another signal, as in {TOTAL}@dm+space"
        return f"{TOTAL}@{spelt}", None
    base, *variants = name.split("+")
    if base not in KNOWN:
        return name, f"{base!r}{nearest(base, KNOWN)}; dm takes +space, +formation and +all, real images +formation"
    allowed = tuple(VARIANTS) if base == "dm" else ("formation",) if base in SETS else ()
    unknown = [variant for variant in variants if variant not in allowed]
    if unknown:
        takes = " and ".join(f"+{variant}" for variant in allowed) or "no variant"
        return name, f"{name!r}, but {base} takes {takes}"
    return "+".join([base, *(variant for variant in VARIANTS if variant in variants)]), None


def completed(names: Sequence[str], combine: Iterable[str] = ()) -> tuple[str, ...]:
    """Return what is compared: the named signals, those to be combined, and the baselines that they need."""
    found = list(dict.fromkeys([*names, *(name.removesuffix(LOSS_SUM) for name in combine)]))
    made = [name for name in found if is_made(name)]
    if not all(map(is_computed, found)):
        found.append(RANDOM)
    if any("formation" in name.split("+") for name in made):
        found.append(f"{RANDOM}+formation")
    if made:
        found.append(TOTAL)
    return tuple(dict.fromkeys(found))


def is_made(name: str) -> bool:
    """Return whether the sets of a canonical name are learnt or chosen by a network."""
    base = name.split("+", maxsplit=1)[0]
    return base in SETS and base != RANDOM


def is_total(name: str) -> bool:
    """Return whether a canonical name is of random images at the whole cost of another signal."""
    return name.split("@", maxsplit=1)[0] == TOTAL


def target_of(total: str, names: Sequence[str]) -> str:
    """Return the signal whose whole cost `total` is matched with: the first that is made, where none is named."""
    _, _, target = total.partition("@")
    return target or next(name for name in sorted(names, key=lambda name: name.split("+")[0] != "dm") if is_made(name))


def rows_of(name: str, score: str) -> list[str]:
    """Return the rows that a canonical name has in the table of a comparison by `score`, which may be "both"."""
    if is_computed(name):
        return [own.row_of(name)]
    return [name] * (score != "loss_sum") + [name + LOSS_SUM] * (score != "accuracy")
