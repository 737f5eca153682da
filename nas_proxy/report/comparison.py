"""The files of a comparison beside its `ranking.json`: the folder in; table.csv, table.md and compare.html out."""

import json
from pathlib import Path

from nas_proxy.compare.page import comparison_html
from nas_proxy.compare.text import markdown, table_csv
from nas_proxy.files import write_text


def write_comparison(folder: Path) -> None:
    """Write all files, each at once or not at all."""
    ranking = json.loads((folder / "ranking.json").read_text(encoding="utf-8"))
    write_text(folder / "table.csv", table_csv(ranking))
    write_text(folder / "table.md", markdown(ranking))
    write_text(folder / "compare.html", comparison_html(ranking, folder.resolve().name))
