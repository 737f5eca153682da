"""Images listed in a CSV file, groups that stay together, and what is recognised without its prefix."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from nas_proxy.cli.options import given
from nas_proxy.data.catalogue import recognised
from nas_proxy.data.groups import grouped
from nas_proxy.data.hugging_face import _classes
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development, held_out_test, split
from nas_proxy.errors import ConfigError, DataError


def save(folder, name, value=0):
    folder.mkdir(exist_ok=True, parents=True)
    Image.new("L", (4, 4), value).save(folder / name)


def table(folder, text, images=8):
    for number in range(images):
        save(folder / "photos", f"{number}.png", number * 10)
    path = folder / "labels.csv"
    path.write_text(text, encoding="utf-8-sig")
    return path


ROWS = [f"photos/{number}.png,{'cat' if number % 2 else 'dog'}" for number in range(8)]


@pytest.mark.parametrize("prefix", ["csv:", ""])
@pytest.mark.parametrize("header", ["path,label", "Image;Class", "file_name\tcategory"])
def test_a_table_of_paths_and_labels(tmp_path, prefix, header):
    delimiter = next(mark for mark in ",;\t" if mark in header)
    path = table(tmp_path, "\n".join([header, *(row.replace(",", delimiter) for row in ROWS)]))
    source = open_source(f"{prefix}{path}")
    images, labels = source.read("train")
    assert source.classes == ("cat", "dog")
    assert (source.has_test, source.has_validation) == (False, False)
    assert images[:, 0, 0, 0].tolist() == [n * 10 for n in range(8)]
    assert labels.tolist() == [1, 0] * 4
    assert source.read("train", torch.tensor([5, 2]))[0][:, 0, 0, 0].tolist() == [50, 20]


def test_parts_in_a_column(tmp_path):
    parts = ["train", "Train", "training", "train", "Test", "test", "val", "valid"]
    rows = [f"{row},{part}" for row, part in zip(ROWS, parts, strict=True)]
    source = open_source(f"csv:{table(tmp_path, chr(10).join(['path,label,split', *rows]))}")
    assert {part: source.read(part)[0][:, 0, 0, 0].tolist() for part in source.parts} == {
        "train": [0, 10, 20, 30],
        "test": [40, 50],
        "validation": [60, 70],
    }


def test_numbers_are_ordered_as_numbers(tmp_path):
    rows = [f"photos/{number}.png,{10 * (number % 3)}" for number in range(6)]
    assert open_source(f"csv:{table(tmp_path, chr(10).join(['path,label', *rows]))}").classes == ("0", "10", "20")


MISTAKES = {
    "path,label": "lists no images",
    "name,label\na,b": "has no column of paths, called path; its columns are name, label",
    "path,kind\na,b": "has no column of labels, called label; its columns are path, kind",
    "path,label\nphotos/0.png,a\nphotos/9.png,b": r"lists 1 of 2 files that do not exist, the first .*9\.png",
    "path,label\nphotos/0.png,a\nphotos/1.png": "row 3 of .* has 1 cells, not 2",
    "path,label\nphotos/0.png,a|b\nphotos/1.png,a": r"has the label 'a\|b' for 0.png, .*; multi-label",
    "path,label1,label2\nphotos/0.png,a,b": r"several columns of labels \(label1, label2\); multi-label",
    "path,label\nphotos/0.png,0.5\nphotos/1.png,1.25": "labels with fractions, such as 0.5; regression is not",
    "path,label\nphotos/0.png,\nphotos/1.png,a": "has no label for 0.png",
    "path,label\nphotos/0.png,a\nphotos/1.png,a": "has only one class, 'a'",
    "path,label,split\nphotos/0.png,a,train\nphotos/1.png,b,spare": "row 3 of .* is of the part 'spare'; known: train",
    "path,label,split\nphotos/0.png,a,test\nphotos/1.png,b,test": "has no rows of the part train; it has test",
    "path,path,label\nphotos/0.png,a,b": "has two columns of one name",
    "path,label\nphotos/0.png,1\nphotos/1.png,2.5": "labels with fractions, such as 2.5; regression is not",
    "path,label\nphotos/0.png,1\nphotos/1.png,nan": "has the label 'nan' for 1.png, which is none",
    "path;label\nphotos/0.png;a\nphotos/1.png;(0, 1)": r"has the label '\(0, 1\)' for 1.png, .*; multi-label",
    "path,label\nphotos/0.png,a\nphotos/0.png,b": r"lists .*0\.png with the labels 'a' and 'b'; multi-label",
    "path,label\nphotos/0.png,a\nphotos/1.png,b\nphotos/../photos/1.png,b": "has 1 row of images that it lists before",
    "path,label,split\nphotos/0.png,a,train\nphotos/1.png,b,train\nphotos/1.png,b,test": "in train and in test; keep",
}


def test_a_label_of_several_labels_is_refused_and_one_with_a_comma_is_not(tmp_path):
    rows = ["path;label", "photos/0.png;cat", "photos/1.png;dog", "photos/2.png;cat, dog"]
    with pytest.raises(DataError, match=r"has the label 'cat, dog' for 2\.png, which looks like several"):
        open_source(f"csv:{table(tmp_path, chr(10).join(rows))}")
    rows[3] = "photos/2.png;tench, Tinca tinca"
    assert open_source(f"csv:{table(tmp_path, chr(10).join(rows))}").classes == ("cat", "dog", "tench, Tinca tinca")


def test_images_that_count_twice_in_a_part_of_their_own_are_told(tmp_path):
    parts = ["train", "train", "test", "val", "train"]
    rows = [f"photos/{n % 4}.png,{'ab'[n % 2]},{part}" for n, part in enumerate(parts)]
    said = []
    path = table(tmp_path, chr(10).join(["path,label,split", *rows]))
    assert len(open_source(f"csv:{path}", say=said.append).labels("train")) == 3
    assert said[0].endswith("0.png; they count again")


def test_the_order_of_classes_is_one_with_a_label_that_is_called_nan(tmp_path):
    names = ["3", "nan", "x", "1", "2"]
    for order in (names, names[::-1], sorted(names)):
        rows = [f"photos/{n}.png,{name}" for n, name in enumerate(order)]
        assert open_source(f"csv:{table(tmp_path, chr(10).join(['path,label', *rows]))}").classes == (
            *("1", "2", "3", "nan", "x"),
        )


def test_images_without_a_group_are_told(tmp_path):
    rows = [f"{row},{n if n < 6 else ''}" for n, row in enumerate(ROWS)]
    said = []
    path = table(tmp_path, chr(10).join(["path,label,patient", *rows]))
    open_source(f"csv:{path}:group=patient", say=said.append)
    assert said == [f"2 train images of {path} have no patient; they count as one group"]


@pytest.mark.parametrize(("text", "message"), MISTAKES.items())
def test_a_table_that_cannot_be_used_gets_a_sentence(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        open_source(f"csv:{table(tmp_path, text, images=2)}")


def test_groups_stay_on_one_side(tmp_path):
    rows = [f"photos/{n}.png,{'cat' if n % 2 else 'dog'},p{n // 4}" for n in range(120)]
    path = table(tmp_path, "\n".join(["path,label,patient", *rows]), images=120)
    source = open_source(f"csv:{path}:group=patient")
    data = development(source, seed=0)
    test = held_out_test(source, data, seed=0)
    groups = source.groups
    found = split(source.labels("train"), source.classes, seed=0, groups=groups)
    sides = [set(groups[index].tolist()) for index in (found.train, found.validation, found.test)]
    assert all(not a & b for a in sides for b in sides if a is not b)
    assert len(set().union(*sides)) == 30
    assert abs(len(found.test) - 48) <= 4
    assert abs(len(found.validation) - 24) <= 4
    assert len(data.train) + len(data.validation) + len(test) == 120
    other = split(source.labels("train"), source.classes, seed=1, groups=groups)
    assert not torch.equal(other.test, found.test)
    limited = split(source.labels("train"), source.classes, seed=0, groups=groups, limit=10)
    assert (len(limited.train) + len(limited.validation), len(limited.test)) == (20, 20)
    assert set(limited.test.tolist()) <= set(found.test.tolist())


def test_groups_that_are_too_few_and_columns_that_are_absent_are_told(tmp_path):
    labels, groups = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([0, 0, 1, 2, 3])
    with pytest.raises(DataError, match="class 'a' has images of 1 group, too few for one in each of train, test"):
        grouped(labels, ("a", "b"), groups, {"train": 0.5, "test": 0.5}, 0)
    path = table(tmp_path, "\n".join(["path,label", *ROWS]))
    with pytest.raises(DataError, match=r"has no column 'labels' of groups; did you mean 'label'\?"):
        open_source(f"csv:{path}:group=labels")


def made_up_groups(seed):
    """Return labels and groups of a small set: 6 to 9 groups, each of 1 to 3 of 4 classes."""
    rng = np.random.default_rng(seed)
    pairs = [(c, g) for g in range(rng.integers(6, 10)) for c in rng.choice(4, rng.integers(1, 4), replace=False)]
    pairs = [pair for pair in pairs for _ in range(rng.integers(1, 6))]
    labels, groups = torch.tensor(pairs).T
    return labels, torch.unique(groups, return_inverse=True)[1]


def can_be_split(labels, groups):
    holds = [frozenset(labels[groups == group].tolist()) for group in range(int(groups.max()) + 1)]
    states = {(frozenset(),) * 3}
    for held in holds:
        states = {(*s[:part], s[part] | held, *s[part + 1 :]) for s in states for part in range(3)}
    return (frozenset(range(4)),) * 3 in states


def test_groups_that_can_be_split_are_split():
    shares, split_ones = {"train": 0.4, "validation": 0.2, "test": 0.4}, 0
    for seed in range(60):
        labels, groups = made_up_groups(seed)
        if len(torch.unique(labels)) < 4:
            continue
        if not can_be_split(labels, groups):
            with pytest.raises(DataError, match=r"too few for one in each of|no split was found"):
                grouped(labels, tuple("abcd"), groups, shares, 0)
            continue
        found, split_ones = grouped(labels, tuple("abcd"), groups, shares, 0), split_ones + 1
        assert all(len(torch.unique(labels[index])) == 4 for index in found.values())
        sides = [set(groups[index].tolist()) for index in found.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))
    assert split_ones > 20


def test_a_group_in_train_and_in_test_is_told(tmp_path):
    rows = [f"{row},{'test' if n > 5 else 'train'},{n % 3}" for n, row in enumerate(ROWS)]
    said = []
    open_source(
        f"csv:{table(tmp_path, chr(10).join(['path,label,split,camera', *rows]))}:group=camera", say=said.append
    )
    assert said == [f"2 values of camera in {tmp_path / 'labels.csv'} are in train and in test, such as '0'"]


def test_the_option_that_names_the_groups(tmp_path):
    path = table(tmp_path, "path,label,patient")
    for name in (f"csv:{path}", str(path)):
        assert given({"dataset": name, "group_column": "patient"}) == {"dataset": f"{name}:group=patient"}
    for name in ("digits", None):
        with pytest.raises(ConfigError, match="--group-column names a column of a csv file"):
            given({"dataset": name, "group_column": "patient"})


def test_a_file_with_a_column_of_groups_needs_no_prefix(tmp_path):
    rows = [f"{row},{n}" for n, row in enumerate(ROWS)]
    path = table(tmp_path, chr(10).join(["path,label,patient", *rows]))
    assert open_source(f"{path}:group=patient").groups.tolist() == list(range(8))


def test_what_is_given_without_its_prefix_is_recognised(tmp_path):
    save(tmp_path / "photos" / "a", "1.png")
    save(tmp_path / "photos" / "b", "1.png")
    assert open_source(str(tmp_path / "photos")).classes == ("a", "b")
    np.savez(tmp_path / "x.npz", images=np.zeros((4, 4, 4), np.uint8), labels=[0, 1, 0, 1])
    assert open_source(str(tmp_path / "x.npz")).classes == ("0", "1")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "dataset_dict.json").write_text("{}")
    assert recognised(str(tmp_path / "saved")) == "hf"
    with pytest.raises(DataError, match="unknown data set"):
        open_source(str(tmp_path / "absent"))


def test_a_data_set_of_hugging_faces_library(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    pixels = [np.full((4, 4), n * 10, np.uint8) for n in range(8)]
    whole = datasets.Dataset.from_dict({"img": pixels, "label": [0, 1] * 4}, features=features)
    datasets.DatasetDict({"train": whole, "test": whole.select(range(2))}).save_to_disk(str(tmp_path / "saved"))
    source = open_source(f"hf:{tmp_path / 'saved'}")
    assert source.classes == ("cat", "dog")
    assert source.read("train", torch.tensor([3, 1]))[0][:, 0, 0, 0].tolist() == [30, 10]
    assert source.read("test")[1].tolist() == [0, 1]


FOREIGN = {
    "unlabelled": ([0, 1, -1], ["a", "b"], "has 1 images in train without one of its 2 classes, the first row 2 with"),
    "beyond": ([0, 1, 2], ["a", "b"], "has 1 images in train without one of its 2 classes, the first row 2 with"),
    "empty": (["a", "b", " "], None, "has no label for row 2 of train; give every image one"),
    "several": (["a", "b", "a|b"], None, r"has the label 'a\|b' for row 2 of train, which looks like several"),
    "one name": ([0, 1, 0], ["e\u0301", "\u00e9"], "has two classes of the name '\u00e9'"),
}


@pytest.mark.parametrize(("labels", "names", "expected"), FOREIGN.values(), ids=FOREIGN)
def test_labels_of_hugging_faces_library_that_are_no_classes(labels, names, expected):
    with pytest.raises(DataError, match=expected):
        _classes("x", SimpleNamespace(names=names), {"train": np.array(labels)})


def test_labels_of_hugging_faces_library_in_two_forms_of_unicode_are_one_class():
    names, codes = _classes("x", SimpleNamespace(), {"train": np.array(["e\u0301", "a", "\u00e9"])})
    assert names == ("a", "\u00e9")
    assert codes["train"].tolist() == [1, 0, 1]


def test_the_library_that_is_absent_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(DataError, match=r"needs the library datasets; install it with: pip install -e '\.\[hf\]'"):
        open_source(f"hf:{tmp_path}")
