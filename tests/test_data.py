import collections
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_proxy.data import splits as data
from nas_proxy.data.images import from_raw
from nas_proxy.data.sources import Source, open_source
from nas_proxy.data.splits import development, held_out_test, random_subset, split
from nas_proxy.errors import DataError

CLASSES = tuple("abcde")
relaxed = settings(deadline=None, max_examples=50)  # a busy machine is no failure
counts = st.lists(st.integers(3, 50), min_size=2, max_size=5)
seeds = st.integers(0, 2**31)
limits = st.none() | st.integers(2, 70)


def labelled(of_class: list[int], seed: int = 0) -> torch.Tensor:
    """Return shuffled labels with `of_class[c]` of class c."""
    labels = torch.repeat_interleave(torch.arange(len(of_class)), torch.tensor(of_class))
    return labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]


def per_class(labels: torch.Tensor, index: torch.Tensor, classes: int) -> list[int]:
    return labels[index].bincount(minlength=classes).tolist()


class Memory:
    """A part in memory: image i shows the number that `names[i]` says; it remembers what was read."""

    def __init__(self, labels: torch.Tensor, first: int = 0, size: tuple[int, ...] = (1, 2, 2)) -> None:
        self.stored, self.read = labels, set()
        self.pixels = (torch.arange(len(labels)) + first).byte().view(-1, 1, 1, 1).expand(-1, *size)

    def labels(self):
        return self.stored

    def images(self, index, progress=None):
        self.read |= set(index.tolist())
        if progress is not None:
            progress(len(index), len(index))
        return self.pixels[index].clone()


def source(of_class: list[int], **own: list[int]) -> Source:
    parts = {"train": Memory(labelled(of_class))}
    for number, (part, there) in enumerate(own.items(), start=1):
        parts[part] = Memory(labelled(there), first=80 * number)
    return Source("memory", CLASSES[: len(of_class)], parts)


def shown(images) -> list[int]:
    return images.images[:, 0, 0, 0].tolist()


@given(counts, seeds)
@relaxed
def test_without_own_parts_a_class_is_split_by_the_shares(of_class, seed):
    labels, names = labelled(of_class), CLASSES[: len(of_class)]
    parts = split(labels, names, seed=seed)
    together = torch.cat([parts.train, parts.validation, parts.test])
    assert torch.equal(together.sort().values, torch.arange(len(labels)))
    # Test is rounded first, then validation of what is left; train takes up both errors.
    for index, share, error in (
        (parts.test, data.TEST, 0.5),
        (parts.validation, data.VALIDATION, 1),
        (parts.train, 1 - data.TEST - data.VALIDATION, 1.25),
    ):
        assert torch.equal(index, index.sort().values)
        for got, count in zip(per_class(labels, index, len(names)), of_class, strict=True):
            assert got >= 1
            assert abs(got - share * count) <= error + 1e-9


@pytest.fixture
def quarters(monkeypatch):
    """Numbers worked by hand stay right whatever shares are thought best."""
    monkeypatch.setattr(data, "VALIDATION", 0.25)
    monkeypatch.setattr(data, "TEST", 0.25)


@pytest.mark.usefixtures("quarters")
def test_shares_worked_by_hand():
    labels = labelled([3, 4, 8, 100])
    parts = split(labels, tuple("abcd"), seed=0)
    assert per_class(labels, parts.train, 4) == [1, 2, 4, 50]
    assert per_class(labels, parts.validation, 4) == [1, 1, 2, 25]
    assert per_class(labels, parts.test, 4) == [1, 1, 2, 25]


@pytest.mark.usefixtures("quarters")
@pytest.mark.parametrize(
    ("count", "own", "expected"),
    [
        (2, {"own_test": True}, (1, 1, 0)),
        (100, {"own_test": True}, (80, 20, 0)),
        (2500, {"own_test": True}, (2000, 500, 0)),
        (5000, {"own_test": True}, (4500, 500, 0)),
        (100, {"own_validation": True}, (75, 0, 25)),
        (2, {"own_validation": True}, (1, 0, 1)),
        (100, {"own_test": True, "own_validation": True}, (100, 0, 0)),
        (100, {"limit": 30}, (20, 10, 25)),
        (100, {"limit": 10}, (7, 3, 10)),
        (5000, {"own_test": True, "limit": 50}, (40, 10, 0)),
        (100, {"own_test": True, "own_validation": True, "limit": 1}, (1, 0, 0)),
    ],
)
def test_own_parts_and_limits_worked_by_hand(count, own, expected):
    labels = labelled([count, count])
    parts = split(labels, ("a", "b"), seed=3, **own)
    for index, wanted in zip((parts.train, parts.validation, parts.test), expected, strict=True):
        assert per_class(labels, index, 2) == [wanted, wanted]


@given(counts, seeds, limits, st.booleans(), st.booleans())
@relaxed
def test_parts_are_disjoint_limited_and_given_by_the_seed(of_class, seed, limit, own_test, own_validation):
    labels, names = labelled(of_class), CLASSES[: len(of_class)]
    options = {"own_test": own_test, "own_validation": own_validation, "limit": limit}
    first, again = (split(labels, names, seed=seed, **options) for _ in range(2))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(first, part), getattr(again, part))
    together = torch.cat([first.train, first.validation, first.test])
    assert len(together.unique()) == len(together)
    seen = torch.cat([first.train, first.validation])
    expected = split(labels, names, seed=seed, own_test=own_test, own_validation=own_validation)
    for name, index, whole in (
        ("development", seen, torch.cat([expected.train, expected.validation])),
        ("test", first.test, expected.test),
    ):
        without = per_class(labels, whole, len(names))
        wanted = [min(count, limit) if limit else count for count in without]
        assert per_class(labels, index, len(names)) == wanted, name


@given(counts, seeds, limits, limits)
@relaxed
def test_no_limit_moves_an_image_between_development_and_test(of_class, seed, low, high):
    labels, names = labelled(of_class), CLASSES[: len(of_class)]
    one, other = (split(labels, names, seed=seed, limit=limit) for limit in (low, high))
    seen = set(torch.cat([one.train, one.validation]).tolist())
    assert not seen & set(other.test.tolist())
    assert not set(one.test.tolist()) & set(torch.cat([other.train, other.validation]).tolist())


@given(seeds, seeds)
@relaxed
def test_different_seeds_split_differently(one, other):
    labels = labelled([60, 60])
    same = torch.equal(split(labels, ("a", "b"), seed=one).test, split(labels, ("a", "b"), seed=other).test)
    assert same == (one == other)


@given(counts, seeds)
@relaxed
def test_a_class_is_split_alike_whatever_the_others_are(of_class, seed):
    """The draws of a class depend on its own images only, so that more images of another change nothing."""
    labels = torch.repeat_interleave(torch.arange(len(of_class)), torch.tensor(of_class))
    more = torch.cat([labels, labels[labels != 0]])
    names = CLASSES[: len(of_class)]
    one, other = (split(found, names, seed=seed).test for found in (labels, more))
    assert one[one < of_class[0]].tolist() == other[other < of_class[0]].tolist()


def test_classes_too_small_to_split():
    def message(of_class, **options):
        with pytest.raises(DataError) as caught:
            split(labelled(of_class), ("cat", "dog"), seed=0, **options)
        return str(caught.value)

    assert message([5, 2]) == (
        "class 'dog' has 2 images; 3 or more are needed, one for each of train, validation, test"
    )
    assert message([5, 1], own_test=True) == (
        "class 'dog' has 1 images; 2 or more are needed, one for each of train, validation"
    )
    assert message([5, 5], limit=1) == "the limit of 1 images a class is too low; give 2 or more"
    assert message([5, 5], own_test=True, own_validation=True, limit=0) == (
        "the limit of 0 images a class is too low; give 1 or more"
    )


@given(counts, seeds, limits)
@relaxed
def test_images_to_be_split_are_read_by_who_may_see_them(of_class, seed, limit):
    whole = source(of_class)
    found = development(whole, seed=seed, limit=limit)
    seen = whole.parts["train"].read.copy()
    assert seen == set(shown(found.train) + shown(found.validation))
    whole.parts["train"].read.clear()
    test = held_out_test(whole, found, seed=seed, limit=limit)
    assert set(shown(test)) == whole.parts["train"].read
    assert not seen & whole.parts["train"].read


@pytest.mark.parametrize("limit", [None, 7])
def test_own_parts_are_read_by_who_may_see_them(limit):
    whole = source([20, 30], test=[9, 8], validation=[10, 6])
    found = development(whole, seed=1, limit=limit)
    assert not whole.parts["test"].read
    assert found.train.labels.bincount().tolist() == ([7, 7] if limit else [20, 30])
    assert found.validation.labels.bincount().tolist() == ([7, 6] if limit else [10, 6])
    assert set(shown(found.validation)) <= set(range(160, 176))
    test = held_out_test(whole, found, seed=1, limit=limit)
    assert test.labels.bincount().tolist() == ([7, 7] if limit else [9, 8])
    assert set(shown(test)) <= set(range(80, 97))
    for images, part in ((found.train, "train"), (found.validation, "validation"), (test, "test")):
        stored, first = whole.parts[part].stored, int(whole.parts[part].pixels[0, 0, 0, 0])
        assert [int(stored[pixel - first]) for pixel in shown(images)] == images.labels.tolist()


def test_all_parts_decode_as_train_does():
    whole = source([20, 30], test=[9, 8])
    found = development(whole, seed=1)
    test = held_out_test(whole, found, seed=1)
    decoded = found.train.decode()
    assert decoded.mean() == pytest.approx(0, abs=1e-5)
    assert decoded.std(correction=0) == pytest.approx(1, abs=1e-5)
    for other in (found.validation, test):
        assert torch.equal(other.scale, found.train.scale)
        assert torch.equal(other.offset, found.train.offset)


def test_the_fingerprint_is_of_train_and_validation():
    whole = source([20, 30], test=[9, 8], validation=[10, 6])
    prints = {development(whole, seed=1, limit=limit).fingerprint for limit in (None, None, 5)}
    assert len(prints) == 2
    assert all(len(text) == 16 for text in prints)
    changed = source([20, 30], test=[9, 8], validation=[10, 7])
    assert development(changed, seed=1).fingerprint not in prints
    untouched = source([20, 30], test=[19, 8], validation=[10, 6])
    assert development(untouched, seed=1).fingerprint in prints


def test_progress_is_passed_on():
    calls = []
    whole = source([20, 30], test=[9, 8])
    found = development(whole, seed=1, progress=lambda *call: calls.append(call))
    held_out_test(whole, found, seed=1, progress=lambda *call: calls.append(call))
    assert calls == [(50, 50), (17, 17)]


def test_parts_of_different_shapes():
    whole = source([20, 30], test=[9, 8])
    whole.parts["test"].pixels = whole.parts["test"].pixels.expand(-1, 3, 2, 2)
    found = development(whole, seed=1)
    with pytest.raises(DataError) as caught:
        held_out_test(whole, found, seed=1)
    assert str(caught.value) == (
        "the test images of memory are 3×2×2 (channels×height×width) but those of train are 1×2×2; "
        "all parts must have one shape"
    )


def test_digits_end_to_end():
    whole = open_source("digits", image_size=28)
    found = development(whole, seed=0)
    test = held_out_test(whole, found, seed=0)
    assert found.train.shape == (1, 28, 28, 10)
    assert len(found.train) + len(found.validation) + len(test) == 1797
    rows = torch.cat([part.images.flatten(1) for part in (found.train, found.validation, test)])
    assert len(rows.unique(dim=0)) == len(rows)  # no digit is twice in the data set, so none is in two parts


@given(st.lists(st.integers(4, 9), min_size=2, max_size=5), st.integers(1, 4), seeds)
@relaxed
def test_a_random_subset_has_each_class_in_turn(of_class, wanted, seed):
    labels = labelled(of_class)
    images = torch.arange(len(labels)).byte().view(-1, 1, 1, 1)
    whole = from_raw(images, labels, CLASSES[: len(of_class)])
    one, again = (random_subset(whole, wanted, torch.Generator().manual_seed(seed)) for _ in range(2))
    assert one.labels.tolist() == [label for label in range(len(of_class)) for _ in range(wanted)]
    assert torch.equal(one.images, again.images)
    assert len(set(shown(one))) == len(one)
    assert labels[one.images.flatten().long()].tolist() == one.labels.tolist()
    assert torch.equal(one.scale, whole.scale)


def test_a_random_subset_draws_every_image_equally_often():
    whole = from_raw(torch.arange(10).byte().view(-1, 1, 1, 1), torch.tensor([0] * 5 + [1] * 5), ("a", "b"))
    generator = torch.Generator().manual_seed(0)
    drawn = collections.Counter(pixel for _ in range(500) for pixel in shown(random_subset(whole, 2, generator)))
    # Each is drawn 500 × 2 / 5 = 200 times, with a standard deviation of 11.
    assert all(150 < drawn[pixel] < 250 for pixel in range(10))


def test_a_random_subset_of_too_few():
    whole = from_raw(torch.zeros(5, 1, 2, 2).byte(), torch.tensor([0, 0, 0, 1, 1]), ("cat", "dog"))
    with pytest.raises(DataError) as caught:
        random_subset(replace(whole), 3, torch.Generator())
    assert str(caught.value) == (
        "class 'dog' has 2 train images, so 3 a class cannot be drawn; ask for 2 a class or fewer"
    )


@pytest.mark.parametrize("limit", [None, 5])
def test_test_images_are_counted_as_they_will_be_read(limit):
    from nas_proxy.data.sources import open_source
    from nas_proxy.data.splits import counted

    source = open_source("digits")
    found = development(source, seed=0, limit=limit)
    assert counted(source, seed=0, limit=limit).test == len(held_out_test(source, found, seed=0, limit=limit))
