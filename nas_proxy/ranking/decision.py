"""What to rank architectures by on this data and space: a `Ranking` in, one `Decision` out, from its numbers alone.

Four things decide, in this order, each by the end of its interval that speaks against it:

1. *Saving.* Where the search is told to have been slower than random search with full training, train directly. A
   signal whose trainings, with the making of its set, take as long for all candidates of the search as full training
   is struck out; where all are, train directly, too.
2. *Repeatability.* Where full training does not repeat itself, no signal can follow it.
3. *Trust.* Spearman's lower end is at least `TRUSTED`; and in the better half, where full training is told to repeat
   itself there, the signal is told from chance and is not below it.
4. *Random images*, which cost nothing to make: a condensed set has to be told to beat them.

What an interval leaves open is measured: an interval shrinks with the root of the number of architectures, so about
n (arm / distance)**2 of them bring its end past the value that decides. Where that is more than `MOST` times n, the
difference is too small to be worth it, and the cheaper way is taken.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from nas_proxy.names import CALIBRATED, COMBINED, EARLY_STOP, LABELS, PROXY, RANDOM, REPEATABILITY, TOTAL, ZERO_COST

if TYPE_CHECKING:
    from nas_proxy.ranking.intervals import Interval
    from nas_proxy.ranking.ranking import Ranking, Row

TRUSTED = 0.5
"""The lower end of a Spearman correlation from which on a ranking is trusted; a convention."""
FEW = 20
"""With fewer architectures an estimate of how many more are needed is a guess: so many are asked for at least."""
MOST = 10
"""More than so many times the architectures that there are, nobody measures."""
# Rows that are no sets of images, or not of a kind that a search would be run on.
NO_SETS = frozenset({RANDOM, TOTAL, EARLY_STOP, CALIBRATED, COMBINED, REPEATABILITY, *ZERO_COST})


class Action(StrEnum):
    """What to do."""

    CONDENSED = "use_condensed"
    RANDOM = "use_random"
    CALIBRATED = "use_calibrated"
    OTHER = "use_other"
    DIRECT = "train_directly"
    MEASURE = "measure_more"
    NONE = "not_judged"


class Reason(StrEnum):
    """What decided."""

    ABSENT = "nothing is ranked"
    UNDEFINED = "no correlation is defined"
    NO_SAVING = "no signal is cheaper than full training"
    UNREPEATABLE = "full training does not repeat itself"
    RANKS_BADLY = "no signal ranks like full training"
    BLIND = "no signal ranks the better half"
    WIDE = "an interval is too wide to trust a signal"
    GAIN_OPEN = "the difference to random images is open"
    BETTER = "better than random images"
    NOT_BETTER = "not told to be better than random images"
    WORSE = "worse than random images"
    DEAR = "the set costs more than it saves"
    ALONE = "the one signal that is trusted"
    UNCOMPARED = "trusted, without random images to compare it with"


@dataclass(frozen=True)
class Decision:
    """What to do, and what decided.

    signal: the row that it is about, None where it is about none. more: how many more architectures are about needed,
    where that is what to do. lead: the row that was to be judged: the proxy's of a run, the best set's of a comparison.
    saves: how many times less time the search took than random search with full training; where that is not told, the
    ranking of its candidates with `lead` than their full training. None where neither is known.
    """

    action: Action
    reason: Reason
    signal: str | None = None
    more: int | None = None
    lead: str | None = None
    saves: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the object "decision" of what `--json` prints."""
        return {
            "action": self.action.value,
            "reason": self.reason.value,
            "signal": self.signal,
            "more_architectures": self.more,
            "lead": self.lead,
            "saves": self.saves,
        }


def decide(ranking: Ranking | None) -> Decision:
    """Return what to do; `Action.NONE` where nothing is ranked or no correlation is defined."""
    if ranking is None or not any(name != REPEATABILITY for name in ranking.signals):
        return Decision(Action.NONE, Reason.ABSENT)
    lead = lead_of(ranking)
    if lead is None:
        return Decision(Action.NONE, Reason.UNDEFINED)
    found = _decided(ranking, lead)
    told = None if ranking.saving is None else ranking.saving.ratio
    return Decision(*found, lead=lead, saves=saves(ranking, lead) if told is None else told)


def lead_of(ranking: Ranking) -> str | None:
    """Return the row that is judged: the proxy's, the best set's, or else the best signal's; None where none ranks."""
    if PROXY in ranking.signals and ranking.row(PROXY).spearman.value is not None:
        return PROXY
    known = [name for name, row in ranking.signals.items() if row.spearman.value is not None and name != REPEATABILITY]
    sets = [name for name in known if _is_set(name) and ranking.row(name).cost.stored_images != 0]
    images = [name for name in known if _base(name) == RANDOM]
    for names in (sets, images, known):
        if names:
            return max(names, key=lambda name: float(ranking.row(name).spearman.value))  # type: ignore[arg-type]
    return None


def candidates(ranking: Ranking) -> int | None:
    """Return how many candidates share the making of a set: those of the search; the ranked ones where none is told."""
    told = ranking.settings.get("candidates")
    return max(told, ranking.n or 0) if isinstance(told, int) and told > 0 else ranking.n


def method_of(ranking: Ranking) -> str:
    """Return by which method the images of a run's proxy were made, or chosen; "dm" where an earlier version ranked."""
    told = ranking.settings.get("method")
    return told if isinstance(told, str) else "dm"


def is_random(ranking: Ranking, name: str) -> bool:
    """Return whether a row is of random images, as that of a proxy is where a budget has no time to condense."""
    return (method_of(ranking) if name == PROXY else _base(name)) == RANDOM


def seconds_of(ranking: Ranking, name: str) -> float | None:
    """Return the seconds that all candidates take by a row, with the making of its set; by `REPEATABILITY`, in full."""
    row, number = ranking.row(name), candidates(ranking)
    measured = ranking.sample or ranking.n
    training = row.cost.seconds if row.cost.training_seconds is None else row.cost.training_seconds
    if training is None or not number or not measured:
        return None
    return (row.cost.making_seconds or 0.0) + training * number / measured


def saves(ranking: Ranking, name: str) -> float | None:
    """Return how many times longer full training of all candidates takes than ranking them by a row."""
    spent, full = seconds_of(ranking, name), seconds_of(ranking, REPEATABILITY)
    return full / spent if spent and full else None


def _is_set(name: str) -> bool:
    """Whether a row is of a set of images that a search would be run on; a name that is none of ours is a user's."""
    return _base(name) in LABELS and _base(name) not in NO_SETS


def _base(name: str) -> str:
    return name.partition(":")[0].partition("@")[0].partition("+")[0]


Found = tuple[Action, Reason, str | None, int | None]


def _decided(ranking: Ranking, lead: str) -> Found:
    of_random = lead == PROXY and is_random(ranking, lead)  # its own control, of which the row has more draws
    control = lead if of_random else ranking.row(lead).control or RANDOM
    wanted = list(dict.fromkeys((lead, control, CALIBRATED)))
    options = [name for name in wanted if ranking.row(name).spearman.value is not None]
    saved = _search_saved(ranking)
    cheap = [name for name in options if name == CALIBRATED or (saved and name == lead) or _pays(ranking, name)]
    if saved is False or not set(cheap) - {CALIBRATED}:
        return Action.DIRECT, Reason.NO_SAVING, None, None
    repeated = ranking.row(REPEATABILITY).spearman
    level, more = _above(repeated, TRUSTED, ranking.n)
    if repeated.value is not None and repeated.value < TRUSTED:
        if level is False:
            return Action.DIRECT, Reason.UNREPEATABLE, None, None
        if more is not None and repeated.bounded:
            return Action.MEASURE, Reason.WIDE, REPEATABILITY, more
    return _among(ranking, lead, control, {name: _trust(ranking, name) for name in cheap})


@dataclass(frozen=True)
class _Trust:
    """Whether a signal is trusted, or about how many more architectures may tell; `blind`: in the better half."""

    good: bool
    more: int | None = None
    blind: bool = False


def _among(ranking: Ranking, lead: str, control: str, trusted: dict[str, _Trust]) -> Found:
    """Choose among the signals that save something."""
    good = {name for name, trust in trusted.items() if trust.good}
    if not good:
        return _none_trusted(lead, trusted)
    gain = ranking.row(lead).minus_random
    compared = lead != control and gain.value is not None
    if lead in good and (not compared or _told_better(ranking.row(lead))):
        return _use(ranking, lead), Reason.BETTER if compared else _alone(lead, control), lead, None
    if CALIBRATED in good and (_told_better(ranking.row(CALIBRATED)) or good == {CALIBRATED}):
        return Action.CALIBRATED, Reason.BETTER if control in good else Reason.ALONE, CALIBRATED, None
    if control not in good:
        return _use(ranking, lead), Reason.ALONE, lead, None
    return _against_random(ranking, lead, control, trusted)


def _none_trusted(lead: str, trusted: dict[str, _Trust]) -> Found:
    """Return whether more architectures may tell whom to trust, the fewest that may; else nobody."""
    more = {name: trust.more for name, trust in trusted.items() if trust.more is not None}
    if more:
        name = min(more, key=lambda name: (more[name], name != lead))
        return Action.MEASURE, Reason.WIDE, name, more[name]
    blind = any(trust.blind for trust in trusted.values())
    return Action.DIRECT, Reason.BLIND if blind else Reason.RANKS_BADLY, None, None


def _against_random(ranking: Ranking, lead: str, control: str, trusted: dict[str, _Trust]) -> Found:
    """Choose between a set and random images that are trusted, where the set is not told to be better."""
    gain, more = ranking.row(lead).minus_random, ranking.row(lead).more_architectures
    if lead not in trusted:
        return _use(ranking, control), Reason.DEAR, control, None
    if gain.high is not None and gain.high < 0:
        return _use(ranking, control), Reason.WORSE, control, None
    leading = trusted[lead].good and gain.value is not None and gain.value > 0
    if leading and (asked := _asked(more, ranking.n)) is not None:
        return Action.MEASURE, Reason.GAIN_OPEN, lead, asked
    return _use(ranking, control), Reason.NOT_BETTER, control, None


def _alone(lead: str, control: str) -> Reason:
    return Reason.ALONE if _base(lead) == RANDOM or lead == control else Reason.UNCOMPARED


def _use(ranking: Ranking, name: str) -> Action:
    if is_random(ranking, name):
        return Action.RANDOM
    if name == CALIBRATED:
        return Action.CALIBRATED
    return Action.CONDENSED if _is_set(name) else Action.OTHER


def _told_better(row: Row) -> bool:
    return row.minus_random.low is not None and row.minus_random.low > 0


def _search_saved(ranking: Ranking) -> bool | None:
    """Return whether the search is told to be cheaper than random search with full training; None where it is open."""
    told = ranking.saving
    if told is None or told.ratio is None or len(told.interval) != 2:
        return None
    low, high = told.interval
    return True if low > 1 else False if high < 1 else None


def _pays(ranking: Ranking, name: str) -> bool:
    """Whether ranking all candidates by a row is cheaper than full training; where that is not known, it may be."""
    factor = saves(ranking, name)
    if factor is not None:
        return factor > 1
    row, number = ranking.row(name), candidates(ranking)
    return row.pays_from is None or number is None or row.pays_from <= number


def _trust(ranking: Ranking, name: str) -> _Trust:
    row = ranking.row(name)
    spread, more = _above(row.spearman, TRUSTED, ranking.n)
    if spread is not True:
        return _Trust(False, more if spread is None else None)
    half, full = row.spearman_top_half, ranking.row(REPEATABILITY).spearman_top_half
    if full.low is None or full.low <= 0 or half.low is None or half.high is None:
        return _Trust(True)  # where full training is not told to repeat itself, nothing can be asked of a signal
    if half.high < full.low:
        return _Trust(False, blind=True)
    told, more = _above(half, 0.0, ranking.n)
    return _Trust(True) if told else _Trust(False, more if told is None else None, blind=True)


def _above(estimate: Interval, value: float, n: int | None) -> tuple[bool | None, int | None]:
    """Return whether an estimate is told to be above a value (at it, too) or below; None and how many more may tell."""
    if estimate.value is None:
        return None, None
    if estimate.low is None or estimate.high is None:
        return None, _asked(max(1, n or 0), n)  # without a width: as many again
    if estimate.low >= value and estimate.low > 0:
        return True, None
    if estimate.high < value:
        return False, None
    distance = estimate.value - value
    arm = estimate.value - estimate.low if distance > 0 else estimate.high - estimate.value
    if distance == 0 or n is None:
        return None, None
    return None, _asked(max(1, math.ceil(round(n * (arm / distance) ** 2, 6)) - n), n)


def _asked(more: int | None, n: int | None) -> int | None:
    """Return how many more architectures to ask for: at least up to `FEW`, none where nobody would measure them."""
    if more is None or n is None or more > MOST * max(n, 1):
        return None
    asked = max(more, FEW - n)
    unit = int(max(1, 10 ** (len(str(asked)) - 2)))  # two digits are enough of an estimate
    return math.ceil(asked / unit) * unit
