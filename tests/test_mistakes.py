"""Mistakes at the command line: one sentence on stderr with the value and what would work, exit code 2."""

import json
import math
import os
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import blobs
from nas_proxy.cli import app as cli
from nas_proxy.cli.printing import found_by_truth
from nas_proxy.data.images import ImageSet
from nas_proxy.errors import RunFailedError

QUICK = ["--truth=4", "--trials=5", "--ipc=2", "--steps=2", "--epochs=1", "--truth-epochs=1", "--limit=20"]
QUICK += ["--workers=1", "--device=cpu"]


@pytest.fixture
def nas_proxy(monkeypatch, capsys, tmp_path):
    """Run the command line in this process, in an empty folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nas-proxy", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
            sys.exit(0)
        told = capsys.readouterr()
        return int(end.value.code or 0), told.out, told.err

    return call


def write_images(folder, sizes=((8, 8),) * 4, classes=("a", "b")):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number, size in enumerate(sizes):
            Image.new("L", size, 40 * number).save(folder / name / f"{number}.png")


FLAGS = {
    "--dataset digitz": "unknown data set 'digitz'; did you mean 'digits'?",
    "--dataset folder:absent": "absent",
    "--dataset npz:absent.npz": "absent.npz",
    "--space convnets": "unknown search space 'convnets'; did you mean 'convnet'?",
    "--space absent.py": "absent.py does not exist",
    "--device cuda:99": "the device cuda:99 is not there; this machine has: cpu",
    "--device gpu": "device is 'gpu'; it must be auto, cpu, cuda or cuda:N",
    "--ipc 0": "--ipc (condense.images_per_class) is 0; it must be at least 1",
    "--ipc 500": "500 images a class were asked for, but the smallest class has",
    "--trials 0": "trials is 0; it must be at least 1",
    "--truth -3": "truth is -3; it must be at least 1",
    "--steps 0": "--steps (condense.steps) is 0; it must be at least 1",
    "--epochs -1": "--epochs (proxy_training.epochs) is -1; it must be above 0",
    "--truth-epochs 0": "--truth-epochs (full_training.epochs) is 0; it must be above 0",
    "--limit 1": "limit is 1; it must be at least 3",
    "--image-size 2": "image_size is 2; it must be between 4 and 1024",
    "--workers -1": "workers is -1; it must be between 0 and 1024",
    "--seed -1": "seed is -1; it must be between 0",
    "--trials many": "trials is 'many'; it must be a whole number",
    "--epochs nan": "must be finite",
    "--epochs 1e300": "it must be at most 1,000,000",
    "--formation 5": "--formation (condense.formation) is 5; it must be between 1 and 4",
    "--formation 3 --ipc 1": "--formation 3 divides images evenly, but these have 8×8 pixels",
    "--formation 2 --ipc 20": "80 images a class were asked for (4 in each stored one), but the smallest class has",
    "--match every": "--match (condense.match) is 'every'",
    "--embed nets": "--embed (condense.embed) is 'nets'; did you mean 'convnet'? known: convnet, resnet18, space",
    "--signals params,naswat": "--signals holds 'naswat'; did you mean 'naswot'? known: az_nas, flops, jacob_cov",
    "--score acuracy": "--score is 'acuracy'; did you mean 'accuracy'? known: accuracy, loss_sum",
    "--seeds 0": "--seeds is 0; it must be between 1 and 100",
    "--pruner medium": "--pruner is 'medium'; did you mean 'median'? known: hyperband, median, none, wilcoxon",
    "--pruner wilcoxon": "--pruner wilcoxon compares candidates across seeds, but --seeds is 1; give --seeds 5 or more",
    "--candidate-memory 0": "--candidate-memory is 0; it must be above 0",
    "--config absent.toml": "the configuration absent.toml does not exist",
}


@pytest.mark.parametrize("flags", FLAGS)
def test_a_wrong_option_gets_a_sentence(nas_proxy, tmp_path, flags):
    code, out, err = nas_proxy("run", "--out", "out", *flags.split())
    assert code == 2
    assert out == ""
    assert FLAGS[flags].replace("image_size", "image-size") in err.replace("image_size", "image-size")
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "study.db").exists()


def test_all_mistakes_of_a_configuration_are_told(nas_proxy, tmp_path):
    (tmp_path / "wrong.toml").write_text('trails = 3\ntruth = 0\n[condense]\nsteps = "many"\n')
    code, _, err = nas_proxy("run", "--config", "wrong.toml")
    assert code == 2
    for part in ("unknown setting 'trails'", "truth is 0", "condense.steps is 'many'"):
        assert part in err


def test_the_settings_and_the_folder_of_a_comparison_are_no_runs(nas_proxy, tmp_path):
    (tmp_path / "compare.toml").write_text("[compare]\ndraws = 2\n")
    code, _, err = nas_proxy("run", "--config", "compare.toml")
    assert (code, "compare.toml holds the settings of a comparison; give the run.toml of a run" in err) == (2, True)
    for command in ("condense", "search", "truth", "rank", "report", "final"):
        code, _, err = nas_proxy(command, ".")
        assert (code, "holds a comparison (it has a compare.toml), and this command is for runs" in err) == (2, True)


def test_folders_of_images_that_cannot_be_used(nas_proxy, tmp_path):
    (tmp_path / "empty").mkdir()
    write_images(tmp_path / "sizes", sizes=((8, 8), (9, 8), (8, 8), (8, 8)))
    write_images(tmp_path / "broken")
    (tmp_path / "broken" / "a" / "9.png").write_bytes(b"\x89PNG\r\n\x1a\nno")
    for name, part in {"empty": "empty", "sizes": "--image-size", "broken": "9.png"}.items():
        code, _, err = nas_proxy("run", "--dataset", f"folder:{name}", "--out", "out", *QUICK, "--ipc", "1")
        assert code == 2, err
        assert part in err
        assert "Traceback" not in err


def test_spaces_that_cannot_be_used(nas_proxy, tmp_path):
    for text, part in {
        "import nothing_like_this": "ModuleNotFoundError",
        "def space(trial):\n    return 3": "must return a torch.nn.Module",
    }.items():
        path = tmp_path / f"space{len(text)}.py"
        path.write_text(text)
        code, _, err = nas_proxy("run", "--space", path, "--out", "out")
        assert code == 2
        assert part in err


@pytest.mark.parametrize("stage", ["condense", "search", "truth", "rank", "report"])
def test_a_stage_needs_a_run(nas_proxy, tmp_path, stage):
    (tmp_path / "nothing").mkdir()
    for folder, part in {"absent": "does not exist", "nothing": "holds no run (it has no run.toml)"}.items():
        code, _, err = nas_proxy(stage, folder)
        assert code == 2
        assert part in err
        assert "nas-proxy run --out" in err


def test_help_ends_in_examples_and_version_is_printed(nas_proxy):
    assert nas_proxy("--version")[1].strip() == cli.__version__
    for name in ("run", "condense", "search", "truth", "rank", "report", "compare", "datasets", "spaces"):
        code, out, _ = nas_proxy(name, "--help")
        assert code == 0
        assert out.rsplit("Examples", 1)[1].count(f"nas-proxy {name}") == 2


def test_lists_are_printed_and_are_json_when_asked(nas_proxy):
    assert "folder:DIR" in nas_proxy("datasets")[1]
    assert {row["name"] for row in json.loads(nas_proxy("spaces", "--json")[1])} >= {"convnet"}


@pytest.mark.slow
def test_a_run_prints_json_alone_and_mistakes_lose_nothing(nas_proxy, tmp_path):
    images = blobs(per_class=30)
    np.savez(tmp_path / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
    run = ("run", "--dataset", "npz:blobs.npz", "--out", "out", *QUICK)
    code, out, err = nas_proxy(*run, "--json")
    assert code == 0, err
    assert json.loads(out)["n"] == 4
    assert "Full trainings" in err
    before = (tmp_path / "out" / "ranking.json").read_text()
    code, _, err = nas_proxy(*run, "--seed", 3)
    assert code == 2
    assert "seed: 0 → 3" in err
    assert "--overwrite" in err
    assert (tmp_path / "out" / "ranking.json").read_text() == before
    code, out, _ = nas_proxy("rank", "out")
    assert code == 0
    assert "Spearman" in out
    (tmp_path / "out" / "study.db").write_bytes(b"SQLite format 3\0" + os.urandom(4000))
    code, _, err = nas_proxy("search", "out")
    assert code == 2
    assert "study.db" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "method", ["dm", *(pytest.param(m, marks=pytest.mark.slow) for m in ("random", "herding", "kcenter", "patches"))]
)
def test_condensed_sets_are_made_evaluated_and_exported(nas_proxy, tmp_path, method):
    small = ("--dataset", "digits", "--limit", 12, "--ipc", 2, "--steps", 2, "--device", "cpu")
    made = nas_proxy("condense", "set", *small, "--method", method, "--json")
    assert made[0] == 0, made[2]
    result = json.loads(made[1])
    assert (result["method"], result["images"]) == (method, 20)
    assert (result["seconds_per_step"] is None) == (method != "dm")
    code, out, err = nas_proxy("condense", "set", "--evaluate", "--evaluate-epochs", 1, "--export", "png", "--json")
    assert code == 0, err
    judged = json.loads(out)
    assert judged["seconds"] == result["seconds"]
    assert all(0 <= judged[name] <= 1 for name in ("accuracy", "std", "random_accuracy", "random_std"))
    assert len(list((tmp_path / "png").rglob("*.png"))) == 20
    images = ImageSet.load(tmp_path / "set" / "proxy.safetensors")
    np.savez(tmp_path / "published.npz", images=images.images.numpy(), labels=images.labels.numpy())
    read = nas_proxy("condense", "other", *small, "--from", "published.npz", "--json")
    assert json.loads(read[1])["method"] == "file"
    assert torch.equal(ImageSet.load(tmp_path / "other" / "proxy.safetensors").images, images.images)


def test_a_condensed_set_that_does_not_fit_gets_a_sentence(nas_proxy, tmp_path):
    np.savez(tmp_path / "set.npz", images=np.zeros((20, 1, 8, 8), np.uint8), labels=np.arange(20) % 10)
    code, _, err = nas_proxy("condense", "out", "--dataset", "digits", "--from", "set.npz", "--ipc", 5)
    assert code == 2
    assert "holds 2 images of a class where 5 were asked for; give --ipc 2" in err
    code, _, err = nas_proxy("condense", "out", "--dataset", "digits", "--method", "herdin")
    assert code == 2
    assert "--method (condense.method) is 'herdin'; did you mean 'herding'?" in err


def test_what_failed_in_full_training_is_not_the_best():
    truth = [{"key": "a", "accuracy": math.nan, "seconds": 1}, {"key": "b", "accuracy": 0.5, "seconds": 1}]
    result, text = found_by_truth(truth)
    assert result == {"architectures": 2, "failed": 1, "best": "b", "accuracy": 0.5}
    assert text == "1 architectures fully trained, 1 failed; the best is b at 50.0%"
    with pytest.raises(RunFailedError, match="the full training of all 1 architectures failed"):
        found_by_truth(truth[:1])


def test_a_full_disk_gets_a_sentence(nas_proxy, monkeypatch):
    from nas_proxy.pipeline import stages

    def full(*_args, **_options):
        raise OSError(28, "No space left on device", "proxy.png")

    monkeypatch.setattr(stages, "write_grid", full)
    code, _, err = nas_proxy("run", "--out", "out", *QUICK)
    assert code == 2
    assert "the disk is full (proxy.png); free some space and run the same command again" in err
