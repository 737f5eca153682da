"""A tiny comparison for tests: images, a space, a truth table, settings that take seconds."""

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import blobs, write_space
from nas_proxy.cli.options import OF_COMPARISONS, option_names
from nas_proxy.pipeline import judgement
from nas_proxy.pipeline.stages import run_all
from nas_proxy.runs.resolving import resolve

SIGNALS = ["dm", "dm+space", "random", "herding", "early_stop", "params", "naswot"]
RECIPE = {"condense": {"images_per_class": 2, "steps": 3, "width": 4}, "proxy_training": {"batch_size": 6}}
RECIPE |= {"full_training": {"epochs": 1, "batch_size": 12}}


class Bench:
    """Data, a space of 14 architectures and a truth table of 8 of them, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        images = blobs(per_class=30)
        np.savez(folder / "blobs.npz", images=images.images[:, 0].numpy(), labels=images.labels.numpy())
        self.space = write_space(folder / "tiny.py", (1, 2, 4, 6, 8, 12, 16))
        self.table = folder / "truth.csv"
        widths = (1, 2, 4, 6)
        keys = [f"width={width},act={act}" for width in widths for act in ("relu", "tanh")]
        accuracy = [0.3 + 0.05 * place for place in range(len(keys))]
        pd.DataFrame({"key": keys, "one": accuracy}).to_csv(self.table, index=False)

    def settings(self, table=False, sample=5, **more):
        given = {"dataset": f"npz:{self.folder / 'blobs.npz'}", "space": str(self.space), "device": "cpu", "workers": 1}
        given |= {"truth": sample, "compare": {"signals": SIGNALS, "draws": 2, "passes": 24, **more}}
        given |= {"truth_table": str(self.table)} if table else {}
        return resolve(given | RECIPE, options=option_names(OF_COMPARISONS))

    def compare(self, out, **more):
        """Return the folder and the object of its `ranking.json`."""
        run = run_all(self.settings(**more), self.folder / out)
        return run, json.loads((run / "ranking.json").read_text())

    def arguments(self, out):
        text = f"compare --dataset npz:{self.folder / 'blobs.npz'} --space {self.space} --out {self.folder / out}"
        text += " --sample 5 --draws 2 --passes 24 --ipc 2 --steps 3 --width 4 --batch 6 --workers 1 --device cpu"
        return [*text.split(), "--signals", ",".join(SIGNALS), "--truth-epochs", "1"]


def few_resamples():
    """Yield with few resamples; the intervals have tests of their own."""
    with pytest.MonkeyPatch.context() as patched:
        for name in ("rank", "difference"):
            function = functools.partial(getattr(judgement, name), resamples=199)
            patched.setattr(judgement, name, function)
        yield
