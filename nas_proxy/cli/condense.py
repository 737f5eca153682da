"""The command `condense`: make, read, judge and export condensed sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_proxy.cli import options as o
from nas_proxy.cli.options import given, option_names, setting
from nas_proxy.cli.printing import at_work, print_result
from nas_proxy.errors import ConfigError, nearest

if TYPE_CHECKING:
    from nas_proxy.runs.settings import RunConfig

EVALUATE_WITH = "Networks that judge the set: convnet, or resnet18 of half as many channels."
DRY_RUN = (
    "Estimate time by FLOPs, and where that may be more than five minutes, time and memory from a few steps, on "
    "two classes and on one; write nothing."
)
DATASET = "Make the run, for this data set; one that has begun keeps the settings that are not given."
NAMES = {"convnet": "ConvNets", "resnet18": "ResNets"}


def condense_command(
    run: o.Run,
    dataset: Annotated[str | None, setting("dataset", help=DATASET)] = None,
    space: Annotated[str | None, setting("space", help="The search space of the run.")] = None,
    method: o.Method = None,
    source: Annotated[Path | None, setting("condense.source", flag="--from")] = None,
    ipc: o.ImagesPerClass = None,
    steps: o.Steps = None,
    width: o.Width = None,
    real_batch: o.RealBatch = None,
    formation: o.Formation = None,
    match: o.Match = None,
    embed: o.Embed = None,
    teacher_epochs: o.TeacherEpochs = None,
    patches_across: o.PatchesAcross = None,
    seed: o.Seed = None,
    limit: o.Limit = None,
    image_size: o.ImageSize = None,
    group_column: o.GroupColumn = None,
    device: o.Device = None,
    preview_every: Annotated[int | None, setting("preview_every")] = None,
    classes_per_step: Annotated[int | None, setting("classes_per_step")] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Train networks on the set and on random images.")
    ] = False,
    evaluate_with: Annotated[str, typer.Option(help=EVALUATE_WITH)] = "convnet",
    evaluate_epochs: Annotated[float, typer.Option(help="Epochs of these trainings.", min=1, max=1e6)] = 1000.0,
    export: Annotated[Path | None, typer.Option(help="Write what networks are trained on as PNG files here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help=DRY_RUN)] = False,
    as_json: o.Json = False,
) -> None:
    """Make the condensed set of a run; with --dataset, make the run as well.

    `torchrun --nproc-per-node K -m nas_proxy condense …` shares the classes between K processes, one a GPU.
    """
    chosen = given(locals())
    if source is not None and method is not None:
        raise ConfigError([f"--from {source} reads a set, and --method {method} makes one; leave one of them out"])
    if evaluate_with not in NAMES:
        raise ConfigError([f"--evaluate-with is {evaluate_with!r}{nearest(evaluate_with, NAMES)}"])
    if dry_run:
        with at_work() as terminal:
            from nas_proxy.pipeline.dry_run import estimate_run

            foreseen = estimate_run(_settings(chosen, run), run, ("condense",), progress=terminal)
        print_result(foreseen.as_json(), foreseen.text(), as_json=as_json)
        return
    with at_work() as terminal:
        from dataclasses import replace

        from nas_proxy.condensation.distributed import together
        from nas_proxy.condensation.published_sets import earlier_export
        from nas_proxy.pipeline.stages import assist, evaluate_run, export_images, run_all

        settings = _settings(chosen, run)
        if export is not None:
            earlier_export(export)  # finds what is wrong with the folder before the long work
        with together(settings.device) as (ranks, found_device):
            settings = replace(settings, device=found_device)
            if ranks.rank > 0:
                assist(settings, run, ranks)
                return
            folder = run_all(settings, run, progress=terminal, names=("condense",), group=ranks)
        found = evaluate_run(folder, evaluate_epochs, terminal, network=evaluate_with) if evaluate else None
        if export is not None:
            export_images(folder, export, terminal)
    from nas_proxy.data.images import ImageSet

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
            f"\nValidation accuracy of {NAMES[evaluate_with]} trained on them: {found.accuracy:.1%} ± {found.std:.1%}; "
            f"on random images: {found.random_accuracy:.1%} ± {found.random_std:.1%} (5 networks each)"
        )
    print_result(result, text, as_json=as_json)


def _settings(chosen: dict[str, Any], run: Path) -> "RunConfig":
    """Return the settings of a new run where a data set is given, else those of the run with what is given.

    Of a run that has begun, what this command does not name, such as the number of trials, is not its to set anew.
    """
    from nas_proxy.runs.folder import begun, open_run, with_changes
    from nas_proxy.runs.resolving import resolve
    from nas_proxy.runs.settings import RUN_FILE

    if chosen["dataset"] is not None and not ((run / RUN_FILE).is_file() and begun(run)):
        return resolve(chosen, options=option_names())
    return with_changes(open_run(run, comparisons=False).path, chosen, option_names())
