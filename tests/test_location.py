"""Where trainings are kept: URLs and passwords, what is not there, and network file systems under SQLite."""

import builtins
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError

from nas_proxy.errors import ConfigError, StorageError
from nas_proxy.pipeline.work import open_store
from nas_proxy.progress import SILENT
from nas_proxy.runs.folder import prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import to_dict, write_config
from nas_proxy.storage import file_systems as mounts
from nas_proxy.storage.location import Database, connectable, existing, place_of, settled, without_password
from nas_proxy.storage.retry import Retry, connect, explained, is_away

URL = "postgresql+psycopg://me@db.example.org:5433/nas"


@pytest.mark.parametrize(
    "given",
    [
        "postgresql+psycopg://me:geheim@db.example.org:5433/nas",
        "postgresql://me:geheim@db.example.org:5433/nas",
        "postgres://me@db.example.org:5433/nas?password=geheim",
    ],
)
def test_a_password_is_remembered_and_written_nowhere(given, tmp_path):
    config = resolve({"storage": given})
    assert config.storage == URL
    assert "geheim" not in repr(config)
    write_config(config, tmp_path / "run.toml")
    assert "geheim" not in (tmp_path / "run.toml").read_text()
    assert resolve({}, tmp_path / "run.toml").storage == URL
    assert connectable(URL) == URL.replace("me@", "me:geheim@")


@given(st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20))
def test_any_password_comes_back(password):
    given = make_url("postgresql+psycopg://you@h:1/d").set(password=password).render_as_string(hide_password=False)
    bare = without_password(given)
    assert bare == "postgresql+psycopg://you@h:1/d"
    assert make_url(connectable(bare)).password == password


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("postgres", "it must be a URL such as postgresql+psycopg://USER@HOST/DATABASE"),
        (
            "sqlite:///study.db",
            "SQLite needs no setting: leave it out, and the run folder holds the file study.db",
        ),
        ("mysql://me@host/db", "mysql is not supported; it must be postgresql+psycopg://USER@HOST/DATABASE"),
        ("postgresql://me@host", "it names no database; it must be postgresql+psycopg://USER@HOST/DATABASE"),
    ],
)
def test_mistakes_in_the_url(url, sentence):
    with pytest.raises(ConfigError) as error:
        resolve({"storage": url}, options={"storage": "--storage"})
    assert str(error.value) == f"--storage is {url!r}; {sentence}"


def test_a_mistake_does_not_show_the_password():
    with pytest.raises(ConfigError, match=r"me:\*\*\*@host") as error:
        resolve({"storage": "mysql://me:geheim@host/db"})
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize("devices", [["cuda:0", "gpu"], "cpu", [1]])
def test_mistakes_in_devices(devices):
    with pytest.raises(ConfigError, match="devices"):
        resolve({"devices": devices})


def test_devices_are_kept_and_are_no_part_of_a_run():
    assert to_dict(resolve({"devices": ["cpu", "cpu"]}))["devices"] == ("cpu", "cpu")


def test_the_name_in_the_database_stays_with_the_folder(tmp_path):
    (tmp_path / "run").mkdir()
    assert existing(tmp_path / "run") is None
    assert place_of(tmp_path / "run", None) == tmp_path / "run" / "study.db"
    place = settled(tmp_path / "run", place_of(tmp_path / "run", URL))
    assert isinstance(place, Database)
    assert place.study("proxy") == f"{place.name}/proxy"
    (tmp_path / "run").rename(tmp_path / "renamed")
    assert place_of(tmp_path / "renamed", URL) == place
    assert existing(tmp_path / "renamed") is None  # without a run.toml that says which database
    write_config(resolve({"storage": URL}), tmp_path / "renamed" / "run.toml")
    assert existing(tmp_path / "renamed") == place


def test_a_database_that_is_not_there():
    with pytest.raises(StorageError, match=r"the database postgresql\+psycopg://me@127.0.0.1:1/nas cannot be reached"):
        connect(Database(without_password("postgresql+psycopg://me:geheim@127.0.0.1:1/nas"), "run"))


def test_without_the_driver(monkeypatch):
    whole = builtins.__import__

    def without(name, *args, **options):
        if name == "psycopg":
            raise ImportError(name)
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(StorageError) as error:
        connect(Database(URL, "run"))
    assert str(error.value) == (
        "PostgreSQL needs the driver psycopg, which is not installed; pip install -e '.[postgres]'"
    )


class DriverError(Exception):
    def __init__(self, text: str, sqlstate: str | None) -> None:
        super().__init__(text)
        self.sqlstate = sqlstate


def raised(text: str, sqlstate: str | None = None) -> OperationalError:
    kind = type("OperationalError", (DriverError,), {})
    return OperationalError("SELECT 1", {}, kind(text, sqlstate))


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (raised("connection refused"), True),
        (raised("terminating connection due to administrator command", "57P01"), True),
        (raised("the database system is starting up", "57P03"), True),
        (raised("sorry, too many clients already", "53300"), True),
        (raised("could not serialize access", "40001"), True),
        (raised("could not extend file: No space left on device", "53100"), False),
        (raised('password authentication failed for user "me"'), False),
        (raised('database "nas" does not exist'), False),
        (ValueError("no"), False),
    ],
)
def test_which_errors_are_waited_for(error, away):
    assert is_away(error) == away
    tries: list[int] = []

    def act() -> int:
        tries.append(1)
        if len(tries) < 3:
            raise error
        return len(tries)

    if away:
        assert Retry()(act) == 3
    else:
        with pytest.raises(type(error)):
            Retry()(act)
        assert len(tries) == 1


def test_patience_ends_once_and_for_all():
    told: list[str] = []
    patience = Retry(told.append, seconds=2.5)
    tries: list[int] = []

    def act() -> None:
        tries.append(1)
        raise raised("connection refused")

    with pytest.raises(OperationalError):
        patience(act)
    assert 4 < len(tries) < 9
    assert told == ["The database is away (connection refused); trying again for 2 s."]
    tries.clear()
    with pytest.raises(OperationalError):
        patience(act)
    assert len(tries) <= 2


def test_what_is_said_of_a_database():
    place = Database(URL, "run")
    assert str(explained(place, raised("could not extend file: No space left on device", "53100"))) == (
        f"the disk of the database {URL} is full (could not extend file: No space left on device); "
        "free some space there and run the same command again"
    )
    assert str(explained(place, raised("connection refused"))) == (
        f"the database {URL} cannot be reached (connection refused); the same command goes on when it can"
    )
    assert "PGPASSWORD" in str(explained(place, raised("fe_sendauth: no password supplied")))


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:26 / /home rw shared:2 - nfs4 server:/home rw,vers=4.2
31 30 8:2 / /home/local rw - xfs /dev/sdb1 rw
32 22 0:27 / /with\\040space rw - lustre mgs@tcp:/scratch rw
33 22 0:28 / /over rw - nfs server:/a rw
34 22 8:3 / /over rw - ext4 /dev/sdc1 rw
broken line
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tmp/run", None),
        ("/home/me/run", "nfs4"),
        ("/home/local/run", None),
        ("/homely/run", None),
        ("/with space/run", "lustre"),
        ("/over/run", None),
    ],
)
def test_network_file_systems(tmp_path, path, kind):
    table = tmp_path / "mountinfo"
    table.write_text(MOUNTS)
    assert mounts.network_file_system(Path(path), table) == kind
    warning = mounts.warning(Path(path) / "study.db", table)
    if kind is None:
        assert warning is None
    else:
        assert warning == (
            f"{path}/study.db lies on a network file system ({kind}), where SQLite can be slow and may lose trainings; "
            "put the run folder on a local disk, or give a PostgreSQL database with --storage"
        )


def test_a_command_warns_of_one(tmp_path, monkeypatch):
    told: list[str] = []

    class Told:
        stage = staticmethod(SILENT.stage)
        say = staticmethod(told.append)

    monkeypatch.setattr(mounts, "warning", lambda path: f"{path.name} lies there")
    open_store(prepare_run(tmp_path / "run", resolve({})), Told()).close()
    assert told == ["Warning: study.db lies there."]


def test_where_the_system_does_not_tell(tmp_path):
    assert mounts.network_file_system(tmp_path, tmp_path / "absent") is None
