"""What is searched, on what: settings in; device, data, space and ground truth table out, opened before any work.

It comes in two parts: a `Prospect`, for which a few images are read, and a `Problem`, for which all of them are, which
may take a while. Guarantees: the user's mistakes in data, space and table are raised here, before the run folder is
touched; nothing is trained or timed. The space is imported before the data are opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from nas_proxy.data.images import DataShape, ImageSet
from nas_proxy.data.sources import Source, open_source
from nas_proxy.data.splits import Counts, Development, counted, development, few_classes
from nas_proxy.errors import DeviceError
from nas_proxy.progress import SILENT, Progress
from nas_proxy.ranking.truth_table import TruthTable, known_part, load_truth_table
from nas_proxy.runs.settings import POOL, RunConfig
from nas_proxy.spaces.asked import asked_apart
from nas_proxy.spaces.cost import Sizes
from nas_proxy.spaces.limits import small_part
from nas_proxy.spaces.loading import Given, Spec, load_space, pinned, space_digest, spec_of, try_import, try_out
from nas_proxy.spaces.space import Architecture, SearchSpace
from nas_proxy.strategy.enqueue import architectures
from nas_proxy.strategy.latencies import MINUTES

# Classes of which a few images are read before all are, and images of each: as many as a step may take.
CLASSES, PER_CLASS = 2, 32


@dataclass(frozen=True)
class Prospect:
    """What a run works on, as far as it is known from a few images.

    spec: what names the space, or holds it, in jobs for workers; digest: of its code when the command began: a file
    that is edited meanwhile ends it. device: "cpu" or "cuda:N", where sets and final
    networks are made. counts: images of each part. few: train images of a few classes. whole_space: tried out. table:
    published accuracies that stand for full training, where the user gave some. space: the part of the whole space that
    the table holds and that is within the limits on size. enqueued: architectures to be proposed first.
    """

    config: RunConfig
    spec: Spec
    digest: str
    device: str
    source: Source
    counts: Counts
    few: ImageSet
    whole_space: SearchSpace
    table: TruthTable | None
    sizes: Sizes
    space: SearchSpace
    enqueued: Sequence[Architecture]

    @property
    def shape(self) -> DataShape:
        """The shape of the images and the number of classes."""
        return self.few.shape._replace(classes=len(self.source.classes))

    @property
    def most(self) -> int | None:
        """The most architectures that the space can have, without measuring any; None where that is not known."""
        return self.whole_space.size if self.space.size is None else self.space.size

    @property
    def number(self) -> int | None:
        """How many architectures the space has; of a large one within limits the most that it can have, as `most`."""
        if self.space.size is not None or self.most is None or self.most > POOL:
            return self.most
        return sum(1 for _ in self.space.sample(self.config.seed))  # each is measured once, whoever asks again


@dataclass(frozen=True)
class Problem(Prospect):
    """What a run works on, with all its train and validation images."""

    data: Development

    @property
    def shape(self) -> DataShape:
        """The shape of the images and the number of classes."""
        return self.data.train.shape


def open_problem(config: RunConfig, progress: Progress = SILENT, space: Given | None = None) -> Problem:
    """Open data, space and table, see `open_prospect`, and read all train and validation images."""
    return opened(open_prospect(config, progress, space), progress)


def open_prospect(config: RunConfig, progress: Progress = SILENT, space: Given | None = None) -> Prospect:
    """Open data, space and table, and read a few images. Raises a UserError for what cannot be used.

    space: itself, where the settings do not name it but say that it was given.
    """
    spec = pinned(config.space if space is None else spec_of(space))
    device = choose_device(next(iter(config.devices), config.device))
    try_import(spec)  # before the data, which may take a while
    source = open_source(config.dataset, image_size=config.image_size, say=progress.say)
    counts = counted(source, seed=config.seed, limit=config.limit)
    classes = min(CLASSES, len(source.classes))
    few = few_classes(source, seed=config.seed, limit=config.limit, classes=classes, per_class=PER_CLASS)
    shape = few.shape._replace(classes=len(source.classes))
    try_import(spec, shape)
    whole = asked_apart(load_space(spec, shape))  # of a space itself the copy that workers get as well
    try_out(whole, shape)
    table = _table(config, whole, shape.classes, progress)
    sizes = Sizes(whole, shape, 60 * (config.candidate_minutes or MINUTES))
    known = whole if table is None else known_part(whole, table)
    part = small_part(known, config.max_params, config.max_flops, sizes.of)
    enqueued = architectures(part, config.enqueue)
    return Prospect(config, spec, space_digest(spec), device, source, counts, few, whole, table, sizes, part, enqueued)


def within(prospect: Prospect, max_flops: int) -> Prospect:
    """Return the prospect of the architectures of no more FLOPs. Raises ConfigError for enqueued ones with more."""
    config = replace(prospect.config, max_flops=max_flops)
    part = small_part(prospect.space, None, max_flops, prospect.sizes.of)
    return replace(prospect, config=config, space=part, enqueued=architectures(part, config.enqueue))


def opened(prospect: Prospect, progress: Progress = SILENT) -> Problem:
    """Read all train and validation images."""
    known = {field.name: getattr(prospect, field.name) for field in fields(Prospect)}
    return Problem(**known, data=read_data(prospect.source, prospect.config, progress))


def read_data(source: Source, config: RunConfig, progress: Progress = SILENT) -> Development:
    """Read the train and validation images."""
    with progress.stage("Load", 1) as bar:
        data = development(
            source,
            seed=config.seed,
            limit=config.limit,
            progress=lambda done, total: bar.to(0, f"{done}/{total} read"),
        )
        test = counted(source, seed=config.seed, limit=config.limit).test
        bar.to(1, f"{len(data.train)} train, {len(data.validation)} val, {test} test")
    asked = {name: getattr(config, name) for name in ("dataset", "seed", "limit", "image_size")}
    return replace(data, **asked)


def _table(config: RunConfig, space: SearchSpace, classes: int, progress: Progress) -> TruthTable | None:
    if config.truth_table is None:
        return None
    table = load_truth_table(config.truth_table, space, classes, allow_pickle=config.allow_pickle)
    progress.say(f"Truth table: {'; '.join(table.remarks)}.")
    return table


def choose_device(name: str) -> str:
    """Return "cpu" or "cuda:N" for the setting `device`. Raises DeviceError when it is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return "cuda:0" if count else "cpu"
    if name == "cpu":
        return "cpu"
    wanted = int(name.removeprefix("cuda").removeprefix(":") or 0)
    if wanted >= count:
        there = ", ".join(["cpu", *(f"cuda:{i}" for i in range(count))])
        raise DeviceError(f"the device {name} is not there; this machine has: {there}")
    return f"cuda:{wanted}"
