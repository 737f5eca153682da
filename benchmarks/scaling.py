"""Seconds a step and peak memory of condensation against classes, image size and images a class.

Each point is a process of its own, on random images at narrow settings (a ConvNet of width 16, 16 real images a class);
all but one number is as in the first point of the row. `classes, ten at a time` repeats the classes with
`--classes-per-step 10`. Growth is per doubling of the number, by least squares over the row in logarithms; memory is
beyond what the process had before, real images not counted. On the CPU one thread works, and its own time counts, so
that other work on the machine matters little.

    python benchmarks/scaling.py --keep points.jsonl    # minutes; goes on where it was cut off
    python benchmarks/scaling.py --quick                # to see it run

The last line on stdout is one JSON object.
"""

import argparse
import json
import math
import multiprocessing
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from condensation_estimate import estimate
from nas_proxy.condensation.recipe import Condensation
from nas_proxy.data.images import from_raw
from nas_proxy.seeds import torch_generator
from outcome import show

CLASSES, SIZE, IPC, REAL, WIDTH = 10, 32, 1, 16, 16


def doublings(low: int, high: int) -> tuple[int, ...]:
    """Return low, 2 low, 4 low … and high."""
    return (*(low << n for n in range(math.ceil(math.log2(high / low)))), high)


ROWS = {
    "classes": doublings(10, 1000),
    "size": doublings(32, 128),
    "ipc": (*doublings(1, 256), 1250),
    "classes, ten at a time": (10, 100, 1000),
}
QUICK = {"classes": (2, 4), "size": (8, 16), "ipc": (1, 2), "classes, ten at a time": (2, 4)}


def measure(row: str, number: int, quick: bool, steps: int, device: str) -> dict[str, Any]:
    """Take a few steps and return what they took."""
    torch.set_num_threads(1)
    classes = number if row.startswith("classes") else (2 if quick else CLASSES)
    size = number if row == "size" else (8 if quick else SIZE)
    ipc = number if row == "ipc" else IPC
    each = max(REAL, ipc)
    pixels = torch.randint(0, 256, (classes * each, 3, size, size), dtype=torch.uint8, generator=torch_generator(0))
    labels = torch.arange(classes).repeat_interleave(each)
    real = from_raw(pixels, labels, tuple(map(str, range(classes))))
    recipe = Condensation(ipc, 1, real_batch=REAL, width=WIDTH)
    together = CLASSES if row == "classes, ten at a time" else classes
    clock = time.thread_time if device == "cpu" else time.perf_counter
    found = estimate(real, recipe, 0, device=device, classes_per_step=together, steps=steps, clock=clock)
    return {
        "row": row,
        "number": number,
        "seconds_per_step": round(found.seconds_per_step, 5),
        "steps": steps,
        "slowest": round(found.slowest_per_step, 5),
        "memory_bytes": found.memory_bytes,
    }


def growth(points: list[dict[str, Any]], name: str) -> float:
    """Return by how much a value grows when the number doubles: 2 to the slope of the logarithms."""
    x, y = ([math.log2(max(point[key], 1e-9)) for point in points] for key in ("number", name))
    return round(float(2 ** np.polyfit(x, y, 1)[0]), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two small numbers a row")
    parser.add_argument("--steps", type=int, default=5, help="measured steps a point; their median counts")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--keep", type=Path, help="file in which points are kept")
    options = parser.parse_args()
    points = []
    lines = options.keep.read_text(encoding="utf-8").splitlines() if options.keep and options.keep.exists() else []
    kept = {(point["row"], point["number"]): point for point in map(json.loads, lines)}
    # A fresh process for each point, since memory that was used once is not given back.
    context = multiprocessing.get_context("spawn" if options.device.startswith("cuda") else "fork")
    for row, numbers in (QUICK if options.quick else ROWS).items():
        for number in numbers:
            if (row, number) not in kept:
                with context.Pool(1) as pool:
                    found = pool.apply(measure, (row, number, options.quick, options.steps, options.device))
                kept[row, number] = found
                if options.keep:
                    with options.keep.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(found) + "\n")
            points.append(kept[row, number])
            print(json.dumps(points[-1]), flush=True)
    rows = {row: [point for point in points if point["row"] == row] for row in ROWS}
    first, last = rows["classes"][0], rows["classes"][-1]
    result = {
        "benchmark": "scaling",
        "quick": options.quick,
        "settings": {"classes": CLASSES, "size": SIZE, "ipc": IPC, "real_batch": REAL, "width": WIDTH, "depth": 3},
        "growth": {
            row: {name: growth(found, name) for name in ("seconds_per_step", "memory_bytes")}
            for row, found in rows.items()
        },
        # What --dry-run does: the time of few classes, scaled; 1 would be exact.
        "scaled_from_few_classes": round(
            first["seconds_per_step"] * last["number"] / first["number"] / last["seconds_per_step"], 3
        ),
        "points": points,
        "n": min(point["steps"] for point in points),
    }
    show(result, options.device, ("torch",), threads=1)


if __name__ == "__main__":
    main()
