"""A hostile client of the dashboard: garbage, foreign names and half-open connections, and it still answers."""

import random
import socket
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from attack.fuzz import spoilt_bytes
from attack.tally import HARMLESS, HUNG, SILENT, TOLD, Tally
from made_up_runs import ordinary
from nas_proxy.dashboard.server import Server, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

REQUESTS = 200
PATHS = ("/", "/api/studies", "/static/../", "/static/%2e%2e/%2e%2e/etc/passwd", "/dashboard", "/api/studies/\0", "/..")
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "TRACE", "CONNECT", "A" * 9000)
HOSTS = ("127.0.0.1", "localhost", "evil.example", "127.0.0.1.evil.example", "[::1]", "", "a" * 5000, "\x1b[31m")


@pytest.fixture
def server(tmp_path) -> Iterator[Server]:
    from nas_proxy.dashboard.server import application

    ordinary(tmp_path)
    _studies(tmp_path)
    with serving(application(tmp_path), "127.0.0.1", 0) as found:
        thread = threading.Thread(target=found.run, daemon=True)
        thread.start()
        yield found


def _studies(run: Path) -> None:
    from nas_proxy.storage.trial_store import TrialStore

    store = TrialStore(run / "study.db")
    store.study("proxy")
    store.close()


def test_garbage(server, capsys):
    tally = Tally("dashboard")
    for number in range(REQUESTS):
        draw = random.Random(number)
        host = draw.choice(HOSTS)
        length = draw.choice(("0", "5", "x", "-1"))
        text = (
            f"{draw.choice(METHODS)} {draw.choice(PATHS)} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n"
        )
        request = text.encode()
        if number % 2:
            request = spoilt_bytes(request, draw)
        try:
            status = _status(server.port, request, half=number % 10 == 0)
        except TimeoutError:
            tally.count(HUNG, repr(request[:80]))
            continue
        foreign = not number % 2 and "evil" in host and status == 200
        if foreign or (status is not None and status >= 500 and status != 501):
            tally.count(SILENT, f"{status} for {request[:80]!r}")
        else:
            tally.count(HARMLESS if status is None or status < 300 else TOLD)
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/api/studies", timeout=20) as answer:
        assert answer.status == 200
    tally.report(capsys)


def _status(port: int, request: bytes, *, half: bool) -> int | None:
    """Return the status of the answer; None where the connection is closed without, or is left half open here."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        if half:
            connection.sendall(request[: len(request) // 2])
            return None
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(200)
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else None
