"""The command `compare`: the paper's table for any data set and space."""

import os
from pathlib import Path
from typing import Annotated

import typer

from nas_proxy.cli.options import Json, listed, numeric, option_names
from nas_proxy.cli.printing import at_work, out, tell

NAMES = (
    "Signals, with commas between: dm, dm+space, dm+formation, dm+all (and combinations), random, herding, kcenter, "
    "early_stop, params, flops, synflow, jacob_cov, naswot."
)


def compare_command(
    dataset: Annotated[str | None, typer.Option(help="digits, cifar10, …, folder:DIR or npz:FILE.")] = None,
    space: Annotated[str | None, typer.Option(help="A built-in space, or the path of a Python file.")] = None,
    truth_table: Annotated[
        str | None, typer.Option(help="Published accuracies in place of full training.", metavar="FILE[:COLUMN]")
    ] = None,
    sample: Annotated[
        int | None, numeric("Architectures drawn uniformly, on which all signals are judged; 24.")
    ] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder; runs/compare-… if not given.")] = None,
    signals: Annotated[str | None, typer.Option(help=NAMES, metavar="NAMES")] = None,
    combine: Annotated[
        str | None, typer.Option(help="Add the mean rank of several rows, with commas between.", metavar="NAMES")
    ] = None,
    score: Annotated[str, typer.Option(help="Rows by accuracy, by loss_sum, or both.")] = "both",
    draws: Annotated[int, numeric("Sets of each kind: seeds of dm, draws of random images.")] = 3,
    passes: Annotated[int | None, numeric("Image passes of a training, in place of --epochs.")] = None,
    candidates: Annotated[int | None, numeric("Candidates that share the making of a set; the sample.")] = None,
    ipc: Annotated[int | None, numeric("Stored images a class.")] = None,
    steps: Annotated[int | None, numeric("Steps of a condensation.")] = None,
    width: Annotated[int | None, numeric("Channels of the embedding ConvNet.")] = None,
    real_batch: Annotated[int | None, numeric("Real images a class and step.")] = None,
    epochs: Annotated[float | None, numeric("Epochs of a training on a set.")] = None,
    batch: Annotated[int | None, numeric("Images a step of a training.")] = None,
    learning_rate: Annotated[float | None, numeric("Learning rate of a training.")] = None,
    truth_epochs: Annotated[float | None, numeric("Epochs of a full training.")] = None,
    seed: Annotated[int | None, numeric("All randomness derives from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    workers: Annotated[int | None, numeric("Processes that train; 0: one a core, or one on a GPU.")] = None,
    limit: Annotated[int | None, numeric("At most so many images a class are used of the data.")] = None,
    image_size: Annotated[int | None, numeric("Resize images to a square of so many pixels.")] = None,
    no_flip: Annotated[bool, typer.Option("--no-flip", help="Never mirror images.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another comparison in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Compare signals on one sample of architectures, at equal cost. Run it again to continue or to extend."""
    given = {
        "dataset": dataset,
        "space": space,
        "truth_table": truth_table,
        "seed": seed,
        "device": device,
        "workers": workers,
        "limit": limit,
        "image_size": image_size,
        "flip": False if no_flip else None,
        "condense": {"images_per_class": ipc, "steps": steps, "width": width, "real_batch": real_batch},
        "proxy_training": {"epochs": epochs, "batch_size": batch, "learning_rate": learning_rate},
        "full_training": {"epochs": truth_epochs},
    }
    named = {"proxy_training.batch_size": "--batch", "proxy_training.learning_rate": "--learning-rate"}
    with at_work() as terminal:
        from nas_proxy.compare.compare import compare
        from nas_proxy.compare.settings import resolve_comparison

        settings = resolve_comparison(
            given,
            signals=listed(signals),
            combine=listed(combine),
            score=score,
            sample=sample,
            draws=draws,
            passes=passes,
            candidates=candidates,
            options=option_names() | named,
        )
        run, table = compare(settings, folder, overwrite=overwrite, progress=terminal)
    if as_json:
        out((run / "ranking.json").read_text(encoding="utf-8"))
    else:
        _print(table.ranking)
    tell(f"Page: {run / 'compare.html'}")


def _print(ranking: dict[str, object]) -> None:
    from rich.console import Console

    from nas_proxy.compare.text import comparison_tables

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 100  # a pipe or a file has no width of its own
    with console.capture() as captured:
        console.print(comparison_tables(ranking))
    out(captured.get())
