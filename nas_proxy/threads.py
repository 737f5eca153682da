"""On how many threads PyTorch and NumPy compute: one, wherever a result or a time is to repeat."""

import contextlib
from collections.abc import Iterator

import threadpoolctl
import torch


@contextlib.contextmanager
def one_thread_in_numpy() -> Iterator[None]:
    """Let NumPy and SciPy compute on one thread: a search's choices repeat, and small matrices are faster so.

    The workers keep the other cores busy meanwhile, and threads that wait for one another then take ten times as long.
    """
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, as worker processes do: the number of threads changes how sums are rounded."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
