"""The trial that a define-by-run function is given: any Optuna trial, of which labels and distinct names are asked.

In: a trial of Optuna's and what is suggested under each name. Guarantees: the function gets its own options, whatever
objects they are; the trial sees labels, and one kind of parameter under each name; what the trial itself raises is
told from what the function raises.
"""

import datetime
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from nas_proxy.spaces.choices import Choice
from nas_proxy.spaces.labels import labels

# Characters of a kind that stands in a name.
LONGEST_KIND = 60


class SuggestingTrial(BaseTrial):
    """What `space(trial)` is called with.

    known: the kind of parameter of each name, None where there are several; names that are not in it, and those of
    another kind, are stored with their kind behind them. Without `known` they are stored as `architecture` has them.
    """

    def __init__(
        self,
        inner: BaseTrial,
        known: Mapping[str, str | None] | None = None,
        architecture: Mapping[str, object] | None = None,
    ) -> None:
        self.inner = inner
        self.raised: BaseException | None = None
        self.kinds: list[tuple[str, str]] = []
        self.known = {} if known is None else known
        self._architecture = architecture
        self._values: dict[str, Any] = {}

    def _stored(self, name: str, kind: str) -> str:
        self.kinds.append((name, kind))
        behind = f"{name}[{kind}]"
        if self._architecture is not None:
            return behind if behind in self._architecture else name
        return name if self.known.get(name) == kind else behind

    def _asked(self, name: str, ask: Callable[[], Any]) -> Any:
        try:
            self._values[name] = value = ask()
        except BaseException as error:
            self.raised = error
            raise
        return value

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """As of Optuna's trials."""
        wanted = FloatDistribution(low, high, log, step)  # a mistake in it is the function's
        stored = self._stored(name, f"float{' log' * wanted.log}")
        found: float = self._asked(name, lambda: self.inner.suggest_float(stored, low, high, step=step, log=log))
        return found

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """As of Optuna's trials."""
        wanted = IntDistribution(low, high, log, step)
        stored = self._stored(name, f"int{' log' * wanted.log}")
        found: int = self._asked(name, lambda: self.inner.suggest_int(stored, low, high, step=step, log=log))
        return found

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As of Optuna's trials, with any objects for options."""
        # Of a set, in an order that is the same in every process.
        options = Choice(name, choices).options if isinstance(choices, set | frozenset) else tuple(choices)
        names = labels(options)
        stored = self._stored(name, _kind(names))
        found = self._asked(name, lambda: self.inner.suggest_categorical(stored, list(names)))
        option = next(o for label, o in zip(names, options, strict=True) if _alike(label, found))
        self._values[name] = option
        return option

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """As of Optuna's trials."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """As of Optuna's trials."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """As of Optuna's trials."""
        return self.suggest_float(name, low, high, step=q)

    def report(self, value: float, step: int) -> None:
        """As of Optuna's trials."""
        self.inner.report(value, step)

    def should_prune(self) -> bool:
        """As of Optuna's trials."""
        return self.inner.should_prune()

    def set_user_attr(self, key: str, value: Any) -> None:
        """As of Optuna's trials."""
        self.inner.set_user_attr(key, value)

    def set_constraint(self, key: str, value: float) -> None:
        """As of Optuna's trials."""
        self.inner.set_constraint(key, value)

    @property
    def params(self) -> dict[str, Any]:
        """What was suggested so far, under the function's own names."""
        return dict(self._values)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """As of Optuna's trials, of what is stored."""
        return self.inner.distributions

    @property
    def user_attrs(self) -> dict[str, Any]:
        """As of Optuna's trials."""
        return self.inner.user_attrs

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """As of Optuna's trials."""
        return self.inner.datetime_start

    @property
    def number(self) -> int:
        """As of Optuna's trials."""
        number: int = getattr(self.inner, "number", 0)
        return number


def _kind(options: Sequence[object]) -> str:
    """Return what tells lists of labels apart, fit for a part of a name in a key."""
    written = "|".join(map(repr, options))
    if len(written) <= LONGEST_KIND and not {",", "="} & set(written):
        return written
    return hashlib.sha256(written.encode()).hexdigest()[:8]


def _alike(label: object, found: object) -> bool:
    """Whether a label is what was found; 1 and True are two labels."""
    return label == found and isinstance(label, bool) == isinstance(found, bool)
