"""What is compared: the names of signals in, how each comes about out.

    dm, herding, kcenter, random      networks trained on a set of so many images a class
    dm+space, dm+all, dm+formation    variants of the condensation, in any combination; real images take +formation
    early_stop                        networks trained on all images, for as many image passes
    random_total                      more random images, for as long as the first condensed set takes with its making;
                                      random_total@dm+space for another one
    params, flops, synflow, …         computed without training

A trained signal scores by validation accuracy, as `dm`, and by minus the sum of its training losses, as `dm:loss_sum`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.condensation.selection import METHODS
from nas_proxy.errors import nearest
from nas_proxy.signals.computed import NAMES

RANDOM, EARLY_STOP, TOTAL = "random", "early_stop", "random_total"
SETS = ("dm", *METHODS)
KNOWN = (*SETS, EARLY_STOP, TOTAL, *NAMES)
SCORES = ("both", "accuracy", "loss_sum")
LOSS_SUM = ":loss_sum"
# What a part of a name changes in the recipe of a condensed set, in the order in which names have them.
VARIANTS: dict[str, dict[str, object]] = {
    "space": {"embed": "space"},
    "formation": {"formation": 2},
    "all": {"match": "all"},
}


def canonical(name: str) -> tuple[str, str | None]:
    """Return the one spelling of a signal's name, and what is wrong with it; None when nothing is."""
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


def is_set(name: str) -> bool:
    """Return whether a signal trains on a set of its own that the recipe describes."""
    return name.split("+", maxsplit=1)[0] in SETS


def is_made(name: str) -> bool:
    """Return whether making the signal's set costs something: it is learnt, or chosen by features."""
    return is_set(name) and name.split("+", maxsplit=1)[0] != RANDOM


def is_total(name: str) -> bool:
    """Return whether a signal is random images at the whole cost of another one."""
    return name.split("@", maxsplit=1)[0] == TOTAL


def is_trained(name: str) -> bool:
    """Return whether a signal trains networks."""
    return name not in NAMES


def draws_of(name: str, draws: int) -> int:
    """Return how many times a signal is drawn or made: one, where nothing is drawn."""
    return 1 if name == EARLY_STOP or name in NAMES else draws


def completed(names: Sequence[str], combine: Iterable[str] = ()) -> tuple[str, ...]:
    """Return what is compared: the named signals, those to be combined, and the controls that they need."""
    found = list(dict.fromkeys([*names, *(name.removesuffix(LOSS_SUM) for name in combine)]))
    made = [name for name in found if is_made(name)]
    if any(map(is_trained, found)):
        found.append(RANDOM)
    if any(formation_of(name) > 1 for name in made):
        found.append(f"{RANDOM}+formation")  # as many stored images, packed as those are
    if made:
        found.append(TOTAL)
    return tuple(dict.fromkeys(found))


def target_of(total: str, names: Sequence[str]) -> str:
    """Return the signal whose whole cost `total` is matched with: the first that is made, where none is named."""
    _, _, target = total.partition("@")
    return target or next(name for name in sorted(names, key=lambda name: name.split("+")[0] != "dm") if is_made(name))


def total_of(name: str, names: Sequence[str]) -> str | None:
    """Return the control at the whole cost of a signal, or of the one that there is."""
    return next((total for total in (f"{TOTAL}@{name}", TOTAL) if total in names), None)


def rows_of(name: str, score: str) -> list[str]:
    """Return the rows that a signal has in the table."""
    if not is_trained(name):
        return [name]
    return [name] * (score != "loss_sum") + [name + LOSS_SUM] * (score != "accuracy")


def control_of(row: str, score: str) -> str:
    """Return the row that a row should beat: random images with as many stored, scored in the same way."""
    name = row.removesuffix(LOSS_SUM)
    packed = is_made(name) and formation_of(name) > 1
    by_loss = row.endswith(LOSS_SUM) or score == "loss_sum"
    return RANDOM + "+formation" * packed + LOSS_SUM * by_loss


def formation_of(name: str) -> int:
    """Return how many images a stored one holds, down and across."""
    return 2 if "formation" in name.split("+") else 1


def recipe_of(name: str, base: Condensation) -> Condensation:
    """Return the recipe of a signal's set: the common one, with what the name changes."""
    method, *variants = name.split("+")
    changed = replace(base, method=method, source=None, formation=1, match="last", embed="convnet")
    for variant in variants:
        changed = replace(changed, **VARIANTS[variant])  # type: ignore[arg-type]
    return changed
