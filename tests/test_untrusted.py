"""What comes from outside is not believed: TOML, errors, names and pictures."""

import time

import numpy as np
import pytest
from PIL import Image

from nas_proxy.data.sources import open_source
from nas_proxy.data.splits import development
from nas_proxy.errors import ConfigError, DataError, RunFolderError, StorageError
from nas_proxy.runs.folder import open_run
from nas_proxy.spaces.measured import Latency
from nas_proxy.storage.records import finished, latency_of
from nas_proxy.untrusted import in_a_line, read_toml

DEEP = {
    "brackets": "a = " + "[" * 100_000,
    "key": ".".join(["a"] * 50_000) + " = 1",
    "spaced key": " . ".join(["a"] * 50_000) + " = 1",
    "quoted key": '"a".' * 50_000 + "a = 1",
    "table": "[" + "a." * 50_000 + "a]",
    "after a comment": "# '\n" + "a." * 50_000 + "a = 1",
    "inline": "x = {" + "a." * 50_000 + "a = 1}",
}


def test_a_comment_and_text_may_have_dots(tmp_path):
    dots = "." * 60
    (tmp_path / "run.toml").write_text(f"# {dots} \nseed = 3 # it's {dots}\nspace = 'a#b{dots}.py' # x\n#{dots}")
    found = read_toml(tmp_path / "run.toml")
    assert found == {"seed": 3, "space": f"a#b{dots}.py"}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
def test_settings_that_nest_without_end_are_refused_at_once(tmp_path, text):
    (tmp_path / "run.toml").write_text(text)
    start = time.monotonic()
    with pytest.raises(ConfigError, match=r"run\.toml is not a TOML file: (it is nested too deeply|a key in it has)"):
        open_run(tmp_path)
    assert time.monotonic() - start < 2


def test_dots_in_texts_are_no_deep_keys(tmp_path):
    (tmp_path / "run.toml").write_text(f'enqueue = ["{"a.b=1.5," * 200}"]')
    assert len(open_run(tmp_path).config.enqueue) == 1


def test_what_a_sentence_quotes_is_safe_and_short():
    error = RunFolderError(f"the name {'x' * 5000}\ud800\x1b[31m is wrong")
    assert str(error) == f"the name {'x' * 150}…{'x' * 14}?�[31m is wrong"
    assert ConfigError(["a \x1b[1m", "b"]).mistakes == ("a �[1m", "b")
    assert in_a_line(ValueError("one\ntwo")) == "ValueError: one"


@pytest.mark.parametrize("place", [60, -30], ids=["early", "late"])
def test_a_picture_whose_pixels_are_not_those_that_were_written_is_told(tmp_path, place):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        folder = tmp_path / "photos" / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    spoilt = tmp_path / "photos" / "a" / "0.png"
    data = bytearray(spoilt.read_bytes())
    data[place] ^= 1
    spoilt.write_bytes(data)
    with pytest.raises(DataError, match=r"0\.png cannot be read"):
        development(open_source(f"folder:{tmp_path / 'photos'}"), seed=0)


@pytest.mark.parametrize(
    "changed",
    [{"index": "1"}, {"losses": 3}, {"flops": 10**400}, {"key": None}, {"seconds": "x"}, {"draw": 1.5}],
    ids=str,
)
def test_a_training_that_nobody_has_written_is_told(changed):
    import optuna

    told = {"key": "a=1", "phase": "sample", "index": 0, "draw": 0, "params": 1, "flops": 1, "losses": [1.0]}
    good, bad = (optuna.trial.create_trial(value=0.5, user_attrs=attributes) for attributes in (told, told | changed))
    assert finished([good])[0].loss_sum == 1.0
    with pytest.raises(StorageError, match=r"training .* is damaged"):
        finished([bad])


def test_a_latency_that_nobody_has_measured_is_told():
    import optuna

    told = {"key": "a=1", "phase": "sample", "index": 0, "draw": 0, "params": 1, "flops": 1}
    whole = {"latency_ms": 1.5, "latency_quartiles_ms": [1.0, 2], "latency_repeats": 9}
    good = optuna.trial.create_trial(value=0.5, user_attrs=told | whole)
    assert finished([good])[0].latency == Latency(1.5, 1.0, 2.0, 9)
    assert latency_of(good) == ("a=1", Latency(1.5, 1.0, 2.0, 9), "")
    failed = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"key": "b", "reason": "no"})
    assert latency_of(failed) == ("b", None, "no")
    for odd in ({"latency_ms": 1.5}, whole | {"latency_ms": "fast"}, whole | {"latency_quartiles_ms": [1.0]}):
        bad = optuna.trial.create_trial(value=0.5, user_attrs=told | odd)
        with pytest.raises(StorageError, match=r"training .* is damaged"):
            finished([bad])
        with pytest.raises(StorageError, match=r"latency .* is damaged"):
            latency_of(bad)
    with pytest.raises(StorageError, match=r"latency .* is damaged \(key: "):
        latency_of(optuna.trial.create_trial(value=0.5, user_attrs=whole))
