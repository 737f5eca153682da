"""The command `condense`: make, read, judge and export condensed sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nas_proxy.cli.options import (
    CLASSES_PER_STEP,
    EMBED,
    EVALUATE_WITH,
    FORMATION,
    MATCH,
    METHOD,
    Json,
    Run,
    numeric,
    option_names,
)
from nas_proxy.cli.printing import at_work, print_result
from nas_proxy.errors import ConfigError, nearest

if TYPE_CHECKING:
    from nas_proxy.pipeline.settings import RunConfig

NAMES = {"convnet": "ConvNets", "resnet18": "ResNets"}


def condense_command(
    run: Run,
    dataset: Annotated[str | None, typer.Option(help="Make the run, for this data set.")] = None,
    space: Annotated[str | None, typer.Option(help="The search space of the run.")] = None,
    method: Annotated[str | None, typer.Option(help=METHOD)] = None,
    source: Annotated[Path | None, typer.Option("--from", help="Read a published .pt or .npz file instead.")] = None,
    ipc: Annotated[int | None, numeric("Images a class.")] = None,
    steps: Annotated[int | None, numeric("Steps of the condensation.")] = None,
    width: Annotated[int | None, numeric("Channels of the embedding ConvNet.")] = None,
    real_batch: Annotated[int | None, numeric("Real images a class and step.")] = None,
    formation: Annotated[int | None, numeric(FORMATION)] = None,
    match: Annotated[str | None, typer.Option(help=MATCH)] = None,
    embed: Annotated[str | None, typer.Option(help=EMBED)] = None,
    seed: Annotated[int | None, numeric("All randomness derives from it.")] = None,
    limit: Annotated[int | None, numeric("At most so many images a class are used of the data.")] = None,
    image_size: Annotated[int | None, numeric("Resize images to a square of so many pixels.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    preview_every: Annotated[int | None, numeric("Steps between pictures kept in RUN/previews.")] = None,
    classes_per_step: Annotated[int | None, numeric(CLASSES_PER_STEP)] = None,
    evaluate: Annotated[
        bool, typer.Option("--evaluate", help="Train networks on the set and on random images.")
    ] = False,
    evaluate_with: Annotated[str, typer.Option(help=EVALUATE_WITH)] = "convnet",
    evaluate_epochs: Annotated[float, typer.Option(help="Epochs of these trainings.", min=1, max=1e6)] = 1000.0,
    export: Annotated[Path | None, typer.Option(help="Write what networks are trained on as PNG files here.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Estimate time and memory; write nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Make the condensed set of a run; with --dataset, make the run as well.

    `torchrun --nproc-per-node K -m nas_proxy condense …` shares the classes between K processes, one a GPU.
    """
    given = {
        "dataset": dataset,
        "space": space,
        "seed": seed,
        "limit": limit,
        "image_size": image_size,
        "device": device,
        "preview_every": preview_every,
        "classes_per_step": classes_per_step,
        "condense": {
            "method": method,
            "source": None if source is None else str(source),
            "images_per_class": ipc,
            "steps": steps,
            "width": width,
            "real_batch": real_batch,
            "formation": formation,
            "match": match,
            "embed": embed,
        },
    }
    if source is not None and method is not None:
        raise ConfigError([f"--from {source} reads a set, and --method {method} makes one; leave one of them out"])
    if evaluate_with not in NAMES:
        raise ConfigError([f"--evaluate-with is {evaluate_with!r}{nearest(evaluate_with, NAMES)}"])
    if dry_run:
        with at_work() as terminal:
            from nas_proxy.pipeline.condense_estimate import foresee

            foreseen = foresee(_settings(given, run), terminal)
        print_result(foreseen.as_json(), foreseen.told(), as_json=as_json)
        return
    with at_work() as terminal:
        from dataclasses import replace

        from nas_proxy.condensation.distributed import together
        from nas_proxy.condensation.published_sets import earlier_export
        from nas_proxy.pipeline.stages import assist, evaluate_run, export_images, run_all

        settings = _settings(given, run)
        if export is not None:
            earlier_export(export)  # finds what is wrong with the folder before the long work
        with together(settings.device) as (ranks, chosen):
            settings = replace(settings, device=chosen)
            if ranks.rank > 0:
                assist(settings, run, ranks)
                return
            folder = run_all(settings, run, progress=terminal, names=("condense",), ranks=ranks)
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


def _settings(given: dict[str, Any], run: Path) -> "RunConfig":
    """Return the settings of a new run where a data set is given, else those of the run with what is given."""
    from nas_proxy.pipeline.run_folder import open_run
    from nas_proxy.pipeline.settings import resolve

    file = None if given["dataset"] is not None else open_run(run).path / "run.toml"
    return resolve(given, file, options=option_names())
