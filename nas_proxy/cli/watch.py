"""The commands that look at a run or a comparison, while it works and after: `status` and `dashboard`."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nas_proxy.cli.options import Json
from nas_proxy.cli.printing import out, tell

if TYPE_CHECKING:
    from nas_proxy.dashboard.status import Status, Watcher

Folder = Annotated[Path, typer.Argument(help="The folder of a run or a comparison.", metavar="DIR", show_default=False)]
# Seconds between two looks of --watch; reading a large run takes longer than that, and is given ten times as long.
EVERY = 1.0


def status_command(
    folder: Folder,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until all is done.")] = False,
    as_json: Json = False,
) -> None:
    """Show progress, the best candidate, failures and the estimated end of a run or a comparison. It only reads."""
    from nas_proxy.dashboard.status import Watcher

    watcher = Watcher(folder)
    if watch:
        _watch(watcher, as_json=as_json)
    else:
        out(_text(watcher.look(), as_json=as_json) + "\n")


def dashboard_command(
    folder: Folder,
    port: Annotated[int, typer.Option(help="0 takes any free one.", min=0, max=65535)] = 8080,
    host: Annotated[str, typer.Option(help="Another address than this machine's own shows the folder to others.")] = (
        "127.0.0.1"
    ),
    writable: Annotated[bool, typer.Option("--writable", help="Let the dashboard change and delete studies.")] = False,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Open no browser.")] = False,
) -> None:
    """Serve Optuna's dashboard for a run or a comparison, read-only, while it works and after. Ctrl-C ends it."""
    import optuna

    from nas_proxy.dashboard.server import serve
    from nas_proxy.pipeline.run_folder import open_run

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    serve(open_run(folder).path, host=host, port=port, writable=writable, browser=not no_browser, say=tell)


def _text(status: "Status", *, as_json: bool) -> str:
    from nas_proxy.dashboard.status_text import status_text

    return json.dumps(status.as_json()) if as_json else status_text(status)


def _watch(watcher: "Watcher", *, as_json: bool) -> None:
    """Show how it stands until it is done: in place on a terminal, else whenever it has got on."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    in_place = console.is_terminal and not console.is_dumb_terminal and not as_json
    live = Live(console=console, auto_refresh=False) if in_place else None
    last = ""
    try:
        if live is not None:
            live.start()
        while True:
            start = time.monotonic()
            status = watcher.look()
            text = _text(status, as_json=as_json)
            if live is not None:
                live.update(Text(text), refresh=True)
            elif text != last:
                out(text + "\n")
            last = text
            if status.complete and not status.at_work:
                return
            time.sleep(max(EVERY, 10 * (time.monotonic() - start)))
    except KeyboardInterrupt:
        return
    finally:
        if live is not None:
            live.stop()
