"""What a comparison may be asked for: signals and rows depend on one another, and need baselines."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nas_proxy.names import LOSS_SUM
from nas_proxy.signals.own import is_own, row_of
from nas_proxy.signals.signal import canonical, is_computed, is_made, is_total, rows_of
from nas_proxy.signals.signal import completed as with_baselines
from nas_proxy.validation import Mistake

if TYPE_CHECKING:
    from nas_proxy.runs.settings import Comparison

# With three architectures a resample has too few orders to tell anything: `nas_proxy.ranking.intervals.LEAST`.
LEAST = 4


def completed(asked: "Comparison", sample: int, mistakes: list[Mistake]) -> "Comparison":
    """Return what is compared on so many architectures, its names spelt as elsewhere, and with the baselines it needs.

    What is wrong is added to `mistakes`; what they name already is not looked at again.
    """
    wrong = {path for path, _ in mistakes}
    if sample < LEAST and "truth" not in wrong:
        mistakes.append(("truth", f"truth is {sample}, but a ranking needs at least {LEAST} architectures"))
    if any(path.startswith("compare.") for path in wrong):
        return asked
    before = len(mistakes)
    names = _signals(asked.signals, mistakes)
    if len(mistakes) > before:
        return asked
    _check_calibrate(asked.calibrate, names, sample, mistakes)
    rows = _combined(asked.combine, names, asked.score, mistakes)
    if len(mistakes) > before:
        return asked
    return replace(asked, signals=with_baselines(names, rows), combine=rows)


def _check_calibrate(fitted_to: int | None, signals: Sequence[str], sample: int, mistakes: list[Mistake]) -> None:
    """Add what is wrong with fitting to so many of the sample."""
    path = "compare.calibrate"
    if fitted_to is None:
        return
    if len(with_baselines(signals)) < 2:
        mistakes.append(
            (path, f"{path} is {fitted_to}, but {signals[0]} alone is nothing to calibrate; name two signals")
        )
    if sample >= LEAST > sample - fitted_to:
        most = f"give {sample - LEAST} or less, or a larger sample" if sample > LEAST else "give a larger sample"
        mistakes.append(
            (
                path,
                f"{path} is {fitted_to}, which leaves {max(0, sample - fitted_to)} of {sample} architectures to judge "
                f"by, and a ranking needs at least {LEAST}; {most}",
            )
        )


def _signals(given: Sequence[str], mistakes: list[Mistake]) -> tuple[str, ...]:
    """Return the signals of a comparison, spelt as they are spelt elsewhere, and add what is wrong with them."""
    path, before = "compare.signals", len(mistakes)
    found = [canonical(name) for name in given]
    mistakes += [(path, f"{path} holds {wrong}") for _, wrong in found if wrong is not None]
    names = [name for name, _ in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    mistakes += [(path, f"{path} holds {name!r} more than once; leave one") for name in twice]
    rows = [row_of(name) for name in names]
    alike = sorted({row for row in rows if rows.count(row) > 1} - set(twice))
    mistakes += [(path, f"{path} holds two signals that are called {row!r}; rename one of them") for row in alike]
    mistakes += [] if names else [(path, f"{path} is empty; name at least one signal")]
    if len(mistakes) == before:
        complete = with_baselines(names)
        for name in names:
            target = name.partition("@")[2]
            if is_total(name) and (target not in complete if target else not any(map(is_made, complete))):
                mistakes.append((path, f"{path} holds {name!r}, but not the signal whose cost it is matched with"))
    return tuple(names)


def _combined(given: Sequence[str], signals: Sequence[str], score: str, mistakes: list[Mistake]) -> tuple[str, ...]:
    """Return the rows whose mean rank is one more, of a comparison of `signals`, and add what is wrong with them."""
    path = "compare.combine"
    rows = [row for name in with_baselines(signals) for row in rows_of(name, score)]
    found: list[str] = []
    own = {row_of(name): name for name in signals if is_own(name)}
    for text in (own.get(named, named) for named in given):
        head, by_loss, _ = (text, "", "") if is_own(text) else text.partition(LOSS_SUM)
        name, wrong = canonical(head)
        row = row_of(name) + by_loss
        if wrong is not None:
            mistakes.append((path, f"{path} holds {wrong}"))
        elif row not in rows and (is_total(name) or row not in rows_of(name, score)):
            there = "is computed and has no losses" if is_computed(name) else "has no such score"
            mistakes.append((path, f"{path} holds {text!r}, but {name} {there} here; see --score"))
        found.append(name + by_loss)
    if len(found) == 1:
        mistakes.append((path, f"{path} holds {found[0]!r} alone; give at least two"))
    if len(set(found)) < len(found):
        mistakes.append((path, f"{path} holds a signal more than once; leave one"))
    return tuple(found)
