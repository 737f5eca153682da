"""Images of one's own: three kinds of noisy waves drawn as PNG files, and a search on them.

    python examples/own_images.py
    python examples/own_images.py --images 200 --steps 500 --epochs 100 --out runs/many-waves

In: nothing; whoever has images gives their folder to `nas_proxy.run` instead. Out: OUT/images/<class>/*.png, the run in
OUT/run with its report, and on stdout how far the condensed images can be trusted.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

import nas_proxy

SIZE = 16
DIRECTIONS = {"flat": (1, 0), "steep": (0, 1), "slanted": (1, 1)}


def draw_images(folder: Path, each: int) -> None:
    """Write `each` images a class, SIZE × SIZE and grey, into folder/<class>/."""
    draws = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    for name, (down, across) in DIRECTIONS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            waves = np.sin(draws.uniform(0.6, 1.2) * (down * y + across * x) + draws.uniform(0, 2 * np.pi))
            pixels = 128 + 60 * waves + draws.normal(0, 60, (SIZE, SIZE))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number}.png")


def main() -> None:
    """Draw, search, and say what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=80, help="images a class")
    parser.add_argument("--steps", type=int, default=50, help="of the condensation")
    parser.add_argument("--epochs", type=float, default=20, help="of a training on the proxy")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path("runs/waves"))
    given = parser.parse_args()
    draw_images(given.out / "images", given.images)
    run = nas_proxy.run(
        f"folder:{given.out / 'images'}",
        "convnet",
        out=given.out / "run",
        trials=given.trials,
        truth=9,
        judge=6,
        condense={"steps": given.steps, "width": 32},
        proxy_training={"epochs": given.epochs},
        full_training={"epochs": 2 * given.epochs},
    )
    spearman = run.ranking.row("proxy").spearman
    interval = f"95 % interval {spearman.low} to {spearman.high}"
    print(f"Spearman {spearman.value} over n = {run.ranking.n}, {interval}")
    print(f"Pick: {run.pick['key']}\nReport: {run.report}")


if __name__ == "__main__":
    main()
