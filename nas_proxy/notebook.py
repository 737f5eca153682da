"""How objects show themselves in a notebook: pieces of HTML, and figures under them.

Text is escaped, pictures are inside, and nothing is asked of another machine. Outside of a notebook an object shows its
`repr`, one line.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterable, Sequence
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


def table(rows: Iterable[Sequence[object]], heads: Sequence[str]) -> str:
    """Return a table: its heads, and its rows."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def frame(rows: pd.DataFrame) -> str:
    """Return a table of a data frame, without its index; what is not known is empty."""
    return rows.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}")


def pictures(named: Iterable[tuple[str, bytes, int]]) -> str:
    """Return PNG pictures beside each other: what each is, the file, and its width on the page in pixels."""
    return "".join(
        "<figure style='display:inline-block;margin:0 1em 0 0;vertical-align:top'>"
        f"<figcaption>{escape(name)}</figcaption>"
        f"<img alt='{escape(name)}' width='{width}' style='image-rendering:pixelated' "
        f"src='data:image/png;base64,{base64.b64encode(png).decode()}'></figure>"
        for name, png, width in named
    )
