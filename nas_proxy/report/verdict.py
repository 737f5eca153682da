"""A ranking in words: a `Ranking` in; the sentence that says how far its signals can be trusted, and its remarks out.

The words are the same on the terminal, in the page and in the dashboard: plain text, which may hold any character.
"""

from nas_proxy.ranking.intervals import Interval
from nas_proxy.ranking.names import PROXY, REPEATABILITY, SIZES, ZERO_COST, label
from nas_proxy.ranking.ranking import Ranking, Row
from nas_proxy.report.formats import UNDEFINED, architectures, count, decimal, interval, one_line

# Conventions of this report, for the lower end of the interval, so that few architectures earn no praise.
LIKE, MUCH_LIKE = 0.8, 0.5


def verdict(ranking: Ranking | None) -> str:
    """Return one sentence: how far the signals rank like full training, and what that is compared with."""
    head, rest = verdict_parts(ranking)
    return f"{head}: {rest}."


def verdict_parts(ranking: Ranking | None) -> tuple[str, str]:
    """Return the judgement and its evidence: of the proxy that searched, or of all that a comparison compares."""
    if ranking is not None and ranking.signals and not ranking.searched:
        return _best_of(ranking)
    if ranking is None or PROXY not in ranking.signals:
        return "Not judged yet", "no ranking has been compared with full training"
    spearman = ranking.row(PROXY).spearman
    over = f"over {architectures(ranking.n)}"
    if spearman.value is None:
        return "Cannot be judged", f"Spearman is undefined {over}{_because(spearman)}"
    evidence = [_spearman(spearman, over), _repeatability(ranking), _against_random(ranking), _untrained(ranking)]
    return _judgement(spearman, ranking.row(PROXY).minus_random), "; ".join(filter(None, evidence))


def _best_of(ranking: Ranking) -> tuple[str, str]:
    """Return the signal of a comparison that ranks best, and which of them are told to beat random images."""
    signals = {name: row for name, row in ranking.signals.items() if name != REPEATABILITY}
    values = {name: row.spearman.value for name, row in signals.items() if row.spearman.value is not None}
    if not values:
        return "Nothing can be ranked", f"Spearman is undefined over {architectures(ranking.n)}"
    best = max(values, key=lambda name: values[name])
    beaten = ", ".join(label(name) for name, row in signals.items() if row.beats_random == "yes")
    random = f"better than random images: {beaten}" if beaten else "no signal is told to beat random images"
    spearman = _spearman(signals[best].spearman, f"over {architectures(ranking.n)}")
    return f"{label(best)} ranks best here", "; ".join([spearman, random, _repeatability(ranking)])


def _because(estimate: Interval) -> str:
    reason = (estimate.reason or "").strip().rstrip(".")
    return f" ({reason})" if reason else ""


def _judgement(spearman: Interval, gain: Interval) -> str:
    low, high = spearman.low, spearman.high
    if low is None or high is None:
        return "Too little to judge"
    good = low > 0
    if high < 0:
        head = "Ranks against full training"
    elif not good:
        head = "Cannot tell whether it ranks like full training"
    elif low >= LIKE:
        head = "Ranks like full training"
    else:
        head = "Ranks much like full training" if low >= MUCH_LIKE else "Ranks only loosely like full training"
    if gain.high is not None and gain.high < 0:
        head += f", {'but' if good else 'and'} worse than random images"
    return head


def _spearman(spearman: Interval, over: str) -> str:
    if not spearman.bounded:
        return f"Spearman {decimal(spearman.value)} {over}, without an interval{_because(spearman)}"
    return f"Spearman {interval(spearman)} {over}"


def _repeatability(ranking: Ranking) -> str:
    row = ranking.row(REPEATABILITY)
    value = row.spearman.value
    if value is None:
        return f"how well full training repeats itself is not known{_because(row.spearman)}"
    note = row.notes.get("spearman")
    estimated = f" (estimated {one_line(note)})" if note else ""
    if value < MUCH_LIKE:
        return f"full training repeats itself at only {decimal(value)}{estimated}, so no signal can be judged well"
    return f"full training repeats itself at {decimal(value)}{estimated}"


def _against_random(ranking: Ranking) -> str:
    gain = ranking.row(PROXY).minus_random
    if gain.value is None:
        return f"no comparison with random images{_because(gain)}"
    if gain.low is None or gain.high is None:
        return f"against random images {decimal(gain.value, sign=True)}, without an interval{_because(gain)}"
    outcome = "better" if gain.low > 0 else "worse" if gain.high < 0 else "cannot tell"
    return f"against random images {interval(gain, sign=True)}: {outcome}"


def _untrained(ranking: Ranking) -> str:
    """Counting parameters costs nothing: a proxy that does no better has earned nothing, and this says so."""
    proxy = ranking.row(PROXY).spearman.value
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
