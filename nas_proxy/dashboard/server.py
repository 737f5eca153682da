"""A run or a comparison in Optuna's dashboard: its folder in, a web server on this machine out.

Unless it is asked for a writable dashboard, nothing can be changed through it: other requests than GET and HEAD
are answered with 405, and the storage itself refuses to write. It disturbs no search that is running. A page elsewhere
that a browser shows cannot read it under a name of its own (DNS rebinding): a foreign Host is answered with 403.
"""

import contextlib
import errno
import functools
import ipaddress
import logging
import socket
import threading
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy.dashboard.frame import Frame
from nas_proxy.dashboard.notes import Artifacts, Notes, shown_names
from nas_proxy.errors import UserError
from nas_proxy.runs.folder import open_run
from nas_proxy.storage.location import FILE, existing
from nas_proxy.storage.read_only import open_studies, readable

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

READING = ("GET", "HEAD")
REFUSED = "This dashboard is read-only; start it with --writable to change what it shows.\n"
FOREIGN = "This dashboard answers to this machine's own address and to the name given with --host alone.\n"
# Requests at a time, connections at a time, and seconds after which a connection that says nothing is closed.
THREADS, CONNECTIONS, SILENCE = 8, 100, 20
PATIENCE = 5.0
"""Seconds that requests may take to end when the server is closed."""


class ServerError(UserError):
    """An address that cannot be served."""


def application(run: Path, *, writable: bool = False) -> "WSGIApplication":
    """Return the dashboard of a run or a comparison as a WSGI application.

    Raises RunFolderError where there is no storage or it cannot be read; none is created.
    """
    from optuna_dashboard import wsgi

    told = Notes(run)
    storage = open_studies(run, writable=writable, names=shown_names(open_run(run)), told=told)
    place = existing(run) or run / FILE
    with readable(place):
        app = within(wsgi(storage, Artifacts(run)))
    framed = Frame(app, run, storage, told.signals, writable=writable)
    return framed if writable else read_only(framed)


def _refusing(
    app: "WSGIApplication", status: str, text: str, refused: Callable[[dict[str, Any]], bool], *headers: tuple[str, str]
) -> "WSGIApplication":
    """Return `app` with requests that are `refused` answered by a status and a text."""

    @functools.wraps(app)
    def guarded(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        if not refused(environ):
            return app(environ, start_response)
        body = text.encode()
        start_response(status, [*headers, ("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    return guarded


def read_only(app: "WSGIApplication") -> "WSGIApplication":
    """Return `app` without the means to change anything: what is neither GET nor HEAD is answered with 405."""
    allowed = ("Allow", ", ".join(READING))
    status = "405 Method Not Allowed"
    return _refusing(app, status, REFUSED, lambda environ: environ.get("REQUEST_METHOD") not in READING, allowed)


def within(app: "WSGIApplication") -> "WSGIApplication":
    """Return `app` without paths that lead out of it, or cannot be files; it would fail on them."""

    def odd(environ: dict[str, Any]) -> bool:
        path = str(environ.get("PATH_INFO", ""))
        return (
            "\0" in path
            or ".." in path.replace("\\", "/").split("/")
            or (path.startswith("/static/") and path.endswith("/"))
        )

    return _refusing(app, "404 Not Found", "Not found.\n", odd)


def for_host(app: "WSGIApplication", host: str) -> "WSGIApplication":
    """Return `app` answering only to loopback addresses and to `host`; to the machine's own, where that is all."""

    def foreign(environ: dict[str, Any]) -> bool:
        named = str(environ.get("HTTP_HOST", host)).lower()
        name = named[1:].partition("]")[0] if named.startswith("[") else named.partition(":")[0]
        own = {host.lower()}
        if _is_any(host):
            own |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        return not (name in own or is_local(name) or (_is_any(host) and _is_address(name)))

    return _refusing(app, "403 Forbidden", FOREIGN, foreign)


class Server:
    """A server that listens on `port`; `run` serves until `close`, which any thread may call, or an interruption."""

    def __init__(self, app: "WSGIApplication", listening: socket.socket) -> None:
        from waitress.server import create_server

        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that requests wait is no news
        self._server: Any = create_server(
            app,
            sockets=[listening],
            threads=THREADS,
            connection_limit=CONNECTIONS,
            channel_timeout=SILENCE,
            cleanup_interval=SILENCE // 2,
            ident=None,
        )
        self._ended = threading.Event()
        self._ended.set()
        self.port: int = listening.getsockname()[1]

    def run(self) -> None:
        """Serve until it is closed or interrupted."""
        self._ended.clear()
        try:
            self._server.run()
        finally:
            self._ended.set()

    def close(self) -> None:
        """Let `run`, wherever it runs, return, and the address, connections and threads go."""
        if not self._ended.is_set():
            self._server.trigger.pull_trigger(self._close_connections)
            self._ended.wait(PATIENCE)
        self._server.task_dispatcher.shutdown(timeout=PATIENCE)
        self._close_connections()

    def _close_connections(self) -> None:
        self._server.asyncore.close_all(self._server._map)


@contextlib.contextmanager
def serving(app: "WSGIApplication", host: str, port: int) -> Iterator[Server]:
    """Yield a server that listens; the caller lets it serve. Raises ServerError where it cannot listen."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(address[:2], family=family, backlog=CONNECTIONS)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ServerError(_explanation(host, port, error)) from None
    server = Server(for_host(app, host), listening)
    try:
        yield server
    finally:
        server.close()


def serve(run: Path, *, host: str, port: int, writable: bool, browser: bool, say: Callable[[str], None]) -> None:
    """Serve the dashboard of a run until it is interrupted. Raises as `application` and `serving` do."""
    app = application(run, writable=writable)
    with contextlib.suppress(KeyboardInterrupt), serving(app, host, port) as server:
        place = _place(host, server.port)
        address = f"http://{place}/dashboard"
        if not is_local(host):
            say(f"Warning: the dashboard has no login; whoever reaches {place} sees these studies.")
        if writable:
            say("Warning: --writable lets whoever opens the dashboard change and delete studies.")
        say(f"{address} shows {run}; Ctrl-C ends it.")
        if browser:
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address)
        server.run()


def _place(host: str, port: int) -> str:
    """Return a host and its port as they stand in an address: one with colons, of IPv6, in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_local(host: str) -> bool:
    """Return whether a host is this machine's own loopback address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def _is_any(host: str) -> bool:
    """Return whether a host stands for all addresses of the machine."""
    return _is_address(host) and ipaddress.ip_address(host).is_unspecified


def _explanation(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use by another program; give another with --port, or 0 for any free one"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"port {port} needs more rights than this program has; give one above 1023 with --port"
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return f"{_place(host, port)} cannot be served ({reason}); give an address of this machine with --host and --port"
