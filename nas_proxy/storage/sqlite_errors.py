"""What went wrong with a SQLite file of studies: an exception in, the user's sentence out, and no lock left."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

# What Optuna raises where a sound file has values that it has not written.
DAMAGED = (KeyError, ValueError, TypeError, AttributeError, AssertionError, OverflowError)


def explanation(path: Path, error: BaseException, *, writing: bool) -> str:
    """Return what happened to the file at `path` and what would work; writing: by a command that records trainings."""
    while error.__cause__ is not None:  # SQLite knows the reason; SQLAlchemy and Optuna wrap it
        error = error.__cause__
    reason = str(error).split("\n", 1)[0]
    hindered = any(word in reason for word in ("unable to open", "disk I/O", "readonly"))
    unknown = f"{path} is not a study database that this version of Optuna reads ({reason})"
    if writing:
        if "is full" in reason:
            return f"the disk is full: {path} could not be written; free some space and run the same command again"
        if hindered or "locked" in reason:
            return f"{path} cannot be written ({reason}); see what hinders that and run the same command again"
        return f"{unknown}; move it away and run the same command again"
    if "locked" in reason:
        return f"{path} is locked by another program ({reason}); end that, or wait for it and try again"
    if hindered:
        return f"{path} cannot be read ({reason}); see what hinders that and try again"
    return f"{unknown}; restore it, or move it away and run the search again"


@contextlib.contextmanager
def closed_after_errors() -> Iterator[list[sqlite3.Connection]]:
    """Close the connections put into the list when the block fails.

    Nobody else has the connections of a storage that did not come to be. Left to whatever holds the error's traceback,
    they would keep their locks, and this process's next try would wait for them.
    """
    opened: list[sqlite3.Connection] = []
    try:
        yield opened
    except BaseException:
        for connection in opened:
            connection.close()
        raise
