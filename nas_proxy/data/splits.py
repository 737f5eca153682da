"""Who may see which images: development data for condensation, search and final training, test data for scoring.

In: a `Source` and the run's seed. Out: `Development` (train and validation) and, by a separate call, the test
images.
Guarantees: the parts are disjoint and stratified, and depend on the labels, the seed and the limit only; the
limit never moves an image between development and test; a part that is not asked for is not read; all parts
decode with the scale and offset of train.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_proxy import notebook
from nas_proxy.data.groups import grouped
from nas_proxy.data.images import ImageSet, from_raw
from nas_proxy.data.picture import sample_png
from nas_proxy.data.sources import Part, Source
from nas_proxy.data.store import Progress, StoredImages, taken
from nas_proxy.errors import DataError
from nas_proxy.seeds import torch_generator

# Shares of each class where a source keeps no test part of its own; the rest is for training. The test part is
# large because its noise limits how well two rankings can be told apart.
VALIDATION = 0.2
TEST = 0.4
# Where it keeps a test part but no validation part: the share of its train part, and the most of a class.
VALIDATION_OF_TRAIN = 0.2
MOST_VALIDATION = 500
# Classes that a notebook shows.
MOST_SHOWN = 10


@dataclass(frozen=True)
class Development:
    """All that condensation and search may see; `fingerprint` is of both parts, 16 hexadecimal digits.

    dataset, seed, limit, image_size: what it was read by, as in the settings of a run; "" where it was made otherwise.
    """

    train: ImageSet
    validation: ImageSet
    fingerprint: str
    dataset: str = ""
    seed: int = 0
    limit: int | None = None
    image_size: int | None = None

    def __repr__(self) -> str:
        parts = f"{len(self.train):,} train and {len(self.validation):,} validation images"
        return f"Development({self.dataset!r}: {parts} of {_by(self.train.images)}, {len(self.train.classes)} classes)"

    def _repr_html_(self) -> str:
        names = self.train.classes
        each = [torch.bincount(part.labels, minlength=len(names)).tolist() for part in (self.train, self.validation)]
        rows = [(name, *counts) for name, *counts in zip(names, *each, strict=True)]
        if len(rows) > MOST_SHOWN:
            rows = [*rows[:MOST_SHOWN], (f"and {len(names) - MOST_SHOWN} more", "", "")]
        return notebook.page(
            notebook.line(repr(self)),
            notebook.pictures([("Train images, a row a class", *sample_png(self.train, rows=MOST_SHOWN))]),
            notebook.table(rows, ("class", "train", "validation")),
            notebook.line("Test images are opened by the full trainings alone."),
        )


@dataclass(frozen=True)
class Split:
    """Indices into the train part of a source, each sorted and disjoint from the others; int64, (n,)."""

    train: Tensor
    validation: Tensor
    test: Tensor


@dataclass(frozen=True)
class Counts:
    """Images of each part; smallest: train images of the class with the fewest."""

    train: int
    validation: int
    test: int
    smallest: int


def split(
    labels: Tensor,
    classes: tuple[str, ...],
    *,
    seed: int,
    own_test: bool = False,
    own_validation: bool = False,
    limit: int | None = None,
    groups: Tensor | None = None,
) -> Split:
    """Split each class at random into train and the parts that a source lacks; the limit comes after test.

    labels: int64, (n,). A part that the source has of its own comes out empty. Without a limit the parts
    cover everything; with one, a class has at most `limit` images in train and validation together, and at
    most `limit` in test. groups: int64, (n,); images of one group stay in one part, see `nas_proxy.data.groups`.
    Raises DataError for a class with too few images for one in each part, and for such a limit.
    """
    parts = ["train", *["validation"] * (not own_validation), *["test"] * (not own_test)]
    needed = 1 if own_validation else 2
    if limit is not None and limit < needed:
        raise DataError(f"the limit of {limit} images a class is too low; give {needed} or more")
    if groups is not None:
        return _by_groups(labels, classes, groups, seed=seed, parts=parts, limit=limit)
    train, validation, test = [], [], []
    for label, name in enumerate(classes):
        order = _shuffled(labels, label, seed)
        if len(order) < len(parts):
            raise DataError(
                f"class {name!r} has {len(order)} images; {len(parts)} or more are needed, "
                f"one for each of {', '.join(parts)}"
            )
        held_out = 0 if own_test else _share(len(order), TEST)
        rest = order[held_out:][:limit]
        if own_validation:
            kept = 0
        elif own_test:
            kept = min(_share(len(rest), VALIDATION_OF_TRAIN), MOST_VALIDATION)
        else:
            kept = _share(len(rest), VALIDATION / (1 - TEST))
        test.append(order[:held_out][:limit])
        validation.append(rest[:kept])
        train.append(rest[kept:])
    return Split(*(torch.cat(part).sort().values for part in (train, validation, test)))


def _by_groups(
    labels: Tensor, classes: tuple[str, ...], groups: Tensor, *, seed: int, parts: Sequence[str], limit: int | None
) -> Split:
    shares = {"test": TEST} if "test" in parts else {}
    if "validation" in parts:
        shares["validation"] = VALIDATION if "test" in parts else VALIDATION_OF_TRAIN
    found = grouped(labels, classes, groups, {"train": 1 - sum(shares.values()), **shares}, seed)
    if limit is not None:  # of train and validation together, as without groups
        kept = _share(limit, shares["validation"] / (1 - shares.get("test", 0))) if "validation" in parts else 0
        most = {"train": limit - kept, "validation": kept, "test": limit}
        found = {part: _at_most(labels, index, len(classes), most[part], seed) for part, index in found.items()}
    nothing = torch.empty(0, dtype=torch.int64)
    return Split(found["train"], found.get("validation", nothing), found.get("test", nothing))


def _at_most(labels: Tensor, index: Tensor, classes: int, most: int, seed: int) -> Tensor:
    drawn = [index[_shuffled(labels[index], label, seed, "limit")[:most]] for label in range(classes)]
    return torch.cat(drawn).sort().values


def development(
    source: Source, *, seed: int, limit: int | None = None, progress: Progress | None = None
) -> Development:
    """Read the train and validation images; a validation part of the source's own is limited by itself."""
    parts = _split_of(source, seed, limit)
    index = torch.cat([parts.train, parts.validation])
    images, labels = source.read("train", index, progress=progress)
    count = len(parts.train)
    if isinstance(images, StoredImages):  # which leaves out what it cannot read
        count = int(torch.isin(images.rows, parts.train).sum())
    train = from_raw(taken(images, slice(count)), labels[:count], source.classes)
    if source.has_validation:
        validation = _own_part(source, "validation", train, seed=seed, limit=limit, progress=progress)
    else:
        validation = from_raw(taken(images, slice(count, None)), labels[count:], source.classes, like=train)
    text = train.fingerprint() + validation.fingerprint()
    return Development(train, validation, hashlib.sha256(text.encode()).hexdigest()[:16])


def held_out_test(
    source: Source,
    development: Development,
    *,
    seed: int,
    limit: int | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """The test images, for `pipeline.ground_truth` alone. Give it the seed and the limit of `development`."""
    if source.has_test:
        return _own_part(source, "test", development.train, seed=seed, limit=limit, progress=progress)
    try:
        images, labels = source.read("train", _split_of(source, seed, limit).test, progress=progress)
    except DataError as error:
        raise DataError(
            f"{error} (it is one of the test images that were split off: in a run that has begun, put a good image in "
            "its place, since without it other images would be for training)"
        ) from None
    return from_raw(images, labels, source.classes, like=development.train)


def counted(source: Source, *, seed: int, limit: int | None = None) -> Counts:
    """Return how many images the parts have, without reading one; unreadable files, if there are any, count."""
    labels, classes, parts = source.labels("train"), len(source.classes), _split_of(source, seed, limit)

    def own(part: Part) -> int:
        each = torch.bincount(source.labels(part), minlength=classes)
        return int((each if limit is None else each.clamp(max=limit)).sum())

    return Counts(
        train=len(parts.train),
        validation=own("validation") if source.has_validation else len(parts.validation),
        test=own("test") if source.has_test else len(parts.test),
        smallest=int(torch.bincount(labels[parts.train], minlength=classes).min()),
    )


def few_classes(source: Source, *, seed: int, classes: int, per_class: int, limit: int | None = None) -> ImageSet:
    """Read at most `per_class` train images of each of the first `classes` classes, to try something out on them."""
    images, found = source.read(
        "train", few_indices(source, seed=seed, classes=classes, per_class=per_class, limit=limit)
    )
    return from_raw(images, found, source.classes[:classes])


def few_indices(source: Source, *, seed: int, classes: int, per_class: int, limit: int | None = None) -> Tensor:
    """Return which images `few_classes` reads: int64, (n,), class by class."""
    train, labels = _split_of(source, seed, limit).train, source.labels("train")
    return torch.cat([source.readable("train", train[labels[train] == label], per_class) for label in range(classes)])


def random_subset(data: ImageSet, per_class: int, generator: torch.Generator) -> ImageSet:
    """Return `per_class` random images of each class: those of class 0, then those of class 1, and so on.

    Raises DataError for a class with fewer images.
    """
    chosen = []
    for members, name in zip(data.of_class(), data.classes, strict=True):
        if len(members) < per_class:
            raise DataError(
                f"class {name!r} has {len(members)} train images, so {per_class} a class cannot be drawn; "
                f"ask for {len(members)} a class or fewer"
            )
        drawn = torch.randperm(len(members), generator=generator)[:per_class]
        chosen.append(members[drawn.to(members.device)])
    return data.select(torch.cat(chosen))


def _split_of(source: Source, seed: int, limit: int | None) -> Split:
    return split(
        source.labels("train"),
        source.classes,
        seed=seed,
        own_test=source.has_test,
        own_validation=source.has_validation,
        limit=limit,
        groups=source.groups,
    )


def _own_part(
    source: Source, part: Part, train: ImageSet, *, seed: int, limit: int | None, progress: Progress | None
) -> ImageSet:
    """Read a part that the source keeps apart, at most `limit` images a class, to decode as train does."""
    index = None
    if limit is not None:
        labels = source.labels(part)
        drawn = [_shuffled(labels, label, seed, part)[:limit] for label in range(len(source.classes))]
        index = torch.cat(drawn).sort().values
    images, labels = source.read(part, index, progress=progress)
    if images.shape[1:] != train.images.shape[1:]:
        raise DataError(
            f"the {part} images of {source.name} are {_by(images)} (channels×height×width) but those of "
            f"train are {_by(train.images)}; all parts must have one shape"
        )
    return from_raw(images, labels, source.classes, like=train)


def _shuffled(labels: Tensor, label: int, seed: int, *purpose: str) -> Tensor:
    members = torch.nonzero(labels == label).flatten()
    generator = torch_generator(seed, "split", *purpose, label)
    return members[torch.randperm(len(members), generator=generator)]


def _share(count: int, fraction: float) -> int:
    return max(1, round(count * fraction))


def _by(images: Tensor | StoredImages) -> str:
    return "×".join(map(str, images.shape[1:]))
