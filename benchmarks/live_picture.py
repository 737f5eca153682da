"""Draw kept results of live_replay.py, a panel each: regret against minutes, with the spread of the mean.

    python benchmarks/live_picture.py benchmarks/results/live-replay-cifar10-cpu.json \
        benchmarks/results/live-replay-fashion-10-epochs-cpu.json --out benchmarks/results/live-replay.png

Bands are 1.96 standard errors: of three live runs, and of the repeats of random search. Needs Playwright and Chromium.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

import pictures

STYLES = {
    "ours": ("nas_proxy run, live", "#2563eb", "solid"),
    "random": ("random search", "#6b7280", "dot"),
    "tpe": ("TPE", "#f59e0b", "solid"),
    "tpe_hyperband": ("TPE, Hyperband", "#dc2626", "solid"),
    "evolution": ("evolution", "#7c3aed", "dash"),
    "order:vote": ("vote order", "#0891b2", "dot"),
}
BANDS = {"ours", "random"}
NAMES = {"fashion-mnist": "Fashion-MNIST", "folder:cifar10": "CIFAR-10, 500 images a class"}
MOST = 3.0  # points of regret that are shown


def figure(results: list[dict[str, Any]]) -> go.Figure:
    """Return a panel a result, the mean regret of every arm."""
    drawn = make_subplots(1, len(results), subplot_titles=[title(result) for result in results])
    for column, result in enumerate(results, start=1):
        arms = result["validation"]["arms"]
        for arm in (arm for arm in STYLES if arm in arms):
            for trace in traces(arm, arms[arm]["regret"], shown=column == 1):
                drawn.add_trace(trace, 1, column)
    drawn.update_xaxes(title="minutes of one processor", rangemode="tozero")
    return drawn.update_yaxes(range=[0, MOST]).update_yaxes(title="regret, points", col=1)


def title(result: dict[str, Any]) -> str:
    """Return what a panel shows."""
    setting = result["setting"]
    return f"{NAMES.get(setting['dataset'], setting['dataset'])}, {setting['epochs']:g} epochs"


def traces(arm: str, regret: dict[str, dict[str, Any]], *, shown: bool) -> list[go.Scatter]:
    """Return the line of one arm, and its band."""
    name, colour, dash = STYLES[arm]
    minutes = [float(budget) for budget in regret]
    means = [one["mean"] for one in regret.values()]
    line = go.Scatter(x=minutes, y=means, name=name, mode="lines", legendgroup=arm, showlegend=shown)
    line.update(line={"color": colour, "dash": dash, "width": 3 if arm == "ours" else 1.5})
    if arm not in BANDS:
        return [line]
    arms = [one["band"] or 0.0 for one in regret.values()]
    high = [mean + half for mean, half in zip(means, arms, strict=True)]
    low = [max(0.0, mean - half) for mean, half in zip(means, arms, strict=True)]
    band = go.Scatter(x=[*minutes, *minutes[::-1]], y=[*high, *low[::-1]], fill="toself", fillcolor=colour, mode="none")
    return [band.update(opacity=0.12, showlegend=False, legendgroup=arm), line]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True, help="the PNG")
    options = parser.parse_args()
    results = [json.loads(path.read_text(encoding="utf-8")) for path in options.results]
    pictures.photograph(figure(results), options.out)
    print(json.dumps({"benchmark": "live_picture", "path": options.out.name}))


if __name__ == "__main__":
    main()
