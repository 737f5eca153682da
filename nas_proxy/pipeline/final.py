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
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_proxy import notebook
from nas_proxy.data.images import ImageSet
from nas_proxy.data.store import together
from nas_proxy.environment import environment
from nas_proxy.errors import ConfigError, RunFailedError, RunFolderError
from nas_proxy.files import atomic_path, write_json
from nas_proxy.names import PROXY, TRUTH, label
from nas_proxy.pipeline import export, model_card
from nas_proxy.pipeline.deployed import Deployed, One
from nas_proxy.pipeline.full_trainings import NAME as SEARCH
from nas_proxy.pipeline.image_files import confusion_on_test
from nas_proxy.pipeline.load_final import FORMAT, load_final, read_told
from nas_proxy.pipeline.problem import Problem, open_problem
from nas_proxy.pipeline.stages import proxy_images
from nas_proxy.pipeline.tracking import open_tracker, training
from nas_proxy.pipeline.work import open_store
from nas_proxy.process_state import restored
from nas_proxy.progress import SILENT, Bar, Progress
from nas_proxy.ranking.scores import best_first, pareto_front
from nas_proxy.runs.folder import RunFolder
from nas_proxy.seeds import derive
from nas_proxy.signals.stored_names import set_path
from nas_proxy.spaces.checking import tried
from nas_proxy.spaces.cost import measure
from nas_proxy.spaces.latency import measure_latency
from nas_proxy.spaces.loading import Given, space_digest
from nas_proxy.spaces.space import SearchSpace
from nas_proxy.storage.records import TRAINED, Record
from nas_proxy.storage.trial_store import TrialStore, explained
from nas_proxy.training.train import Fitted, Recipe, fit
from nas_proxy.untrusted import in_a_line, read_json

FOLDER = "final"
NAMES = (
    *("architecture.json", "model.safetensors", "model.pt2", "model.onnx", "load.py"),
    *("preprocessing.json", "predict.py", "confusion.csv", "README.md"),
)
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
        choices = notebook.table(self.told["architecture"].items(), ("choice", "option"))
        left_out = [notebook.line(f"{name} was not written: {why}") for name, why in self.not_written.items()]
        return notebook.page(*told, choices, *left_out)


def told_as_text(final: Final) -> str:
    """Return what was trained, how well it does and where it is, in three lines."""
    told = final.told
    images = " and ".join(f"{count:,} {name}" for name, count in told["trained_on"].items())
    return (
        f"{told['key']} (rank {told['rank']} of the search), trained on {images} images in {told['seconds']:.0f} s\n"
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
            store.bind("proxy", "space", space_digest(problem.spec))
            records = store.records("proxy")
            search = _search(run, store, records)
            found = in_order(run, records, store.records(TRUTH) if store.has(TRUTH) else (), problem.space)
        if (
            records and front is not None and rank is None and key is None
        ):  # of the accuracies on the proxy, as the report has it
            key, front = _on_front(run.config.objective, best_first(records, run.config.score), front).key, None
        record, rank = _chosen(run, found, rank, key, front)
        wanted = _identity(problem, record, recipe or run.config.full_training)
        told = None if overwrite else _finished(folder, wanted)
        _try(problem, record)
        with restored():
            if told is None:
                told = _train_and_write(problem, record, rank, wanted, search, folder, run.path, progress)
            elif told["rank"] != rank:  # further search moved it
                told = {**told, "rank": rank}
                write_json(folder / "architecture.json", told)
            told, not_written = _export(problem, folder, told)
    return Final(folder, told, not_written, space)


def _try(problem: Problem, record: Record) -> None:
    """Use the network in a process apart, before it is built in this one. Raises RunFailedError where that fails."""
    complaint = tried(problem.space, record.architecture, problem.shape)
    if complaint is not None:
        what = complaint.text if complaint.own else f"it {complaint.text} when it is built and run"
        raise RunFailedError(f"the network of {record.key} cannot be used any more: {what}")


def in_order(run: RunFolder, on_proxy: Sequence[Record], fully: Sequence[Record], space: SearchSpace) -> list[Record]:
    """Return the architectures of the search, the pick first: by posterior mean, what is fully trained before the rest.

    Those of the pool that were never trained are left out. Before there are full trainings to be seen, and in folders
    of earlier versions, the order is by the score on the proxy.
    """
    best = best_first(on_proxy, run.config.score)
    try:
        order = [str(one["key"]) for one in read_json(run / SEARCH)["order"]]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return best
    known = {r.key: r for r in best}
    # Its score is that of the test images, which is no score of the search.
    known |= {r.key: replace(r, score=r.validation) for r in fully if r.draw == 0 and r.key not in known and r.complete}
    ordered = [known[key] for key in order if key in known]
    return ordered + [r for r in best if r.key not in set(order)]


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


def _chosen(
    run: RunFolder, found: Sequence[Record], rank: int | None, key: str | None, front: int | None
) -> tuple[Record, int]:
    """Return the search's record of the wanted architecture, and its rank in the search, which `found` is in."""
    given = [name for name, value in (("--rank", rank), ("--key", key), ("--front", front)) if value is not None]
    if len(given) > 1:
        raise ConfigError([f"{given[0]} and {given[1]} both name an architecture; give one of them"])
    if not found:
        raise RunFolderError(f"nothing is searched yet; first run: nas-proxy search {run.path}")
    if key is not None:
        place = next((place for place, r in enumerate(found, 1) if r.key == key), None)
        if place is None:
            raise ConfigError(
                [
                    f"the search trained no architecture with the key {key!r}; trials.csv lists its "
                    f"{len(found)} keys, such as {found[0].key}"
                ]
            )
        return found[place - 1], place
    rank = 1 if rank is None else rank
    if not 1 <= rank <= len(found):
        raise ConfigError([f"--rank is {rank}; it must be between 1 and {len(found)}, the architectures of the search"])
    return found[rank - 1], rank


def _on_front(objectives: Sequence[str], found: Sequence[Record], place: int) -> Record:
    if len(objectives) == 1:
        raise ConfigError(
            [f"--front is {place}, but the run has one objective, {objectives[0]}; choose with --rank or --key"]
        )
    front = pareto_front(found, objectives)
    if not 1 <= place <= len(front):
        raise ConfigError(
            [f"--front is {place}; it must be between 1 and {len(front)}, the architectures on the Pareto front"]
        )
    return front[place - 1]


def _identity(problem: Problem, record: Record, recipe: Recipe) -> dict[str, Any]:
    return {
        "key": record.key,
        "space_digest": space_digest(problem.spec),
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
        found = [name for name in NAMES if (folder / name).exists()]
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

    for name in NAMES:  # so that files of different networks never stand together
        (folder / name).unlink(missing_ok=True)
    recipe = Recipe(**{**wanted["recipe"], "augmentation": tuple(wanted["recipe"]["augmentation"])})
    images = joined(problem.data.train, problem.data.validation)
    fitted, seconds = _fitted(problem, record, images, recipe, progress)
    confusion = confusion_on_test(problem, fitted)
    with open_tracker(problem.config.log, log_in) as tracker:
        score = None if confusion is None else int(confusion.diagonal().sum()) / int(confusion.sum())
        training(tracker, "Final training", record.key, fitted.losses, score)
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
        "scale": images.scale.tolist(),
        "offset": images.offset.tolist(),
        "trained_on": {"train": len(problem.data.train), "validation": len(problem.data.validation)},
        "seconds": round(seconds, 3),
        "image_passes": fitted.image_passes,
        "losses": [round(loss, 5) for loss in fitted.losses],
        "environment": environment(problem.device, 1),
        "latency": {TORCH: asdict(measure_latency(problem.space, record.architecture, problem.shape))},
    }
    fitted.network.to("cpu").eval()
    with atomic_path(folder / "model.safetensors") as temporary:
        save_model(fitted.network, str(temporary), metadata={"format": FORMAT})
    model_card.write_confusion(confusion.tolist(), images.classes, folder / "confusion.csv")
    write_json(folder / "architecture.json", told)
    return told


def joined(train: ImageSet, validation: ImageSet) -> ImageSet:
    """Return all development images, which decode as the train images do."""
    return replace(
        train,
        images=together(train.images, validation.images),
        labels=torch.cat([train.labels, validation.labels]),
    )


def _fitted(
    problem: Problem, record: Record, images: ImageSet, recipe: Recipe, progress: Progress
) -> tuple[Fitted, float]:
    start = time.perf_counter()
    seed = derive(problem.config.seed, "final", record.key)
    with progress.stage("Final training", recipe.steps(len(images))) as bar:
        build = _counted(lambda: problem.space.build(record.architecture, problem.shape), bar)
        try:
            fitted = fit(build, images, recipe, seed, problem.device)
            bar.to(recipe.steps(len(images)))
        except Exception as error:
            if isinstance(error, MemoryError | OSError | torch.OutOfMemoryError):
                raise
            raise RunFailedError(f"the final training of {record.key} failed: {in_a_line(error)}") from error
    return fitted, time.perf_counter() - start


def _counted(build: Callable[[], nn.Module], bar: Bar) -> Callable[[], nn.Module]:
    """Return `build` with a bar that moves by one for each batch that the network is trained on."""
    steps = 0

    def count(module: nn.Module, _: object) -> None:
        nonlocal steps
        if module.training:
            bar.to(steps)
            steps += 1

    def built() -> nn.Module:
        network = build()
        network.register_forward_pre_hook(count)
        return network

    return built


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
    told = {"image_size": problem.config.image_size, **told}  # those made earlier have none
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
