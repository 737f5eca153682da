from pathlib import Path

import pytest
import torch

from nas_proxy.data.catalogue import default_cache, list_datasets
from nas_proxy.data.sources import open_source
from nas_proxy.errors import DataError


def message(dataset: str, **options: int) -> str:
    with pytest.raises(DataError) as caught:
        open_source(dataset, **options)
    return str(caught.value)


def test_digits():
    source = open_source("digits")
    images, labels = source.read("train")
    assert source.classes == tuple("0123456789")
    assert (source.has_test, source.has_validation) == (False, False)
    assert images.shape == (1797, 1, 8, 8)
    assert images.dtype == torch.uint8
    assert labels.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    # The first row of the data set is 0 0 5 13 9 1 0 0, in 0..16: 5 / 16 of 255 is 79.7.
    assert images[0, 0, 0].tolist() == [0, 0, 80, 207, 143, 16, 0, 0]
    assert images.max() == 255


def test_digits_resized_and_chosen():
    source = open_source("digits", image_size=28)
    images, labels = source.read("train", torch.tensor([3, 0]))
    assert images.shape == (2, 1, 28, 28)
    assert labels.tolist() == [3, 0]


def test_a_part_that_a_source_lacks():
    with pytest.raises(DataError) as caught:
        open_source("digits").read("test")
    assert str(caught.value) == "digits has no test part of its own; it has train"


def test_every_listed_name_has_a_line_and_is_known():
    names = [name for name, _ in list_datasets()]
    assert names == [
        "digits",
        "cifar10",
        "cifar100",
        "mnist",
        "fashion-mnist",
        "svhn",
        "folder:DIR",
        "npz:FILE",
        "csv:FILE",
        "hf:DIR",
    ]
    assert all(line and "\n" not in line for _, line in list_datasets())


def test_unknown_names():
    known = "cifar10, cifar100, csv:FILE, digits, fashion-mnist, folder:DIR, hf:DIR, mnist, npz:FILE, svhn"
    assert message("fashion_mnist") == (
        f"unknown data set 'fashion_mnist'; did you mean 'fashion-mnist'? known: {known}"
    )
    assert message("zip:photos") == f"unknown data set 'zip:photos'; known: {known}"


def test_names_without_a_place():
    assert message("folder:") == "'folder:' names no place; give folder:DIR"
    assert message("npz:") == "'npz:' names no place; give npz:FILE"


def test_image_sizes_that_are_none():
    expected = "the image size 0 is not a number of pixels; give 1 or more, for example 32"
    assert message("digits", image_size=0) == expected


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.delenv("NAS_PROXY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "nas_proxy" / "data"
    for nothing in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", nothing)
        assert default_cache() == Path.home() / ".cache" / "nas_proxy" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache() == Path.home() / ".cache" / "nas_proxy" / "data"


def test_the_home_folder_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert message("npz:~/x.npz") == f"the file {tmp_path / 'x.npz'} does not exist; give an existing one as npz:FILE"
