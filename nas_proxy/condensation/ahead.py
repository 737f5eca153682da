"""Work of the host done one step ahead, on a thread of its own, while a GPU is given the kernels of the step before.

In: a function of the step's number that depends on nothing else. Out: the same results, in any order of steps.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Result = TypeVar("Result")


class _Ahead(Generic[Result]):
    def __init__(self, function: Callable[[int], Result]) -> None:
        self._function = function
        self._thread = ThreadPoolExecutor(1)
        self._begun: dict[int, Future[Result]] = {}

    def __call__(self, step: int) -> Result:
        begun = self._begun.get(step) or self._thread.submit(self._function, step)
        self._begun = {step + 1: self._thread.submit(self._function, step + 1)}
        return begun.result()


def ahead(function: Callable[[int], Result], device: torch.device) -> Callable[[int], Result]:
    """Return the function; for steps on a GPU with the next step's result begun at each call.

    PyTorch lets other threads of Python run while it draws numbers. On the CPU the thread would only take the
    processor's time from the step itself.
    """
    return _Ahead(function) if device.type == "cuda" else function
