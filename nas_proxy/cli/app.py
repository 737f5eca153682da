"""The command line. Results go to stdout, progress and mistakes to stderr; `nas_proxy.cli.exits` has the exit codes."""

import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from nas_proxy._version import __version__
from nas_proxy.cli import compare as cli_compare
from nas_proxy.cli import condense as cli_condense
from nas_proxy.cli import final as cli_final
from nas_proxy.cli import lists as cli_lists
from nas_proxy.cli import options as o
from nas_proxy.cli import predict as cli_predict
from nas_proxy.cli import rank as cli_rank
from nas_proxy.cli import watch as cli_watch
from nas_proxy.cli.exits import explained, without_farewell
from nas_proxy.cli.options import check_names, examples, given, option_names, setting
from nas_proxy.cli.printing import at_work, found_by_search, print_ranking, print_result, rows, tell
from nas_proxy.errors import ConfigError

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
    dataset: o.Dataset = None,
    space: o.SpaceName = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/<dataset>-<space> if not given.")] = None,
    config: Annotated[Path | None, typer.Option(help="Repeat the run of a run.toml.")] = None,
    ipc: o.ImagesPerClass = None,
    trials: Annotated[int | None, setting("trials")] = None,
    truth: Annotated[int | None, setting("truth")] = None,
    judge: Annotated[int | None, setting("judge")] = None,
    truth_seeds: Annotated[int | None, setting("truth_seeds")] = None,
    pool: Annotated[int | None, setting("pool")] = None,
    round: Annotated[int | None, setting("round")] = None,  # noqa: A002 (the option's name)
    budget: Annotated[str | None, setting("budget")] = None,
    truth_table: o.TruthTable = None,
    allow_pickle: Annotated[bool, setting("allow_pickle", flag="--allow-pickle")] = False,
    sampler: o.Sampler = None,
    enqueue: o.Enqueue = None,
    score: o.Score = None,
    seeds: o.Seeds = None,
    pruner: o.Pruner = None,
    patience: Annotated[int | None, setting("patience")] = None,
    hours: Annotated[float | None, setting("hours")] = None,
    max_params: Annotated[int | None, setting("max_params")] = None,
    max_flops: Annotated[int | None, setting("max_flops")] = None,
    max_latency_ms: Annotated[float | None, setting("max_latency_ms")] = None,
    objective: Annotated[str | None, setting("objective")] = None,
    latency_batch: Annotated[int | None, setting("latency_batch")] = None,
    seed: o.Seed = None,
    device: o.Device = None,
    workers: o.Workers = None,
    ray: o.Ray = None,
    gpus_per_candidate: o.Gpus = None,
    devices: o.Devices = None,
    storage: o.Storage = None,
    log: Annotated[str | None, setting("log")] = None,
    candidate_minutes: o.Minutes = None,
    candidate_memory: o.Memory = None,
    steps: o.Steps = None,
    epochs: o.Epochs = None,
    truth_epochs: o.TruthEpochs = None,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    group_column: o.GroupColumn = None,
    method: o.Method = None,
    formation: o.Formation = None,
    match: o.Match = None,
    embed: o.Embed = None,
    teacher_epochs: o.TeacherEpochs = None,
    patches_across: o.PatchesAcross = None,
    signals: o.Signals = None,
    combine: o.Combine = None,
    no_flip: o.NoFlip = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another run in the folder.")] = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
) -> None:
    """Condense, search, train the ground truth, rank and report. Run it again to continue or to extend."""
    chosen = given(locals())
    from nas_proxy.runs.resolving import resolve

    # Mistakes are told before PyTorch is imported, which takes seconds.
    if enqueue is not None:
        from nas_proxy.strategy.enqueue import read_entries

        chosen["enqueue"] = read_entries(enqueue)
    settings = resolve(chosen, config, options=option_names())
    if settings.compare is not None:
        raise ConfigError([f"{config} holds the settings of a comparison; give the run.toml of a run"])
    check_names(settings)
    with at_work() as terminal:
        from nas_proxy.pipeline.dry_run import estimate_run
        from nas_proxy.pipeline.stages import STAGES, run_all

        if not dry_run:
            run = run_all(settings, out, overwrite=overwrite, progress=terminal)
        else:
            found = estimate_run(settings, out, tuple(STAGES), overwrite=overwrite, progress=terminal)
    if dry_run:
        print_result(found.as_json(), found.text(), as_json=as_json)
        return
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
    epilog=examples("nas-proxy search runs/digits-convnet", "nas-proxy search runs/digits-convnet --workers 2 --json"),
)
def search_command(
    run: o.Run,
    sampler: o.Sampler = None,
    enqueue: o.Enqueue = None,
    workers: o.Workers = None,
    ray: o.Ray = None,
    gpus_per_candidate: o.Gpus = None,
    devices: o.Devices = None,
    storage: o.Storage = None,
    score: o.Score = None,
    seeds: o.Seeds = None,
    pruner: o.Pruner = None,
    candidate_minutes: o.Minutes = None,
    candidate_memory: o.Memory = None,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
) -> None:
    """Search on the condensed set of a run; how, can be changed until the first architecture is proposed."""
    from nas_proxy.runs.folder import open_run, with_changes

    chosen = given(locals())
    folder = open_run(run, comparisons=False)
    if enqueue is not None:
        from nas_proxy.strategy.enqueue import read_entries

        chosen["enqueue"] = read_entries(enqueue)
    settings = with_changes(folder.path, chosen, option_names())
    with at_work() as terminal:
        from nas_proxy.pipeline.dry_run import estimate_run
        from nas_proxy.pipeline.stages import run_all

        if not dry_run:
            run_all(settings, run, progress=terminal, names=("search",))
        else:
            found = estimate_run(settings, run, ("search",), progress=terminal)
    if dry_run:
        print_result(found.as_json(), found.text(), as_json=as_json)
        return
    trials = rows(folder / "trials.csv")
    result, text = found_by_search(trials, settings.score)
    print_result(result, text, as_json=as_json)


app.command(
    "truth",
    epilog=examples("nas-proxy truth runs/digits-convnet", "nas-proxy truth runs/digits-convnet --workers 2 --json"),
)(cli_rank.truth_command)
app.command(
    "rank",
    epilog=examples(
        "nas-proxy rank runs/digits-convnet",
        "nas-proxy rank runs/digits-convnet --signals params,flops,synflow --combine proxy,synflow",
    ),
)(cli_rank.rank_command)


@app.command(
    "report", epilog=examples("nas-proxy report runs/digits-convnet", "nas-proxy report runs/digits-convnet --json")
)
def report_command(run: o.Run, as_json: o.Json = False) -> None:
    """Write report.html from what the run folder holds."""
    from nas_proxy.report.page import write_report
    from nas_proxy.runs.folder import open_run

    path = write_report(open_run(run, comparisons=False).path)
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


app.command(
    "compare",
    epilog=examples(
        "nas-proxy compare --sample 8 --signals dm,random,early_stop,params --steps 20 --epochs 5 --out runs/table",
        "nas-proxy compare --dataset cifar10 --space nas_bench_201 --truth-table nas_bench_201.csv:cifar10_valid_200ep "
        "--sample 100 --signals dm,dm+space,random,early_stop,params,synflow",
    ),
)(cli_compare.compare_command)


app.command(
    "final",
    epilog=examples(
        "nas-proxy final runs/digits-convnet",
        "nas-proxy final runs/digits-convnet --rank 2 --epochs 20 --out runs/second",
    ),
)(cli_final.final_command)
app.command(
    "predict",
    epilog=examples("nas-proxy predict runs/photos image.png", "nas-proxy predict runs/photos *.jpg --top 1 --json"),
)(cli_predict.predict_command)
app.command("datasets", epilog=examples("nas-proxy datasets", "nas-proxy datasets --json"))(cli_lists.datasets_command)
app.command("spaces", epilog=examples("nas-proxy spaces", "nas-proxy spaces --json"))(cli_lists.spaces_command)


def main() -> None:
    """Run the command line and turn errors into sentences and exit codes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a "×" is not worth an error where the encoding lacks it
    with without_farewell(), explained():
        app()
