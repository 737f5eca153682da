"""The command line. Results go to stdout, progress and mistakes to stderr.

Exit codes: 0 done, 1 the work failed, 2 a mistake that the user can mend, 130 interrupted.
"""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from nas_proxy._version import __version__

app = typer.Typer(
    name="nas-proxy",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Search neural architectures on a condensed data set, and see how far its ranking can be trusted.",
)

Run = Annotated[Path, typer.Argument(help="The run folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


def _examples(*lines: str) -> str:
    """Return an epilog with examples; an empty line keeps them on lines of their own."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


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
        "nas-proxy run --dataset folder:photos --image-size 32 --ipc 20 --trials 100 --out runs/photos",
    ),
)
def run_command(
    dataset: Annotated[str | None, typer.Option(help="digits, cifar10, …, folder:DIR or npz:FILE.")] = None,
    space: Annotated[str | None, typer.Option(help="A built-in space, or the path of a Python file.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<dataset>-<space> if not given.")] = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of a run.toml.")] = None,
    ipc: Annotated[int | None, typer.Option(help="Synthetic images a class.")] = None,
    trials: Annotated[int | None, typer.Option(help="Architectures trained on the proxy, the sample included.")] = None,
    truth: Annotated[int | None, typer.Option(help="Architectures in the uniform sample, trained on all data.")] = None,
    seed: Annotated[int | None, typer.Option(help="All randomness derives from it.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    workers: Annotated[int | None, typer.Option(help="Processes that train; 0: one a core, or one on a GPU.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the condensation.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Epochs of a training on the proxy.")] = None,
    truth_epochs: Annotated[float | None, typer.Option(help="Epochs of a full training.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many images a class are used of the data.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Resize images to a square of so many pixels.")] = None,
    no_flip: Annotated[bool, typer.Option("--no-flip", help="Never mirror images.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")] = False,
    as_json: Json = False,
) -> None:
    """Condense, search, train the ground truth, rank and report. Run it again to continue or to extend."""
    from nas_proxy.config import resolve
    from nas_proxy.run_folder import prepare_run
    from nas_proxy.stages import default_folder, run_stages

    given: dict[str, Any] = {
        "dataset": dataset,
        "space": space,
        "seed": seed,
        "trials": trials,
        "truth": truth,
        "limit": limit,
        "image_size": image_size,
        "device": device,
        "workers": workers,
        "flip": False if no_flip else None,
        "condense": {"images_per_class": ipc, "steps": steps},
        "proxy_training": {"epochs": epochs},
        "full_training": {"epochs": truth_epochs},
    }
    settings = resolve(given, config)
    run = prepare_run(out or default_folder(settings), settings, overwrite=overwrite)
    run_stages(run, progress=_terminal())
    _print_ranking(run.path, as_json=as_json)
    _tell(f"Report: {run / 'report.html'}")


@app.command(
    "condense",
    epilog=_examples("nas-proxy condense runs/digits-convnet", "nas-proxy condense runs/photos --json"),
)
def condense_command(run: Run, as_json: Json = False) -> None:
    """Make the condensed set of a run."""
    folder = _do(run, "condense")
    from nas_proxy.images import ImageSet

    path = folder / "proxy.safetensors"
    images, metadata = ImageSet.load(path), ImageSet.load_metadata(path)
    result = {
        "images": len(images),
        "classes": len(images.classes),
        "seconds": metadata["seconds"],
        "stored_bytes": images.stored_bytes,
        "path": str(path),
    }
    _print(result, f"{len(images)} images of {len(images.classes)} classes in {path}", as_json=as_json)


@app.command("search", epilog=_examples("nas-proxy search runs/digits-convnet", "nas-proxy search runs/photos --json"))
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


@app.command("truth", epilog=_examples("nas-proxy truth runs/digits-convnet", "nas-proxy truth runs/photos --json"))
def truth_command(run: Run, as_json: Json = False) -> None:
    """Train the sampled architectures and the search's best fully."""
    truth = _rows(_do(run, "truth") / "truth.csv")
    best = max(truth, key=lambda row: row["accuracy"])
    result = {"architectures": len(truth), "best": best["key"], "accuracy": best["accuracy"]}
    text = f"{len(truth)} architectures fully trained; the best is {best['key']} at {best['accuracy']:.1%}"
    _print(result, text, as_json=as_json)


@app.command("rank", epilog=_examples("nas-proxy rank runs/digits-convnet", "nas-proxy rank runs/photos --json"))
def rank_command(run: Run, as_json: Json = False) -> None:
    """Train the controls, and judge every signal by the ground truth."""
    _print_ranking(_do(run, "rank").path, as_json=as_json)


@app.command("report", epilog=_examples("nas-proxy report runs/digits-convnet", "nas-proxy report runs/photos --json"))
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


def _do(run: Path, stage: str) -> "Any":
    from nas_proxy.run_folder import open_run
    from nas_proxy.stages import run_stages

    folder = open_run(run)
    run_stages(folder, (stage,), _terminal())
    return folder


def _rows(path: Path) -> list[dict[str, Any]]:
    import pandas as pd

    return pd.read_csv(path).to_dict("records")  # type: ignore[return-value]


def _terminal() -> "Any":
    from nas_proxy.progress import Terminal

    return Terminal()


def _print_ranking(run: Path, *, as_json: bool) -> None:
    text = (run / "ranking.json").read_text(encoding="utf-8")
    if as_json:
        typer.echo(text, nl=False)
        return
    from rich.console import Console

    from nas_proxy.terminal import ranking_table

    Console().print(ranking_table(json.loads(text)))


def _print(result: dict[str, Any], text: str, *, as_json: bool) -> None:
    typer.echo(json.dumps(result, ensure_ascii=False) if as_json else text)


def _print_pairs(pairs: list[tuple[str, str]], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([{"name": name, "description": text} for name, text in pairs], ensure_ascii=False))
        return
    width = max(len(name) for name, _ in pairs)
    for name, text in pairs:
        typer.echo(f"{name:<{width}}  {text}")


def _tell(text: str) -> None:
    typer.echo(text, err=True)


def main() -> None:
    """Run the command line and turn errors into sentences and exit codes."""
    import optuna

    from nas_proxy.errors import NasProxyError, UserError

    # The program's own log level; the library leaves logging alone.
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with _sigterm_as_interrupt():
            app()
    except UserError as error:
        _tell(f"nas-proxy: {error}")
        sys.exit(2)
    except NasProxyError as error:
        _tell(f"nas-proxy: {error}")
        sys.exit(1)
    except KeyboardInterrupt:
        _tell("nas-proxy: interrupted; the same command goes on from here")
        sys.exit(130)
    except OSError as error:
        _tell(f"nas-proxy: {_sentence(error)}")
        sys.exit(2)


def _sentence(error: OSError) -> str:
    import errno

    place = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{place}; free some space and run the same command again"
    return f"{error.strerror or error}{place}; mend that and run the same command again"


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
