"""The sets of images that signals train on: a signal and a draw in, a file with what making it cost out.

A run's own condensed set is `proxy.safetensors` in its folder, all others are `sets/<signal>-<draw>.safetensors`; each
is made when it is not there. The first draw has the run's own seed. Embedding networks are never drawn from the sample.
"""

import functools
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_proxy.condensation.checkpoint import remove
from nas_proxy.condensation.distributed import ALONE, ProcessGroup
from nas_proxy.condensation.proxy_set import (
    ProxySet,
    draw_random,
    forward_passes,
    make_proxy,
    open_proxy,
    save_proxy,
    steps_of,
)
from nas_proxy.condensation.recipe import Condensation, Condensed
from nas_proxy.data.images import ImageSet
from nas_proxy.data.picture import write_grid
from nas_proxy.errors import RunFolderError
from nas_proxy.names import PROXY, RANDOM, TOTAL
from nas_proxy.progress import Bar, Progress
from nas_proxy.seeds import derive, torch_generator
from nas_proxy.signals.signal import Signal, SmallSet
from nas_proxy.signals.stored_names import checkpoint_path, equal_cost_name, set_path
from nas_proxy.spaces.space import SearchSpace


def embedded_keys(folder: Path) -> frozenset[str]:
    """Return the keys of all architectures that served as embedding networks for the sets in a folder."""
    paths = [set_path(folder, PROXY, 0), *(folder / "sets").glob("*.safetensors")]
    known = [ImageSet.load_metadata(path).get("embedded", []) for path in paths if path.exists()]
    return frozenset(key for keys in known if isinstance(keys, list) for key in keys)


@dataclass(frozen=True)
class SetMaker:
    """Makes and opens the sets of a run.

    real: all training images of the data `dataset` with that `fingerprint`. space: where embedding networks come from,
        with the digest of its code.
    group: this process among those that share a condensation. preview_every, classes_per_step: as in `make_proxy`.
    tell: is told the title, steps done and loss of a condensation.
    """

    folder: Path
    real: ImageSet
    dataset: str
    fingerprint: str
    seed: int
    device: str
    space: SearchSpace
    space_digest: str
    progress: Progress
    group: ProcessGroup = ALONE
    preview_every: int = 0
    classes_per_step: int | None = None
    tell: Callable[[str, int, float], None] = lambda title, step, loss: None

    def opened(self, path: Path) -> ProxySet:
        """Return what a file holds. Raises RunFolderError for one of other data, or of another code's networks."""
        made = open_proxy(path)
        if made.data_fingerprint != self.fingerprint:
            raise RunFolderError(
                f"{path} was made from other data (fingerprint {made.data_fingerprint}, the data now has "
                f"{self.fingerprint}); restore the data or start again with --overwrite"
            )
        if made.space_digest not in ("", self.space_digest):
            raise RunFolderError(
                f"{path} was condensed by networks of the search space {self.space.name} whose code has changed since; "
                "restore it or start again with --overwrite"
            )
        return made

    def of(self, signal: Signal, draw: int, sample: Callable[[], Collection[str]]) -> ProxySet:
        """Return a signal's set of a draw, made when it is not there; `sample` gives the keys that do not embed."""
        assert isinstance(signal.source, SmallSet)
        path, recipe = set_path(self.folder, signal.name, draw), signal.source.recipe
        if not path.exists():
            made = self.make(signal, draw, sample)
            self._keep(path, made, recipe, self._seed(draw))
            if recipe.learnt:
                self.group.agree()  # every process keeps its checkpoint until the images are stored
            remove(checkpoint_path(self.folder, signal.name, draw), self.group)
        return self.opened(path)

    def make(self, signal: Signal, draw: int, sample: Callable[[], Collection[str]]) -> Condensed:
        """Learn, choose or read the images of a set."""
        assert isinstance(signal.source, SmallSet)
        recipe = signal.source.recipe
        if signal.name != PROXY and recipe.method == RANDOM:
            draws = torch_generator(self.seed, "random", draw)
            return draw_random(self.real, recipe.images_per_class, draws, recipe.formation)
        title = "Condense" if signal.name == PROXY else f"Condense: {signal.name}, {draw + 1}"
        steps = steps_of(recipe, self.real)
        with self.progress.stage(title, steps) as bar:
            made = make_proxy(
                self.real,
                recipe,
                self._seed(draw),
                device=self.device,
                space=self.space,
                exclude=sample() if recipe.learnt and recipe.embed == "space" else (),
                group=self.group,
                checkpoint=checkpoint_path(self.folder, signal.name, draw),
                progress=_shown(bar, functools.partial(self.tell, title)),
                preview=self._preview,
                preview_every=self.preview_every if signal.name == PROXY else 0,
                classes_per_step=self.classes_per_step,
                data_fingerprint=self.fingerprint,
                space_digest=self.space_digest,
                say=self.progress.say,
            )
            bar.to(steps)
        return made

    def random(self, draw: int, per_class: int) -> ProxySet:
        """Return a draw of so many random images a class, for equal cost; drawn when it is not there."""
        path = set_path(self.folder, equal_cost_name(per_class), draw)
        if not path.exists():
            recipe = Condensation(method=RANDOM, images_per_class=per_class)
            made = draw_random(self.real, per_class, torch_generator(self.seed, TOTAL, draw))
            self._keep(path, made, recipe, self._seed(draw))
        return self.opened(path)

    def _seed(self, draw: int) -> int:
        return self.seed if draw == 0 else derive(self.seed, "compare", "draw", draw)

    def _preview(self, step: int, images: ImageSet) -> None:
        write_grid(images, self.real, self.folder / "previews" / f"step-{step:06d}.png")

    def _keep(self, path: Path, made: Condensed, recipe: Condensation, seed: int) -> None:
        save_proxy(
            path,
            made,
            recipe,
            seed,
            data=self.dataset,
            data_fingerprint=self.fingerprint,
            passes=forward_passes(recipe, self.real),
            threads=torch.get_num_threads() if self.device == "cpu" else 1,
            space_digest=self.space_digest if recipe.learnt and recipe.embed == "space" else "",
        )


def _shown(bar: Bar, tell: Callable[[int, float], None]) -> Callable[[int, float], None]:
    """Return what shows the steps of a condensation: their number, loss and speed."""
    first: list[tuple[int, float]] = []

    def show(step: int, loss: float) -> None:
        first.append((step, time.perf_counter()))
        del first[1:]
        begun, at = first[0]
        speed = f", {(step - begun) / (time.perf_counter() - at):.3g} steps/s" if step > begun else ""
        bar.to(step, f"loss {loss:.3g}{speed}")
        tell(step, loss)

    return show
