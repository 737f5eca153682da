"""Where the studies of a run are: the setting `storage` in, the file or the database out.

Without a setting it is the file `study.db` in the run folder, which one process at a time owns. With a URL it is a
PostgreSQL database, which may hold many runs: the file `study.name` in the folder says what this one is called there.
A password in a URL is kept in the memory of this process and written nowhere; without one, libpq finds it as ever
(PGPASSWORD, ~/.pgpass).
"""

import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from nas_proxy.errors import StorageError
from nas_proxy.files import write_text
from nas_proxy.untrusted import read_toml

EXAMPLE = "postgresql+psycopg://USER@HOST/DATABASE"
DRIVER = "postgresql+psycopg"
FILE, NAME = "study.db", "study.name"
SQLITE = f"sqlite:///{FILE}"
"""The URL for whoever connects to a file by itself."""

_passwords: dict[str, str] = {}


@dataclass(frozen=True)
class Database:
    """A run in a PostgreSQL database. url: without a password. name: of the run; each study is `name`/signal."""

    url: str
    name: str

    def study(self, signal: str) -> str:
        """Return the name of a signal's study."""
        return f"{self.name}/{signal}"

    def __str__(self) -> str:
        return f"the database {self.url}"


Location = Path | Database


def study_name(place: Location, signal: str) -> str:
    """Return the name of a signal's study: the signal itself in a file, which holds one run alone."""
    return place.study(signal) if isinstance(place, Database) else signal


def is_database(text: str) -> bool:
    """Return whether a text is the URL of a database rather than a path."""
    return "://" in text


def url_mistake(url: str) -> str | None:
    """Return what is wrong with the setting `storage`; None if nothing is."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return f"it must be a URL such as {EXAMPLE}"
    if parsed.drivername == "sqlite":
        return "SQLite needs no setting: leave it out, and the run folder holds the file study.db"
    if parsed.drivername not in {DRIVER, "postgresql", "postgres"}:
        return f"{parsed.drivername} is not supported; it must be {EXAMPLE}"
    return None if parsed.database else f"it names no database; it must be {EXAMPLE}"


def without_password(url: str) -> str:
    """Return a URL as it may be written down; this process remembers its password for `connectable`.

    A URL that `url_mistake` complains about comes back as it is, but for what stands where a password does.
    """
    if url_mistake(url) is not None:
        return re.sub(r"(?<=://)([^/@:]*):[^@]*(?=@)", r"\1:***", url)
    parsed = make_url(url).set(drivername=DRIVER)
    query = dict(parsed.query)
    password = parsed.password or query.pop("password", None)
    bare = URL.create(DRIVER, parsed.username, None, parsed.host, parsed.port, parsed.database, query)
    written = bare.render_as_string(hide_password=False)
    if password:
        _passwords[written] = str(password)
    return written


def connectable(url: str) -> str:
    """Return a URL with the password that this process was given for it, if any."""
    parsed = make_url(url)
    if url in _passwords:
        parsed = parsed.set(password=_passwords[url])
    return parsed.render_as_string(hide_password=False)


def place_of(run: Path, storage: str | None) -> Location:
    """Return where the run in the folder `run` with the setting `storage` has its studies, or will have them."""
    if storage is None:
        return run / FILE
    return Database(storage, _name(run) or f"{run.resolve().name}-{secrets.token_hex(4)}")


def settled(run: Path, place: Location) -> Location:
    """Return `place`, whose name in a database stays with the folder from now on."""
    if isinstance(place, Database) and _name(run) != place.name:
        write_text(run / NAME, place.name + "\n")
    return place


def existing(run: Path) -> Location | None:
    """Return where the run in a folder has its studies; None where it has none yet."""
    storage = _written(run).get("storage")
    if not isinstance(storage, str):
        return run / FILE if (run / FILE).is_file() else None
    name = _name(run)
    return None if name is None or url_mistake(storage) is not None else Database(storage, name)


def _name(run: Path) -> str | None:
    try:
        return (run / NAME).read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{run / NAME} cannot be read ({error}); restore it") from None


def _written(run: Path) -> dict[str, Any]:
    try:
        return read_toml(run / "run.toml")
    except (OSError, ValueError):
        return {}  # whoever needs the settings says what is wrong with them
