"""The jobs of a run in a PostgreSQL database, which workers anywhere take and perform.

In: jobs, offered by the one command that works in the run folder (the coordinator). Out: their results, which it
alone records as Optuna trials.
Guarantees: a row is one architecture and draw of a signal, and has one result, the first that comes; a job is taken
by one worker at a time, in one statement; that of a worker whose heart stopped for `GRACE` seconds, by the
database's own clock, is taken over, at most `ATTEMPTS` times; every operation can be repeated and waits for a
database that is away.
"""

import contextlib
import hashlib
import json
import os
import platform
import secrets
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from nas_proxy.storage.retry import FAILED, Retry
from nas_proxy.storage.tables import JOBS, WORKERS

GRACE = 30.0
BEAT = 5.0
# A job whose workers died so often is what kills them.
ATTEMPTS = 3
WAITING, TAKEN, DONE, RECORDED = "waiting", "taken", "done", "recorded"
_T = TypeVar("_T")


@dataclass(frozen=True)
class Offer:
    """A job to be done: which architecture, in which draw of which signal, and all that a worker must know."""

    signal: str
    key: str
    draw: int
    job: Mapping[str, Any]

    @property
    def identity(self) -> tuple[str, str, int]:
        """What is unique in a run."""
        return self.signal, self.key, self.draw


@dataclass(frozen=True)
class Taken:
    """A job that a worker is at or has done: result is None until then."""

    key: str
    draw: int
    result: Mapping[str, Any] | None


@dataclass(frozen=True)
class Worker:
    """A process that trains: where it is, on which devices, whether it coordinates the run, how many jobs it holds."""

    host: str
    pid: int
    devices: str
    coordinates: bool
    jobs: int


class Jobs:
    """The jobs of the run `run`, as one process sees them."""

    def __init__(self, engine: Engine, run: str, patience: Retry | None = None) -> None:
        self.id = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._engine, self._run, self._patience = engine, run, patience or Retry()
        self._stop = threading.Event()
        self._heart: threading.Thread | None = None
        self._told: tuple[str, bool] = ("", False)

    def _do(self, act: Callable[[Connection], _T]) -> _T:
        def once() -> _T:
            with self._engine.begin() as connection:
                return act(connection)

        return self._patience(once)

    def join(self, devices: str, *, coordinates: bool = False) -> None:
        """Be known as alive from now on, until `leave`."""
        self._told = (devices, coordinates)
        self._do(self._beat)
        self._heart = threading.Thread(target=self._beating, daemon=True)
        self._heart.start()

    def leave(self) -> None:
        """Give back the jobs that are not done, and be gone."""
        self._stop.set()
        if self._heart is not None:
            self._heart.join(2 * BEAT)
        mine = and_(self._ours, JOBS.c.worker == self.id, JOBS.c.state == TAKEN)
        back = update(JOBS).where(mine).values(state=WAITING, worker=None, attempts=JOBS.c.attempts - 1)

        def act(connection: Connection) -> None:
            connection.execute(back)
            connection.execute(delete(WORKERS).where(WORKERS.c.id == self.id))

        self._do(act)

    def _beating(self) -> None:
        while not self._stop.wait(BEAT):
            with contextlib.suppress(*FAILED), self._engine.begin() as connection:
                self._beat(connection)

    def _beat(self, connection: Connection) -> None:
        devices, coordinates = self._told
        row = {"id": self.id, "run": self._run, "host": platform.node(), "pid": os.getpid()}
        known = insert(WORKERS).values(**row, devices=devices, coordinates=coordinates, heartbeat=func.now())
        connection.execute(known.on_conflict_do_update(index_elements=["id"], set_={"heartbeat": func.now()}))

    @property
    def _ours(self) -> ColumnElement[bool]:
        return JOBS.c.run == self._run

    def offer(self, offers: Sequence[Offer]) -> None:
        """Put jobs up, in their order; those that are known stay as they are. What was put up before is withdrawn."""
        rows = [
            {
                "run": self._run,
                "signal": offer.signal,
                "digest": digest(offer.key),
                "draw": offer.draw,
                "position": position,
                "key": offer.key,
                "job": json.dumps(offer.job),
                "state": WAITING,
                "attempts": 0,
            }
            for position, offer in enumerate(offers)
        ]

        def act(connection: Connection) -> None:
            connection.execute(delete(JOBS).where(self._ours, JOBS.c.state == WAITING))
            if rows:
                connection.execute(insert(JOBS).on_conflict_do_nothing(), rows)

        self._do(act)

    def withdraw(self) -> None:
        """Take back what nobody is at."""
        self.offer(())

    def claim(self, count: int, busy: Collection[tuple[str, str, int]] = ()) -> list[Offer]:
        """Take up to `count` jobs: waiting ones, and those of workers that are gone. busy: what is held already."""
        free = and_(
            self._ours,
            or_(
                JOBS.c.state == WAITING,
                and_(JOBS.c.state == TAKEN, ~_alive(JOBS.c.worker), JOBS.c.attempts < ATTEMPTS),
            ),
        )
        primary = list(JOBS.primary_key)
        chosen = select(*primary).where(free).order_by(JOBS.c.position, JOBS.c.digest).limit(count)
        locked = chosen.with_for_update(skip_locked=True).cte("chosen")
        take = (
            update(JOBS)
            .where(*(column == locked.c[column.name] for column in primary))
            .values(state=TAKEN, worker=self.id, attempts=JOBS.c.attempts + 1)
        )
        mine = select(JOBS).where(self._ours, JOBS.c.worker == self.id, JOBS.c.state == TAKEN)

        def act(connection: Connection) -> list[Offer]:
            if count > 0:
                connection.execute(take)
            # All that is held, since the answer to an earlier claim may have been lost with the connection.
            rows = connection.execute(mine.order_by(JOBS.c.position)).all()
            return [Offer(row.signal, row.key, row.draw, json.loads(row.job)) for row in rows]

        return [offer for offer in self._do(act) if offer.identity not in busy]

    def finish(self, offer: Offer, result: Mapping[str, Any]) -> None:
        """Hand in a result; where another worker was faster, it is dropped."""
        row = self._row(offer.signal, offer.key, offer.draw)
        open_still = JOBS.c.state.in_((WAITING, TAKEN))
        done = update(JOBS).where(row, open_still).values(state=DONE, worker=self.id, result=json.dumps(result))
        self._do(lambda connection: connection.execute(done))

    def drop(self, offer: Offer) -> None:
        """Remove a job that nobody wants any more."""
        row = self._row(offer.signal, offer.key, offer.draw)
        self._do(lambda connection: connection.execute(delete(JOBS).where(row)))

    def taken(self, signal: str) -> list[Taken]:
        """Return the jobs of a signal that somebody is at, and those that are done and not recorded yet."""
        given_up = and_(self._ours, JOBS.c.state == TAKEN, ~_alive(JOBS.c.worker), JOBS.c.attempts >= ATTEMPTS)
        lost = json.dumps({"reason": f"{ATTEMPTS} workers died while they trained it"})
        found = select(JOBS.c.key, JOBS.c.draw, JOBS.c.result).where(
            self._ours, JOBS.c.signal == signal, JOBS.c.state.in_((TAKEN, DONE))
        )

        def act(connection: Connection) -> list[Taken]:
            connection.execute(update(JOBS).where(given_up).values(state=DONE, result=lost))
            rows = connection.execute(found).all()
            return [Taken(row.key, row.draw, None if row.result is None else json.loads(row.result)) for row in rows]

        return self._do(act)

    def recorded(self, signal: str, key: str, draw: int) -> None:
        """Keep a job as recorded: nobody takes it again."""
        done = update(JOBS).where(self._row(signal, key, draw)).values(state=RECORDED, job="{}", result=None)
        self._do(lambda connection: connection.execute(done))

    def forget_coordinator(self) -> None:
        """Count an earlier coordinator of this machine as gone: whoever calls this holds the run folder."""
        gone = and_(WORKERS.c.run == self._run, WORKERS.c.coordinates, WORKERS.c.host == platform.node())
        self._do(lambda connection: connection.execute(delete(WORKERS).where(gone, WORKERS.c.id != self.id)))

    def alive(self) -> list[Worker]:
        """Return the workers whose hearts beat, the coordinator first."""
        return self._do(lambda connection: alive_workers(connection, self._run))

    def _row(self, signal: str, key: str, draw: int) -> ColumnElement[bool]:
        return and_(self._ours, JOBS.c.signal == signal, JOBS.c.digest == digest(key), JOBS.c.draw == draw)


def alive_workers(connection: Connection, run: str) -> list[Worker]:
    """Return the workers of a run whose hearts beat, the coordinator first."""
    held = select(func.count()).where(JOBS.c.worker == WORKERS.c.id, JOBS.c.state == TAKEN).scalar_subquery()
    query = select(WORKERS, held.label("jobs")).where(WORKERS.c.run == run, _beats())
    rows = connection.execute(query.order_by(WORKERS.c.coordinates.desc(), WORKERS.c.host, WORKERS.c.pid)).all()
    return [Worker(row.host, row.pid, row.devices, row.coordinates, row.jobs) for row in rows]


def forget_run(connection: Connection, run: str) -> None:
    """Remove the jobs and workers of a run."""
    connection.execute(delete(JOBS).where(JOBS.c.run == run))
    connection.execute(delete(WORKERS).where(WORKERS.c.run == run))


def digest(key: str) -> str:
    """Return a key as 64 hexadecimal digits: an index takes no text of any length."""
    return hashlib.sha256(key.encode()).hexdigest()


def _beats() -> ColumnElement[bool]:
    # No heart could be heard while the server was down: all workers get the grace anew when it is back.
    heard = func.greatest(WORKERS.c.heartbeat, func.pg_postmaster_start_time())
    return heard > func.now() - text(f"interval '{GRACE} seconds'")


def _alive(worker: ColumnElement[str]) -> ColumnElement[bool]:
    return exists().where(WORKERS.c.id == worker, _beats())
