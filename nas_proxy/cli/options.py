"""The options of the command line: where an option's name, its help and its setting meet.

What a setting is for, and what it may be, stands at the field of `nas_proxy.runs.settings`.
"""

import contextlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from nas_proxy.condensation.recipe import Condensation
from nas_proxy.errors import ConfigError
from nas_proxy.runs.settings import Comparison, RunConfig
from nas_proxy.training.recipe import Recipe
from nas_proxy.validation import described, kind

# The tables of settings, by their names in RunConfig.
TABLES: dict[str, type] = {
    "condense": Condensation,
    "proxy_training": Recipe,
    "full_training": Recipe,
    "compare": Comparison,
}
# The parameters of commands that are called otherwise than the setting.
RENAMED = {
    "ipc": "condense.images_per_class",
    "method": "condense.method",
    "source": "condense.source",
    "steps": "condense.steps",
    "width": "condense.width",
    "real_batch": "condense.real_batch",
    "formation": "condense.formation",
    "match": "condense.match",
    "embed": "condense.embed",
    "teacher_epochs": "condense.teacher_epochs",
    "patches_across": "condense.patches_across",
    "epochs": "proxy_training.epochs",
    "batch": "proxy_training.batch_size",
    "learning_rate": "proxy_training.learning_rate",
    "truth_epochs": "full_training.epochs",
}
# So are these of `compare`.
OF_COMPARISONS = {
    "sample": "truth",
    **{
        name: f"compare.{name}"
        for name in ("signals", "combine", "score", "draws", "passes", "candidates", "calibrate")
    },
}
METAVARS = {"truth_table": "FILE[:COLUMN]", "storage": "URL", "ray": "ADDRESS"}


def examples(*lines: str) -> str:
    """Return an epilog with examples; an empty line keeps them on lines of their own."""
    return "\n\n".join(["Examples:", *lines])


def _number(text: str) -> Any:
    """Return a number where `text` is one; what is none gets its sentence with all other mistakes in settings."""
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def _field(path: str) -> tuple[type, str]:
    table, _, name = path.rpartition(".")
    return TABLES[table] if table else RunConfig, name


def setting(path: str, *, flag: str | None = None, help: str | None = None) -> Any:  # noqa: A002 (Typer's own name)
    """Return the option of a setting such as "condense.steps", with the help that stands at its field.

    A number that is none gets its sentence with all other mistakes in settings; a list has commas between.
    """
    sort = kind(*_field(path))
    more: dict[str, Any] = {"parser": _number, "metavar": "N"} if sort in {int, float} else {}
    if sort is tuple:
        more = {"metavar": "NAMES"}
    if path in METAVARS:
        more = {"metavar": METAVARS[path]}
    names = [] if flag is None else [flag]
    return typer.Option(*names, help=help or described(*_field(path)), **more)


def given(parameters: Mapping[str, Any], renamed: Mapping[str, str] = RENAMED) -> dict[str, Any]:
    """Return the settings among the parameters of a command, as `nas_proxy.runs.resolving.resolve` takes them.

    parameters: the command's `locals()`. What is no setting is left out; a flag that is not set is not given.
    """
    settings: dict[str, Any] = {}
    known = {f.name for f in fields(RunConfig)}
    for name, value in parameters.items():
        path = renamed.get(name, name)
        table, _, inner = path.rpartition(".")
        if not table and path not in known:
            continue
        place = settings.setdefault(table, {}) if table else settings
        place[inner] = _value(path, value)
    if parameters.get("no_flip"):
        settings["flip"] = False
    if parameters.get("group_column") is not None:
        settings["dataset"] = _grouped(settings.get("dataset"), parameters["group_column"])
    return settings


def _grouped(dataset: str | None, column: str) -> str:
    """Return the name of a csv data set whose images of one value in `column` stay together."""
    from nas_proxy.data.catalogue import GROUP, recognised

    if dataset is None or (dataset.partition(":")[0] != "csv" and recognised(dataset) != "csv"):
        given = "none was given" if dataset is None else f"--dataset is {dataset}"
        raise ConfigError([f"--group-column names a column of a csv file, but {given}; give --dataset csv:FILE"])
    return f"{dataset}:{GROUP}{column}"


def _value(path: str, value: Any) -> Any:
    if value is False:
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str) and kind(*_field(path)) is tuple:
        return [name for name in map(str.strip, value.split(",")) if name]
    return value


def check_names(config: RunConfig) -> None:
    """Raise a UserError for a data set or a space of a name that nobody has, before PyTorch is imported."""
    from nas_proxy.data.catalogue import kind_and_place
    from nas_proxy.spaces.built_in import file_of, split_spec

    kind_and_place(config.dataset)
    file_of(split_spec(config.space)[0])


def option_names(renamed: Mapping[str, str] = RENAMED) -> dict[str, str]:
    """Return what the settings are called on the command line."""
    same = {f.name: f.name for f in fields(RunConfig) if f.name not in TABLES}
    spelt = {path: name.replace("_", "-") for name, path in (same | dict(renamed)).items()}
    return {path: f"--{'from' if name == 'source' else name}" for path, name in spelt.items()}


Dataset = Annotated[str | None, setting("dataset")]
SpaceName = Annotated[str | None, setting("space")]
TruthTable = Annotated[str | None, setting("truth_table")]
Sampler = Annotated[str | None, setting("sampler")]
Enqueue = Annotated[Path | None, typer.Option(help=described(RunConfig, "enqueue"))]
Score = Annotated[str | None, setting("score")]
Seeds = Annotated[int | None, setting("seeds")]
Pruner = Annotated[str | None, setting("pruner")]
Minutes = Annotated[float | None, setting("candidate_minutes")]
Memory = Annotated[float | None, setting("candidate_memory")]
Seed = Annotated[int | None, setting("seed")]
Device = Annotated[str | None, setting("device")]
Devices = Annotated[str | None, setting("devices")]
Workers = Annotated[int | None, setting("workers")]
Ray = Annotated[str | None, setting("ray")]
Gpus = Annotated[float | None, setting("gpus_per_candidate")]
Storage = Annotated[str | None, setting("storage")]
Limit = Annotated[int | None, setting("limit")]
ImageSize = Annotated[int | None, setting("image_size")]
ImagesPerClass = Annotated[int | None, setting("condense.images_per_class")]
Steps = Annotated[int | None, setting("condense.steps")]
Width = Annotated[int | None, setting("condense.width")]
RealBatch = Annotated[int | None, setting("condense.real_batch")]
Method = Annotated[str | None, setting("condense.method")]
Formation = Annotated[int | None, setting("condense.formation")]
Match = Annotated[str | None, setting("condense.match")]
Embed = Annotated[str | None, setting("condense.embed")]
TeacherEpochs = Annotated[float | None, setting("condense.teacher_epochs")]
PatchesAcross = Annotated[int | None, setting("condense.patches_across")]
Epochs = Annotated[
    float | None, setting("proxy_training.epochs", help="Epochs of a training on the condensed set; 200 (digits: 60).")
]
TruthEpochs = Annotated[
    float | None, setting("full_training.epochs", help="Epochs of a full training; 50 (digits: 10).")
]
Signals = Annotated[str | None, setting("signals")]
Combine = Annotated[str | None, setting("combine")]
GroupColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the csv file: images of one value (a patient, a camera) stay on one side of every split."
    ),
]
NoFlip = Annotated[bool, typer.Option("--no-flip", help="Never mirror images.")]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Train nothing: print what would be trained, and an estimate of its time, by FLOPs, and where that may be "
        "more than five minutes, of time and memory by a few measured steps.",
    ),
]
Run = Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]
