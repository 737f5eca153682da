"""The sets of images that signals train on: a signal and a draw in, a file and what making it cost out.

Files are `sets/<signal>-<draw>.safetensors` in the comparison's folder, made when they are not there. The first draw
has the run's own seed, as in `nas-proxy run`. Embedding networks are never drawn from the sample.
"""

import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from nas_proxy.compare.contenders import RANDOM, TOTAL, recipe_of
from nas_proxy.condensation.checkpoint import remove
from nas_proxy.condensation.distributed import ALONE
from nas_proxy.condensation.proxy_set import forward_passes, make_proxy
from nas_proxy.condensation.recipe import Condensation, Condensed
from nas_proxy.condensation.selection import select
from nas_proxy.data.images import ImageSet
from nas_proxy.data.splits import random_subset
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.run_folder import RunFolder
from nas_proxy.pipeline.session import Session
from nas_proxy.seeds import derive, torch_generator


@dataclass(frozen=True)
class Made:
    """A set on disk.

    images: networks train on so many; stored: so many are kept, of so many `stored_bytes`.
    seconds: what making it took on one core, or on the GPU. passes: images passed through networks for it.
    """

    path: Path
    fingerprint: str
    images: int
    stored: int
    stored_bytes: int
    seconds: float
    passes: int


def set_path(run: RunFolder | Path, name: str, draw: int) -> Path:
    """Return where a set is."""
    return run / "sets" / f"{name}-{draw}.safetensors"


def more_name(per_class: int) -> str:
    """Return what sets of so many random images a class are called."""
    return f"{TOTAL}~{per_class}"


def checkpoint_path(run: RunFolder | Path, name: str, draw: int) -> Path:
    """Return where the state of a set that is being learnt is."""
    return run / ".work" / f"{name}-{draw}.safetensors"


def embedded(session: Session) -> frozenset[str]:
    """Return the keys of all architectures that served as embedding networks; they are not ranked."""
    found: set[str] = set()
    for path in (session.run / "sets").glob("*.safetensors"):
        keys = ImageSet.load_metadata(path).get("embedded", [])
        assert isinstance(keys, list)
        found.update(keys)
    return frozenset(found)


def made_set(session: Session, name: str, draw: int, sample: Collection[str]) -> Made:
    """Return a signal's set of a draw, made when it is not there; `sample` are the keys that are not embedded."""
    path = set_path(session.run, name, draw)
    if not path.exists():
        recipe = recipe_of(name, session.config.condense)
        result = (
            _learnt(session, name, draw, recipe, sample) if recipe.method == "dm" else _chosen(session, draw, recipe)
        )
        _keep(session, path, result, draw, recipe, forward_passes(recipe, session.data.train))
        remove(checkpoint_path(session.run, name, draw), ALONE)
    return opened(session, path)


def more_random(session: Session, draw: int, per_class: int) -> Made:
    """Return a draw of so many random images a class, drawn when it is not there."""
    path = set_path(session.run, more_name(per_class), draw)
    if not path.exists():
        draws = torch_generator(session.config.seed, TOTAL, draw)
        start = time.perf_counter()
        images = random_subset(session.data.train, per_class, draws)
        recipe = Condensation(method=RANDOM, images_per_class=per_class)
        _keep(session, path, Condensed(images, time.perf_counter() - start, ()), draw, recipe, 0)
    return opened(session, path)


def opened(session: Session, path: Path) -> Made:
    """Return what a file holds. Raises RunFolderError when it was made of other data."""
    metadata, images = ImageSet.load_metadata(path), ImageSet.load(path)
    if metadata.get("data_fingerprint") != session.data.fingerprint:
        raise RunFolderError(
            f"{path} was made from other data (fingerprint {metadata.get('data_fingerprint')}, the data now has "
            f"{session.data.fingerprint}); restore the data or start again with --overwrite"
        )
    seconds, threads, passes = (float(str(metadata[name])) for name in ("seconds", "threads", "passes"))
    count = len(images) * images.formation**2
    stored = images.stored_bytes
    return Made(path, images.fingerprint(), count, len(images), stored, seconds * threads, int(passes))


def seed_of(session: Session, draw: int) -> int:
    """Return the seed of a draw; the first has the run's."""
    return session.config.seed if draw == 0 else derive(session.config.seed, "compare", "draw", draw)


def _learnt(session: Session, name: str, draw: int, recipe: Condensation, sample: Collection[str]) -> Condensed:
    with session.progress.stage(f"Condense: {name}, {draw + 1}", recipe.steps) as bar:
        return make_proxy(
            session.data.train,
            recipe,
            seed_of(session, draw),
            device=session.device,
            space=session.whole_space,
            exclude=sample if recipe.embed == "space" else (),
            checkpoint=checkpoint_path(session.run, name, draw),
            progress=lambda step, loss: bar.to(step, f"loss {loss:.3g}"),
            say=session.progress.say,
        )


def _chosen(session: Session, draw: int, recipe: Condensation) -> Condensed:
    train, several = session.data.train, recipe.images_per_class * recipe.formation**2
    start = time.perf_counter()
    if recipe.method == RANDOM:
        images = random_subset(train, several, torch_generator(session.config.seed, "random", draw))
    else:
        images = select(
            train,
            several,
            recipe.method,
            seed_of(session, draw),
            width=recipe.width,
            depth=recipe.depth,
            augmentation=recipe.augmentation,
            device=session.device,
        )
    return Condensed(images.packed(recipe.formation), time.perf_counter() - start, ())


def _keep(session: Session, path: Path, result: Condensed, draw: int, recipe: Condensation, passes: int) -> None:
    embedded: Sequence[str] = result.embedded
    metadata = {
        "method": recipe.method,
        "data_fingerprint": session.data.fingerprint,
        "recipe": asdict(recipe),
        "seed": seed_of(session, draw),
        "seconds": round(result.seconds, 4),
        "threads": torch.get_num_threads() if session.device == "cpu" else 1,
        "passes": passes,
        "losses": [round(loss, 6) for loss in result.losses],
        "embedded": list(embedded),
    }
    result.images.save(path, metadata)
