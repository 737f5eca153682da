"""What `--dataset` takes, by name and in a line each; nothing that is named here is imported or opened for it."""

import os
from dataclasses import dataclass
from pathlib import Path

from nas_proxy.errors import DataError, nearest
from nas_proxy.files import expanded


@dataclass(frozen=True)
class Published:
    """The class of torchvision.datasets that reads a set, and which files it expects in the cache folder."""

    torchvision: str
    about: str
    folder: str
    files: tuple[str, ...]


_IDX = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta")
PUBLISHED = {
    "cifar10": Published("CIFAR10", "60,000 photographs, 32×32, colour, 10 classes", "cifar-10-batches-py", _BATCHES),
    "cifar100": Published(
        "CIFAR100",
        "60,000 photographs, 32×32, colour, 100 classes",
        "cifar-100-python",
        ("train", "test", "meta"),
    ),
    "mnist": Published("MNIST", "70,000 handwritten digits, 28×28, grey, 10 classes", "MNIST/raw", _IDX),
    "fashion-mnist": Published(
        "FashionMNIST", "70,000 pieces of clothing, 28×28, grey, 10 classes", "FashionMNIST/raw", _IDX
    ),
    "svhn": Published(
        "SVHN",
        "99,289 digits of house numbers, 32×32, colour, 10 classes",
        "",
        ("train_32x32.mat", "test_32x32.mat"),
    ),
}


# What stands before a place, and how it is given.
FORMS = {"folder": "folder:DIR", "npz": "npz:FILE", "csv": "csv:FILE", "hf": "hf:DIR"}


# What stands after a csv file and before the name of its column of groups.
GROUP = "group="


def default_cache() -> Path:
    """Return the folder for downloads and indexed folders: nas_proxy/data in the user's cache folder.

    $NAS_PROXY_CACHE names another; $XDG_CACHE_HOME is the user's cache folder where it is set.
    """
    if own := os.environ.get("NAS_PROXY_CACHE"):
        return expanded(own).absolute()
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    user = given if given.is_absolute() else expanded("~/.cache")
    if not user.is_absolute():  # $HOME is not set, and the user has no entry in the system's list
        raise DataError("the home folder is not known; name a folder for data in the variable NAS_PROXY_CACHE")
    return user / "nas_proxy" / "data"


def list_datasets() -> list[tuple[str, str]]:
    """Return the known names, each with a description of one line."""
    return [
        ("digits", "1,797 handwritten digits, 8×8, grey, 10 classes; needs no download"),
        *((name, f"{published.about}; downloaded once") for name, published in PUBLISHED.items()),
        ("folder:DIR", "image files in DIR/train/<class>, DIR/test/<class> and DIR/val/<class>, or in DIR/<class>"),
        ("npz:FILE", "arrays train_images, train_labels, test_images, test_labels, or images, labels"),
        ("csv:FILE", "a table with the columns path, label and, where there are parts, split"),
        ("hf:DIR", "a data set of Hugging Face's library, saved or in its cache; needs pip install -e '.[hf]'"),
    ]


def split_group(named: str) -> tuple[str, str | None]:
    """Return the file and the column of groups: ("labels.csv", "patient") for "labels.csv:group=patient"."""
    file, colon, given = named.rpartition(":")
    return (file, given.removeprefix(GROUP)) if colon and given.startswith(GROUP) else (named, None)


def kind_and_place(dataset: str) -> tuple[str, str]:
    """Return the form of a data set, or its name, and its place. Raises DataError for neither a form nor a name."""
    kind, colon, place = dataset.partition(":")
    if not colon or kind not in FORMS:  # a path may have colons, and a column of groups after one
        place = dataset
        kind = dataset if dataset == "digits" or dataset in PUBLISHED else recognised(dataset)
    if kind in FORMS and not place:
        raise DataError(f"{dataset!r} names no place; give {FORMS[kind]}")
    if kind not in FORMS and dataset not in PUBLISHED and dataset != "digits":
        raise DataError(f"unknown data set {dataset!r}{nearest(dataset, [name for name, _ in list_datasets()])}")
    return kind, place


def recognised(place: str) -> str:
    """Return what a path without a prefix holds, "folder", "npz", "csv" or "hf"; "" for what is nothing of these."""
    path = expanded(split_group(place)[0])
    if path.is_dir():
        marks = ("dataset_dict.json", "dataset_info.json", "state.json")
        return "hf" if any((path / mark).is_file() for mark in marks) else "folder"
    kind = {".npz": "npz", ".csv": "csv", ".tsv": "csv"}.get(path.suffix.lower(), "")
    return kind if path.is_file() else ""
