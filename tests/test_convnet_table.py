"""The table of small ConvNets goes on where it was, and searches are replayed on it with its seconds."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import convnet_rows  # noqa: E402
import convnet_table  # noqa: E402
import live_replay  # noqa: E402
import replayed_searches  # noqa: E402
from convnet_rows import Setting, read_rows, space, train_all  # noqa: E402
from nas_proxy.data.sources import open_source  # noqa: E402

TINY = Setting("digits", epochs=0.2, passes=100)


def tiny_rows(path: Path, most: int | None = None) -> list[dict]:
    train_all(path, open_source("digits"), TINY, most)
    return read_rows(path)


def without_seconds(value):
    if isinstance(value, dict):
        return {k: without_seconds(v) for k, v in value.items() if "seconds" not in k}
    return [without_seconds(v) for v in value] if isinstance(value, list) else value


def test_it_goes_on_after_a_kill_with_the_same_rows(tmp_path):
    whole = tiny_rows(tmp_path / "whole.jsonl", 3)
    path = tmp_path / "rows.jsonl"
    tiny_rows(path, 1)
    with path.open("a") as file:
        file.write('{"key": "depth=1,wid')  # what a kill leaves
    assert len(read_rows(path)) == 2
    resumed = tiny_rows(path, 2)
    assert without_seconds(resumed) == without_seconds(whole)
    assert len({row["key"] for row in resumed[1:]}) == 3
    assert [row["key"] for row in resumed[1:]] == [
        space.key(a) for a, _ in zip(space.sample(0), range(3), strict=False)
    ]


def test_parts_fill_one_file_and_share_no_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    for part in ((2, 2), (1, 2)):
        train_all(path, open_source("digits"), TINY, 2, part)
    first_four = [space.key(a) for a, _ in zip(space.sample(0), range(4), strict=False)]
    assert [row["key"] for row in read_rows(path)[1:]] == [first_four[i] for i in (1, 3, 0, 2)]


def test_rows_of_another_setting_are_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    tiny_rows(path, 1)
    with pytest.raises(ValueError, match="another setting"):
        train_all(path, open_source("digits"), Setting("digits", epochs=0.3, passes=100))


def test_a_row_holds_the_truth_its_curve_and_every_signal(tmp_path):
    row = tiny_rows(tmp_path / "rows.jsonl", 1)[1]
    full = row["full"]
    assert len(full["curve"]) == len(full["losses"]) == 1
    assert full["curve"][-1]["validation"] == full["validation"]
    assert 0 < full["curve"][0]["seconds"] <= full["seconds"]
    assert {"params", "flops", "naswot", "synflow", "jacob_cov", "az_nas"} == set(row["zero_cost"])
    assert row["random10"]["image_passes"] == row["early_stop"]["image_passes"] == 100


@pytest.mark.slow
def test_the_table_tells_how_many_rows_it_is_of(tmp_path):
    path, out = tmp_path / "rows.jsonl", tmp_path / "table"
    tiny_rows(path, 3)
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "convnet_table.py"), "table", "--rows", str(path), "--out", str(out)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["rows"], found["of"]) == (3, 96)
    assert json.loads((tmp_path / "table.json").read_text()) == found
    lines = (tmp_path / "table.csv").read_text().splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("key,test_acc,validation_acc,seconds,params,flops")
    assert {"vote", "random50:loss_sum", "epoch1"} <= set(found["signals"])


def test_missing_scores_count_as_the_lowest_and_az_nas_ranks_all_rows(tmp_path):
    rows = tiny_rows(tmp_path / "rows.jsonl", 4)[1:]
    scores, _ = convnet_table.columns(rows)["az_nas"]
    for row, score in zip(rows, scores, strict=True):
        assert np.isnan(score) == (row["zero_cost"]["az_nas"]["traits"] is None)
    assert convnet_table.lowest([3.0, float("nan"), 2.0])[1] < 2.0


def test_idx_files_are_read_packed_or_not(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), dtype=np.uint8)
    labels = np.arange(20, dtype=np.uint8) % 10
    packed = tmp_path / "packed"
    packed.mkdir()
    for number, name in enumerate(convnet_rows.FILES):
        values = labels if "labels" in name else images
        content = bytes([0, 0, 8, values.ndim]) + b"".join(n.to_bytes(4, "big") for n in values.shape)
        content += values.tobytes()
        (packed / (name if number else f"{name}.gz")).write_bytes(content if number else gzip.compress(content))
    source = open_source("fashion-mnist", cache=convnet_rows.unpack(packed, tmp_path / "cache"))
    found, known = source.read("train")
    assert np.array_equal(found.numpy()[:, 0], images)
    assert known.tolist() == labels.tolist()


def made_up(count: int = 24) -> list[dict]:
    """Rows whose accuracy grows with width; a full training takes ten seconds, a look at it one."""
    rows = []
    for number, architecture in zip(range(count), space.sample(0), strict=False):
        accuracy = 0.5 + architecture["width"] / 100 + number / 1000
        curve = [
            {"epoch": epoch, "loss": 1.0, "validation": accuracy - 0.1 * (2 - epoch), "seconds": 5.0 * epoch}
            for epoch in (1, 2)
        ]
        short = {"validation": accuracy, "losses": [1 - accuracy], "seconds": 1.0, "validation_seconds": 0.0}
        scores = {n: {"value": accuracy, "seconds": 0.5} for n in ("params", "flops", *convnet_table.zero_cost.SCORES)}
        full = {"test": accuracy, "validation": accuracy, "losses": [1.0, 1.0], "seconds": 10.0, "curve": curve}
        rows.append(
            {
                "key": space.key(architecture),
                "architecture": dict(architecture),
                "zero_cost": {**scores, "az_nas": {"traits": [number, 0.0, 0.0], "seconds": 0.5}},
                "random10": short,
                "random50": short,
                "early_stop": short,
                "full": {**full, "validation_seconds": 1.0},
            }
        )
    return rows


@pytest.mark.parametrize("arm", replayed_searches.NAMED)
def test_an_arm_trains_nothing_twice_and_pays_the_seconds_of_the_table(arm):
    table = replayed_searches.table_of(made_up(), "validation")
    events = replayed_searches.NAMED[arm](table, 0)
    assert replayed_searches.NAMED[arm](table, 0) == events
    spent = sum(event.seconds for event in events)
    if arm == "tpe_hyperband":
        # 12 s with both looks, 6 s where it is ended after the first.
        assert 24 * 6 <= spent < 24 * 12
    else:
        assert spent == pytest.approx(24 * 11)
        assert events[-1].pick == max(table.values(), key=lambda t: t.seen).key


def test_regret_is_that_of_a_random_pick_and_then_of_the_best_seen():
    table = replayed_searches.table_of(made_up(3), "test")
    keys = list(table)
    tests = [t.test for t in table.values()]
    events = replayed_searches.in_order(table, keys, before=5.0)
    found = live_replay.regret_at(events, table, np.array([0.0, 15.9, 16.0, 27.0, 38.0]))
    best = max(tests)
    expected = [best - np.mean(tests)] * 2 + [best - tests[0], best - max(tests[:2]), 0.0]
    assert found == pytest.approx(100 * np.array(expected))


def test_a_live_run_is_judged_by_its_events(tmp_path):
    rows = made_up(4)
    keys = [row["key"] for row in rows]
    best = max(rows, key=lambda row: row["full"]["test"])["key"]
    (tmp_path / "run0").mkdir()
    lines = [
        {"key": None, "fidelity": "condense", "seconds": 30.0},
        {"key": keys[0], "fidelity": "full", "seconds": 30.0},
        {"key": keys[1], "fidelity": "early_stop", "seconds": 30.0, "pick": best},
    ]
    (tmp_path / "run0" / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = live_replay.replay(rows, [f"events:ours={tmp_path}", "order:early_stop"], "validation", 3, (0.5, 1, 2))
    ours = found["arms"]["ours"]
    assert ours["repeats"] == 1
    first = 100 * (max(r["full"]["test"] for r in rows) - rows[0]["full"]["test"])
    assert ours["regret"]["1"]["mean"] == pytest.approx(first, abs=1e-3)
    assert ours["regret"]["2"]["mean"] == 0
    assert ours["minutes_to"]["0.1"] == pytest.approx(1.5, abs=0.02)
    # All signals (4 s), and then the best comes first.
    assert found["arms"]["order:early_stop"]["minutes_to"]["0.1"] == pytest.approx(15 / 60, abs=0.02)


def test_an_unknown_arm_is_told():
    with pytest.raises(ValueError, match="unknown arm 'tpee'"):
        live_replay.replay(made_up(4), ["tpee"], "test", 2, (1,))


def test_a_pick_that_the_table_lacks_is_told(tmp_path):
    (tmp_path / "events.jsonl").write_text('{"key": "a", "fidelity": "fit", "seconds": 1, "pick": "depth=9"}\n')
    with pytest.raises(ValueError, match="which the table does not know"):
        live_replay.replay(made_up(4), [f"events:ours={tmp_path}"], "test", 1, (1,))
