"""What the command line shows: results on stdout, as text or as JSON; progress and remarks on stderr."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from nas_proxy.cli.exits import end_if_interrupted
from nas_proxy.errors import RunFailedError
from nas_proxy.untrusted import safe

if TYPE_CHECKING:
    from nas_proxy.progress import Terminal


@contextlib.contextmanager
def at_work() -> Iterator["Terminal"]:
    """Yield where progress is shown; what the user's code prints meanwhile stays out of the results on stdout."""
    import optuna

    from nas_proxy.progress import Terminal

    # The program's own log level; the library leaves logging alone.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        yield Terminal(end_if_interrupted)


def rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV file of a run; what is empty is NaN."""
    import pandas as pd

    # A key may be called "NA" or be all digits.
    try:
        frame = pd.read_csv(path, dtype={"key": str}, keep_default_na=False, na_values=[""])
    except pd.errors.EmptyDataError:  # of what was cut off before its first training
        return []
    return frame.to_dict("records")  # type: ignore[return-value]


def print_ranking(run: Path, *, as_json: bool) -> None:
    """Print the ranking of a run or a comparison as a table, or `ranking.json` and the decision that it comes to."""
    from nas_proxy.ranking.ranking import Ranking

    ranking = Ranking.read(run / "ranking.json")
    if as_json:
        out(json.dumps(ranking.as_json(), indent=2, ensure_ascii=False) + "\n")
        return
    from rich.console import Console

    from nas_proxy.report.terminal import ranking_table

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 100  # of the widest table; a pipe or a file has no width of its own
    with console.capture() as captured:
        console.print(ranking_table(ranking))
    out(captured.get())


def print_result(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    """Print `result` as JSON, or `text`."""
    out((json.dumps(result) if as_json else safe(text)) + "\n")


def found_by_search(trials: list[dict[str, Any]], by: str) -> tuple[dict[str, Any], str]:
    """Return what a search found, from the rows of trials.csv, as an object and as a sentence."""
    complete = [row for row in trials if row["state"] == "complete"]
    failed, pruned = (sum(row["state"] == state for row in trials) for state in ("failed", "pruned"))
    # A training that diverged has no sum of losses, which pandas reads as NaN.
    losing = [row for row in complete if row["loss_sum"] == row["loss_sum"]] or complete
    best = max(complete, key=lambda r: r["score"]) if by == "accuracy" else min(losing, key=lambda r: r["loss_sum"])
    losses = {} if by == "accuracy" else {"loss_sum": best["loss_sum"]}
    counted = {"trials": len(trials), "failed": failed, **({"pruned": pruned} if pruned else {})}
    told = f", {pruned} pruned" if pruned else ""
    least = f", the least sum of losses being {best['loss_sum']:.4g}" if losses else ""
    found = f"best {best['key']} at {best['score']:.1%}{least}"
    text = f"{len(complete)} architectures trained, {failed} failed{told}; {found}"
    return {**counted, "best": best["key"], "score": best["score"], **losses}, text


def found_by_truth(truth: list[dict[str, Any]]) -> tuple[dict[str, Any], str]:
    """Return what full training found, from the rows of truth.csv, as an object and as a sentence.

    Raises RunFailedError where no architecture has an accuracy.
    """
    known = [row for row in truth if row["accuracy"] == row["accuracy"]]  # pandas reads what is missing as NaN
    failed = len(truth) - len(known)
    if not known:
        raise RunFailedError(f"the full training of all {failed} architectures failed; nas-proxy dashboard tells why")
    best = max(known, key=lambda row: row["accuracy"])
    result = {"architectures": len(truth), "failed": failed, "best": best["key"], "accuracy": best["accuracy"]}
    what = "fully trained" if "seconds" in best else "have a published accuracy"
    told = f", {failed} failed" if failed else ""
    return result, f"{len(known)} architectures {what}{told}; the best is {best['key']} at {best['accuracy']:.1%}"


def print_pairs(pairs: list[tuple[str, str]], *, as_json: bool) -> None:
    """Print names and what they are."""
    width = max(len(name) for name, _ in pairs)
    rows = [{"name": name, "description": text} for name, text in pairs]
    lines = [f"{name:<{width}}  {text}" for name, text in pairs]
    out((json.dumps(rows) if as_json else "\n".join(lines)) + "\n")


def out(text: str) -> None:
    """Write a result to stdout; a reader that has seen enough, as `head` has, is no mistake."""
    try:
        typer.echo(text, nl=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def tell(text: str) -> None:
    """Write a remark to stderr."""
    typer.echo(safe(text), err=True)
