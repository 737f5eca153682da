"""The files of a comparison: the table in; scores.csv, ranking.json, table.csv, table.md and compare.html out."""

from nas_proxy.compare.page import comparison_html
from nas_proxy.compare.table import Table
from nas_proxy.compare.text import markdown, table_csv
from nas_proxy.files import write_json, write_text
from nas_proxy.pipeline.run_folder import RunFolder


def write_outputs(run: RunFolder, table: Table) -> None:
    """Write all files, each at once or not at all."""
    write_text(run / "scores.csv", table.scores.to_csv(index=False))
    write_json(run / "ranking.json", table.ranking)
    write_text(run / "table.csv", table_csv(table.ranking))
    write_text(run / "table.md", markdown(table.ranking))
    write_text(run / "compare.html", comparison_html(table.ranking, run.path.resolve().name))
