"""A PostgreSQL database that may go away for a while: storage operations in, the same with retries out.

Guarantees: an operation is tried again, ever more slowly, for `PATIENCE` seconds after the connection is lost, and
may be tried twice without harm; the first connection of a command is not waited for. What goes wrong for good is one
sentence, a `StorageError`.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, TypeVar

from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy import Engine, create_engine, func, inspect, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from nas_proxy.errors import StorageError
from nas_proxy.storage.location import Database, connectable

PATIENCE = 120.0  # seconds: longer than a server takes to restart
FIRST, LONGEST = 0.1, 5.0  # seconds between two tries
# Classes of SQLSTATE: connection exceptions, the server's end, too many connections, and a transaction that lost
# a race with another one.
AWAY = ("08", "57P0", "53300", "40")
# A server that is there and refuses says so in words; libpq gives no SQLSTATE for what hinders a connection.
REFUSED = ("authentication", "does not exist", "no password", "pg_hba", "translate host")
DISK_FULL = "53100"
TABLES = 0x6E6173  # the number of a lock of ours
# What earlier versions kept beside Optuna's tables, for workers of their own.
OF_THE_PAST = ("nas_proxy_jobs", "nas_proxy_workers", "nas_proxy_artifacts")
FAILED = (SQLAlchemyError, StorageInternalError)
_T = TypeVar("_T")
Say = Callable[[str], None]


def _quiet(text: str) -> None:
    del text


def engine_options(*, kept: bool = True, read_only: bool = False) -> dict[str, Any]:
    """Return how connections are made, and given up when the network swallows them.

    kept: whether they stay open, and are checked before they are used again.
    """
    options = {"options": "-c default_transaction_read_only=on"} if read_only else {}
    return {
        **({"pool_pre_ping": True, "pool_size": 2} if kept else {"poolclass": NullPool}),
        "connect_args": {
            "application_name": "nas-proxy",
            "connect_timeout": 10,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
            **options,
        },
    }


def require_driver() -> None:
    """Raise StorageError where the PostgreSQL driver is not installed."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        raise StorageError(
            "PostgreSQL needs the driver psycopg, which is not installed; pip install -e '.[postgres]'"
        ) from None


def connect(database: Database) -> Engine:
    """Return an engine for a database. Raises StorageError where the database cannot be reached."""
    require_driver()
    engine = create_engine(connectable(database.url), **engine_options())
    try:
        engine.connect().close()
    except FAILED as error:
        engine.dispose()
        raise explained(database, error) from None
    return engine


class Retry:
    """How long a command waits for its database; once that was in vain, it waits no more. say: told of a wait."""

    def __init__(self, say: Say = _quiet, seconds: float = PATIENCE) -> None:
        self.say, self.seconds = say, seconds

    def __call__(self, act: Callable[[], _T]) -> _T:
        """Return what `act` returns, tried again while the database is away."""
        start, pause = time.monotonic(), FIRST
        told = False
        while True:
            try:
                return act()
            except FAILED as error:
                if not is_away(error):
                    raise
                if time.monotonic() - start > self.seconds:
                    self.seconds = 0.0
                    raise
                if not told and pause > 10 * FIRST:
                    told = True
                    self.say(f"The database is away ({_reason(error)}); trying again for {self.seconds:.0f} s.")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST)


def is_away(error: BaseException) -> bool:
    """Return whether an error says that the database is away and may come back."""
    cause = _cause(error)
    state = getattr(cause, "sqlstate", None)
    if state is not None:
        return str(state).startswith(AWAY)
    text = str(cause).lower()
    return type(cause).__name__ in {"OperationalError", "InterfaceError"} and not any(w in text for w in REFUSED)


def explained(database: Database, error: BaseException) -> StorageError:
    """Return the sentence for what went wrong in a database for good."""
    cause, reason = _cause(error), _reason(error)
    if getattr(cause, "sqlstate", None) == DISK_FULL or "No space left" in reason:
        return StorageError(
            f"the disk of {database} is full ({reason}); free some space there and run the same command again"
        )
    if "fe_sendauth" in reason or "password authentication" in reason:
        return StorageError(
            f"{database} refuses the login ({reason}); give the password in PGPASSWORD or ~/.pgpass, "
            "or in the URL of --storage, which keeps it in memory alone"
        )
    if is_away(error) or isinstance(error, DBAPIError):
        return StorageError(f"{database} cannot be reached ({reason}); the same command goes on when it can")
    return StorageError(
        f"{database} is not a study database that this version of Optuna reads ({reason}); give another with --storage"
    )


def _cause(error: BaseException) -> BaseException:
    while error.__cause__ is not None:  # the driver knows the reason; SQLAlchemy and Optuna wrap it
        error = error.__cause__
    original = getattr(error, "orig", None)
    return error if original is None else original


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(_cause(error)).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class RetryingStorage(RDBStorage):
    """Optuna's storage in a PostgreSQL database, each of whose operations waits for a database that is away."""

    patience = Retry()


def _patient(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def tried(self: RetryingStorage, *args: Any, **kwargs: Any) -> Any:
        tries = 0

        def act() -> Any:
            nonlocal tries
            tries += 1
            try:
                return method(self, *args, **kwargs)
            except UpdateFinishedTrialError:
                if tries == 1:
                    raise
                return True  # the try before was done, and its answer was lost

        return self.patience(act)

    return tried


# What a study and Optuna's cache call.
for _name in (
    *("create_new_study", "delete_study", "get_all_studies", "get_study_id_from_name", "get_study_name_from_id"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs", "set_study_user_attr"),
    *("set_study_system_attr", "create_new_trial", "_create_new_trial", "set_trial_state_values", "get_trial"),
    *("set_trial_user_attr", "set_trial_system_attr", "get_all_trials", "_get_trials"),
    *("set_trial_param", "_set_trial_param", "set_trial_intermediate_value"),
):
    setattr(RetryingStorage, _name, _patient(getattr(RDBStorage, _name)))


def open_storage(database: Database, patience: Retry) -> RetryingStorage:
    """Open the studies of a database; Optuna's tables are made where there are none. Raises StorageError."""
    engine = connect(database)
    try:
        # Two commands that make tables at the same moment disturb each other; the lock goes with the connection.
        with engine.connect() as connection:
            connection.execute(select(func.pg_advisory_lock(TABLES)))
            storage = RetryingStorage(connectable(database.url), engine_kwargs=engine_options())
        left = [name for name in inspect(storage.engine).get_table_names() if name in OF_THE_PAST]
    except (*FAILED, RuntimeError) as error:
        raise explained(database, error) from None
    finally:
        engine.dispose()
    if left:
        patience.say(
            f"{database} has tables of an earlier version's workers, which nothing reads any more: "
            f"DROP TABLE {', '.join(left)};"
        )
    storage.patience = patience
    return storage
