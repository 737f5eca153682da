"""A machine that performs jobs, as whoever looks on is told of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Node:
    """A machine at work: its name, what it performs jobs on, in words, and how many it has performed by now."""

    host: str
    workers: str
    done: int
