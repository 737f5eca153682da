"""What the modules of the command line share: arguments, examples and results on stdout."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

Run = Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


def examples(*lines: str) -> str:
    """Return an epilog with examples; an empty line keeps them on lines of their own."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


def out(text: str) -> None:
    """Write a result to stdout; a reader that has seen enough, as `head` has, is no mistake."""
    try:
        typer.echo(text, nl=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Write what is no result to stderr."""
    typer.echo(text, err=True)


def print_result(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print a result as JSON or as text."""
    out((json.dumps(result) if as_json else text) + "\n")
