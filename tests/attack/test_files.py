"""Files that are not believed: hundreds of spoilt copies of each kind, every one told in a sentence or harmless."""

import json
import math
import random
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from attack.fuzz import ODD, spoilt_bytes, spoilt_json
from attack.tally import Tally
from conftest import blobs
from made_up_runs import get_ranking, ordinary
from nas_proxy import Choice, Space
from nas_proxy.dashboard.status import Watcher
from nas_proxy.dashboard.status_text import status_text
from nas_proxy.data.images import ImageSet
from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development
from nas_proxy.pipeline.stages import run_stages
from nas_proxy.ranking.ranking import Ranking
from nas_proxy.ranking.truth_table import load_truth_table
from nas_proxy.report.page import write_report
from nas_proxy.report.terminal import ranking_table
from nas_proxy.runs.folder import open_run, prepare_run
from nas_proxy.runs.resolving import resolve
from nas_proxy.runs.settings import write_config
from nas_proxy.strategy.enqueue import architectures, read_entries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

EACH = 200
SPACE = Space("s", Choice("depth", (1, 2, 3)) & Choice("norm", ("none", "batch")), lambda a, s: None)


def test_ranking(tmp_path, capsys):
    ordinary(tmp_path)
    told, path = get_ranking(tmp_path), tmp_path / "ranking.json"
    tally = Tally("ranking.json")
    for number in range(EACH):
        draw = random.Random(number)
        spoilt = spoilt_json(told, draw) if number % 2 else None
        if spoilt is None:
            path.write_bytes(spoilt_bytes(json.dumps(told, indent=2).encode(), draw))
        else:
            path.write_text(spoilt)
        tally.attempt(f"{number}", lambda: Ranking.read(path), _is_finite)
        if number % 5 == 0:  # and whoever shows it
            tally.attempt(f"{number} table", lambda: ranking_table(Ranking.read(path)), bool)
            tally.attempt(f"{number} page", lambda: write_report(tmp_path), _has_no_script)
    tally.report(capsys)


def _has_no_script(page: Path) -> bool:
    return "<script>alert" not in page.read_text(encoding="utf-8")


def _is_finite(ranking: Ranking) -> bool:
    numbers = ranking.to_frame().select_dtypes("number").to_numpy(dtype=float)
    return not np.isinf(numbers).any()


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A run that has been searched, in a file."""
    folder = tmp_path_factory.mktemp("searched")
    images = blobs(per_class=30)
    np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    (folder / "space.py").write_text(
        "from torch import nn\nfrom nas_proxy import Choice, Space\n"
        "space = Space('s', Choice('width', tuple(range(2, 12))), lambda a, s: nn.Sequential(nn.Flatten(), "
        "nn.Linear(64, a['width']), nn.ReLU(), nn.Linear(a['width'], s.classes)))\n"
    )
    settings = {
        **{"dataset": f"npz:{folder / 'blobs.npz'}", "space": str(folder / "space.py"), "device": "cpu", "workers": 1},
        **{"trials": 6, "truth": 4, "condense": {"method": "random", "images_per_class": 2}},
        **{"proxy_training": {"epochs": 1.0}, "full_training": {"epochs": 1.0}},
    }
    run = prepare_run(folder / "run", resolve(settings))
    run_stages(run, ("condense", "search"))
    return run.path


def test_studies(searched, tmp_path, capsys):
    run, tally = tmp_path / "run", Tally("study.db")
    shutil.copytree(searched, run)
    whole = (run / "study.db").read_bytes()
    for number in range(EACH):
        (run / "study.db").write_bytes(spoilt_bytes(whole, random.Random(number)))
        tally.attempt(f"{number} status", lambda: status_text(Watcher(run).look()), _is_plain)
        if number % 4 == 0:
            tally.attempt(f"{number} search", lambda: run_stages(open_run(run), ("search",)), lambda _: True, 60)
    for number in range(EACH // 4):  # values, in a sound file
        (run / "study.db").write_bytes(whole)
        _spoil_values(run / "study.db", random.Random(number))
        tally.attempt(f"{number} values", lambda: status_text(Watcher(run).look()), _is_plain)
    tally.report(capsys)


def _spoil_values(path: Path, draw: random.Random) -> None:
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT rowid, key FROM trial_user_attributes").fetchall()
        for row, _ in draw.sample(rows, 3):
            odd = json.dumps(draw.choice(ODD))
            connection.execute("UPDATE trial_user_attributes SET value_json = ? WHERE rowid = ?", (odd, row))
    connection.close()


def _is_plain(text: str) -> bool:
    return "\x1b" not in text and text.encode("utf-8", "strict") is not None


def test_enqueued(tmp_path, capsys):
    tally, path = Tally("--enqueue"), tmp_path / "list"
    as_json = [{"depth": 2, "norm": "batch"}, "depth=1,norm=none"]
    as_lines = b"# best\ndepth=2,norm=batch\n\ndepth=1,norm=none\n"
    known = {SPACE.key(a) for a in SPACE.sample(0)}
    for number in range(EACH):
        draw = random.Random(number)
        if number % 2:
            path.write_text(spoilt_json(as_json, draw))
        else:
            path.write_bytes(spoilt_bytes(draw.choice((as_lines, json.dumps(as_json).encode())), draw))

        def read() -> set[str]:
            return {SPACE.key(a) for a in architectures(SPACE, read_entries(path))}

        tally.attempt(f"{number}", read, lambda keys: keys <= known)
    tally.report(capsys)


def test_pictures(tmp_path, capsys):
    tally, draw = Tally("PNG and JPEG"), random.Random(0)
    noise = np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), dtype=np.uint8)
    for place, image in enumerate(noise):
        folder = tmp_path / "photos" / "ab"[place % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{place}.{'png' if place < 8 else 'jpg'}")
    right = _pixels(tmp_path / "photos")
    files = sorted((tmp_path / "photos").rglob("*.*"))
    for number in range(EACH):
        path = files[number % len(files)]
        whole = path.read_bytes()
        path.write_bytes(spoilt_bytes(whole, draw))

        def is_right(found: torch.Tensor, path: Path = path) -> bool:
            # Of a JPEG, whose pixels have no checksum, only that it is a picture of that size.
            return path.suffix == ".jpg" or bool(torch.equal(found, right))

        tally.attempt(f"{number} {path.name}", lambda: _pixels(tmp_path / "photos"), is_right)
        path.write_bytes(whole)
    tally.report(capsys)


def _pixels(folder: Path) -> torch.Tensor:
    found = development(open_source(f"folder:{folder}"), seed=0)
    return torch.cat([torch.as_tensor(part.images[:]).flatten() for part in (found.train, found.validation)])


@pytest.mark.parametrize("kind", ["truth", "images"])
def test_tables(kind, tmp_path, capsys):
    tally, path = Tally(f"CSV of {kind}"), tmp_path / "table.csv"
    if kind == "truth":
        rows = [(SPACE.key(a), f"{0.5 + i / 100:.4f}") for i, a in enumerate(SPACE.sample(0))]
        whole = pd.DataFrame(rows, columns=["key", "accuracy"]).to_csv(index=False).encode()
    else:
        for number in range(12):
            Image.fromarray(np.full((8, 8), 20 * number, np.uint8)).save(tmp_path / f"{number}.png")
        rows = [(f"{number}.png", "ab"[number % 2]) for number in range(12)]
        whole = pd.DataFrame(rows, columns=["file", "label"]).to_csv(index=False).encode()
    path.write_bytes(whole)
    for number in range(EACH):
        path.write_bytes(spoilt_bytes(whole, random.Random(number)))
        if kind == "truth":
            tally.attempt(f"{number}", lambda: load_truth_table(str(path), SPACE, 2), _are_accuracies)
        else:
            tally.attempt(f"{number}", lambda: development(open_source(f"csv:{path}"), seed=0), _are_images)
    tally.report(capsys)


def _are_accuracies(table: object) -> bool:
    values = table.scores.to_numpy(dtype=float)
    return bool(np.isfinite(values).all() and (values >= 0).all() and (values <= 1).all())


def _are_images(found: object) -> bool:
    return len(found.train) > 0 and all(name.isprintable() for name in found.train.classes)


@pytest.mark.parametrize("keep", ["bytes", "values"])
def test_condensed_sets(keep, tmp_path, capsys):
    from safetensors import safe_open
    from safetensors.torch import save_file

    tally, path = Tally(f"proxy.safetensors, {keep}"), tmp_path / "proxy.safetensors"
    blobs(per_class=4).save(path, {"method": "dm", "data_fingerprint": "x", "seconds": 1.0})
    whole, right = path.read_bytes(), ImageSet.load(path)
    with safe_open(path, framework="pt") as file:
        metadata, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for number in range(EACH):
        draw = random.Random(number)
        if keep == "bytes":
            path.write_bytes(spoilt_bytes(whole, draw))
        else:
            changed, told = _spoilt_set(tensors, metadata, draw)
            save_file(changed, path, told)

        def is_right(found: ImageSet) -> bool:
            same = (torch.equal(getattr(found, n), getattr(right, n)) for n in ("images", "labels", "scale", "offset"))
            return found.classes == right.classes and all(same)

        tally.attempt(f"{number}", lambda: ImageSet.load(path), is_right)
    tally.report(capsys)


def _spoilt_set(tensors, metadata, draw):
    """Return a sound file with other contents: values, types, shapes, or what is told of them."""
    changed = {name: tensor.clone() for name, tensor in tensors.items()}
    name = draw.choice(sorted(changed))
    kind, found = draw.randrange(7), changed[name]
    if kind == 0:
        found.view(-1)[draw.randrange(found.numel())] += 1
    elif kind == 1:
        changed[name] = found.to(draw.choice((torch.float64, torch.int32, torch.bool, torch.float16)))
    elif kind == 2:
        changed[name] = found[: draw.randrange(len(found))].clone()
    elif kind == 3:
        changed[name] = torch.full_like(found, draw.choice((0, 1, 3)))
    elif kind == 4:
        del changed[name]
    elif kind == 5 and found.is_floating_point():
        found.view(-1)[0] = draw.choice((math.nan, math.inf, -1.0, 0.0))
    else:
        told = draw.choice(sorted(metadata))
        metadata = {**metadata, told: draw.choice(("", "x", "[]", "{}", "null", "-1", "NaN", "[" * 10_000, '["a"]'))}
    return changed, metadata


def test_settings(tmp_path, capsys):
    tally, path = Tally("run.toml"), tmp_path / "run.toml"
    write_config(resolve({}), path)
    whole = path.read_bytes()
    inputs = [spoilt_bytes(whole, random.Random(number)) for number in range(EACH)]
    inputs += [b"a = " + b"[" * 100_000, b".".join([b"a"] * 50_000) + b" = 1", b'"a" . ' * 50_000 + b"a = 1"]
    inputs += [b"x = {" + b"a." * 50_000 + b"a = 1}", b"[" + b"a." * 50_000 + b"a]", b"x = " + b"{a=" * 5_000]
    for number, data in enumerate(inputs):
        path.write_bytes(data)
        tally.attempt(f"{number}", lambda: open_run(tmp_path).config, lambda config: config.trials > 0, 5)
        if number % 5 == 0:
            tally.attempt(f"{number} page", lambda: write_report(tmp_path), _has_no_script, 20)
    tally.report(capsys)
