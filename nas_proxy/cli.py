"""The command line. Results go to stdout, progress and mistakes to stderr; `nas_proxy.exits` has the exit codes."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_proxy._version import __version__
from nas_proxy.exits import end_if_interrupted, explained

if TYPE_CHECKING:
    from nas_proxy.progress import Terminal
    from nas_proxy.run_folder import RunFolder

# The options of `run` that are called otherwise than the setting.
SETTINGS = {
    "ipc": "condense.images_per_class",
    "method": "condense.method",
    "from": "condense.source",
    "steps": "condense.steps",
    "epochs": "proxy_training.epochs",
    "truth_epochs": "full_training.epochs",
}


def _examples(*lines: str) -> str:
    """Return an epilog with examples; an empty line keeps them on lines of their own."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


app = typer.Typer(
    name="nas-proxy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search neural architectures on a condensed data set, and see how far its ranking can be trusted.",
    epilog=_examples("nas-proxy run", "nas-proxy run --help"),
)


def _number(text: str) -> Any:
    """Return a number where `text` is one; what is none gets its sentence with all other mistakes in settings."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _numeric(text: str) -> Any:
    """Return an option of `run` that takes a number."""
    return typer.Option(help=text, parser=_number, metavar="N")


METHOD = "dm (distribution matching), random, herding or kcenter."
Run = Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


@app.command(
    "run",
    epilog=_examples(
        "nas-proxy run",
        "nas-proxy run --trials 12 --truth 6 --epochs 20 --out runs/quick",
    ),
)
def run_command(
    dataset: Annotated[str | None, typer.Option(help="digits, cifar10, …, folder:DIR or npz:FILE.")] = None,
    space: Annotated[str | None, typer.Option(help="A built-in space, or the path of a Python file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<dataset>-<space> if not given.")] = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of a run.toml.")] = None,
    ipc: Annotated[int | None, _numeric("Synthetic images a class.")] = None,
    trials: Annotated[int | None, _numeric("Architectures trained on the proxy, the sample included.")] = None,
    truth: Annotated[int | None, _numeric("Architectures in the uniform sample, trained on all data.")] = None,
    seed: Annotated[int | None, _numeric("All randomness derives from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    workers: Annotated[int | None, _numeric("Processes that train; 0: one a core, or one on a GPU.")] = None,
    candidate_minutes: Annotated[float | None, _numeric("End a candidate that trains longer than this.")] = None,
    steps: Annotated[int | None, _numeric("Steps of the condensation.")] = None,
    epochs: Annotated[float | None, _numeric("Epochs of a training on the proxy.")] = None,
    truth_epochs: Annotated[float | None, _numeric("Epochs of a full training.")] = None,
    limit: Annotated[int | None, _numeric("At most so many images a class are used of the data.")] = None,
    image_size: Annotated[int | None, _numeric("Resize images to a square of so many pixels.")] = None,
    method: Annotated[str | None, typer.Option(help=METHOD)] = None,
    no_flip: Annotated[bool, typer.Option("--no-flip", help="Never mirror images.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Condense, search, train the ground truth, rank and report. Run it again to continue or to extend."""
    given = {
        "dataset": dataset,
        "space": space,
        "seed": seed,
        "trials": trials,
        "truth": truth,
        "limit": limit,
        "image_size": image_size,
        "device": device,
        "workers": workers,
        "candidate_minutes": candidate_minutes,
        "flip": False if no_flip else None,
        "condense": {"method": method, "images_per_class": ipc, "steps": steps},
        "proxy_training": {"epochs": epochs},
        "full_training": {"epochs": truth_epochs},
    }
    with _at_work() as terminal:
        from nas_proxy.config import resolve
        from nas_proxy.stages import run_all

        settings = resolve(given, config, options=_options())
        run = run_all(settings, out, overwrite=overwrite, progress=terminal)
    _print_ranking(run.path, as_json=as_json)
    _tell(f"Report: {run / 'report.html'}")


@app.command(
    "condense",
    epilog=_examples(
        "nas-proxy condense runs/digits-convnet",
        "nas-proxy condense runs/herding --dataset digits --method herding --evaluate --evaluate-epochs 100",
    ),
)
def condense_command(
    run: Run,
    dataset: Annotated[str | None, typer.Option(help="Make the run, for this data set.")] = None,
    method: Annotated[str | None, typer.Option(help=METHOD)] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Read a published .pt or .npz file instead.")] = None,
    ipc: Annotated[int | None, _numeric("Images a class.")] = None,
    steps: Annotated[int | None, _numeric("Steps of the condensation.")] = None,
    seed: Annotated[int | None, _numeric("All randomness derives from it.")] = None,
    limit: Annotated[int | None, _numeric("At most so many images a class are used of the data.")] = None,
    image_size: Annotated[int | None, _numeric("Resize images to a square of so many pixels.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Train ConvNets on the set and on random images.")
    ] = False,
    evaluate_epochs: Annotated[float, typer.Option(help="Epochs of these trainings.", min=1, max=1e6)] = 1000.0,
    export: Annotated[Path | None, typer.Option(help="Write the images as PNG files into this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Make the condensed set of a run; with --dataset, make the run as well."""
    given = {
        "dataset": dataset,
        "seed": seed,
        "limit": limit,
        "image_size": image_size,
        "device": device,
        "condense": {
            "method": method,
            "source": None if source is None else str(source),
            "images_per_class": ipc,
            "steps": steps,
        },
    }
    with _at_work() as terminal:
        from nas_proxy.config import resolve
        from nas_proxy.run_folder import open_run
        from nas_proxy.stages import evaluate_run, export_images, run_all

        file = None if dataset is not None else open_run(run).path / "run.toml"
        settings = resolve(given, file, options=_options())
        folder = run_all(settings, run, progress=terminal, names=("condense",))
        found = evaluate_run(folder, evaluate_epochs, terminal) if evaluate else None
        if export is not None:
            export_images(folder, export, terminal)
    from nas_proxy.images import ImageSet

    path = folder / "proxy.safetensors"
    images, metadata = ImageSet.load(path), ImageSet.load_metadata(path)
    seconds = float(str(metadata["seconds"]))
    result: dict[str, Any] = {
        "method": metadata["method"],
        "images": len(images),
        "classes": len(images.classes),
        "seconds": seconds,
        "seconds_per_step": seconds / settings.condense.steps if metadata["method"] == "dm" else None,
        "stored_bytes": images.stored_bytes,
        "path": str(path),
        **({} if found is None else found.as_json()),
    }
    text = f"{len(images)} images of {len(images.classes)} classes in {path}"
    if found is not None:
        text += (
            f"\nValidation accuracy of ConvNets trained on them: {found.accuracy:.1%} ± {found.std:.1%}; "
            f"on random images: {found.random_accuracy:.1%} ± {found.random_std:.1%} (5 networks each)"
        )
    _print(result, text, as_json=as_json)


@app.command(
    "search", epilog=_examples("nas-proxy search runs/digits-convnet", "nas-proxy search runs/digits-convnet --json")
)
def search_command(run: Run, as_json: Json = False) -> None:
    """Search on the condensed set of a run."""
    folder = _do(run, "search")
    trials = _rows(folder / "trials.csv")
    complete = [row for row in trials if row["state"] == "complete"]
    best = max(complete, key=lambda row: row["score"])
    result = {"trials": len(trials), "failed": len(trials) - len(complete), "best": best["key"], "score": best["score"]}
    text = (
        f"{len(complete)} architectures trained, {result['failed']} failed; best {best['key']} at {best['score']:.1%}"
    )
    _print(result, text, as_json=as_json)


@app.command(
    "truth", epilog=_examples("nas-proxy truth runs/digits-convnet", "nas-proxy truth runs/digits-convnet --json")
)
def truth_command(run: Run, as_json: Json = False) -> None:
    """Train the sampled architectures and the search's best fully."""
    truth = _rows(_do(run, "truth") / "truth.csv")
    best = max(truth, key=lambda row: row["accuracy"])
    result = {"architectures": len(truth), "best": best["key"], "accuracy": best["accuracy"]}
    text = f"{len(truth)} architectures fully trained; the best is {best['key']} at {best['accuracy']:.1%}"
    _print(result, text, as_json=as_json)


@app.command(
    "rank", epilog=_examples("nas-proxy rank runs/digits-convnet", "nas-proxy rank runs/digits-convnet --json")
)
def rank_command(run: Run, as_json: Json = False) -> None:
    """Train the controls, and judge every signal by the ground truth."""
    _print_ranking(_do(run, "rank").path, as_json=as_json)


@app.command(
    "report", epilog=_examples("nas-proxy report runs/digits-convnet", "nas-proxy report runs/digits-convnet --json")
)
def report_command(run: Run, as_json: Json = False) -> None:
    """Write report.html from what the run folder holds."""
    from nas_proxy.report import write_report
    from nas_proxy.run_folder import open_run

    path = write_report(open_run(run).path)
    _print({"path": str(path)}, str(path), as_json=as_json)


@app.command("datasets", epilog=_examples("nas-proxy datasets", "nas-proxy datasets --json"))
def datasets_command(as_json: Json = False) -> None:
    """List what --dataset takes."""
    from nas_proxy.sources import list_datasets

    _print_pairs(list_datasets(), as_json=as_json)


@app.command("spaces", epilog=_examples("nas-proxy spaces", "nas-proxy spaces --json"))
def spaces_command(as_json: Json = False) -> None:
    """List the built-in search spaces."""
    from nas_proxy.space_loading import list_spaces

    _print_pairs(
        [*list_spaces(), ("FILE.py", "Your own: a file that defines `space`; see the README.")],
        as_json=as_json,
    )


def _do(run: Path, stage: str) -> "RunFolder":
    with _at_work() as terminal:
        from nas_proxy.run_folder import open_run
        from nas_proxy.stages import run_stages

        folder = open_run(run)
        run_stages(folder, (stage,), terminal)
    return folder


@contextlib.contextmanager
def _at_work() -> Iterator["Terminal"]:
    """Yield where progress is shown; what the user's code prints meanwhile stays out of the results on stdout."""
    import optuna

    from nas_proxy.progress import Terminal

    # The program's own log level; the library leaves logging alone.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with contextlib.redirect_stdout(sys.stderr):
        yield Terminal(end_if_interrupted)


def _options() -> dict[str, str]:
    """Return what the settings are called on the command line."""
    same = ("dataset", "space", "seed", "trials", "truth", "limit", "image_size", "device", "workers")
    return {path: f"--{name.replace('_', '-')}" for name, path in [*((n, n) for n in same), *SETTINGS.items()]}


def _rows(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    return pd.read_csv(path).to_dict("records")  # type: ignore[return-value]


def _print_ranking(run: Path, *, as_json: bool) -> None:
    text = (run / "ranking.json").read_text(encoding="utf-8")
    if as_json:
        _out(text)
        return
    from rich.console import Console

    from nas_proxy.terminal import ranking_table

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = 100  # of the widest table; a pipe or a file has no width of its own
    with console.capture() as captured:
        console.print(ranking_table(json.loads(text)))
    _out(captured.get())


def _print(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    _out((json.dumps(result) if as_json else text) + "\n")


def _print_pairs(pairs: list[tuple[str, str]], *, as_json: bool) -> None:
    width = max(len(name) for name, _ in pairs)
    rows = [{"name": name, "description": text} for name, text in pairs]
    lines = [f"{name:<{width}}  {text}" for name, text in pairs]
    _out((json.dumps(rows) if as_json else "\n".join(lines)) + "\n")


def _out(text: str) -> None:
    """Write a result to stdout; a reader that has seen enough, as `head` has, is no mistake."""
    try:
        typer.echo(text, nl=False)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Run the command line and turn errors into sentences and exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a "×" is not worth an error where the encoding lacks it
    with explained():
        app()
