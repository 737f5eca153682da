"""Files of condensed and of real images are not believed: whatever is changed in one gets a sentence."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from nas_proxy.data.image_files import FIRST_FORMAT, FORMAT
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import RunFolderError
from nas_proxy.pipeline.api import load_data

SCALE, OFFSET = torch.tensor([0.5]), torch.tensor([-1.0])


def images(count=6):
    pixels = torch.randint(0, 256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    return ImageSet(pixels, torch.arange(count) % 3, SCALE, OFFSET, ("a", "b", "c"))


def parts(path):
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118


@pytest.fixture
def path(tmp_path):
    images().save(tmp_path / "proxy.safetensors", {"note": 1})
    return tmp_path / "proxy.safetensors"


def test_what_was_written_comes_back_and_its_checksum_is_the_sets_own(path):
    found = ImageSet.load(path)
    assert found.fingerprint() == images().fingerprint()
    assert ImageSet.load_metadata(path) == {"note": 1}
    assert len(parts(path)[1]["checksum"]) == 32


def test_a_file_from_before_the_checksum_is_read(path):
    tensors, metadata = parts(path)
    del metadata["checksum"]
    save_file(tensors, path, metadata={**metadata, "format": FIRST_FORMAT})
    assert ImageSet.load(path).fingerprint() == images().fingerprint()


CHANGES = {
    "floats": {"images": torch.rand(6, 1, 4, 4)},
    "a shape": {"images": torch.zeros(6, 16, dtype=torch.uint8)},
    "fewer images": {"images": torch.zeros(5, 1, 4, 4, dtype=torch.uint8)},
    "no images": {"images": torch.zeros(0, 1, 4, 4, dtype=torch.uint8), "labels": torch.zeros(0, dtype=torch.int64)},
    "no pixels": {"images": torch.zeros(6, 1, 0, 4, dtype=torch.uint8)},
    "blank images": {"images": torch.zeros(6, 1, 4, 4, dtype=torch.uint8)},
    "one label": {"labels": torch.ones(6, dtype=torch.int64)},
    "labels of no class": {"labels": torch.tensor([0, 1, 2, 0, 1, 3])},
    "negative labels": {"labels": torch.tensor([0, 1, 2, 0, 1, -1])},
    "labels as floats": {"labels": torch.rand(6)},
    "labels in a table": {"labels": torch.zeros(6, 1, dtype=torch.int64)},
    "a negative scale": {"scale": -SCALE},
    "a scale of zero": {"scale": SCALE * 0},
    "a scale that is not finite": {"scale": SCALE / 0},
    "an offset that is no number": {"offset": OFFSET * torch.nan},
    "scales of other channels": {"scale": torch.ones(3), "offset": torch.ones(3)},
    "scales in double precision": {"scale": SCALE.double()},
    "a number for a scale": {"scale": torch.tensor(1.0)},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("old", [True, False])
def test_changed_tensors_are_refused(path, change, old):
    tensors, metadata = parts(path)
    if old:
        del metadata["checksum"]
        metadata["format"] = FIRST_FORMAT
    save_file({**tensors, **change}, path, metadata=metadata)
    with pytest.raises(RunFolderError, match=r"is damaged: .*; delete it and run the same command again") as caught:
        ImageSet.load(path)
    assert "\n" not in str(caught.value)


METADATA = {
    "classes": ["", "[", "3", "[]", "[1, 2, 3]", '{"a": 1}', "[" * 100_000, '["a"]'],
    "formation": ["", "0", "-1", "1.5", "true", "x", "99999999999", "[1]"],
    "store": ["", "[]", "3", '["a"]', "[1, 2]"],
    "note": ["", "{", "[" * 100_000],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in METADATA.items() for value in values])
def test_changed_metadata_are_refused(path, name, value):
    tensors, metadata = parts(path)
    save_file(tensors, path, metadata={**metadata, name: value})
    with pytest.raises(RunFolderError) as caught:
        ImageSet.load(path)
        ImageSet.load_metadata(path)
    assert "\n" not in str(caught.value)


def test_a_name_that_changed_does_not_hide_the_checksum(path):
    tensors, metadata = parts(path)
    for changed in ({"format": FIRST_FORMAT}, {"cheiksum": metadata["checksum"]}):
        kept = {name: value for name, value in metadata.items() if "cheiksum" not in changed or name != "checksum"}
        save_file(tensors, path, metadata={**kept, **changed})
        with pytest.raises(RunFolderError, match="its format and its checksum do not go together"):
            ImageSet.load(path)


def test_a_note_that_changed_is_found(path):
    tensors, metadata = parts(path)
    save_file(tensors, path, metadata={**metadata, "note": "2"})
    with pytest.raises(RunFolderError, match="its images, labels or notes are not those"):
        ImageSet.load(path)


def test_a_single_value_that_changed_is_found(path):
    tensors, metadata = parts(path)
    for name in ("images", "labels", "scale", "offset"):
        changed = tensors[name].clone()
        changed.view(-1)[1 if name == "labels" else 0] = 2
        save_file({**tensors, name: changed}, path, metadata=metadata)
        with pytest.raises(RunFolderError, match="its images, labels or notes are not those"):
            ImageSet.load(path)


def test_bytes_that_changed_anywhere_get_a_sentence_or_change_nothing(path):
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    good = images().fingerprint()
    for _ in range(300):
        changed = bytearray(whole)
        for place in draw.integers(0, len(whole), draw.integers(1, 4)):
            changed[place] = draw.integers(256)
        path.write_bytes(changed[: draw.integers(len(whole))] if draw.random() < 0.2 else changed)
        try:
            assert ImageSet.load(path).images.eq(images().images).all()
            metadata = ImageSet.load_metadata(path)
        except RunFolderError as error:
            assert "\n" not in str(error)
        else:
            assert len(json.dumps(metadata)) < 100
    path.write_bytes(whole)
    assert ImageSet.load(path).fingerprint() == good


def test_foreign_files_are_told(path):
    save_file({"x": torch.ones(1)}, path, metadata={"format": FORMAT, "classes": '["a"]'})
    with pytest.raises(RunFolderError, match="is not a readable image file"):
        ImageSet.load(path)


def test_what_shows_itself_is_short():
    data = load_data("digits", limit=5)
    assert repr(data.train).startswith("ImageSet(")
    assert repr(data.train).endswith("images of 1×8×8, 10 classes)")
    assert len(repr(data)) < 200
