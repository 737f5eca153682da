"""What stands around Optuna's dashboard of a folder: a WSGI application in, the same with what it lacks out.

- Every page has a bar at its foot: the decision, and a link to the report, which is served as /report.html.
- The main study stands first in the list.
- The importances are those of the report, by the same function, so that both places show the same numbers.
- What a read-only dashboard refuses has no button.
- Figures of ours have the colours of the page, light or dark, and follow its switch.
"""

import io
import json
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from optuna.trial import FrozenTrial

from nas_proxy.dashboard.note_text import REPORT
from nas_proxy.dashboard.notes import FIGURES
from nas_proxy.names import PROXY, columns_of
from nas_proxy.report.importance import importances
from nas_proxy.report.run_contents import Run, read_run
from nas_proxy.report.verdict import verdict_of
from nas_proxy.storage.read_only import Studies
from nas_proxy.storage.records import LATENCY, finished

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication

IMPORTANCES = re.compile(r"/api/studies/(\d+)/param_importances")
STUDIES = "/api/studies"
# The icons of buttons that write: create, rename and delete a study; edit a note; upload and delete an artifact.
WRITING = ("AddBoxIcon", "DriveFileRenameOutlineIcon", "DeleteIcon", "EditIcon", "UploadFileIcon")
STYLE = """
#nas-proxy { position: fixed; z-index: 1100; left: 65px; right: 0; bottom: 0; padding: 10px 24px;
  font: 15px/1.45 sans-serif; border-top: 1px solid rgba(128, 128, 128, .4); box-shadow: 0 -2px 8px rgba(0, 0, 0, .08);
  background: inherit; color: inherit; }
#nas-proxy a { color: inherit; white-space: nowrap; margin-left: .8em; }
body { padding-bottom: 64px; }
/* Cards of figures from a study lack the distance that all others have. */
.MuiGrid-root:has(> .MuiPaper-root [id^="user-defined-plot:"]) { padding: 16px 0 0 16px; }
@media (max-width: 700px) {
  #nas-proxy { left: 57px; padding: 8px 16px; font-size: 13px; }
  main { min-width: 0; }
  .MuiGrid-root[class*="MuiGrid-grid-xs-"] { flex-basis: 100%; min-width: 0; max-width: 100%; }
}
"""
# The page sets the colour of its text and its switch changes it; a figure's own is for grounds that nobody knows.
COLOURS = """
:is(%s) {
  .main-svg text:not(.hovertext text), .modebar-btn path { fill: currentColor !important; }
  .modebar-btn path { fill-opacity: .6; }
  .modebar, .modebar-group { background: transparent !important; }
}
"""
Answer = tuple[str, str, bytes]
"""Status, type of content, body."""


class Frame:
    """The dashboard `app` of the studies of a folder, framed. signals: the studies by id, the main one first."""

    def __init__(
        self,
        app: "WSGIApplication",
        folder: Path,
        storage: Studies,
        signals: Callable[[], Mapping[int, str]],
        *,
        writable: bool,
    ) -> None:
        self._app, self._folder, self._storage, self._signals = app, folder, storage, signals
        self._style = STYLE + _coloured() + ("" if writable else _hidden())
        self._lock, self._known = threading.Lock(), dict[int, tuple[object, list[list[dict[str, object]]]]]()

    def __call__(self, environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request."""
        path = str(environ.get("PATH_INFO", "")).rstrip("/")
        answer: Answer | None = None
        if environ.get("REQUEST_METHOD") == "GET":
            if path == REPORT:
                answer = self._report()
            elif asked := IMPORTANCES.fullmatch(path):
                answer = self._importances(int(asked[1]))
            elif path == STUDIES or path.startswith("/dashboard"):
                change = self._ordered if path == STUDIES else self._page
                answer = _changed(self._app, environ, change)
        if answer is None:
            return self._app(environ, start_response)
        status, kind, body = answer
        start_response(
            status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")]
        )
        return [body]

    def _report(self) -> Answer:
        for name in ("report.html", "compare.html"):
            if (self._folder / name).is_file():
                return "200 OK", "text/html; charset=utf-8", (self._folder / name).read_bytes()
        return "404 Not Found", "text/plain; charset=utf-8", b"There is no report yet; it is written last.\n"

    def _page(self, html: bytes) -> bytes:
        """Return a page with the decision at its foot."""
        told = verdict_of(read_run(self._folder).ranking)
        words = f"<strong>{escape(told.head)}</strong>: {escape(told.because)}."
        link = f'<a href="{REPORT}">Report</a>' if self._report()[0] == "200 OK" else ""
        bar = f'<style>{self._style}</style><aside id="nas-proxy">{words}{link}</aside>'
        return html.replace(b"</body>", bar.encode() + b"</body>")

    def _ordered(self, told: bytes) -> bytes:
        """Return the list of studies with the main one last: the page shows it from its end on."""
        order = list(self._signals())
        found = json.loads(told)
        places = {number: place for place, number in enumerate(order)}
        found["study_summaries"].sort(key=lambda study: -places.get(study["study_id"], len(order)))
        return json.dumps(found).encode()

    def _importances(self, number: int) -> Answer | None:
        signal = self._signals().get(number)
        if signal is None or signal == LATENCY:  # which is no training: the dashboard's own are as good
            return None
        trials = self._storage.get_all_trials(number, deepcopy=False)
        seen = [trial.state for trial in trials]
        with self._lock:  # one at a time: the page asks again before a slow one is done
            if number not in self._known or self._known[number][0] != seen:
                objectives = len(self._storage.get_study_directions(number))
                run = read_run(self._folder)
                found = [_shares(signal, run, trials, objective) for objective in range(objectives)]
                self._known[number] = (seen, found)
            body = json.dumps({"param_importances": self._known[number][1]})
        return "200 OK", "application/json", body.encode()


def _coloured() -> str:
    return COLOURS % ", ".join(f'[id="user-defined-plot:{name}"]' for name in FIGURES)


def _hidden() -> str:
    icons = ", ".join(f"button:has(svg[data-testid={icon}])" for icon in WRITING)
    upload = ".MuiPaper-root:has(> button svg[data-testid=UploadFileIcon])"
    return f"{icons}, {upload} {{ display: none !important; }}\n"


def _shares(signal: str, run: Run, trials: Sequence[FrozenTrial], objective: int) -> list[dict[str, object]]:
    """Return the share of each choice in the differences of one objective, as the dashboard takes it."""
    reported = signal == PROXY and objective == 0 and len(run.trials) > 0
    rows = run.trials if reported else table_of(trials, objective)
    kinds = {name: type(of).__name__ for trial in trials for name, of in trial.distributions.items()}
    return [
        {"name": name, "importance": share, "distribution": kinds.get(name, "CategoricalDistribution")}
        for name, share in importances(rows).items()
    ]


def table_of(trials: Sequence[FrozenTrial], objective: int = 0) -> pd.DataFrame:
    """Return the trainings of a study as a table like trials.csv, the score being the value of one objective."""
    values = {trial.user_attrs.get("key"): trial.values for trial in reversed(trials) if trial.values}
    rows = [
        {
            "key": one.key,
            "state": "complete" if one.complete else "failed",
            "score": values[one.key][objective] if one.key in values else None,
            **columns_of(one.architecture),
        }
        for one in finished(trials)
    ]
    if not rows:
        return pd.DataFrame(columns=["key", "state", "score"])
    # As text, like what is read from the file.
    text = io.StringIO(pd.DataFrame(rows).to_csv(index=False))
    frame = pd.read_csv(text, dtype=str, keep_default_na=False)
    return frame.assign(score=pd.to_numeric(frame["score"], errors="coerce"))


def _changed(app: "WSGIApplication", environ: dict[str, Any], change: Callable[[bytes], bytes]) -> Answer | None:
    """Return the answer of `app` with its body changed; None where it gives none that can be."""
    told: dict[str, Any] = {}

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        told.update(status=status, kind=dict(headers).get("Content-Type", ""))
        return lambda _: None

    plain = {"HTTP_ACCEPT_ENCODING", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_NONE_MATCH", "HTTP_RANGE"}
    asked = {name: value for name, value in environ.items() if name not in plain}
    parts = app(asked, start)
    try:
        body = b"".join(parts)
    finally:
        if hasattr(parts, "close"):
            parts.close()
    if not str(told.get("status", "")).startswith("200"):
        return None
    return told["status"], told["kind"], change(body)
