"""A function of a trial, called in a process of its own that asks back for each suggestion.

In: the function, and a trial here. Out: how the call ended; the trial has been asked as if the function had been called
here. Guarantees: nothing that the function does to its process reaches this one. What a call leaves behind there, such
as another working directory, meets later calls of the same function alone, which are asked for names and no more.
"""

import contextlib
import enum
import threading
from collections.abc import Callable
from typing import Any

import optuna
import torch
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import BaseTrial, FixedTrial

from nas_proxy import time_limit
from nas_proxy.errors import RAISED, SpaceError
from nas_proxy.seeds import seeded
from nas_proxy.spaces.apart import Child, Kept, Link, last_call
from nas_proxy.spaces.suggesting import SuggestingTrial

# Calls that take too long before the function is given up: each is waited for.
HANGS = 3


class Ended(enum.Enum):
    """How a call ended: by itself, by pruning its trial, or by anything else, such as an error."""

    ALLOWED = "allowed"
    PRUNED = "pruned"
    RAISED = "raised"


class FunctionApart:
    """Calls `function`, a function of a trial alone, in a process that is kept for the next call."""

    def __init__(self, name: str, function: Callable[[BaseTrial], Any]) -> None:
        self._name, self._function = name, function
        self._process, self._hangs = Kept(), 0
        self._one_at_a_time = threading.Lock()

    def ended(self, trial: SuggestingTrial, device: str) -> Ended:
        """Let the function suggest to `trial`, with `device` as PyTorch's default; "" for none.

        What the trial raises is kept in it. Raises SpaceError for a function that hangs time and again.
        """
        with self._one_at_a_time:
            if not self._process.ours:  # in a copy of the process that has the link
                self._process = Kept()
            if (child := self._process.child(self._serve)) is None:
                return _ended(self._function, trial, device)
            return self._heard(child, trial, device)

    def _heard(self, child: Child, trial: SuggestingTrial, device: str) -> Ended:
        child.say({"device": device, "number": trial.number, "known": dict(trial.known)})
        while True:
            message = child.hear(time_limit.SECONDS)
            if (complaint := message.get("complaint")) is not None:
                self._process.end()
                self._hangs += complaint["late"]
                if self._hangs == HANGS:
                    raise SpaceError(f"the space {self._name!r} {complaint['text']} to suggest, {HANGS} times")
                return Ended.RAISED
            trial.kinds[:] = [(name, kind) for name, kind in message["kinds"]]
            if "ended" in message:
                return Ended(message["ended"])
            child.say(_answered(trial, message))

    def _serve(self, link: Link) -> None:
        with contextlib.suppress(EOFError):
            while True:
                told = link.hear()
                inner = _AskingTrial(link, told["number"])
                trial = inner.outer = SuggestingTrial(inner, told["known"])
                last_call(time_limit.SECONDS)
                try:
                    ended = _ended(self._function, trial, told["device"])
                except BaseException:  # noqa: BLE001 (an interrupt that the user's code raises is nobody's)
                    ended = Ended.RAISED
                last_call(0)
                link.say({"ended": ended.value, "kinds": trial.kinds})


def _ended(function: Callable[[BaseTrial], Any], trial: SuggestingTrial, device: str) -> Ended:
    try:
        with seeded(0), torch.device(device) if device else contextlib.nullcontext():
            function(trial)
    except optuna.TrialPruned:
        return Ended.PRUNED
    except RAISED:
        return Ended.RAISED
    return Ended.ALLOWED


def _answered(trial: SuggestingTrial, message: dict[str, Any]) -> dict[str, Any]:
    """Ask the trial here what the function asks there."""
    try:
        if "attribute" in message:
            trial.inner.set_user_attr(message["attribute"], message["value"])
            return {"value": None}
        return {"value": _suggested(trial.inner, message["name"], json_to_distribution(message["distribution"]))}
    except optuna.TrialPruned as error:
        trial.raised = error
        return {"raised": "pruned"}
    except Exception as error:  # noqa: BLE001 (whoever called raises it)
        trial.raised = error
        return {"raised": "error"}


def _suggested(trial: BaseTrial, name: str, wanted: BaseDistribution) -> Any:
    if isinstance(wanted, FloatDistribution):
        return trial.suggest_float(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    if isinstance(wanted, IntDistribution):
        return trial.suggest_int(name, wanted.low, wanted.high, step=wanted.step, log=wanted.log)
    assert isinstance(wanted, CategoricalDistribution)
    return trial.suggest_categorical(name, list(wanted.choices))


class _RefusedError(Exception):
    """What the trial raised in the process that called."""


class _AskingTrial(FixedTrial):
    """The trial in the function's process: asks the other one."""

    def __init__(self, link: Link, number: int) -> None:
        super().__init__({}, number)
        self._link = link
        self.outer: SuggestingTrial | None = None

    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        value = self._asked({"name": name, "distribution": distribution_to_json(distribution)})
        self._params[name] = value
        self._distributions[name] = distribution
        return value

    def set_user_attr(self, key: str, value: Any) -> None:
        super().set_user_attr(key, value)
        self._asked({"attribute": key, "value": value})

    def _asked(self, message: dict[str, Any]) -> Any:
        assert self.outer is not None
        self._link.say({**message, "kinds": self.outer.kinds})
        answer = self._link.hear()
        if answer.get("raised") == "pruned":
            raise optuna.TrialPruned
        if "raised" in answer:
            raise _RefusedError
        return answer["value"]
