"""The final network: an architecture of the search, trained on all development images and scored once on test.

In: a searched run, and which architecture: its rank in the search, or its key. Out, in a folder:

    architecture.json    the architecture, what it was trained on and how, its final accuracy
    model.safetensors    the weights               model.pt2, model.onnx    programs, see `nas_proxy.pipeline.export`
    load.py              how each is loaded            README.md, …    see `nas_proxy.pipeline.model_card`

Guarantees: train and validation images are trained on, test images are scored on once, by `ground_truth.py`. The
final accuracy comes from other images than the search's, so the two are never called by one name. The same command
trains nothing twice and completes what is missing.
"""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_proxy import notebook
from nas_proxy.data.images import ImageSet
from nas_proxy.environment import environment
from nas_proxy.errors import RunFailedError, RunFolderError
from nas_proxy.files import atomic_path, write_json
from nas_proxy.names import PROXY, TRUTH, label
from nas_proxy.pipeline import export, model_card
from nas_proxy.pipeline.deployed import Deployed, One
from nas_proxy.pipeline.final_training import fit_final, joined
from nas_proxy.pipeline.image_files import confusion_on_test
from nas_proxy.pipeline.load_final import FORMAT, load_final, read_told
from nas_proxy.pipeline.problem import Problem, open_problem
from nas_proxy.pipeline.selection import chosen_of_table, selected
from nas_proxy.pipeline.stages import proxy_images
from nas_proxy.pipeline.tracking import open_tracker, training
from nas_proxy.pipeline.work import open_store
from nas_proxy.process_state import restored
from nas_proxy.progress import SILENT, Progress
from nas_proxy.ranking.believed import read_order
from nas_proxy.report.formats import duration
from nas_proxy.runs.folder import NETWORK, RunFolder
from nas_proxy.signals.stored_names import set_path
from nas_proxy.spaces.checking import tried
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.latency import measure_latency
from nas_proxy.spaces.loading import Given
from nas_proxy.storage.records import TRAINED, Record
from nas_proxy.storage.trial_store import TrialStore, explained
from nas_proxy.training.train import Recipe

FOLDER = "final"
# What a final network depends on; where all are equal it is not trained again.
IDENTITY = ("key", "space_digest", "data_fingerprint", "recipe", "seed")
# What latencies are measured with, as they are told.
TORCH, ONNX = "PyTorch", "ONNX Runtime"
# Real images on which exported programs are compared with the network.
COMPARED = 16


@dataclass(frozen=True)
class Final:
    """A final network in `folder`; `told` is its `architecture.json`.

    not_written: the files that could not be made, each with the reason in a sentence. space: where it was given itself.
    """

    folder: Path
    told: Mapping[str, Any]
    not_written: Mapping[str, str]
    space: Given | None = None

    @property
    def accuracy(self) -> float:
        """The final accuracy: the fraction of test images classified correctly."""
        return float(self.told["final_accuracy"])

    def network(self) -> Deployed:
        """Return the trained network; see `load_final`."""
        return load_final(self.folder, self.space)

    def predict(self, image: One) -> dict[str, float]:
        """Return the probability of each class, the most probable first; see `Deployed.predict`.

        It loads the network each time; for many images keep that of `network()`.
        """
        return self.network().predict(image)

    def __repr__(self) -> str:
        return f"Final({str(self.folder)!r}: {self.told['key']}, final accuracy {self.accuracy:.1%})"

    def _repr_html_(self) -> str:
        told = [notebook.line(text) for text in told_as_text(self).splitlines()]
        choices = notebook.table(self.told["architecture"].items(), ("choice", "option"), words=(0, 1))
        left_out = [notebook.line(f"{name} was not written: {why}") for name, why in self.not_written.items()]
        return notebook.page(*told, choices, *left_out)


def told_as_text(final: Final) -> str:
    """Return what was trained, how well it does and where it is, in three lines."""
    told = final.told
    images = " and ".join(f"{count:,} {name}" for name, count in told["trained_on"].items())
    return (
        f"{told['key']} (rank {told['rank']} of the search), "
        f"trained on {images} images in {duration(told['seconds'])}\n"
        f"Final accuracy: {final.accuracy:.1%} of {told['test_images']:,} test images, one seed; "
        f"the search's score was {told['search_score']:.1%} of the validation images\n"
        f"Written: {final.folder}"
    )


def train_final(
    run: RunFolder,
    *,
    rank: int | None = None,
    key: str | None = None,
    front: int | None = None,
    recipe: Recipe | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
    space: Given | None = None,
) -> Final:
    """Train an architecture of a searched run on all train and validation images, score it, export it.

    rank: 1 is the search's pick, the default. key: of any architecture that the search trained. front: place on the
        Pareto front of a run with several objectives, 1 is the cheapest.
    recipe: the run's full training if not given. out: RUN/final if not given. space: where it was given itself.
    Raises a UserError for a mistake, and RunFailedError when the training raises or diverges.
    """
    folder = out if out is not None else run / FOLDER
    with run.lock(), explained(run.place):
        problem = open_problem(run.config, progress, space)
        proxy_images(run, problem.data.fingerprint)  # raises where the data are not those of the search
        with contextlib.closing(open_store(run, progress)) as store:
            store.bind("proxy", "space", problem.digest)
            records = store.records("proxy")
            search = _search(run, store, records)
            fully = [r for r in store.records(TRUTH) if r.draw == 0] if store.has(TRUTH) else []
            if problem.table is not None:
                fully = chosen_of_table(problem, problem.table, store, read_order(run.path))
        record, rank = selected(run, records, fully, rank, key, front)
        wanted = _identity(problem, record, recipe or run.config.full_training)
        told = None if overwrite else _finished(folder, wanted)
        by_now = {"rank": rank, "search": search, "search_score": record.score}
        _try(problem, record)
        with restored():
            if told is None:
                told = _train_and_write(problem, record, rank, wanted, search, folder, run.path, progress)
            elif any(told.get(name) != value for name, value in by_now.items()):  # the search went on
                told = {**told, **by_now}
                write_json(folder / "architecture.json", told)
            told, not_written = _export(problem, folder, told)
    return Final(folder, told, not_written, space)


def _try(problem: Problem, record: Record) -> None:
    """Use the network in a process apart, before it is built in this one. Raises RunFailedError where that fails."""
    complaint = tried(problem.space, record.architecture, problem.shape)
    if complaint is not None:
        what = complaint.text if complaint.own else f"it {complaint.text} when it is built and run"
        raise RunFailedError(f"the network of {record.key} cannot be used any more: {what}")


def _search(run: RunFolder, store: TrialStore, records: Sequence[Record]) -> dict[str, Any]:
    """Return how the network was found and what that took: seconds of one worker, and of condensing."""
    config = run.config
    condensed = ImageSet.load_metadata(set_path(run.path, PROXY, 0))
    trained = {label(name): sum(r.seconds for r in store.records(name)) for name in TRAINED if store.has(name)}
    images = config.condense.images_per_class * config.condense.formation**2
    kind = "condensed" if config.condense.method == "dm" else f"chosen ({config.condense.method})"
    return {
        "architectures": sum(r.complete for r in records),
        "images": f"{images} {kind} images a class",
        "sampler": config.sampler,
        "score": config.score,
        "seconds": {"Condensing": condensed.get("seconds", 0.0), **trained},
    }


def _identity(problem: Problem, record: Record, recipe: Recipe) -> dict[str, Any]:
    return {
        "key": record.key,
        "space_digest": problem.digest,
        "data_fingerprint": problem.data.fingerprint,
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "seed": problem.config.seed,
    }


def _finished(folder: Path, wanted: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what was told of the final network in `folder`, None where there is none. Another one is left alone."""
    if folder.is_file():
        raise RunFolderError(f"{folder} is a file; choose a folder with --out")
    told = read_told(folder)
    if told is None:
        found = [name for name in NETWORK if (folder / name).exists()]
        if found and not _is_ours(folder / "model.safetensors"):  # which is written first
            raise RunFolderError(
                f"{folder} holds {found[0]}, which nas-proxy did not write; choose another folder with --out, "
                "or replace it with --overwrite"
            )
        return None
    changed = [name for name in IDENTITY if told.get(name) != wanted[name]]
    if changed:
        first = changed[0]
        raise RunFolderError(
            f"{folder} holds another final network ({first}: {_short(told.get(first))} → {_short(wanted[first])}); "
            "choose another folder with --out, or replace it with --overwrite"
        )
    return told if (folder / "model.safetensors").exists() else None


def _short(value: object) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _is_ours(path: Path) -> bool:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def _train_and_write(
    problem: Problem,
    record: Record,
    rank: int,
    wanted: Mapping[str, Any],
    search: Mapping[str, Any],
    folder: Path,
    log_in: Path,
    progress: Progress,
) -> dict[str, Any]:
    from safetensors.torch import save_model

    for name in NETWORK:  # so that files of different networks never stand together
        (folder / name).unlink(missing_ok=True)
    recipe = Recipe(**{**wanted["recipe"], "augmentation": tuple(wanted["recipe"]["augmentation"])})
    images = joined(problem.data.train, problem.data.validation)
    trained, seconds = fit_final(problem, record, images, recipe, progress)
    confusion = confusion_on_test(problem, trained)
    with open_tracker(problem.config.log, log_in) as tracker:
        score = None if confusion is None else int(confusion.diagonal().sum()) / int(confusion.sum())
        training(tracker, "Final training", record.key, trained.losses, score)
    if confusion is None:
        raise RunFailedError(f"the final training of {record.key} diverged; a lower learning rate may help")
    size = measure(problem.space, record.architecture, problem.shape)
    told = {
        "format": FORMAT,
        "final_accuracy": int(confusion.diagonal().sum()) / int(confusion.sum()),
        "test_images": int(confusion.sum()),
        **wanted,
        "rank": rank,
        "search_score": record.score,
        "search": search,
        "space": problem.config.space,
        "architecture": dict(record.architecture),
        "params": size.params,
        "flops": size.flops,
        "dataset": problem.config.dataset,
        "shape": problem.shape._asdict(),
        "classes": list(images.classes),
        "image_size": problem.config.image_size,
        "levels": problem.source.levels(),
        "scale": images.scale.tolist(),
        "offset": images.offset.tolist(),
        "trained_on": {"train": len(problem.data.train), "validation": len(problem.data.validation)},
        "seconds": round(seconds, 3),
        "image_passes": trained.image_passes,
        "losses": [round(loss, 5) for loss in trained.losses],
        "environment": environment(problem.device, 1),
        "latency": {TORCH: asdict(measure_latency(problem.space, record.architecture, problem.shape))},
    }
    trained.network.to("cpu").eval()
    with atomic_path(folder / "model.safetensors") as temporary:
        save_model(trained.network, str(temporary), metadata={"format": FORMAT})
    model_card.write_confusion(confusion.tolist(), images.classes, folder / "confusion.csv")
    write_json(folder / "architecture.json", told)
    return told


def _export(problem: Problem, folder: Path, told: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """Write what stands beside the weights; return what is now told, and what could not be written, with reasons."""
    shape = problem.shape
    not_written: dict[str, str] = {}
    network: Deployed | None = None
    for name, write in (("model.pt2", export.write_program), ("model.onnx", export.write_onnx)):
        if (folder / name).exists():
            continue
        network = network or load_final(folder, problem.spec)
        try:
            write(network, _looked_at(problem.data.train), folder / name)
        except export.ExportError as error:
            not_written[name] = str(error)
    export.write_loader(told, shape[:3], told["classes"], folder / "load.py")
    told = {"image_size": problem.config.image_size, "levels": {}, **told}  # those made earlier have none
    model_card.write_preprocessing(told, folder)
    if (folder / "model.onnx").exists():
        model_card.write_predict(folder)
        timed = told.get("latency", {})
        if ONNX not in timed and (found := export.onnx_latency(folder / "model.onnx", shape)) is not None:
            told["latency"] = {**timed, ONNX: asdict(found)}
            write_json(folder / "architecture.json", told)
    model_card.write_card(told, folder)
    return told, not_written


def _looked_at(images: ImageSet) -> Tensor:
    return images.images[torch.linspace(0, len(images) - 1, COMPARED).long()]
