"""`nas-proxy final`: from a search to a network that can be used."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nas_proxy.cli.options import Json, Run, setting
from nas_proxy.cli.printing import at_work, print_result, tell


def final_command(
    run: Run,
    rank: Annotated[int | None, typer.Option(help="Place in the search; 1, the pick, if not given.")] = None,
    key: Annotated[str | None, typer.Option(help="Key of an architecture that the search trained.")] = None,
    front: Annotated[int | None, typer.Option(help="Place on the Pareto front, the cheapest first.")] = None,
    epochs: Annotated[
        float | None, setting("full_training.epochs", help="Epochs; those of the run's full training if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN/final if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another network in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Train the pick on all train and validation images, score it once on test, and export it."""
    from nas_proxy.runs.folder import open_run

    folder = open_run(run, comparisons=False)
    with at_work() as terminal:
        from nas_proxy.pipeline.final import told_as_text, train_final
        from nas_proxy.report.page import write_report
        from nas_proxy.runs.resolving import resolve

        given = {"full_training": {"epochs": epochs}}
        recipe = resolve(given, folder / "run.toml", options={"full_training.epochs": "--epochs"}).full_training
        wanted: dict[str, Any] = {"rank": rank, "key": key, "front": front}
        found = train_final(folder, **wanted, recipe=recipe, out=out, overwrite=overwrite, progress=terminal)
        if out is None and (folder / "report.html").exists():
            write_report(folder.path)
    result = {**found.told, "folder": str(found.folder), "not_written": dict(found.not_written)}
    print_result(result, told_as_text(found), as_json=as_json)
    for name, reason in found.not_written.items():
        tell(f"{found.folder / name} was not written: {reason}")
