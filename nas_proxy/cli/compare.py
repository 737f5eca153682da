"""The command `compare`: the paper's table for any data set and space."""

from pathlib import Path
from typing import Annotated

import typer

from nas_proxy.cli import options as o
from nas_proxy.cli.options import OF_COMPARISONS, RENAMED, check_names, given, option_names, setting
from nas_proxy.cli.printing import at_work, print_ranking, tell


def compare_command(
    dataset: o.Dataset = None,
    space: o.SpaceName = None,
    truth_table: o.TruthTable = None,
    sample: Annotated[
        int | None, setting("truth", help="Architectures drawn uniformly, on which all signals are judged; 24.")
    ] = None,
    truth_seeds: Annotated[int | None, setting("truth_seeds", help="Full trainings of each architecture; 2.")] = None,
    folder: Annotated[Path | None, typer.Option("--out", help="Folder; runs/compare-… if not given.")] = None,
    signals: Annotated[str | None, setting("compare.signals")] = None,
    combine: Annotated[str | None, setting("compare.combine")] = None,
    score: Annotated[str, setting("compare.score")] = "both",
    draws: Annotated[int, setting("compare.draws")] = 3,
    passes: Annotated[int | None, setting("compare.passes")] = None,
    candidates: Annotated[int | None, setting("compare.candidates")] = None,
    calibrate: Annotated[int | None, setting("compare.calibrate")] = None,
    ipc: o.ImagesPerClass = None,
    steps: o.Steps = None,
    width: o.Width = None,
    real_batch: o.RealBatch = None,
    teacher_epochs: o.TeacherEpochs = None,
    patches_across: o.PatchesAcross = None,
    epochs: o.Epochs = None,
    batch: Annotated[int | None, setting("proxy_training.batch_size")] = None,
    learning_rate: Annotated[float | None, setting("proxy_training.learning_rate")] = None,
    truth_epochs: o.TruthEpochs = None,
    seed: o.Seed = None,
    device: o.Device = None,
    workers: o.Workers = None,
    ray: o.Ray = None,
    gpus_per_candidate: o.Gpus = None,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    group_column: o.GroupColumn = None,
    no_flip: o.NoFlip = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another comparison in the folder.")] = False,
    as_json: o.Json = False,
) -> None:
    """Compare signals on one sample of architectures, at equal cost. Run it again to continue or to extend."""
    names = RENAMED | OF_COMPARISONS
    chosen = given(locals(), names)
    from nas_proxy.runs.resolving import resolve

    settings = resolve(chosen, options=option_names(names))
    check_names(settings)  # tells mistakes before PyTorch is imported
    with at_work() as terminal:
        from nas_proxy.pipeline.stages import run_all

        run = run_all(settings, folder, overwrite=overwrite, progress=terminal)
    print_ranking(run.path, as_json=as_json)
    tell(f"Page: {run / 'compare.html'}")
