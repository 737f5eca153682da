"""Optuna without its announcements."""

import contextlib
import logging
import warnings
from collections.abc import Iterator

import optuna


@contextlib.contextmanager
def without_announcements() -> Iterator[None]:
    """Make a study without Optuna telling so; its loggers and the user's warnings stay as they are set."""
    names = ("storages._in_memory", "storages._rdb.storage", "study.study")
    loggers = [logging.getLogger(f"optuna.{name}") for name in names]

    def silent(record: logging.LogRecord) -> bool:
        return record.levelno > logging.INFO

    for logger in loggers:
        logger.addFilter(silent)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(silent)
