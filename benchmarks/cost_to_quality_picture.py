"""Draw the kept result of cost_to_quality.py: regret against full-training equivalents, with 95 % bands.

    python benchmarks/cost_to_quality_picture.py benchmarks/results/cost-to-quality.json

Writes the PNG beside the JSON. Needs Playwright and Chromium.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

import pictures

MOST, HEIGHT = 32, 640
STYLES = {
    "ours": ("nas_proxy, search alone", "#2563eb", "solid"),
    "random": ("random search", "#6b7280", "dot"),
    "tpe": ("TPE", "#f59e0b", "solid"),
    "gp": ("Optuna's GP", "#059669", "solid"),
    "hyperband": ("TPE, Hyperband (factor 3)", "#dc2626", "dash"),
    "hyperband_16": ("TPE, Hyperband (factor 16)", "#dc2626", "solid"),
    "evolution": ("evolution", "#7c3aed", "dash"),
    "vote": ("vote order", "#0891b2", "dot"),
}
TITLES = {
    "nas_bench_201": "NAS-Bench-201, 1,199 cells",
    "nas_bench_201_cheapest_60": "NAS-Bench-201, cheapest 60 %",
    "nas_bench_201_cheapest_30": "NAS-Bench-201, cheapest 30 %",
    "nas_bench_macro_cheapest_60": "NAS-Bench-Macro, cheapest 60 %, no cheap training",
}


def figure(result: dict[str, Any]) -> go.Figure:
    """Return a panel a table, the mean regret of every arm with its band."""
    names = [name for name in result["tables"] if name in TITLES]
    drawn = make_subplots(2, 2, subplot_titles=[TITLES[name] for name in names], shared_xaxes=True)
    for panel, name in enumerate(names):
        row, column = panel // 2 + 1, panel % 2 + 1
        for arm, curve in result["tables"][name]["curve"].items():
            if arm in STYLES:
                for trace in traces(arm, curve, shown=panel == 0):
                    drawn.add_trace(trace, row, column)
    drawn.update_xaxes(range=[0, MOST]).update_yaxes(range=[0, 2.5])
    drawn.update_xaxes(title="full-training equivalents", row=2).update_yaxes(title="regret, points", col=1)
    return drawn


def traces(arm: str, curve: dict[str, list[float]], *, shown: bool) -> list[go.Scatter]:
    """Return the band and the line of one arm."""
    name, colour, dash = STYLES[arm]
    steps = list(range(1, len(curve["mean"]) + 1))[:MOST]
    around = [*curve["high"][:MOST], *curve["low"][:MOST][::-1]]
    band = go.Scatter(x=[*steps, *steps[::-1]], y=around, fill="toself", fillcolor=colour, opacity=0.12, mode="none")
    band.update(showlegend=False, legendgroup=arm)
    line = go.Scatter(x=steps, y=curve["mean"][:MOST], name=name, mode="lines", legendgroup=arm, showlegend=shown)
    return [band, line.update(line={"color": colour, "dash": dash, "width": 3 if arm == "ours" else 1.5})]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("result", type=Path)
    options = parser.parse_args()
    path = options.result.with_suffix(".png")
    pictures.HEIGHT = HEIGHT
    pictures.photograph(figure(json.loads(options.result.read_text(encoding="utf-8"))), path)
    print(json.dumps({"benchmark": "cost_to_quality_picture", "path": path.name}))


if __name__ == "__main__":
    main()
