import gzip
import hashlib
import os
import pickle
import sys
import urllib.request
import warnings
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import scipy.io
import torchvision.datasets

from nas_proxy.data.sources import open_source
from nas_proxy.errors import DataError


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_args, **_options):
        raise URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def pictures(count: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, *shape), dtype=np.uint8)


def idx(path: Path, array: np.ndarray) -> None:
    """Write unsigned bytes in the IDX format: 0, 0, the type 8, the number of axes, the sizes, the values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())


def lay_out_mnist(raw: Path) -> dict[str, np.ndarray]:
    stored = {"train": pictures(6, (28, 28)), "t10k": pictures(4, (28, 28))}
    for name, images in stored.items():
        idx(raw / f"{name}-images-idx3-ubyte", images)
        idx(raw / f"{name}-labels-idx1-ubyte", np.arange(len(images), dtype=np.uint8))
    return stored


def lay_out_cifar10(cache: Path, monkeypatch) -> tuple[np.ndarray, np.ndarray]:
    """Write one train batch, a test batch and the names, and make torchvision expect their checksums."""
    kind, folder = torchvision.datasets.CIFAR10, cache / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    train, test = pictures(5, (3, 32, 32)), pictures(3, (3, 32, 32))
    contents = {
        **{f"data_batch_{i}": {"data": train[i - 1 : i].reshape(1, -1), "labels": [i]} for i in range(1, 6)},
        "test_batch": {"data": test.reshape(3, -1), "labels": [7, 8, 9]},
        "batches.meta": {"label_names": list("abcdefghij")},
    }
    sums = {}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    monkeypatch.setattr(kind, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(kind, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": sums["batches.meta"]})
    return train, test


def test_what_numpy_says_of_the_published_cifar_files_is_kept_from_the_user(tmp_path, monkeypatch):
    train, _ = lay_out_cifar10(tmp_path, monkeypatch)
    load = torchvision.datasets.CIFAR10._load_meta

    def warn_and_load(self):
        text = "dtype(): align should be passed as Python or NumPy boolean but got `align=0`."
        warnings.warn(text, np.exceptions.VisibleDeprecationWarning, stacklevel=2)
        load(self)

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_load_meta", warn_and_load)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert np.array_equal(open_source("cifar10", cache=tmp_path).read("train")[0], train)
    assert not caught


@pytest.mark.parametrize(
    ("name", "folder", "third"),
    [("mnist", "MNIST", "2 - two"), ("fashion-mnist", "FashionMNIST", "Pullover")],
)
def test_mnist_and_its_like(tmp_path, name, folder, third):
    stored = lay_out_mnist(tmp_path / folder / "raw")
    source = open_source(name, cache=tmp_path)
    assert (source.has_test, source.has_validation) == (True, False)
    assert source.classes[2] == third
    assert len(source.classes) == 10
    for part, there in (("train", "train"), ("test", "t10k")):
        images, labels = source.read(part)
        assert np.array_equal(images[:, 0], stored[there])
        assert labels.tolist() == list(range(len(images)))
    assert open_source(name, cache=tmp_path, image_size=14).read("train")[0].shape == (6, 1, 14, 14)


def test_the_default_cache_is_used(tmp_path, monkeypatch):
    monkeypatch.delenv("NAS_PROXY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    lay_out_mnist(tmp_path / "nas_proxy" / "data" / "MNIST" / "raw")
    assert len(open_source("mnist").read("train")[0]) == 6


def test_cifar10_and_that_reading_one_part_opens_nothing_of_the_other(tmp_path, monkeypatch):
    train, test = lay_out_cifar10(tmp_path, monkeypatch)
    source = open_source("cifar10", cache=tmp_path)
    assert source.classes == tuple("abcdefghij")
    test_batch = tmp_path / "cifar-10-batches-py" / "test_batch"
    kept = test_batch.read_bytes()
    test_batch.unlink()
    images, labels = source.read("train")
    assert np.array_equal(images, train)
    assert labels.tolist() == [1, 2, 3, 4, 5]
    test_batch.write_bytes(kept)
    (tmp_path / "cifar-10-batches-py" / "data_batch_1").unlink()
    images, labels = source.read("test")
    assert np.array_equal(images, test)
    assert labels.tolist() == [7, 8, 9]


def test_svhn(tmp_path, monkeypatch):
    kind, known = torchvision.datasets.SVHN, {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(file, {"X": pictures(3, (32, 32, 3)).transpose(1, 2, 3, 0), "y": np.array([[10], [1], [9]])})
        known[part] = ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(kind, "split_list", known)
    source = open_source("svhn", cache=tmp_path)
    assert source.classes == tuple("0123456789")
    (tmp_path / "test_32x32.mat").unlink()
    images, labels = source.read("train")
    assert np.array_equal(images.permute(0, 2, 3, 1), pictures(3, (32, 32, 3)))
    assert labels.tolist() == [0, 1, 9]


@pytest.mark.parametrize(
    ("name", "folder", "files"),
    [
        (
            "mnist",
            "MNIST/raw",
            "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte",
        ),
        (
            "cifar10",
            "cifar-10-batches-py",
            "data_batch_1, data_batch_2, data_batch_3, data_batch_4, data_batch_5, test_batch, batches.meta",
        ),
        ("cifar100", "cifar-100-python", "train, test, meta"),
        ("svhn", "", "train_32x32.mat, test_32x32.mat"),
    ],
)
def test_no_network(tmp_path, name, folder, files):
    with pytest.raises(DataError) as caught:
        open_source(name, cache=tmp_path)
    assert str(caught.value) == (
        f"{name} is not in {tmp_path} and could not be downloaded (<urlopen error no network here>); "
        f"put the unpacked files {files} into {tmp_path / folder}"
    )


def test_packed_files_beside_the_wanted_ones_do_not_help_unless_torchvision_knows_them(tmp_path):
    lay_out_mnist(tmp_path / "MNIST" / "raw")
    file = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes()))
    file.unlink()
    with pytest.raises(DataError, match="mnist is not whole in"):
        open_source("mnist", cache=tmp_path)


def test_a_cache_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"^mnist is not in .* could not be downloaded \(.*Not a directory"):
        open_source("mnist", cache=tmp_path / "file" / "cache")


def test_files_that_a_download_left_half_way_do_not_count(tmp_path, monkeypatch):
    kind, known = torchvision.datasets.SVHN, {}
    for part in ("train", "test"):
        file = tmp_path / f"{part}_32x32.mat"
        scipy.io.savemat(file, {"X": pictures(3, (3, 32, 32)).transpose(2, 3, 1, 0), "y": np.array([[10], [1], [9]])})
        known[part] = ["https://example.org/", file.name, hashlib.md5(file.read_bytes()).hexdigest()]
    monkeypatch.setattr(kind, "split_list", known)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(DataError, match=r"^svhn is not whole in .* and could not be downloaded \(.*no network here"):
        open_source("svhn", cache=tmp_path)
    file.write_bytes(whole)
    open_source("svhn", cache=tmp_path)
    monkeypatch.setattr(kind, "download", lambda self: pytest.fail("they have been checked"))
    open_source("svhn", cache=tmp_path)


def test_files_that_nobody_may_write_are_read_as_they_are(tmp_path, monkeypatch):
    stored = lay_out_mnist(tmp_path / "MNIST" / "raw")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert len(open_source("mnist", cache=tmp_path).read("train")[0]) == len(stored["train"])
    assert [path.name for path in tmp_path.iterdir()] == ["MNIST"]


def test_damaged_files(tmp_path, monkeypatch):
    lay_out_mnist(tmp_path / "MNIST" / "raw")
    lay_out_cifar10(tmp_path, monkeypatch)
    for name in ("mnist", "cifar10"):
        open_source(name, cache=tmp_path)
    for broken in ("MNIST/raw/train-images-idx3-ubyte", "cifar-10-batches-py/data_batch_2"):
        file = tmp_path / broken
        file.write_bytes(file.read_bytes()[:1000])
    for name, folder in (("mnist", "MNIST/raw"), ("cifar10", "cifar-10-batches-py")):
        with pytest.raises(DataError) as caught:
            open_source(name, cache=tmp_path).read("train")
        assert str(caught.value).startswith(f"the files of {name} in {tmp_path / folder} are damaged (")
        assert str(caught.value).endswith("); delete them, and they will be downloaded again")


def test_a_torchvision_of_another_torch(tmp_path, monkeypatch):
    fake = tmp_path / "torchvision"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(DataError) as caught:
        open_source("mnist", cache=tmp_path)
    text = str(caught.value)
    assert text.startswith("torchvision cannot be imported beside torch ")
    assert text.endswith(
        "(operator torchvision::nms does not exist); the two do not match: "
        "install versions of them that belong together"
    )
