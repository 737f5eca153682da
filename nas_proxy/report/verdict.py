"""A ranking in words: its numbers as text, and the sentence that says how far the proxy can be trusted.

In: the object of `ranking.json`, or any part of it, complete or not. Out: text, the same for the terminal and
the report. Nothing here raises for a value that is missing, null, not finite or of the wrong type: it reads
as "–", and what `ranking.json` says of it is collected by `notes`.
"""

import math
from collections.abc import Mapping
from typing import Any

UNDEFINED = "–"

SIGNALS = {
    "proxy": "Proxy",
    "random": "Random images",
    "early_stop": "Early stop",
    "params": "Parameters",
    "flops": "FLOPs",
    "synflow": "SynFlow",
    "jacob_cov": "Jacob_cov",
    "naswot": "NASWOT",
    "az_nas": "AZ-NAS",
    "combined": "Mean rank",
    "repeatability": "Full training",
}

# What a signal ranks by, where it is not what the run ranks by.
BY = {"accuracy": "by accuracy", "loss_sum": "by loss sum"}

UNTRAINED = {
    "params": "counting parameters alone",
    "flops": "counting FLOPs alone",
    "synflow": "SynFlow, without any training,",
    "jacob_cov": "Jacob_cov, without any training,",
    "naswot": "NASWOT, without any training,",
    "az_nas": "AZ-NAS, without any training,",
}

MEASURES = {
    "spearman": "Spearman",
    "kendall": "Kendall",
    "spearman_top_half": "better half",
    "precision_at_5": "precision at 5",
    "regret": "regret",
    "minus_random": "minus random",
    "seconds": "time",
    "image_passes": "image passes",
    "stored_bytes": "stored",
}

# Conventions of this report, for the lower end of the interval, so that few architectures earn no praise.
LIKE, MUCH_LIKE = 0.8, 0.5


def part(value: object, *names: str) -> dict[str, Any]:
    """Return the object nested under `names`, or {} where there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return dict(value) if isinstance(value, Mapping) else {}


def finite(value: object) -> float | None:
    """Return `value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond the range of float
        return None


def decimal(value: object, digits: int = 2, *, sign: bool = False) -> str:
    """Return 0.914 as "0.91", −0.01 with a true minus sign, an undefined value as "–"."""
    number = finite(value)
    if number is None:
        return UNDEFINED
    text = f"{number:+z.{digits}f}" if sign else f"{number:z.{digits}f}"
    return text.replace("-", "−")


def percent(value: object) -> str:
    """Return the fraction 0.979 as "97.90 %"."""
    number = finite(value)
    return UNDEFINED if number is None else f"{decimal(100 * number)} %"


def score(value: object, by: object = "accuracy") -> str:
    """Return a score of a training, higher for better: an accuracy as percent, a negated sum of losses as it is."""
    return decimal(value) if by == "loss_sum" else percent(value)


def points(value: object) -> str:
    """Return a difference of two fractions, 0.004, as "0.40 pp" (percentage points)."""
    number = finite(value)
    return UNDEFINED if number is None else f"{decimal(100 * number, 2 if abs(number) < 0.1 else 1)} pp"


def interval(estimate: object, *, sign: bool = False) -> str:
    """Return {"value": 0.91, "low": 0.84, "high": 0.95} as "0.91 [0.84, 0.95]"."""
    found = part(estimate)
    value = decimal(found.get("value"), sign=sign)
    if value == UNDEFINED:
        return value
    return f"{value} [{decimal(found.get('low'))}, {decimal(found.get('high'))}]"


def count(value: object) -> str:
    """Return 240000 as "240k", 1.2 million as "1.2M"."""
    number = finite(value)
    if number is None:
        return UNDEFINED
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= unit:
            text = decimal(number / unit, _digits(number / unit))
            return text.removesuffix(".0") + suffix
    return f"{number:.3g}"


def _digits(number: float) -> int:
    """Two significant digits are enough of a cost."""
    return 1 if abs(number) < 10 else 0


def size(value: object) -> str:
    """Return a number of bytes, 6400, as "6.4 kB"."""
    text = count(value)
    if text == UNDEFINED:
        return text
    return f"{text[:-1]} {text[-1]}B" if text[-1].isalpha() else f"{text} B"


def duration(value: object) -> str:
    """Return seconds as "3 ms", "12.3 s", "4.1 min", "2.5 h" or "12 d"."""
    seconds = finite(value)
    if seconds is None:
        return UNDEFINED
    if 0 < abs(seconds) < 0.1:
        return f"{1000 * seconds:.2g} ms" if abs(seconds) >= 0.001 else "< 1 ms"
    for unit, suffix in ((86400, "d"), (3600, "h"), (60, "min")):
        if abs(seconds) >= unit:
            return f"{seconds / unit:.{_digits(seconds / unit)}f} {suffix}"
    return f"{seconds:.3g} s" if abs(seconds) >= 10 else f"{seconds:.2g} s"


def speedup(value: object) -> str:
    """Return a speed-up, and say plainly when there is none."""
    factor = finite(value)
    if factor is None:
        return UNDEFINED
    if 0 < factor < 1:
        return f"{decimal(factor)}× (slower than full training)"
    return f"{decimal(factor, 1)}×"


def architectures(number: object) -> str:
    """Return "24 architectures", "1 architecture"."""
    if finite(number) is None:
        return "an unknown number of architectures"
    return f"{number:,} architecture{'' if number == 1 else 's'}"


def truth_source(ranking: Mapping[str, Any]) -> str:
    """Return where the truth comes from when it was not trained here; "" otherwise."""
    truth = part(ranking, "truth")
    if truth.get("source") != "table":
        return ""
    columns = truth.get("columns")
    named = ", ".join(map(str, columns)) if isinstance(columns, list) else UNDEFINED
    seeds = truth.get("seeds")
    several = f", {seeds} seeds" if seeds != 1 else ", one seed"
    return (
        f"published accuracies, {named} of {truth.get('file', UNDEFINED)} "
        f"({architectures(truth.get('architectures'))}{several}); nothing was fully trained here"
    )


def answer(values: Mapping[str, Any], *, total: bool = False, brief: bool = False) -> str:
    """Return whether a signal beats random images: "yes", "no", or "cannot tell" and what would tell.

    values: the signal's. total: whether it beats those at the same whole cost. brief: in few words, for a terminal.
    """
    found = values.get("beats_random_total" if total else "beats_random")
    if found is None:
        return UNDEFINED
    more = finite(values.get("total_more_architectures" if total else "more_architectures"))
    if more is not None:
        several = " more" if brief else f" more architecture{'' if more == 1 else 's'}"
        return f"{found} (about {count(more)}{several} would)"
    reason = values.get("total_more_architectures_reason" if total else "more_architectures_reason")
    if reason and brief:
        reason = str(reason).removeprefix("the difference is ")
    return f"{found} ({reason})" if reason else str(found)


def label(signal: str) -> str:
    """Return the name of a signal as a reader sees it; "proxy:loss_sum" is the proxy by the sum of its losses."""
    name, _, score = signal.partition(":")
    return f"{SIGNALS[name]}, {BY[score]}" if name in SIGNALS and score in BY else SIGNALS.get(signal, signal)


def notes_on(values: Mapping[str, Any], measure: str) -> list[str]:
    """Return why a measure of one signal, or its interval, is undefined, and what else is noted of it."""
    found = (part(values, measure).get("reason"), values.get(f"{measure}_reason"), values.get(f"{measure}_note"))
    return [" ".join(str(note).split()) for note in found if note]


def is_undefined(value: object) -> bool:
    """Return whether a scalar, or the value or a bound of an interval, is missing."""
    ends = [value.get(end) for end in ("value", "low", "high")] if isinstance(value, Mapping) else [value]
    return any(finite(end) is None for end in ends)


def notes(ranking: Mapping[str, Any], *, undefined_only: bool = False) -> dict[str, list[str]]:
    """Return every note and where it applies, for example {"equal scores": ["Proxy: Kendall, regret"]}."""
    found: dict[str, list[str]] = {}
    for signal in part(ranking, "signals"):
        values = part(ranking, "signals", signal)
        of_note: dict[str, list[str]] = {}
        for measure, name in MEASURES.items():
            if is_undefined(values.get(measure)) or not undefined_only:
                for note in notes_on(values, measure):
                    of_note.setdefault(note, []).append(name)
        for note, names in of_note.items():
            found.setdefault(note, []).append(f"{label(signal)}: {', '.join(names)}")
    return found


def verdict(ranking: Mapping[str, Any]) -> str:
    """Return one sentence: how far the proxy ranks like full training, and what that is compared with."""
    head, rest = verdict_parts(ranking)
    return f"{head}: {rest}."


def verdict_parts(ranking: Mapping[str, Any]) -> tuple[str, str]:
    """Return the judgement and its evidence. Both are plain text and may hold any character."""
    spearman = part(ranking, "signals", "proxy", "spearman")
    if not spearman:
        return "Not judged yet", "the proxy's ranking has not been compared with full training"
    over = f"over {architectures(ranking.get('n'))}"
    if finite(spearman.get("value")) is None:
        return "Cannot be judged", f"Spearman is undefined {over}{_because(spearman)}"
    evidence = [
        _spearman(spearman, over),
        _repeatability(ranking),
        _against_random(ranking),
        _untrained(ranking),
    ]
    return _judgement(ranking, spearman), "; ".join(filter(None, evidence))


def _because(estimate: Mapping[str, Any]) -> str:
    reason = str(estimate.get("reason") or "").strip().rstrip(".")
    return f" ({reason})" if reason else ""


def _judgement(ranking: Mapping[str, Any], spearman: Mapping[str, Any]) -> str:
    low, high = finite(spearman.get("low")), finite(spearman.get("high"))
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
    above = finite(part(ranking, "signals", "proxy", "minus_random").get("high"))
    if above is not None and above < 0:
        head += f", {'but' if good else 'and'} worse than random images"
    return head


def _spearman(spearman: Mapping[str, Any], over: str) -> str:
    if finite(spearman.get("low")) is None or finite(spearman.get("high")) is None:
        return f"Spearman {decimal(spearman.get('value'))} {over}, without an interval{_because(spearman)}"
    return f"Spearman {interval(spearman)} {over}"


def _repeatability(ranking: Mapping[str, Any]) -> str:
    repeated = part(ranking, "signals", "repeatability", "spearman")
    value = finite(repeated.get("value"))
    if value is None:
        return f"how well full training repeats itself is not known{_because(repeated)}"
    note = part(ranking, "signals", "repeatability").get("spearman_note")
    estimated = f" (estimated {' '.join(str(note).split())})" if note else ""
    if value < MUCH_LIKE:
        return f"full training repeats itself at only {decimal(value)}{estimated}, so no signal can be judged well"
    return f"full training repeats itself at {decimal(value)}{estimated}"


def _against_random(ranking: Mapping[str, Any]) -> str:
    gain = part(ranking, "signals", "proxy", "minus_random")
    if finite(gain.get("value")) is None:
        return f"no comparison with random images{_because(gain)}"
    low, high = finite(gain.get("low")), finite(gain.get("high"))
    if low is None or high is None:
        return f"against random images {decimal(gain['value'], sign=True)}, without an interval{_because(gain)}"
    outcome = "better" if low > 0 else "worse" if high < 0 else "cannot tell"
    return f"against random images {interval(gain, sign=True)}: {outcome}"


def _untrained(ranking: Mapping[str, Any]) -> str:
    """Counting parameters costs nothing: a proxy that does no better has earned nothing, and this says so."""
    proxy = finite(part(ranking, "signals", "proxy", "spearman").get("value"))
    free = {name: finite(part(ranking, "signals", name, "spearman").get("value")) for name in UNTRAINED}
    best, value = max(free.items(), key=lambda item: -2.0 if item[1] is None else item[1])
    if value is None or proxy is None or value < proxy:
        return ""
    return f"{UNTRAINED[best]} reaches {decimal(value)}"
