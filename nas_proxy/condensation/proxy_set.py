"""A proxy set: made by any method, kept in one kind of file, and read again.

In: real images and a recipe. Out: the images that networks train on instead, and with what effort they came about.
`make_proxy` serves every method and source; `save_proxy` and `open_proxy` are the only writer and reader of the
metadata, so a comparison can use the set of a run and the other way round. Guarantee: the same real images, recipe and
seed give the same images, whatever the number of processes and wherever the work was cut off.
"""

import platform
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from nas_proxy._version import __version__
from nas_proxy.condensation.distributed import ALONE, ProcessGroup
from nas_proxy.condensation.distribution_matching import Reports, Setup, match_distributions
from nas_proxy.condensation.patches import Effort, across, choose_patches, effort
from nas_proxy.condensation.published_sets import read_set
from nas_proxy.condensation.recipe import Condensation, Condensed
from nas_proxy.condensation.selection import FEATURE_RECIPE, select
from nas_proxy.data.images import ImageSet
from nas_proxy.data.splits import random_subset
from nas_proxy.errors import DataError, RunFolderError
from nas_proxy.spaces.space import SearchSpace

# The method of a set that was read; the recipe says from where.
FILE = "file"


@dataclass(frozen=True)
class ProxySet:
    """A proxy set on disk, without its images.

    fingerprint: of the images; data_fingerprint: of the data that they stand for. method: "dm", "random", "herding",
        "kcenter", "patches", or "file" for a set that was read.
    images: networks train on so many; stored: so many are kept, of so many `stored_bytes`.
    seconds: what making it took on one core, or on the GPU. passes: images that passed through networks for it, None
        where an older file does not say. embedded: keys of the architectures that served as embedding networks, of a
        space whose code has the digest `space_digest`; "" where none did, or an older file does not say.
    """

    path: Path
    fingerprint: str
    images: int
    stored: int
    stored_bytes: int
    seconds: float
    passes: int | None
    embedded: tuple[str, ...] = field(repr=False)
    method: str
    data_fingerprint: str
    space_digest: str = ""


def steps_of(recipe: Condensation, real: ImageSet) -> int:
    """Return how many steps making a set of `real` takes, as its progress tells them; 1 for what is done at once."""
    if recipe.patched:
        return _choosing(recipe, real).steps
    return recipe.steps if recipe.learnt else 1


def make_proxy(
    real: ImageSet,
    recipe: Condensation,
    seed: int,
    *,
    device: torch.device | str = "cpu",
    space: SearchSpace | None = None,
    exclude: Collection[str] = (),
    group: ProcessGroup = ALONE,
    checkpoint: Path | None = None,
    progress: Callable[[int, float], None] | None = None,
    preview: Callable[[int, ImageSet], None] | None = None,
    preview_every: int = 0,
    classes_per_step: int | None = None,
    data_fingerprint: str | None = None,
    space_digest: str = "",
    say: Callable[[str], None] = lambda text: None,
) -> Condensed:
    """Return `recipe.images_per_class` images for each class of `real`: learnt, chosen, or read from a file.

    space, exclude: for `recipe.embed` "space": where networks are drawn from, and the keys that are not.
    group: this process among several that learn images together; each returns all of them.
    checkpoint: file in which the state is kept every few seconds and from which the work goes on. At the end it
        holds the finished images, so that a kill before they are stored loses nothing: whoever has stored them
        removes it (`checkpoint.remove`). A checkpoint of another data set, recipe or seed is ignored. Of patches it is
        the trained teacher.
    progress: called with (steps done of `steps_of`, loss) now and then. preview: called with (steps done, images) every
        `preview_every` steps. say: told, once, why the work is slower than it could be.
    classes_per_step: classes whose images are in memory at a time; None for as many as fit, which is kept in the
        checkpoint. The loss is the same. For embedding networks other than ConvNets anything less than all means that
        images go through them part by part.
    data_fingerprint: of the data that `real` belongs to; a set of ours that is read must have been made of it.
    space_digest: of the code of `space`, so that nothing goes on that was begun with another one's networks.
    What a method does not need is not looked at. Raises RunFailedError when the loss is no longer finite (the last good
    checkpoint stays), ConfigError for more processes than classes and for pixels that patches do not divide, and
    DataError for a class with too few images and for a file that cannot be read or does not fit.
    """
    if recipe.learnt:
        setup = Setup(torch.device(device), space, exclude, group, checkpoint, classes_per_step, space_digest)
        return match_distributions(real, recipe, seed, setup, Reports(progress, preview, preview_every, say))
    if recipe.source is not None:
        return _read(Path(recipe.source), real, recipe, data_fingerprint)
    if recipe.patched:
        told = (lambda steps, loss: None) if progress is None else progress
        return choose_patches(real, recipe, seed, device=device, checkpoint=checkpoint, progress=told)
    start = time.perf_counter()
    chosen = select(
        real,
        recipe.per_class,
        recipe.method,
        seed,
        width=recipe.width,
        depth=recipe.depth,
        augmentation=recipe.augmentation,
        device=device,
    )
    return Condensed(chosen.packed(recipe.formation), time.perf_counter() - start)


def draw_random(real: ImageSet, per_class: int, draws: torch.Generator, formation: int = 1) -> Condensed:
    """Return `per_class` stored images of each class, random real ones: a baseline is drawn anew for each draw."""
    start = time.perf_counter()
    images = random_subset(real, per_class * formation**2, draws).packed(formation)
    return Condensed(images, time.perf_counter() - start)


def forward_passes(recipe: Condensation, real: ImageSet) -> int:
    """Return how many images, counted with repetition, pass forward through networks to make a set of `real`.

    Of a set that is read nothing is known, so 0.
    """
    if recipe.source is not None or recipe.method == "random":
        return 0
    classes = [len(members) for members in real.of_class()]
    if recipe.method == "dm":
        return recipe.steps * sum(min(members, recipe.real_batch) + recipe.per_class for members in classes)
    if recipe.method == "patches":
        return _choosing(recipe, real).passes
    return FEATURE_RECIPE.image_passes(len(real)) + len(real)


def _choosing(recipe: Condensation, real: ImageSet) -> Effort:
    side = across(recipe, real.shape.height, real.shape.width)
    return effort(recipe, [len(members) for members in real.of_class()], side)


def save_proxy(
    path: Path,
    condensed: Condensed,
    recipe: Condensation,
    seed: int,
    *,
    data: str,
    data_fingerprint: str,
    passes: int,
    threads: int,
    space_digest: str = "",
) -> None:
    """Write a set and how it came about, at once or not at all.

    data: what the user calls the data. passes: see `forward_passes`. threads: on which it was made; 1 on a GPU.
    space_digest: see `ProxySet`.
    """
    metadata = {
        "method": FILE if recipe.source is not None else recipe.method,
        "data": data,
        "data_fingerprint": data_fingerprint,
        "recipe": asdict(recipe),
        "seed": seed,
        "seconds": round(condensed.seconds, 4),
        "threads": threads,
        "passes": passes,
        "losses": [round(loss, 6) for loss in condensed.losses],
        "embedded": list(condensed.embedded),
        "space_digest": space_digest,
        "versions": {
            "nas_proxy": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    }
    condensed.images.save(path, metadata)


def open_proxy(path: Path) -> ProxySet:
    """Return what is known of the set in a file. Raises RunFolderError for what is no such file.

    Files of earlier versions lack the threads, which are then taken to be one, and the passes.
    """
    metadata, images = _proxy_metadata(path), ImageSet.load(path)
    passes = metadata.get("passes")
    return ProxySet(
        path=path,
        fingerprint=images.fingerprint(),
        images=len(images) * images.formation**2,
        stored=len(images),
        stored_bytes=images.stored_bytes,
        seconds=float(metadata["seconds"]) * int(metadata.get("threads", 1)),
        passes=None if passes is None else int(passes),
        embedded=tuple(metadata.get("embedded", ())),
        method=str(metadata["method"]),
        data_fingerprint=str(metadata["data_fingerprint"]),
        space_digest=str(metadata.get("space_digest", "")),
    )


def _proxy_metadata(path: Path) -> Mapping[str, Any]:
    metadata: dict[str, Any] = dict(ImageSet.load_metadata(path))
    missing = [name for name in ("method", "data_fingerprint", "seconds") if name not in metadata]
    if missing:
        raise RunFolderError(f"{path} holds images, but no proxy set: it lacks {', '.join(missing)}")
    return metadata


def _read(path: Path, real: ImageSet, recipe: Condensation, data_fingerprint: str | None) -> Condensed:
    """Return the images of a file: of a set of ours with what it cost, of another one with the time of reading."""
    if path.suffix.lower() == ".safetensors":
        return _read_own(path, real, recipe, data_fingerprint)
    start = time.perf_counter()
    images = replace(read_set(path, real, recipe.images_per_class), formation=recipe.formation)
    return Condensed(images, time.perf_counter() - start)


def _read_own(path: Path, real: ImageSet, recipe: Condensation, data_fingerprint: str | None) -> Condensed:
    if not path.is_file():
        raise DataError(f"the set {path} does not exist; give a proxy.safetensors, a .pt or an .npz file")
    try:
        known, images = open_proxy(path), ImageSet.load(path)
    except RunFolderError as error:
        raise DataError(str(error)) from None
    if data_fingerprint not in {None, known.data_fingerprint}:
        raise DataError(
            f"{path} was made of other data (fingerprint {known.data_fingerprint}, the data here has "
            f"{data_fingerprint}); give a set that was made of the same data, with the same --seed and --limit"
        )
    if images.shape != real.shape or images.classes != real.classes:
        raise DataError(f"{path} holds images {_size(images)}; the data has images {_size(real)}")
    per_class = len(images) // len(images.classes)
    if (per_class, images.formation) != (recipe.images_per_class, recipe.formation):
        raise DataError(
            f"{path} holds {per_class} images a class in formation {images.formation}, but "
            f"{recipe.images_per_class} in formation {recipe.formation} were asked for; "
            f"give --ipc {per_class} --formation {images.formation}"
        )
    return Condensed(images, known.seconds, embedded=known.embedded)


def _size(images: ImageSet) -> str:
    channels, height, width, _ = images.shape
    return f"of {channels}×{height}×{width} in the classes {', '.join(images.classes[:10])}"
