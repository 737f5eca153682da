"""The options that commands share, and what they are called where a mistake in one is told."""

import contextlib
from pathlib import Path
from typing import Annotated, Any

import typer

# The options of `run` that are called otherwise than the setting.
SETTINGS = {
    "ipc": "condense.images_per_class",
    "method": "condense.method",
    "from": "condense.source",
    "steps": "condense.steps",
    "width": "condense.width",
    "real_batch": "condense.real_batch",
    "formation": "condense.formation",
    "match": "condense.match",
    "embed": "condense.embed",
    "epochs": "proxy_training.epochs",
    "truth_epochs": "full_training.epochs",
}


def examples(*lines: str) -> str:
    """Return an epilog with examples; an empty line keeps them on lines of their own."""
    return "\n\n".join(["[bold]Examples[/bold]", *lines])


def _number(text: str) -> Any:
    """Return a number where `text` is one; what is none gets its sentence with all other mistakes in settings."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def numeric(text: str) -> Any:
    """Return an option of `run` that takes a number."""
    return typer.Option(help=text, parser=_number, metavar="N")


OBJECTIVE = "accuracy, or with params, flops or latency after it, and commas between."
LATENCY_BATCH = "Images in the forward pass whose latency is measured."
SAMPLER = "How architectures are proposed: tpe, random, grid, nsga2 or evolution."
ENQUEUE = "Propose the architectures in this file first: a JSON list, or a key a line."
CLASSES_PER_STEP = "Classes in memory at a time; as many as fit if not given."
FORMATION = "2: each stored image holds four of half the size."
MATCH = "Match the last block of the embedding networks, or all."
EMBED = "Embedding networks: convnet, resnet18, or drawn from the search space."
EVALUATE_WITH = "Networks that judge the set: convnet, or resnet18 of half as many channels."
SCORE = "What ranks and picks candidates: accuracy, or loss_sum (the training losses)."
SEEDS = "Trainings a candidate; its score is their mean."
PRUNER = "End proposals early: none, median, hyperband or wilcoxon (across seeds)."
MINUTES = "End a candidate that trains longer than this, or whose latency takes longer (1 if not given)."
MEMORY = "End a candidate that needs more memory than so many MB."
SIGNALS = "Computed controls: params, flops, synflow, jacob_cov, naswot, az_nas, with commas between."
COMBINE = "Add the mean rank of several: proxy, early_stop or computed ones, with commas between."
ALLOW_PICKLE = "The truth table may be pickles, which can run any code: only for files of NATS-Bench that you trust."
METHOD = "dm (distribution matching), random, herding or kcenter."
WORKERS = "Processes that train; 0: one a core, or one on a GPU."
DEVICES = "Train on several: names such as cuda:0,cuda:1, each with --workers processes (one if not given)."
STORAGE = "PostgreSQL database for the studies, which workers elsewhere can join; a file in RUN if not given."
Workers = Annotated[int | None, numeric(WORKERS)]
Storage = Annotated[str | None, typer.Option(help=STORAGE, metavar="URL")]
Devices = Annotated[str | None, typer.Option(help=DEVICES, metavar="NAMES")]
DRY_RUN = "Train nothing: print what would be trained, and an estimate of its time and memory."
DryRun = Annotated[bool, typer.Option("--dry-run", help=DRY_RUN)]
Run = Annotated[Path, typer.Argument(help="The run folder.", metavar="RUN", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


def listed(text: str | None) -> list[str] | None:
    """Return the names in a text with commas between them; None for an option that was not given."""
    return None if text is None else [name for name in map(str.strip, text.split(",")) if name]


def where(workers: Any, devices: str | None, storage: str | None) -> dict[str, Any]:
    """Return the settings that say where trainings are done and kept; None for an option that was not given."""
    return {"workers": workers, "devices": listed(devices), "storage": storage}


def option_names() -> dict[str, str]:
    """Return what the settings are called on the command line."""
    same = (
        *("dataset", "space", "seed", "trials", "truth", "truth_table", "sampler", "enqueue", "patience", "hours"),
        *("objective", "max_latency_ms", "latency_batch"),
        *("max_params", "max_flops", "limit", "image_size", "device", "devices", "workers", "preview_every", "storage"),
        *("signals", "combine", "classes_per_step", "allow_pickle"),
        *("score", "seeds", "pruner", "candidate_minutes", "candidate_memory"),
    )
    return {path: f"--{name.replace('_', '-')}" for name, path in [*((n, n) for n in same), *SETTINGS.items()]}
