"""The dashboard over HTTP: who is answered, and what it says where it cannot be served."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from nas_proxy.dashboard import server as server_module
from nas_proxy.dashboard.server import ServerError, application, for_host, is_local, serving
from test_dashboard import call, filled, run

__all__ = ["filled", "run"]


@pytest.fixture
def served(run: Path) -> Iterator[str]:
    with serving(application(run), "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.port}"
    thread.join(10)
    assert not thread.is_alive()


def refused(request: urllib.request.Request | str) -> tuple[int, Any]:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    error.value.close()
    return error.value.code, error.value.headers


def test_over_http(served: str) -> None:
    with urllib.request.urlopen(f"{served}/api/studies") as answer:
        assert len(json.load(answer)["study_summaries"]) == 4
    code, headers = refused(urllib.request.Request(f"{served}/api/studies/1", method="DELETE"))
    assert (code, headers["Allow"]) == (405, "GET, HEAD")
    for path in ("/static/../", "/static/..%2f..%2fapp.py", "/static/", "/static/x%00y", "/..", "/static/img/../../x"):
        assert refused(served + path)[0] in (403, 404)
    assert refused(urllib.request.Request(f"{served}/api/studies", headers={"Host": "evil.example"}))[0] == 403


@pytest.mark.parametrize(
    ("host", "named", "answered"),
    [
        ("127.0.0.1", "127.0.0.1:8080", True),
        ("127.0.0.1", "localhost", True),
        ("127.0.0.1", "[::1]:8080", True),
        ("127.0.0.1", "evil.example", False),
        ("127.0.0.1", "127.0.0.1.evil.example:8080", False),
        ("127.0.0.1", "192.168.0.7", False),
        ("127.0.0.1", "", False),
        ("lab.example", "LAB.example:80", True),
        ("lab.example", "other.example", False),
        ("0.0.0.0", "192.168.0.7:80", True),
        ("::", "[fe80::1]", True),
        ("0.0.0.0", "evil.example", False),
        ("0.0.0.0", socket.gethostname(), True),
    ],
)
def test_only_names_of_its_own_are_answered(host: str, named: str, answered: bool) -> None:
    app = for_host(lambda environ, start: start("200 OK", []) or [b""], host)
    assert (call(app, "GET", "/", HTTP_HOST=named)[0] == "200 OK") is answered


@pytest.mark.slow
def test_connections_that_say_nothing_are_limited_and_closed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "SILENCE", 2)
    monkeypatch.setattr(server_module, "CONNECTIONS", 20)
    with serving(application(run), "127.0.0.1", 0) as server:
        threading.Thread(target=server.run, daemon=True).start()
        threads = threading.active_count()
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
        for connection in silent[:10]:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: ")
        assert threading.active_count() <= threads + server_module.THREADS
        with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/studies", timeout=60) as answer:
            assert answer.status == 200
        for connection in silent:
            connection.close()


def test_an_address_that_cannot_be_served(served: str, run: Path) -> None:
    port = int(served.rpartition(":")[2])
    with pytest.raises(ServerError) as error, serving(application(run), "127.0.0.1", port):
        pass
    assert str(error.value) == (
        f"port {port} of 127.0.0.1 is in use by another program; give another with --port, or 0 for any free one"
    )
    sentence = r"^192\.0\.2\.1:0 cannot be served \(.+\); give an address of this machine"
    with pytest.raises(ServerError, match=sentence), serving(application(run), "192.0.2.1", 0):
        pass


def test_local_addresses() -> None:
    assert all(map(is_local, ("127.0.0.1", "localhost", "::1", "127.9.9.9")))
    assert not any(map(is_local, ("0.0.0.0", "::", "example.org", "192.168.0.1", "")))


@pytest.mark.parametrize(("host", "address"), [("::1", "http://[::1]:80/"), ("127.0.0.1", "http://127.0.0.1:80/")])
def test_the_address_that_is_told_can_be_opened(
    run: Path, monkeypatch: pytest.MonkeyPatch, host: str, address: str
) -> None:
    opened, said = list[str](), list[str]()
    monkeypatch.setattr(server_module, "serving", lambda *_: contextlib.nullcontext(Mock(port=80)))
    monkeypatch.setattr(server_module.webbrowser, "open", opened.append)
    server_module.serve(run, host=host, port=0, writable=False, browser=True, say=said.append)
    assert opened == [f"{address}dashboard"]
    assert said == [f"{address}dashboard shows {run}; Ctrl-C ends it."]


@pytest.mark.slow
def test_the_command_prints_the_address_warns_and_ends_quietly(run: Path) -> None:
    (run / "run.toml").write_text("", encoding="utf-8")
    command = [sys.executable, "-m", "nas_proxy", "dashboard", str(run), "--port", "0", "--no-browser"]
    with subprocess.Popen([*command, "--host", "0.0.0.0"], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        warning, address = process.stderr.readline(), process.stderr.readline()
        process.send_signal(2)
        rest = process.stderr.read()
        code = process.wait(30)
    assert warning.startswith("Warning: the dashboard has no login; whoever reaches 0.0.0.0:")
    assert address.startswith("http://0.0.0.0:")
    assert address.endswith(f"shows {run}; Ctrl-C ends it.\n")
    assert (rest, code) == ("", 0)
