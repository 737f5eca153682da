"""A run or a comparison in Optuna's dashboard: its folder in, a web server on this machine out.

Unless it is asked for a writable dashboard, nothing can be changed through it: other requests than GET and HEAD
are answered with 405, and the storage itself refuses to write. It disturbs no search that is running.
"""

import contextlib
import errno
import functools
import ipaddress
import webbrowser
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from nas_proxy.compare.asked import open_comparison
from nas_proxy.dashboard import comparison_notes
from nas_proxy.dashboard.annotations import shown_names
from nas_proxy.dashboard.storage import open_studies, readable
from nas_proxy.errors import UserError
from nas_proxy.pipeline.run_folder import is_comparison
from nas_proxy.storage.artifacts import artifact_store
from nas_proxy.storage.location import FILE, existing

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

READING = ("GET", "HEAD")
REFUSED = b"This dashboard is read-only; start it with --writable to change what it shows.\n"


class ServerError(UserError):
    """An address that cannot be served."""


def application(run: Path, *, writable: bool = False) -> "WSGIApplication":
    """Return the dashboard of a run or a comparison as a WSGI application.

    Raises RunFolderError where there is no storage or it cannot be read; none is created.
    """
    from optuna_dashboard import wsgi

    if is_comparison(run):
        names, told = comparison_notes.shown_names(run, open_comparison(run)), comparison_notes.Notes(run)
        storage = open_studies(run, writable=writable, names=names, told=told)
    else:
        storage = open_studies(run, writable=writable, names=shown_names(run))
    place = existing(run) or run / FILE
    with readable(place):
        app = wsgi(storage, artifact_store(run, place))
    return app if writable else read_only(app)


def read_only(app: "WSGIApplication") -> "WSGIApplication":
    """Return `app` without the means to change anything: what is neither GET nor HEAD is answered with 405."""

    @functools.wraps(app)
    def guarded(environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        if environ.get("REQUEST_METHOD") in READING:
            return app(environ, start_response)
        headers = [("Allow", ", ".join(READING)), ("Content-Type", "text/plain"), ("Content-Length", str(len(REFUSED)))]
        start_response("405 Method Not Allowed", headers)
        return [REFUSED]

    return guarded


class _Server(ThreadingMixIn, WSGIServer):
    """Browsers open connections in advance; one thread alone would wait for them."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a browser that goes away in the middle of an answer."""


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 (the library's name)
        """Keep requests off the terminal."""


@contextlib.contextmanager
def serving(app: "WSGIApplication", host: str, port: int) -> Iterator[WSGIServer]:
    """Yield a server that listens; the caller lets it serve. Raises ServerError where it cannot listen."""
    try:
        server = make_server(host, port, app, server_class=_Server, handler_class=_Handler)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ServerError(_explanation(host, port, error)) from None
    try:
        yield server
    finally:
        server.server_close()


def serve(run: Path, *, host: str, port: int, writable: bool, browser: bool, say: Callable[[str], None]) -> None:
    """Serve the dashboard of a run until it is interrupted. Raises as `application` and `serving` do."""
    app = application(run, writable=writable)
    with contextlib.suppress(KeyboardInterrupt), serving(app, host, port) as server:
        address = f"http://{host}:{server.server_port}/dashboard"
        if not is_local(host):
            say(f"Warning: the dashboard has no login; whoever reaches {host}:{server.server_port} sees these studies.")
        if writable:
            say("Warning: --writable lets whoever opens the dashboard change and delete studies.")
        say(f"{address} shows {run}; Ctrl-C ends it.")
        if browser:
            with contextlib.suppress(webbrowser.Error):
                webbrowser.open(address)
        server.serve_forever()


def is_local(host: str) -> bool:
    """Return whether a host is this machine's own loopback address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _explanation(host: str, port: int, error: Exception) -> str:
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use by another program; give another with --port, or 0 for any free one"
    if isinstance(error, OSError) and error.errno == errno.EACCES:
        return f"port {port} needs more rights than this program has; give one above 1023 with --port"
    reason = (error.strerror if isinstance(error, OSError) else None) or error
    return f"{host}:{port} cannot be served ({reason}); give an address of this machine with --host and --port"
