"""Dataset condensation by distribution matching: from a real set to a few synthetic images a class.

Source: Zhao & Bilen, "Dataset Condensation with Distribution Matching", WACV 2023. In many randomly drawn,
never trained networks, each class of the synthetic set S is given the mean feature of the real class T:

    min_S  E_θ  Σ_c ‖ mean_{x∈T_c} ψ_θ(A(x, ω_c)) − mean_{s∈S_c} ψ_θ(A(s, ω_c)) ‖²

with ψ_θ the flattened last feature map and A differentiable Siamese augmentation, one draw ω_c a class and step.
Step t draws everything from (seed, t), so a condensation that is cut off goes on where its checkpoint stands and
ends with the same images. Classes are independent given θ, so several processes may have some of them each.
"""

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from nas_proxy.condensation.checkpoint import State, restored, save
from nas_proxy.condensation.distributed import ALONE, ProcessGroup
from nas_proxy.condensation.memory import classes_together, divided, few_networks
from nas_proxy.condensation.recipe import Condensation, Condensed
from nas_proxy.condensation.step import Task, initial, members_of, open_networks, take_step
from nas_proxy.data.images import ImageSet, quantised
from nas_proxy.errors import ConfigError, RunFailedError
from nas_proxy.hardware import free_bytes, reproducible
from nas_proxy.spaces.space import SearchSpace

CHECKPOINT_SECONDS = 2.0
# Writing a checkpoint takes at most about this share of the time.
CHECKPOINT_SHARE = 0.05
REPORT_STEPS = 10
# A real set that takes more of a GPU's free memory than this stays where it is, and is read class by class.
SHARE_OF_MEMORY = 0.5


@dataclass(frozen=True)
class Reports:
    """Whom a condensation tells of itself, as in `nas_proxy.condensation.proxy_set.make_proxy`."""

    progress: Callable[[int, float], None] | None = None
    preview: Callable[[int, ImageSet], None] | None = None
    preview_every: int = 0
    say: Callable[[str], None] = lambda text: None


@dataclass(frozen=True)
class Setup:
    """With what a condensation works, as in `nas_proxy.condensation.proxy_set.make_proxy`."""

    device: torch.device
    space: SearchSpace | None = None
    exclude: Collection[str] = ()
    group: ProcessGroup = ALONE
    checkpoint: Path | None = None
    classes_per_step: int | None = None
    space_digest: str = ""


def match_distributions(
    real: ImageSet, recipe: Condensation, seed: int, setup: Setup, reports: Reports = Reports()
) -> Condensed:
    """Learn `recipe.images_per_class` synthetic images for each class of `real`.

    Raises RunFailedError when the loss is no longer finite, and when a GPU has too little memory; the last good
    checkpoint stays. Raises ConfigError for more processes than classes.
    """
    group, device = setup.group, setup.device
    if group.size > len(real.classes):
        raise ConfigError(
            [f"{group.size} processes share {len(real.classes)} classes, of which each needs one; start fewer"]
        )
    try:
        with reproducible(device):
            return _learnt(real, recipe, seed, setup, reports)
    except torch.OutOfMemoryError:
        raise RunFailedError(
            f"condensing needs more memory than is free on {device}; lower --real-batch or --width, or give "
            "--classes-per-step"
        ) from None
    finally:
        if device.type == "cuda":
            # Candidates train in other processes. What was on the device was held by `_learnt` alone.
            torch.cuda.empty_cache()


def _learnt(real: ImageSet, recipe: Condensation, seed: int, setup: Setup, reports: Reports) -> Condensed:
    begun = time.perf_counter()
    device, group, checkpoint = setup.device, setup.group, setup.checkpoint
    task = Task(_placed(real, device), members_of(real), recipe, seed, device, group)
    identity = f"{real.fingerprint()} {asdict(recipe)} {seed} {group} {sorted(setup.exclude)}"
    identity += f" {setup.space_digest}" if recipe.embed == "space" else ""
    state = restored(checkpoint, identity, group, device) or initial(task)
    task, state.together = _divided(task, state, setup, reports.say)
    networks = open_networks(task, setup.space, setup.exclude, reports.say)
    started, clock = begun - state.seconds, _Clock(group)
    losses = state.losses.tolist()
    while state.step < recipe.steps:
        loss = take_step(state, task, networks)
        reported = state.step % REPORT_STEPS == 0 or state.step == recipe.steps
        due = checkpoint is not None and (state.step == recipe.steps or clock.due(meeting=reported))
        if reported or due:
            value = _finite(loss, state, recipe)
        if reported:
            losses.append(value)
            if reports.progress is not None:
                reports.progress(state.step, value)
        if reports.preview is not None and reports.preview_every and state.step % reports.preview_every == 0:
            images = _gathered(state, task)
            if group.rank == 0:
                reports.preview(state.step, images)
        if checkpoint is not None and due:
            state.losses, state.seconds = torch.tensor(losses), time.perf_counter() - started
            with clock.saving():
                save(checkpoint, identity, state, group)
    images = _gathered(state, task)
    total = torch.tensor(group.gathered(losses)).sum(0)
    return Condensed(images, time.perf_counter() - started, tuple(total.tolist()), networks.embedded)


class _Clock:
    """Says when the next checkpoint is due: after a while, which is longer where writing one takes long."""

    def __init__(self, group: ProcessGroup) -> None:
        self._group = group
        self._saved = time.perf_counter()
        self._pause = CHECKPOINT_SECONDS

    def due(self, *, meeting: bool) -> bool:
        """Return whether to save after this step; several processes agree about it, at steps where they meet.

        So they save the same steps, and none runs so far ahead that no step is common to what they keep.
        """
        if self._group.size > 1 and not meeting:
            return False
        return any(self._group.gathered(time.perf_counter() - self._saved > self._pause))

    @contextlib.contextmanager
    def saving(self) -> Iterator[None]:
        """Take the time of writing a checkpoint."""
        start = time.perf_counter()
        yield
        self._saved = time.perf_counter()
        self._pause = max(CHECKPOINT_SECONDS, (self._saved - start) / CHECKPOINT_SHARE)


def _divided(task: Task, state: State, setup: Setup, say: Callable[[str], None]) -> tuple[Task, int]:
    """Return the task with as many classes at a time as are wanted, were taken before, or fit; and their number."""
    wanted = setup.classes_per_step
    if wanted is None and state.step > 0:
        wanted = state.together
    if wanted is None:
        wanted = classes_together(task, few_networks(task, setup.space, setup.exclude), free_bytes(task.device))
        # Processes that share classes meet in each layer of batch norm, so all go about it alike.
        wanted = min(task.ranks.gathered(wanted or len(task.members)))
    task = divided(task, wanted)
    if len(task.groups) > 1:
        say(f"{task.together} of {len(task.own)} classes are in memory at a time.")
    return task, task.together


def _placed(real: ImageSet, device: torch.device) -> ImageSet:
    """Return the real images on the device where they fit, else where they are."""
    if device.type == "cuda" and real.stored_bytes > SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return real
    return real.to(device)


def _gathered(state: State, task: Task) -> ImageSet:
    """Return the images of all classes, 8-bit."""
    images = torch.cat(task.ranks.gathered(state.images.detach().cpu()))
    labels = torch.arange(len(task.members)).repeat_interleave(task.recipe.images_per_class)
    return replace(quantised(images.float(), labels, task.real.classes), formation=task.recipe.formation)


def _finite(loss: Tensor, state: State, recipe: Condensation) -> float:
    # Instance norm maps images that have run away to a finite loss.
    value = float(loss + 0 * state.images.square().sum())
    if not math.isfinite(value):
        raise RunFailedError(
            f"the matching loss is {value} at step {state.step}; lower the learning_rate of the images (now "
            f"{recipe.learning_rate:g}): under [condense] in a run.toml for nas-proxy run --config"
        )
    return value
