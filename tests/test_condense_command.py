"""`nas-proxy condense`: mistakes are told before the work, with what would work; a dry run tells and writes nothing."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from nas_proxy.cli import app as cli
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.folder import open_run
from nas_proxy.runs.resolving import resolve

SMALL = ("--dataset", "digits", "--limit", 12, "--device", "cpu")


@pytest.fixture
def condense(monkeypatch, capsys, tmp_path):
    """Run the command in this process, in an empty folder; returns the exit code and what it says on stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["nas-proxy", "condense", "out", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
            sys.exit(0)
        return int(end.value.code or 0), capsys.readouterr().err

    return call


MISTAKES = {
    "--from a.pt --method dm": "--from a.pt reads a set, and --method dm makes one; leave one of them out",
    "--width 100000000": "--width (condense.width) is 100000000; it must be between 1 and 4096",
    "--formation 4 --ipc 1": "has 8 training images; give --formation 2 with --ipc 2 or less, or data with more",
    "--formation 2 --ipc 3": "has 8 training images; give --ipc 2 or less",
    "--method patches --ipc 9": "9 images a class were asked for, but the smallest class has 8 training images; gi",
    "--method patches --patches-across 2 --ipc 3": "12 images a class were asked for (4 in each stored one), but th",
    "--method patches --patches-across 4 --ipc 1": "8 training images; give --patches-across 1 with --ipc 8 or less",
    "--method patches --patches-across 3": "--patches-across 3 divides images evenly, but these have 8×8 pixels; leave",
    "--method patches --teacher-epochs 0": "--teacher-epochs (condense.teacher_epochs) is 0; it must be ",
    "--from set.npz --ipc 13": "8 training images; give as --ipc the images a class that the file has, 8 at most",
    "--from set.npz --ipc 1": "set.npz is damaged, or no .npz file of plain arrays; write one with numpy.savez_c",
    "--from set.pt --ipc 1": "set.pt is damaged, or not a .pt file of tensors alone",
    "--export set.npz": "the images cannot be written into set.npz, as set.npz is no folder; give another folder",
    "--export mine": "mine holds cat.jpg, which is no image of an earlier export and would be mixed with this",
}


@pytest.mark.parametrize("flags", MISTAKES)
def test_a_mistake_gets_a_sentence_before_the_work(condense, tmp_path, flags):
    (tmp_path / "set.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "set.pt").write_bytes(b"PK\x03\x04")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "cat.jpg").write_bytes(b"cat")
    code, told = condense(*SMALL, *flags.split())
    assert code == 2
    assert MISTAKES[flags] in told
    assert "Traceback" not in told
    assert not (tmp_path / "out" / "proxy.safetensors").exists()


@pytest.mark.slow
def test_an_export_holds_what_the_last_command_made(condense, tmp_path):
    for count in (2, 1):
        made = (*SMALL, "--method", "random", "--ipc", count, "--formation", 2, "--export", "png")
        for _ in range(2):
            code, told = condense(*made)
            assert code == 0, told
        assert len(list((tmp_path / "png").rglob("*.png"))) == 10 * count * 4
        (tmp_path / "out").rename(tmp_path / f"out{count}")


@pytest.mark.slow
def test_a_run_that_has_begun_keeps_the_settings_that_are_not_given(condense, tmp_path):
    made = {"dataset": "digits", "limit": 12, "device": "cpu", "trials": 12, "truth": 6, "truth_seeds": 1}
    made |= {"signals": ["params"], "condense": {"method": "random", "images_per_class": 2}}
    made |= {"proxy_training": {"epochs": 3}, "space": "nas_bench_201"}
    run_all(resolve(made), tmp_path / "out", names=("condense",))
    before = open_run(tmp_path / "out").config
    assert condense("--dataset", "digits", "--method", "random", "--ipc", 2, "--preview-every", 5)[0] == 0
    assert open_run(tmp_path / "out").config == replace(before, preview_every=5)
    code, told = condense("--dataset", "digits", "--ipc", 1)
    assert (code, "holds another run (condense.images_per_class: 2 → 1)" in told) == (2, True)
    code, told = condense("--dataset", "mnist")
    assert (code, "holds another run (dataset: 'digits' → 'mnist')" in told) == (2, True), told
    assert open_run(tmp_path / "out").config == replace(before, preview_every=5)


@pytest.mark.slow
def test_the_number_that_a_file_needs_is_the_one_that_works(condense, tmp_path):
    images = np.zeros((20, 1, 8, 8), np.uint8)
    torch.save((torch.from_numpy(images), torch.arange(20) % 10), tmp_path / "set.pt")
    code, told = condense(*SMALL, "--from", "set.pt", "--ipc", 5)
    assert (code, "where 5 were asked for; give --ipc 2" in told) == (2, True)
    assert condense(*SMALL, "--from", "set.pt", "--ipc", 2)[0] == 0


@pytest.mark.slow
def test_a_dry_run_tells_and_writes_nothing(tmp_path):
    options = ["condense", str(tmp_path / "run"), "--dataset", "digits", "--dry-run", "--device", "cpu", "--width", "8"]
    done = CliRunner().invoke(cli.app, [*options, "--json"], catch_exceptions=False)
    found = json.loads(done.stdout)
    assert found["condense"]["trainings"] == 200
    assert found["parts"] == {}
    assert found["stages"]["condense"] == found["condense"]["seconds"]
    text = CliRunner().invoke(cli.app, options, catch_exceptions=False).stdout
    assert "Condensation" in text
    assert "200 steps" in text
    assert list(tmp_path.iterdir()) == []
    text = CliRunner().invoke(cli.app, [*options, "--method", "random"], catch_exceptions=False).stdout
    assert text.startswith("Nothing is left to be trained")
