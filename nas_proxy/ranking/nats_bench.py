"""The official files of NATS-Bench as a truth table, read by their own package: `nats:PATH[:DATASET[:SEED,…]]`.

Dong et al., "NATS-Bench: Benchmarking NAS Algorithms for Architecture Topology and Size", TPAMI 2021. PATH is the
folder NATS-tss-v1_0-3ffb9-simple, or the one file of the topology space; its architectures are those of
`nas_bench_201`. DATASET is one of `SETS`, with the images that its accuracies after 200 epochs are of. The seeds are
those that every architecture was trained with (one: 777), or those that are named, and then architectures without
them are left out. The files are pickles, which can run code: nothing is opened without the user's consent.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_proxy.errors import DataError, nearest

if TYPE_CHECKING:
    import pandas as pd

PREFIX = "nats:"
EPOCHS = "200"
SETS = {"cifar10": "ori-test", "cifar10-valid": "x-valid", "cifar100": "x-test", "ImageNet16-120": "x-test"}
"""Data sets, and what of them was scored: cifar10-valid was trained on half of the training images."""

FORM = f"give {PREFIX}FOLDER or {PREFIX}FOLDER:DATASET, with a data set of: {', '.join(SETS)}"


def read_nats(spec: str, *, allow_pickle: bool) -> tuple[Path, list[str], pd.DataFrame]:
    """Return the file or folder, the published names, and a column a seed: accuracies in per cent, NaN for none.

    Raises DataError for what cannot be read, for a missing package, and where pickles are not allowed.
    """
    path, dataset, seeds = _parsed(spec)
    if not allow_pickle:
        raise DataError(
            f"the NATS-Bench files in {path} are pickles, which can run any code when they are loaded; if you trust "
            "where they come from, give --allow-pickle"
        )
    try:
        import nats_bench
    except ImportError:
        raise DataError(f"reading {path} needs nats_bench; install it with: pip install -e '.[nats]'") from None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # where the package says what it does
            found = _accuracies(nats_bench.create(str(path), "tss", fast_mode=path.is_dir(), verbose=False), dataset)
    except Exception as error:  # noqa: BLE001 (the package asserts, and files of others may hold anything)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"nats_bench cannot read {path} ({reason}); give NATS-tss-v1_0-3ffb9-simple, unpacked"
        ) from None
    import pandas as pd  # here, since the settings of every command ask this module what it reads

    frame = pd.DataFrame.from_dict(found, orient="index")
    known = sorted({seed for each in found.values() for seed in each})
    if seeds is None:
        seeds = [seed for seed in known if frame[seed].notna().all()]
        if not seeds:
            raise DataError(
                f"no seed of {dataset} in {path} holds for every architecture; name some, as :{dataset}:777"
            )
    if unknown := [seed for seed in seeds if seed not in known]:
        raise DataError(f"{dataset} in {path} has no seed {unknown[0]}; known: {', '.join(map(str, known))}")
    return path, list(found), frame[seeds].set_axis([f"{dataset} {seed}" for seed in seeds], axis=1)


def _parsed(spec: str) -> tuple[Path, str, list[int] | None]:
    """Return the path, which may hold colons, the data set and the seeds, None for those of all architectures."""
    named = spec.removeprefix(PREFIX)
    rest: list[str] = []
    while not Path(named).exists() and ":" in named:
        named, _, last = named.rpartition(":")
        rest.insert(0, last)
    if not named or not Path(named).exists():
        raise DataError(f"there are no NATS-Bench files at {spec.removeprefix(PREFIX)!r}; {FORM}")
    dataset, seeds = (*rest, "", "")[:2]
    if dataset and dataset not in SETS:
        raise DataError(f"NATS-Bench has no data set {dataset!r}{nearest(dataset, SETS)}")
    if len(rest) > 2 or not all(seed.strip().isdigit() for seed in seeds.split(",") if seeds):
        raise DataError(f"the seeds of {spec!r} are not whole numbers with commas between; {FORM}")
    return Path(named), dataset or next(iter(SETS)), [int(seed) for seed in seeds.split(",")] if seeds else None


def _accuracies(api: Any, dataset: str) -> dict[str, dict[int, float]]:
    """Return the accuracies of every architecture by seed."""
    found: dict[str, dict[int, float]] = {}
    for index, name in enumerate(api.meta_archs):
        if not api.fast_mode and index not in api.evaluated_indexes:
            continue
        results = api.query_meta_info_by_index(index, hp=EPOCHS)
        if dataset not in results.get_dataset_names():
            raise ValueError(f"it has no results of {dataset}")
        found[name] = {
            int(seed): float(results.get_metrics(dataset, SETS[dataset], is_random=seed)["accuracy"])
            for seed in results.get_dataset_seeds(dataset)
        }
        if api.fast_mode:  # the package keeps all that it has read
            api.arch2infos_dict.pop(index)
    return found
