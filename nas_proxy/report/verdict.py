"""A ranking in words: a `Ranking` in; the decision that follows from it, why, the numbers under it and remarks out.

What is decided is `nas_proxy.ranking.decision`'s. The words are the same on the terminal, in the page and in the
dashboard: plain text, which may hold any character.
"""

from dataclasses import dataclass

from nas_proxy.names import BY, PROXY, RANDOM, REPEATABILITY, SIZES, ZERO_COST, label
from nas_proxy.ranking.decision import (
    TRUSTED,
    Action,
    Decision,
    Reason,
    candidates,
    is_random,
    method_of,
    seconds_of,
)
from nas_proxy.ranking.intervals import Interval
from nas_proxy.ranking.ranking import Ranking, Row
from nas_proxy.report.formats import UNDEFINED, architectures, count, decimal, duration, faster, interval, one_line

NOTHING = Ranking({})


@dataclass(frozen=True)
class Verdict:
    """A decision in words: what to do, why, and the numbers under it: for each its name and what there is to say."""

    head: str
    because: str
    evidence: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return two sentences."""
        numbers = "; ".join(text for _, text in self.evidence)
        return f"{self.head}: {self.because}." + (f" {numbers[0].upper()}{numbers[1:]}." if numbers else "")


def verdict(ranking: Ranking | None) -> str:
    """Return the decision, why, and the numbers under it, as text."""
    return str(verdict_of(ranking))


def verdict_of(ranking: Ranking | None) -> Verdict:
    """Return the decision in words."""
    of = NOTHING if ranking is None else ranking
    found = of.decision
    told = [] if found.lead is None else _evidence(of, found.lead)
    if found.reason is Reason.NO_SAVING:
        told = [(name, text) for name, text in told if name != "Saving"]  # why says so already
    return Verdict(_head(found, of), _because(found, of), tuple(told))


def _head(found: Decision, of: Ranking) -> str:
    match found.action:
        case Action.NONE:
            return "Not judged yet" if found.reason is Reason.ABSENT else "Cannot be judged"
        case Action.MEASURE:
            return f"Measure about {architectures(found.more).replace(' ', ' more ', 1)}"
        case Action.DIRECT:
            return "Train directly"
    return f"Use {_called(of, found.signal or '')}"


def _called(of: Ranking, name: str) -> str:
    """Return what a row is called inside a sentence; a run's proxy by the method that its images are of."""
    base, _, score = name.partition(":")
    base = method_of(of) if base == PROXY else base
    by = f" ({BY[score]})" if score in BY else ""
    if base == "dm":
        return f"the condensed set{by}"
    if base.startswith("dm"):
        return f"the condensed set ({base}){by}"
    known = {RANDOM: "random images", "calibrated": "the calibrated ranking", "early_stop": "early stopping"}
    known |= {"params": "the number of parameters", "flops": "the number of FLOPs", REPEATABILITY: "full training"}
    known |= {"herding": "the set by herding", "kcenter": "the set by k-centre", "patches": "the set of patches"}
    return known.get(base, label(base)) + by


# Why, in words. {lead}: the row that was judged; {signal}: the row that it is about; {they rank}: "it ranks" of one.
WHY = {
    Reason.ABSENT: "no ranking has been compared with full training",
    Reason.UNREPEATABLE: "the architectures differ less than full training differs from itself, so any will do",
    Reason.RANKS_BADLY: "nothing that is cheaper is told to rank like full training",
    Reason.BLIND: "what is cheaper tells bad architectures from good ones, but not the good ones from each other",
    Reason.WIDE: "the interval of {signal} is too wide to trust the ranking",
    Reason.GAIN_OPEN: "{lead} is ahead of random images, but not for certain",
    Reason.BETTER: "{they rank} like full training, and better than random images",
    Reason.NOT_BETTER: "{they rank} like full training, and {lead} is not told to rank better",
    Reason.WORSE: "{they rank} like full training, and better than {lead}",
    Reason.DEAR: "{they rank} like full training, and making {lead} costs more time than it saves",
    Reason.ALONE: "{they rank} like full training, and nothing else that is cheaper does",
    Reason.UNCOMPARED: "{they rank} like full training; there are no random images to compare it with",
}


def _because(found: Decision, of: Ranking) -> str:
    if found.reason is Reason.UNDEFINED:
        first = next((row.spearman for name, row in of.signals.items() if name != REPEATABILITY), Interval())
        return f"Spearman is undefined over {architectures(of.n)}{_reason(first)}"
    if found.reason is Reason.NO_SAVING:
        return _no_saving(of, found)
    lead, signal = _called(of, found.lead or ""), _called(of, found.signal or "")
    several = signal.startswith("random images")
    words = {"lead": lead, "signal": signal, "they rank": "they rank" if several else "it ranks"}
    return WHY[found.reason].format(**words)


def _no_saving(of: Ranking, found: Decision) -> str:
    if of.saving is not None and of.saving.ratio is not None and max(of.saving.interval, default=1.0) < 1:
        return "random search with full training would have found as good a network in less time"
    lead = found.lead or ""
    spent, full, number = seconds_of(of, lead), seconds_of(of, REPEATABILITY), candidates(of)
    if spent is None or full is None:
        pays = count(of.row(lead).pays_from)
        return f"making {_called(of, lead)} pays from {pays} candidates on, and there are {number}"
    control = of.row(lead).control or RANDOM
    other = seconds_of(of, control) if control != lead and not is_random(of, lead) else None
    instead = "" if other is None else f", {duration(other)} with random images"
    cheap = f"{duration(spent)} with {_called(of, lead)}{instead}"
    return f"ranking {number} candidates takes {cheap}, and {duration(full)} in full"


def _evidence(of: Ranking, lead: str) -> list[tuple[str, str]]:
    """Return the numbers under a decision about the row `lead`."""
    row = of.row(lead)
    who = "" if lead == PROXY else f" of {_called(of, lead)}"
    told = [("Spearman", f"{_spearman(row.spearman)}{who} over {architectures(of.n)}{_reason(row.spearman)}")]
    told.append(("Better half", _better_half(of, row)))
    told.append(("Full training", _repeatability(of)))
    told.append(("Random images", "" if is_random(of, lead) else _against_random(row)))
    told.append(("Saving", _saving(of, lead)))
    told.append(("Untrained", _untrained(of, row.spearman.value) if lead.partition(":")[0] not in ZERO_COST else ""))
    return [(name, text) for name, text in told if text]


def _reason(estimate: Interval) -> str:
    reason = (estimate.reason or "").strip().rstrip(".") if not estimate.bounded else ""
    return f" ({reason})" if reason else ""


def _spearman(spearman: Interval) -> str:
    bounds = "" if spearman.bounded else ", without an interval,"
    return f"Spearman {interval(spearman) if spearman.bounded else decimal(spearman.value)}{bounds}"


def _better_half(of: Ranking, row: Row) -> str:
    half, full = row.spearman_top_half, of.row(REPEATABILITY).spearman_top_half
    if half.value is None:
        return ""
    itself = "" if full.value is None else f", full training itself {interval(full)}"
    return f"in the better half {interval(half)}{itself}"


def _repeatability(ranking: Ranking) -> str:
    row = ranking.row(REPEATABILITY)
    value = row.spearman.value
    if value is None:
        return f"how well full training repeats itself is not known{_reason(row.spearman)}"
    note = row.notes.get("spearman")
    estimated = f" (estimated {one_line(note)})" if note else ""
    if value < TRUSTED:
        return f"full training repeats itself at only {decimal(value)}{estimated}, so no signal can be judged well"
    return f"full training repeats itself at {decimal(value)}{estimated}"


def _against_random(row: Row) -> str:
    gain = row.minus_random
    if gain.value is None:
        return f"no comparison with random images{_reason(gain)}"
    if gain.low is None or gain.high is None:
        return f"against random images {decimal(gain.value, sign=True)}, without an interval{_reason(gain)}"
    outcome = "better" if gain.low > 0 else "worse" if gain.high < 0 else "cannot tell"
    return f"against random images {interval(gain, sign=True)}: {outcome}"


def _saving(of: Ranking, lead: str) -> str:
    """Return what the search saved against random search; where that is not told, what ranking saved."""
    told = of.saving
    if told is not None and told.ratio is not None:
        bounds = "" if len(told.interval) != 2 else f" [{decimal(told.interval[0])}, {decimal(told.interval[1])}]"
        return f"{decimal(told.ratio)}{bounds} times as fast as random search with full training"
    spent, full, number = seconds_of(of, lead), seconds_of(of, REPEATABILITY), candidates(of)
    if not spent or not full:
        return ""
    return f"{count(number)} candidates take {duration(spent)}, {faster(full / spent)} than full training"


def _untrained(ranking: Ranking, proxy: float | None) -> str:
    """Counting parameters costs nothing: a proxy that does no better has earned nothing, and this says so."""
    free = {name: ranking.row(name).spearman.value for name in ZERO_COST}
    best, value = max(free.items(), key=lambda item: -2.0 if item[1] is None else item[1])
    if value is None or proxy is None or value < proxy:
        return ""
    words = {"params": "counting parameters alone", "flops": "counting FLOPs alone"}
    named = words[best] if best in SIZES else f"{label(best)}, without any training,"
    return f"{named} reaches {decimal(value)}"


def answer(row: Row, *, total: bool = False, brief: bool = False) -> str:
    """Return whether a signal beats random images: "yes", "no", or "cannot tell" and what would tell.

    total: whether it beats those at the same whole cost. brief: in few words, for a terminal.
    """
    told, more = row.beats_random, row.more_architectures
    if total:
        told, more = row.beats_random_total, row.total_more_architectures
    if told is None:
        return UNDEFINED
    if more is not None:
        several = " more" if brief else f" more architecture{'' if more == 1 else 's'}"
        return f"{told} (about {count(more)}{several} would)"
    reason = row.reasons.get("total_more_architectures" if total else "more_architectures")
    if reason and brief:
        reason = reason.removeprefix("the difference is ")
    return f"{told} ({reason})" if reason else told


def truth_source(ranking: Ranking) -> str:
    """Return where the truth comes from when it was not trained here; "" otherwise."""
    truth = ranking.truth
    if not truth.published:
        return ""
    several = "one seed" if truth.seeds == 1 else f"{truth.seeds} seeds"
    return (
        f"published accuracies, {', '.join(truth.columns)} of {truth.file} "
        f"({architectures(truth.architectures)}, {several}); nothing was fully trained here"
    )


def remarks(ranking: Ranking) -> list[str]:
    """Return what the figures are of and rest on."""
    told = [f"n = {'?' if ranking.n is None else ranking.n}: {ranking.subset}"] if ranking.subset else []
    told += [f"Truth: {truth_source(ranking)}"] if truth_source(ranking) else []
    told += [f"Note: {text}" for text in ranking.remarks]
    told += [f"{label(name)}: {plan.what}" for name, plan in ranking.equal_cost.items()]
    for name, row in ranking.signals.items():
        if note := row.notes.get("spearman"):
            told.append(f"{label(name)}: {note}")
        if not name.partition(":")[2] and (pays := _pays(row)):
            told.append(f"{label(name)}: {pays}")
    failed = [f"{label(name).lower()} {number}" for name, number in ranking.failures.items() if number]
    told += [f"Failed: {', '.join(failed)}"] if failed else []
    settings = ranking.settings
    if "candidates" in settings and not ranking.searched:
        told.append(
            f"{settings.get('passes')} image passes a training; {settings.get('draws')} draws of each set; "
            f"{settings['candidates']} candidates share the making of a set. Time: seconds of one core, or of the GPU."
        )
    return told


def _pays(row: Row) -> str:
    """Return from how many candidates on making a signal's set pays; "" where that is no question."""
    note = row.reasons.get("pays_from") or row.notes.get("pays_from")
    if row.pays_from is None and note is None:
        return ""
    several = "" if row.pays_from == 1 else "s"
    pays = f"making it pays from {count(row.pays_from)} candidate{several} on, against full training"
    head = "making it does not pay against full training" if row.pays_from is None else pays
    return head + (f" ({note})" if note else "")
