"""The table as one offline HTML page: the object of `ranking.json` of a comparison in, the document out.

Its style sheet is the report's. Equal input gives equal bytes.
"""

import json
import re
from collections.abc import Mapping
from importlib.resources import files as resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from nas_proxy.compare.figure import correlation_by_cost
from nas_proxy.compare.text import GROUPS, REPEATABILITY, chosen_columns, columns, named, remarks
from nas_proxy.report.figure_style import CONFIG, plotly_script
from nas_proxy.report.verdict import UNDEFINED, architectures, decimal, finite, interval, part


def comparison_html(ranking: Mapping[str, Any], name: str) -> str:
    """Return the page; `name` is the comparison's."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_resource("nas_proxy.compare", "compare.html.j2"))
    figures = {f"figure-{cost}": correlation_by_cost(ranking, cost) for cost in ("seconds", "passes")}
    return template.render(
        name=name,
        style=Markup(_style()),
        head=_head(ranking),
        evidence=_evidence(ranking),
        tables={group: _table(ranking, wanted) for group, wanted in GROUPS.items()},
        remarks=remarks(ranking),
        settings=[(key, _plain(value)) for key, value in part(ranking, "settings").items()],
        environment=[(key, _plain(value)) for key, value in part(ranking, "environment").items()],
        figures={key: json.loads(figure.to_json()) for key, figure in figures.items()},
        figure_config=CONFIG,
        # The one text that is not escaped: the library's own script.
        plotly=Markup(plotly_script()),
    )


def _table(ranking: Mapping[str, Any], wanted: tuple[str, ...]) -> dict[str, Any]:
    """Return the titles of some columns, and the rows in which any of them has a value."""
    shown = columns(ranking)
    titles = chosen_columns(shown, wanted)
    rows = [
        {"name": row, "label": _breakable(named(row)), "cells": [_cell(shown[title](values)) for title in titles]}
        for row, values in part(ranking, "signals").items()
    ]
    known = [row for row in rows if any(value != UNDEFINED for value, _ in row["cells"])]
    return {"titles": titles, "rows": known, "words": [place for place, title in enumerate(titles) if "?" in title]}


def _cell(text: str) -> tuple[str, str]:
    """Return a value, and what stands smaller under it: an interval, or what would tell."""
    for start in (" [", " ("):
        value, found, rest = text.partition(start)
        if found:
            return value, start.strip() + rest
    return text, ""


def _breakable(name: str) -> Markup:
    """Return a name that may be broken where it has a mark."""
    return Markup(re.sub(r"([:+@_])", r"\1<wbr>", str(escape(name))))


def _head(ranking: Mapping[str, Any]) -> str:
    signals = {name: values for name, values in part(ranking, "signals").items() if name != REPEATABILITY}
    known = {name: finite(part(values, "spearman").get("value")) for name, values in signals.items()}
    defined = {name: value for name, value in known.items() if value is not None}
    if not defined:
        return "Nothing can be ranked"
    best = max(defined, key=lambda name: defined[name])
    return f"{named(best)} ranks best here: Spearman {interval(part(signals, best).get('spearman'))}"


def _evidence(ranking: Mapping[str, Any]) -> str:
    beaten = [named(n) for n, values in part(ranking, "signals").items() if values.get("beats_random") == "yes"]
    told = ", ".join(name for name in beaten if name != named(REPEATABILITY))
    repeated = part(ranking, "signals", REPEATABILITY, "spearman").get("value")
    parts = [f"over {architectures(ranking.get('n'))}"]
    parts.append(
        f"better than random images: {told}" if told else "of no signal can be told that it beats random images"
    )
    if finite(repeated) is not None:
        parts.append(f"full training repeats itself at {decimal(repeated)}")
    return "; ".join(parts)


def _style() -> str:
    """Return the report's style sheet."""
    found = re.search(r"<style>\n(.*?)</style>", _resource("nas_proxy.report", "report.html.j2"), re.DOTALL)
    assert found is not None
    return found[1]


def _resource(package: str, name: str) -> str:
    return resources(package).joinpath(name).read_text(encoding="utf-8")


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
