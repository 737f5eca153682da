"""The command line. Results go to stdout, progress and mistakes to stderr; `nas_proxy.cli.exits` has the exit codes."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_proxy._version import __version__
from nas_proxy.cli import condense as cli_condense
from nas_proxy.cli import watch as cli_watch
from nas_proxy.cli.exits import explained
from nas_proxy.cli.options import (
    COMBINE,
    EMBED,
    ENQUEUE,
    FORMATION,
    MATCH,
    METHOD,
    SAMPLER,
    SIGNALS,
    Json,
    Run,
    examples,
    listed,
    numeric,
    option_names,
)
from nas_proxy.cli.printing import at_work, print_pairs, print_ranking, print_result, rows, tell

if TYPE_CHECKING:
    from nas_proxy.pipeline.run_folder import RunFolder

app = typer.Typer(
    name="nas-proxy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search neural architectures on a condensed data set, and see how far its ranking can be trusted.",
    epilog=examples("nas-proxy run", "nas-proxy run --help"),
)


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(
    "run",
    epilog=examples(
        "nas-proxy run",
        "nas-proxy run --trials 12 --truth 6 --epochs 20 --out runs/quick",
    ),
)
def run_command(
    dataset: Annotated[str | None, typer.Option(help="digits, cifar10, …, folder:DIR or npz:FILE.")] = None,
    space: Annotated[str | None, typer.Option(help="A built-in space, or the path of a Python file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<dataset>-<space> if not given.")] = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of a run.toml.")] = None,
    ipc: Annotated[int | None, numeric("Synthetic images a class.")] = None,
    trials: Annotated[int | None, numeric("Architectures trained on the proxy, the sample included.")] = None,
    truth: Annotated[int | None, numeric("Architectures in the uniform sample, trained on all data.")] = None,
    truth_table: Annotated[
        str | None, typer.Option(help="Published accuracies in place of full training.", metavar="FILE[:COLUMN]")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help=SAMPLER)] = None,
    enqueue: Annotated[Path | None, typer.Option(help=ENQUEUE)] = None,
    patience: Annotated[int | None, numeric("End the search after so many proposals without a better one.")] = None,
    hours: Annotated[float | None, numeric("Propose no more after so long; the same command goes on.")] = None,
    max_params: Annotated[int | None, numeric("No architecture with more parameters.")] = None,
    max_flops: Annotated[int | None, numeric("No architecture with more FLOPs an image.")] = None,
    seed: Annotated[int | None, numeric("All randomness derives from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    workers: Annotated[int | None, numeric("Processes that train; 0: one a core, or one on a GPU.")] = None,
    candidate_minutes: Annotated[float | None, numeric("End a candidate that trains longer than this.")] = None,
    steps: Annotated[int | None, numeric("Steps of the condensation.")] = None,
    epochs: Annotated[float | None, numeric("Epochs of a training on the proxy.")] = None,
    truth_epochs: Annotated[float | None, numeric("Epochs of a full training.")] = None,
    limit: Annotated[int | None, numeric("At most so many images a class are used of the data.")] = None,
    image_size: Annotated[int | None, numeric("Resize images to a square of so many pixels.")] = None,
    method: Annotated[str | None, typer.Option(help=METHOD)] = None,
    formation: Annotated[int | None, numeric(FORMATION)] = None,
    match: Annotated[str | None, typer.Option(help=MATCH)] = None,
    embed: Annotated[str | None, typer.Option(help=EMBED)] = None,
    signals: Annotated[str | None, typer.Option(help=SIGNALS, metavar="NAMES")] = None,
    combine: Annotated[str | None, typer.Option(help=COMBINE, metavar="NAMES")] = None,
    no_flip: Annotated[bool, typer.Option("--no-flip", help="Never mirror images.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Condense, search, train the ground truth, rank and report. Run it again to continue or to extend."""
    given: dict[str, Any] = {
        "dataset": dataset,
        "space": space,
        "seed": seed,
        "trials": trials,
        "truth": truth,
        "truth_table": truth_table,
        "patience": patience,
        "hours": hours,
        "max_params": max_params,
        "max_flops": max_flops,
        "sampler": sampler,
        "limit": limit,
        "image_size": image_size,
        "device": device,
        "workers": workers,
        "candidate_minutes": candidate_minutes,
        "signals": listed(signals),
        "combine": listed(combine),
        "flip": False if no_flip else None,
        "condense": {
            "method": method,
            "images_per_class": ipc,
            "steps": steps,
            "formation": formation,
            "match": match,
            "embed": embed,
        },
        "proxy_training": {"epochs": epochs},
        "full_training": {"epochs": truth_epochs},
    }
    with at_work() as terminal:
        from nas_proxy.pipeline.config import resolve
        from nas_proxy.pipeline.stages import run_all
        from nas_proxy.search.enqueue import read_entries

        if enqueue is not None:
            given["enqueue"] = read_entries(enqueue)
        settings = resolve(given, config, options=option_names())
        run = run_all(settings, out, overwrite=overwrite, progress=terminal)
    print_ranking(run.path, as_json=as_json)
    tell(f"Report: {run / 'report.html'}")


app.command(
    "condense",
    epilog=examples(
        "nas-proxy condense runs/digits-convnet",
        "nas-proxy condense runs/herding --dataset digits --method herding --evaluate --evaluate-epochs 100",
    ),
)(cli_condense.condense_command)


@app.command(
    "search",
    epilog=examples("nas-proxy search runs/digits-convnet", "nas-proxy search runs/digits-convnet --json"),
)
def search_command(
    run: Run,
    sampler: Annotated[str | None, typer.Option(help=SAMPLER)] = None,
    enqueue: Annotated[Path | None, typer.Option(help=ENQUEUE)] = None,
    as_json: Json = False,
) -> None:
    """Search on the condensed set of a run; how, can be changed until the first architecture is proposed."""
    with at_work() as terminal:
        from nas_proxy.pipeline.config import resolve
        from nas_proxy.pipeline.run_folder import open_run
        from nas_proxy.pipeline.stages import run_all
        from nas_proxy.search.enqueue import read_entries

        folder = open_run(run)
        given = {"sampler": sampler, "enqueue": None if enqueue is None else read_entries(enqueue)}
        settings = resolve(given, folder / "run.toml", options=option_names())
        run_all(settings, run, progress=terminal, names=("search",))
    trials = rows(folder / "trials.csv")
    complete = [row for row in trials if row["state"] == "complete"]
    best = max(complete, key=lambda row: row["score"])
    result = {"trials": len(trials), "failed": len(trials) - len(complete), "best": best["key"], "score": best["score"]}
    text = (
        f"{len(complete)} architectures trained, {result['failed']} failed; best {best['key']} at {best['score']:.1%}"
    )
    print_result(result, text, as_json=as_json)


@app.command(
    "truth", epilog=examples("nas-proxy truth runs/digits-convnet", "nas-proxy truth runs/digits-convnet --json")
)
def truth_command(run: Run, as_json: Json = False) -> None:
    """Train the sampled architectures and the search's best fully, or look them up in the truth table."""
    truth = rows(_do(run, "truth") / "truth.csv")
    best = max(truth, key=lambda row: row["accuracy"])
    result = {"architectures": len(truth), "best": best["key"], "accuracy": best["accuracy"]}
    known = "fully trained" if "seconds" in best else "have a published accuracy"
    text = f"{len(truth)} architectures {known}; the best is {best['key']} at {best['accuracy']:.1%}"
    print_result(result, text, as_json=as_json)


@app.command(
    "rank",
    epilog=examples(
        "nas-proxy rank runs/digits-convnet",
        "nas-proxy rank runs/digits-convnet --signals params,flops,synflow --combine proxy,synflow",
    ),
)
def rank_command(
    run: Run,
    signals: Annotated[str | None, typer.Option(help=SIGNALS, metavar="NAMES")] = None,
    combine: Annotated[str | None, typer.Option(help=COMBINE, metavar="NAMES")] = None,
    as_json: Json = False,
) -> None:
    """Train the controls, compute the others, and judge every signal by the ground truth. Its options stay chosen."""
    with at_work() as terminal:
        from nas_proxy.pipeline.config import resolve
        from nas_proxy.pipeline.run_folder import open_run
        from nas_proxy.pipeline.stages import run_all

        given = {"signals": listed(signals), "combine": listed(combine)}
        settings = resolve(given, open_run(run).path / "run.toml", options=option_names())
        run_all(settings, run, progress=terminal, names=("rank",))
    print_ranking(run, as_json=as_json)


@app.command(
    "report", epilog=examples("nas-proxy report runs/digits-convnet", "nas-proxy report runs/digits-convnet --json")
)
def report_command(run: Run, as_json: Json = False) -> None:
    """Write report.html from what the run folder holds."""
    from nas_proxy.pipeline.run_folder import open_run
    from nas_proxy.report.page import write_report

    path = write_report(open_run(run).path)
    print_result({"path": str(path)}, str(path), as_json=as_json)


app.command(
    "status", epilog=examples("nas-proxy status runs/digits-convnet", "nas-proxy status runs/digits-convnet --watch")
)(cli_watch.status_command)
app.command(
    "dashboard",
    epilog=examples(
        "nas-proxy dashboard runs/digits-convnet", "nas-proxy dashboard runs/digits-convnet --port 0 --no-browser"
    ),
)(cli_watch.dashboard_command)


@app.command(
    "final",
    epilog=examples(
        "nas-proxy final runs/digits-convnet",
        "nas-proxy final runs/digits-convnet --rank 2 --epochs 20 --out runs/second",
    ),
)
def final_command(
    run: Run,
    rank: Annotated[int | None, typer.Option(help="Place in the search; 1, the pick, if not given.")] = None,
    key: Annotated[str | None, typer.Option(help="Key of an architecture that the search trained.")] = None,
    epochs: Annotated[float | None, numeric("Epochs; those of the run's full training if not given.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; RUN/final if not given.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another network in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Train the pick on all train and validation images, score it once on test, and export it."""
    with at_work() as terminal:
        from nas_proxy.pipeline.config import resolve
        from nas_proxy.pipeline.run_folder import open_run
        from nas_proxy.report.page import write_report
        from nas_proxy.search.final import told_as_text, train_final

        folder = open_run(run)
        given = {"full_training": {"epochs": epochs}}
        recipe = resolve(given, folder / "run.toml", options={"full_training.epochs": "--epochs"}).full_training
        found = train_final(folder, rank=rank, key=key, recipe=recipe, out=out, overwrite=overwrite, progress=terminal)
        if out is None and (folder / "report.html").exists():
            write_report(folder.path)
    result = {**found.told, "folder": str(found.folder), "not_written": dict(found.not_written)}
    print_result(result, told_as_text(found), as_json=as_json)
    for name, reason in found.not_written.items():
        tell(f"{found.folder / name} was not written: {reason}")


@app.command("datasets", epilog=examples("nas-proxy datasets", "nas-proxy datasets --json"))
def datasets_command(as_json: Json = False) -> None:
    """List what --dataset takes."""
    from nas_proxy.data.sources import list_datasets

    print_pairs(list_datasets(), as_json=as_json)


@app.command("spaces", epilog=examples("nas-proxy spaces", "nas-proxy spaces --json"))
def spaces_command(as_json: Json = False) -> None:
    """List the built-in search spaces."""
    from nas_proxy.spaces.loading import list_spaces

    print_pairs(
        [*list_spaces(), ("FILE.py", "Your own: a file that defines `space`; see the README's tutorial.")],
        as_json=as_json,
    )


def _do(run: Path, stage: str) -> "RunFolder":
    with at_work() as terminal:
        from nas_proxy.pipeline.run_folder import open_run
        from nas_proxy.pipeline.stages import run_stages

        folder = open_run(run)
        run_stages(folder, (stage,), terminal)
    return folder


def main() -> None:
    """Run the command line and turn errors into sentences and exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a "×" is not worth an error where the encoding lacks it
    with explained():
        app()
