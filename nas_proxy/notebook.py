"""How objects show themselves in a notebook: pieces of HTML, and figures under them.

Text is escaped, pictures are inside, and nothing is asked of another machine. Outside of a notebook an object shows its
`repr`, one line.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Collection, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return getattr(shell, "kernel", None) is not None


class Shown:
    """An object that shows itself: `_repr_html_` and, in a notebook, its figures under that."""

    def _repr_html_(self) -> str:
        raise NotImplementedError

    def _figures(self) -> Sequence[Any]:
        return ()

    def _ipython_display_(self) -> None:
        if not in_notebook():  # IPython in a terminal would open a browser for a figure
            print(repr(self))
            return
        from IPython.display import display

        display(mimes(self._repr_html_(), repr(self)), raw=True)
        for figure in self._figures():
            display(figure)


def mimes(html: str, text: str) -> dict[str, str]:
    """Return a piece of HTML, and what stands for it where none is shown, as IPython displays the two."""
    return {"text/html": html, "text/plain": text}


def page(*parts: str) -> str:
    """Return pieces of HTML one under the other."""
    return f"<div>{''.join(parts)}</div>"


def line(text: object, *, bold: str = "") -> str:
    """Return a line of text, after a few words in bold type."""
    head = f"<b>{escape(bold)}</b> " if bold else ""
    return f"<p style='margin:0.4em 0'>{head}{escape(str(text))}</p>"


def table(rows: Iterable[Sequence[object]], heads: Sequence[str], *, words: Collection[int] = (0,)) -> str:
    """Return a table: its heads, and its rows. words: the columns of text, flush left; the others hold numbers."""
    styles = [" style='text-align:left'" if column in words else "" for column in range(len(heads))]

    def row(tag: str, cells: Iterable[object]) -> str:
        shown = (f"<{tag}{style}>{escape(str(cell))}</{tag}>" for style, cell in zip(styles, cells, strict=True))
        return f"<tr>{''.join(shown)}</tr>"

    body = "".join(row("td", cells) for cells in rows)
    return f"<table><thead>{row('th', heads)}</thead><tbody>{body}</tbody></table>"


def frame(rows: pd.DataFrame) -> str:
    """Return a table of a data frame, without its index: counts as such, else four decimals; the unknown is empty."""
    import pandas as pd

    def told(column: pd.Series[Any]) -> list[str]:
        if not pd.api.types.is_numeric_dtype(column):
            return ["" if unknown else str(value) for value, unknown in zip(column, column.isna(), strict=True)]
        digits = 0 if (column.dropna() % 1 == 0).all() else 4
        return ["" if pd.isna(value) else f"{value:,.{digits}f}" for value in column]

    words = [place for place, kind in enumerate(rows.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    columns = [told(rows[name]) for name in rows.columns]
    return table(zip(*columns, strict=True), [str(name) for name in rows.columns], words=words)


def pictures(named: Iterable[tuple[str, bytes, int]]) -> str:
    """Return PNG pictures beside each other: what each is, the file, and its width on the page in pixels."""
    return "".join(
        "<figure style='display:inline-block;margin:0 1em 0 0;vertical-align:top'>"
        f"<figcaption>{escape(name)}</figcaption>"
        f"<img alt='{escape(name)}' width='{width}' style='image-rendering:pixelated' "
        f"src='data:image/png;base64,{base64.b64encode(png).decode()}'></figure>"
        for name, png, width in named
    )
