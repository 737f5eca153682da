"""Train every one of 96 small ConvNets on a data set once, and keep beside it what cheaper signals say of it.

    python benchmarks/convnet_table.py train --idx FOLDER --rows rows.jsonl
    python benchmarks/convnet_table.py train --dataset folder:cifar10 --limit 500 --epochs 10 --rows rows.jsonl
    python benchmarks/convnet_table.py table --rows rows.jsonl --out benchmarks/results/fashion-convnets-cpu

`train` appends a line of JSON for each finished architecture and goes on where it ended, whether it was killed or not;
`--part 1/2` and `--part 2/2` are two commands that fill one file at once.
FOLDER holds the four IDX files of Fashion-MNIST (Xiao, Rasul & Vollgraf, arXiv:1708.07747), packed by gzip or not, as
Debian's package dataset-fashion-mnist installs them. The architectures (`small_convnets.py`) come in a uniformly random
order, so what is finished is a uniform sample of them at any time. `table` writes OUT.json, a summary, and
OUT.csv, the accuracies, seconds and signals by architecture; it can be made of unfinished rows, and says of how many.

Of each architecture: the accuracy on the test images after a full training (the product's recipe but for the epochs;
of Fashion-MNIST 55,000 images, 5,000 for validation and 10,000 for test); the training loss and the accuracy on the
validation images after each epoch of it; trainings
on 10 and on 50 random images a class, and on all images, of 6,000 image passes each; scores of untrained networks.
Only the truth has seen test images.

All seconds are those of the processor (`time.process_time`) on one thread: on a machine with other work the clock on
the wall would measure that. The last line on stdout is one JSON object.
"""

import argparse
import csv
import json
import math
import tempfile
from collections.abc import Iterable, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from convnet_rows import PER_CLASS, Setting, read_rows, train_all, unpack
from nas_proxy.data.sources import open_source
from nas_proxy.environment import environment
from nas_proxy.files import write_json, write_text
from nas_proxy.ranking.intervals import bootstrap_interval, spearman
from nas_proxy.seeds import numpy_generator
from nas_proxy.signals import az_nas, zero_cost
from small_convnets import space

VOTE = ("naswot", "synflow", "flops", "jacob_cov")
CHANCE = 0.1


def assembled(rows: Sequence[dict[str, Any]]) -> list[float]:
    """Return the score of AZ-NAS of each row among all rows; NaN where a network has none."""
    found = [[*row["zero_cost"]["az_nas"]["traits"], row["zero_cost"]["flops"]["value"]] for row in rows if known(row)]
    scores = iter(az_nas.assembled([[-math.inf if t is None else t for t in traits] for traits in found]))
    return [next(scores) if known(row) else math.nan for row in rows]


def known(row: dict[str, Any]) -> bool:
    """Whether AZ-NAS could score the network."""
    return row["zero_cost"]["az_nas"]["traits"] is not None


def loss_sum(losses: Iterable[float | None]) -> float:
    """Return the negated sum of the losses; NaN for a training that diverged."""
    return -sum(math.nan if loss is None else loss for loss in losses)


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[list[float], float]]:
    """Return the scores of the rows by each signal, NaN where there is none, and the seconds of the signal for all."""
    found: dict[str, tuple[list[float], float]] = {}
    for name in ("params", "flops", *zero_cost.SCORES):
        cells = [row["zero_cost"][name] for row in rows]
        found[name] = ([_nan(cell["value"]) for cell in cells], sum(cell["seconds"] for cell in cells))
    found["az_nas"] = (assembled(rows), sum(row["zero_cost"]["az_nas"]["seconds"] for row in rows))
    voters = [found[name] for name in VOTE]
    ranks = np.mean([stats.rankdata(lowest(values)) for values, _ in voters], axis=0)
    found["vote"] = (ranks.tolist(), sum(seconds for _, seconds in voters))
    for name in (*(f"random{n}" for n in PER_CLASS), "early_stop"):
        short = [row[name] for row in rows]
        seconds = sum(one["seconds"] for one in short)
        scored = sum(one["validation_seconds"] for one in short)
        found[name] = ([_nan(one["validation"]) for one in short], seconds + scored)
        found[f"{name}:loss_sum"] = ([loss_sum(one["losses"]) for one in short], seconds)
    for epoch in range(1, max(len(row["full"]["curve"]) for row in rows) + 1):
        looks = [row["full"]["curve"][epoch - 1] if epoch <= len(row["full"]["curve"]) else None for row in rows]
        seconds = sum(look["seconds"] for look in looks if look)
        scored = sum(row["full"]["validation_seconds"] for row, look in zip(rows, looks, strict=True) if look)
        found[f"epoch{epoch}"] = ([_nan(look and look["validation"]) for look in looks], seconds + scored)
        sums = [
            loss_sum(row["full"]["losses"][:epoch]) if look else math.nan for row, look in zip(rows, looks, strict=True)
        ]
        found[f"epoch{epoch}:loss_sum"] = (sums, seconds)
    return found


def lowest(values: Sequence[float]) -> list[float]:
    """Return the scores with a finite one, below all others, in place of each that is missing, as the product does."""
    least = float(np.nextafter(min((v for v in values if not math.isnan(v)), default=0.0), -math.inf))
    return [least if math.isnan(v) else v for v in values]


def _nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def truth_of(row: dict[str, Any]) -> float:
    """Return the accuracy of the full training on test; that of chance where it diverged."""
    return CHANCE if row["full"]["test"] is None else row["full"]["test"]


def correlation(values: Sequence[float], truth: Sequence[float]) -> dict[str, Any]:
    """Return Spearman's rho with a 95 % interval (BCa bootstrap over architectures)."""
    scores, true = np.array(lowest(values)), np.array(truth)
    draws = numpy_generator(0, "fashion_table")  # as the kept results were drawn
    found = bootstrap_interval(lambda counts: spearman(scores, true, counts), len(true), draws)
    rounded = [None if v is None else round(v, 3) for v in (found.value, found.low, found.high)]
    return {"spearman": rounded[0], "low": rounded[1], "high": rounded[2], "n": len(true), "reason": found.reason}


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """Return the median, the quartiles and the extremes."""
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    names = ("min", "quarter", "median", "three_quarters", "max")
    return {name: round(float(q), digits) for name, q in zip(names, quantiles, strict=True)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what the rows say together: spreads, and each signal's correlation with the truth and cost."""
    truth = [truth_of(row) for row in rows]
    seconds = [row["full"]["seconds"] for row in rows]
    signals = {
        name: {
            **correlation(values, truth),
            "missing": sum(map(math.isnan, values)),
            "seconds": round(cost, 2),
            "share_of_full": round(cost / sum(seconds), 5),
        }
        for name, (values, cost) in columns(rows).items()
    }
    best = max(range(len(rows)), key=truth.__getitem__)
    return {
        "rows": len(rows),
        "of": space.size,
        "test_accuracy": spread(truth, 4),
        "diverged": sum(row["full"]["test"] is None for row in rows),
        "at_chance": sum(accuracy_ <= CHANCE + 0.01 for accuracy_ in truth),
        "full_seconds": {**spread(seconds, 2), "sum": round(sum(seconds), 1)},
        "wall_seconds": round(sum(row["wall_seconds"] for row in rows), 1),
        "best": {"key": rows[best]["key"], "test": truth[best]},
        "signals": signals,
    }


def write_table(rows_file: Path, out: Path) -> dict[str, Any]:
    """Write OUT.json and OUT.csv, and return the summary."""
    first, *rows = read_rows(rows_file)
    if not rows:
        raise ValueError(f"{rows_file} has no finished architecture yet; let `train` run longer")
    found = {"benchmark": "convnet_table", **first, **summary(rows)}
    facts = environment("cpu", 1)
    found["hardware"] = {"device": "cpu", "cpu": facts["cpu"], "threads": 1}
    found["seconds_are"] = "of the processor, one thread; wall_seconds are the clock's, on a machine with other work"
    write_json(Path(f"{out}.json"), found)
    signals = columns(rows)
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["key", "test_acc", "validation_acc", "seconds", *signals])
    for number_, row in enumerate(rows):
        cells = [values[number_] for values, _ in signals.values()]
        full = row["full"]
        writer.writerow(
            [row["key"], truth_of(row), full["validation"], full["seconds"]]
            + ["" if math.isnan(cell) else f"{cell:.9g}" for cell in cells]
        )
    write_text(Path(f"{out}.csv"), table.getvalue())
    return found


def _part(text: str) -> tuple[int, int]:
    k, _, n = text.partition("/")
    if not (k.isdigit() and n.isdigit() and 1 <= int(k) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part; 1/2 and 2/2 are the two halves")
    return int(k), int(n)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("train")
    run.add_argument("--idx", type=Path, help="folder of the IDX files of Fashion-MNIST")
    run.add_argument("--dataset", default=Setting.dataset, help="other data, to try it out")
    run.add_argument("--rows", type=Path, required=True)
    run.add_argument("--seed", type=int, default=Setting.seed)
    run.add_argument("--epochs", type=float, default=Setting.epochs)
    run.add_argument("--passes", type=int, default=Setting.passes)
    run.add_argument("--limit", type=int)
    run.add_argument("--most", type=int, help="train at most so many architectures")
    run.add_argument("--part", type=_part, default=(1, 1), metavar="K/N", help="the K-th of every N architectures")
    show = commands.add_parser("table")
    show.add_argument("--rows", type=Path, required=True)
    show.add_argument("--out", type=Path, required=True, help="OUT.json and OUT.csv are written")
    options = parser.parse_args()
    if options.command == "table":
        print(json.dumps(write_table(options.rows, options.out)))
        return
    torch.set_num_threads(1)
    setting = Setting(options.dataset, options.seed, options.epochs, options.passes, options.limit)
    with tempfile.TemporaryDirectory() as cache:
        place = None if options.idx is None else unpack(options.idx, Path(cache))
        source = open_source(options.dataset, cache=place)
        trained_now = train_all(options.rows, source, setting, options.most, options.part)
    rows = len(read_rows(options.rows)) - 1
    print(json.dumps({"benchmark": "convnet_table", "trained": trained_now, "rows": rows, "of": space.size}))


if __name__ == "__main__":
    main()
